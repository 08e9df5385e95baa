package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"overdav/auth"
)

// userShare is an open share with an upper for each user, over a lower with
// the file a. change may change its configuration before.
func userShare(t testing.TB, change func(*ShareConfig)) (s *share, users string) {
	t.Helper()
	dir := t.TempDir()
	lower, users := filepath.Join(dir, "lower"), filepath.Join(dir, "users")
	for _, d := range []string{lower, users} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(lower, "a"), []byte("lower"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := defaultConfig()
	c.Shares[0].Lower = []string{lower}
	c.Shares[0].Upper = filepath.Join(users, "{user}", "upper")
	if change != nil {
		change(&c.Shares[0])
	}
	if err := c.check(origins{}); err != nil {
		t.Fatal(err)
	}
	return openShares(t, c)[0], users
}

// openShares opens the shares of c until the test ends.
func openShares(t testing.TB, c Config) shares {
	t.Helper()
	all, err := newShares(c, "", discardLog())
	if err != nil {
		t.Fatal(err)
	}
	if err := all.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := all.close(); err != nil {
			t.Error(err)
		}
	})
	return all
}

// as makes one request of a user.
func as(h http.Handler, user, method, path, body string, headers ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	if user != "" {
		r = r.WithContext(auth.With(r.Context(), auth.Identity{Name: user}))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func wantAs(t *testing.T, h http.Handler, status int, user, method, path, body, want string, headers ...string) {
	t.Helper()
	got, text := as(h, user, method, path, body, headers...)
	if got != status || want != "" && !strings.Contains(text, want) {
		t.Errorf("%s: %s %s: %d %q, want %d %q", user, method, path, got, text, status, want)
	}
}

func TestEachUserHasAnUpperOfHisOwn(t *testing.T) {
	s, users := userShare(t, func(c *ShareConfig) { c.MaxOpen = 2 })
	for _, user := range []string{"alice", "bob", "a.b-c_9", ""} {
		wantAs(t, s, 200, user, "GET", "/a", "", "lower")
		wantAs(t, s, 204, user, "PUT", "/a", "of "+user, "")
	}
	for _, user := range []string{"alice", "bob", "a.b-c_9", ""} {
		wantAs(t, s, 200, user, "GET", "/a", "", "of "+user)
	}
	for _, user := range []string{"alice", "anonymous"} {
		if _, err := os.Stat(filepath.Join(users, user, "upper", "a")); err != nil {
			t.Error(err)
		}
	}
	// A lock outlives the closing of its upper, and is nobody else's.
	wantAs(t, s, 200, "alice", "LOCK", "/a", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`, "")
	wantAs(t, s, 204, "bob", "PUT", "/a", "bob again", "")
	wantAs(t, s, 200, "", "GET", "/a", "", "")
	wantAs(t, s, 423, "alice", "PUT", "/a", "x", "")
}

func TestAUserNameIsLookedAtBeforeItIsADirectory(t *testing.T) {
	s, users := userShare(t, nil)
	for _, user := range []string{".", "..", "a/b", "../x", "A", "a b", "a\x00", "ä", strings.Repeat("a", 33), "{user}"} {
		wantAs(t, s, 403, user, "GET", "/a", "", "Forbidden")
	}
	if got := names(t, users); len(got) != 1 {
		t.Errorf("made %q", got)
	}
}

func TestAnUpperThatCannotBeMadeLeavesNothingAndIsTriedAgain(t *testing.T) {
	s, users := userShare(t, nil)
	inTheWay := filepath.Join(users, "alice")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantAs(t, s, 500, "alice", "GET", "/a", "", "Internal")
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inTheWay, "work"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantAs(t, s, 500, "alice", "GET", "/a", "", "Internal")
	if err := os.Remove(filepath.Join(inTheWay, "work")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, inTheWay); len(got) != 1 {
		t.Errorf("a failed open left %q", got)
	}
	wantAs(t, s, 200, "alice", "GET", "/a", "", "lower")
}

// What a crash in the middle of making an upper leaves is taken up.
func TestAHalfMadeUpperIsFinished(t *testing.T) {
	s, users := userShare(t, nil)
	if err := os.MkdirAll(filepath.Join(users, "alice", "upper.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantAs(t, s, 201, "alice", "PUT", "/new", "x", "")
	info, err := os.Stat(filepath.Join(users, "alice", "upper"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("upper is %v (%v), want the lower's permissions", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(users, "alice", "upper.new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("upper.new: %v", err)
	}
}

func TestQuotaOfEachUser(t *testing.T) {
	const condition = `<D:quota-not-exceeded/>`
	const ask = `<propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>`
	s, _ := userShare(t, func(c *ShareConfig) { c.Quota = 1 << 20 })
	half := strings.Repeat("x", 1<<19)
	wantAs(t, s, 201, "alice", "PUT", "/one", half, "")
	wantAs(t, s, 207, "alice", "PROPFIND", "/", ask, "<D:quota-available-bytes>524288</D:quota-available-bytes><D:quota-used-bytes>524288<", "Depth", "0")
	wantAs(t, s, 507, "alice", "PUT", "/two", half+"x", condition)
	wantAs(t, s, 201, "alice", "COPY", "/one", "", "", "Destination", "/two")
	wantAs(t, s, 207, "alice", "PROPFIND", "/", ask, "<D:quota-available-bytes>0<", "Depth", "0")
	for _, method := range []string{"COPY", "MOVE"} {
		wantAs(t, s, 507, "alice", method, "/a", "", condition, "Destination", "/b")
	}
	wantAs(t, s, 507, "alice", "MKCOL", "/dir", "", condition)
	wantAs(t, s, 207, "alice", "PROPPATCH", "/a", `<propertyupdate xmlns="DAV:"><set><prop><x xmlns="y">1</x></prop></set></propertyupdate>`,
		"507 Insufficient Storage</D:status><D:error>"+condition)
	wantAs(t, s, 507, "alice", "PATCH", "/one", "x", condition, "Content-Type", "application/x-sabredav-partialupdate", "X-Update-Range", "append")
	wantAs(t, s, 201, "bob", "PUT", "/one", half, "")
	wantAs(t, s, 204, "alice", "DELETE", "/a", "", "")
	wantAs(t, s, 204, "alice", "DELETE", "/one", "", "")
	wantAs(t, s, 201, "alice", "MKCOL", "/dir", "", "")
	// Of a body of unknown length only the writing tells.
	r := httptest.NewRequest("PUT", "/three", io.MultiReader(strings.NewReader(half), strings.NewReader("x")))
	r = r.WithContext(auth.With(r.Context(), auth.Identity{Name: "alice"}))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 507 || !strings.Contains(w.Body.String(), condition) {
		t.Errorf("a body without a length: %d %s", w.Code, w.Body)
	}
	wantAs(t, s, 404, "alice", "GET", "/three", "", "")

	s.configure(ShareConfig{Idle: time.Minute, MaxOpen: 10, Quota: 2 << 20})
	wantAs(t, s, 201, "alice", "PUT", "/three", half+"x", "")
	m := newMetrics(MetricsConfig{Listen: "127.0.0.1:0"})
	m.watchShare(s)
	const used = 1<<19 + 4096 + 1<<19 + 4096 + 1<<19 // alice's two files and directory, bob's file
	got := readMetrics(t, m)
	if got := got[`overdav_upper_used_bytes{share="/"}`]; got != fmt.Sprintf("%g", float64(used)) {
		t.Errorf("used are %s bytes, want %g", got, float64(used))
	}
	for _, name := range []string{"overdav_upper_bytes", "overdav_upper_available_bytes"} {
		if size, err := strconv.ParseFloat(got[name+`{share="/"}`], 64); err != nil || size <= 0 {
			t.Errorf("%s is %g (%v), want the disk's", name, size, err)
		}
	}
}

// A quota that is put in force while an upper is being opened is that upper's too.
func TestQuotaOfAnUpperThatIsBeingOpened(t *testing.T) {
	s, _ := userShare(t, func(c *ShareConfig) { c.Quota = 1 << 20 })
	open := s.trees.open
	s.trees.open = func(user string) (*tree, error) {
		opened, err := open(user)
		s.configure(ShareConfig{Idle: time.Minute, MaxOpen: 10, Quota: 2 << 20})
		return opened, err
	}
	wantAs(t, s, 201, "alice", "PUT", "/big", strings.Repeat("x", 3<<19), "")
}

func TestReadOnlyUppersAreNotMade(t *testing.T) {
	s, users := userShare(t, func(c *ShareConfig) { c.ReadOnly = true })
	wantAs(t, s, 200, "alice", "GET", "/a", "", "lower")
	wantAs(t, s, 403, "alice", "PUT", "/a", "x", "")
	if got := names(t, users); len(got) != 1 {
		t.Errorf("made %q", got)
	}
}

func TestManyUsersAtOnce(t *testing.T) {
	s, _ := userShare(t, func(c *ShareConfig) { c.MaxOpen, c.Idle = 3, time.Millisecond })
	var wg sync.WaitGroup
	for i := range 8 {
		user := fmt.Sprint("user", i/2) // two at once for each
		wg.Go(func() {
			for n := range 10 {
				body := fmt.Sprint(user, n)
				if status, _ := as(s, user, "PUT", "/a", body); status != 204 {
					t.Errorf("%s: PUT: %d", user, status)
				}
				if status, text := as(s, user, "GET", "/a", ""); status != 200 || !strings.HasPrefix(text, user) {
					t.Errorf("%s: GET: %d %q", user, status, text)
				}
			}
		})
	}
	wg.Wait()
}

func TestPlacesForUsers(t *testing.T) {
	const example = "write it as in /var/lib/overdav/{user}/upper"
	for _, test := range []struct{ upper, work, want string }{
		{"/v/{user}/upper", "", ""},
		{"/v/{user}/upper", "/v/{user}/work", ""},
		{"{user}/upper", "{user}/work", ""},
		{"/v/{user}", "", "upper: {user} must be the whole name of a directory above; " + example},
		{"/v/{user}/", "", "upper: {user} must be the whole name of a directory above; " + example},
		{"/v/u-{user}/upper", "", "upper: {user} must be the whole name of a directory above; " + example},
		{"/v/{user}x/upper", "", "upper: {user} must be the whole name of a directory above; " + example},
		{"/v/{user}/{user}", "", "upper: {user} can stand there once; " + example},
		{"/v/{name}/upper", "", "upper: {name} stands for nothing, only {user} does; " + example},
		{"/v/{user}/upper", "/v/work", "work: work and upper must both be below the same directory of the user; leave work out, and it is beside upper"},
		{"/v/upper", "/v/{user}/work", "work: work and upper must both be below the same directory of the user; leave work out, and it is beside upper"},
		{"/v/{user}/upper", "/w/{user}/work", "work: work and upper must both be below the same directory of the user; leave work out, and it is beside upper"},
	} {
		s := defaultShare()
		s.Lower, s.Upper, s.Work = []string{"/l"}, test.upper, test.work
		var got []string
		s.check("", func(key, format string, args ...any) { got = append(got, key+": "+fmt.Sprintf(format, args...)) })
		if strings.Join(got, "\n") != test.want {
			t.Errorf("%s %s: got %q, want %q", test.upper, test.work, got, test.want)
		}
	}
}

// The upper of a user is made by the first request; later ones find it open.
func BenchmarkFirstRequestOfAUser(b *testing.B) {
	s, _ := userShare(b, func(c *ShareConfig) { c.MaxOpen = 1 << 20 })
	n := 0
	for b.Loop() {
		n++
		if status, text := as(s, fmt.Sprint("u", n), "GET", "/a", ""); status != 200 {
			b.Fatal(status, text)
		}
	}
}

// Once made, an upper that was closed is opened again.
func BenchmarkOpenedAgain(b *testing.B) {
	s, _ := userShare(b, func(c *ShareConfig) { c.MaxOpen = 1 })
	n := 0
	for b.Loop() {
		n++
		if status, text := as(s, fmt.Sprint("u", n%2), "GET", "/a", ""); status != 200 {
			b.Fatal(status, text)
		}
	}
}

// What a thousand open uppers cost, and what stays of them when they are closed.
func BenchmarkThousandUsers(b *testing.B) {
	for b.Loop() {
		s, _ := userShare(b, func(c *ShareConfig) { c.MaxOpen = 1000 })
		before := takeCosts(b)
		for i := range 1000 {
			if status, text := as(s, fmt.Sprint("u", i), "PROPFIND", "/", "", "Depth", "1"); status != 207 {
				b.Fatal(status, text)
			}
		}
		open := takeCosts(b)
		if err := s.close(); err != nil {
			b.Fatal(err)
		}
		closed := takeCosts(b)
		b.ReportMetric(float64(open.heap-before.heap)/1000, "heap-B/open")
		b.ReportMetric(float64(open.files-before.files)/1000, "files/open")
		b.ReportMetric(float64(open.inotify), "inotify")
		b.ReportMetric(float64(open.rss-before.rss)/1000, "rss-B/open")
		b.ReportMetric(float64(closed.heap-before.heap)/1000, "heap-B/closed")
		b.ReportMetric(float64(closed.files-before.files)/1000, "files/closed")
	}
}

type costs struct {
	heap, rss      int64
	files, inotify int
}

func takeCosts(b *testing.B) (c costs) {
	b.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.heap = int64(m.HeapAlloc + m.StackInuse)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	c.files = len(fds)
	for _, fd := range fds {
		if what, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && what == "anon_inode:inotify" {
			c.inotify++
		}
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var pages, resident int64
	if _, err := fmt.Sscan(string(statm), &pages, &resident); err != nil {
		b.Fatal(err)
	}
	c.rss = resident * int64(os.Getpagesize())
	return c
}
