package davfs

import (
	"fmt"
	"io/fs"
	"math/bits"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"overdav/overlay"
)

// rules are rights for tests: the first line that a name is in decides, none
// means no right. They are an Access.
type rules []rule

type rule struct {
	name  string // and all beneath it; "." is everything
	right Right
}

func (rs rules) Rights(name string) Right {
	for _, r := range rs {
		if r.name == "." || name == r.name || strings.HasPrefix(name, r.name+"/") {
			return r.right
		}
	}
	return 0
}

func (rs rules) Uniform(name string) bool {
	for _, r := range rs {
		if name == "." && r.name != "." || strings.HasPrefix(r.name, name+"/") {
			return false
		}
	}
	return true
}

// doubtful are rules that never promise to be uniform.
type doubtful struct{ rules }

func (doubtful) Uniform(string) bool { return false }

// matrixFiles is the tree of the matrix: the same in four places.
var matrixFiles = map[string]string{
	"own/f": "1", "own/d/m": "2", "own/e/": "",
	"other/f": "1", "other/d/m": "2",
	"ownx/f": "1", "ownx/d/m": "2", // its name begins with that of own
	"nest/f": "1", "nest/d/m": "2", "nest/d/no/m": "3",
	"free/f": "4", "free/d/m": "5", "free/d/no/m": "6",
}

// matrixRules give right to own and nest, but nothing to some of nest, and all to
// free.
func matrixRules(right Right) rules {
	return rules{
		{"nest/f", 0},
		{"nest/d/no", 0},
		{"nest/n", 0},
		{"nest/new/no", 0},
		{"own", right},
		{"nest", right},
		{"free", allRights},
	}
}

// A matrixCase is one request. ZIP is GET for an archive.
type matrixCase struct {
	method, depth string
	at, to        string // to is the destination
}

func (c matrixCase) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.method, c.at, c.to, c.depth))
}

func matrixCases() (cases []matrixCase) {
	for _, place := range []string{"own", "other", "ownx", "nest"} {
		for _, kind := range []string{"f", "d", "n"} {
			at := place + "/" + kind
			for _, method := range []string{"OPTIONS", "GET", "HEAD", "ZIP", "PUT", "PATCH", "DELETE", "MKCOL", "PROPPATCH", "UNLOCK"} {
				cases = append(cases, matrixCase{method: method, at: at})
			}
			for _, depth := range []string{"0", "1"} {
				cases = append(cases, matrixCase{method: "PROPFIND", at: at, depth: depth})
			}
			for _, depth := range []string{"0", "infinity"} {
				cases = append(cases, matrixCase{method: "LOCK", at: at, depth: depth})
				for _, to := range []string{"free/new", "nest/new"} {
					cases = append(cases, matrixCase{method: "COPY", at: at, to: to, depth: depth})
				}
				for _, from := range []string{"free/f", "free/d"} {
					cases = append(cases, matrixCase{method: "COPY", at: from, to: at, depth: depth})
				}
			}
			for _, to := range []string{"free/new", "nest/new"} {
				cases = append(cases, matrixCase{method: "MOVE", at: at, to: to})
			}
			for _, from := range []string{"free/f", "free/d"} {
				cases = append(cases, matrixCase{method: "MOVE", at: from, to: at})
			}
		}
	}
	return cases
}

// oracle is what the answer has to be: written down from the table in
// docs/protocol.md, and from nothing in this package but the names of the
// rights.
func oracle(rights func(string) Right, c matrixCase) int {
	kind := func(name string) string { return path.Base(name) } // f, d, and what is not there
	exists := func(name string) bool { return kind(name) == "f" || kind(name) == "d" }
	has := func(name string, r Right) bool { return rights(name)&r == r }
	makes := func(name string) bool { return has(name, RightCreate) && has(path.Dir(name), RightCreate) }
	all := func(at, to string, r Right) bool { // of the members of at, which come to be those of to
		return kind(at) != "d" || !slices.ContainsFunc(matrixMembers(at), func(m string) bool { return !has(to+m, r) })
	}
	allowed, status := true, 0
	switch c.method {
	case "OPTIONS":
		return 200
	case "UNLOCK":
		return 409 // of no lock
	case "GET", "HEAD", "ZIP":
		allowed, status = has(c.at, RightRead), 200
		if kind(c.at) == "d" {
			allowed = has(c.at, RightList)
		}
	case "PROPFIND":
		allowed, status = has(c.at, RightRead) && (c.depth == "0" || kind(c.at) != "d" || has(c.at, RightList)), 207
	case "PUT":
		allowed, status = has(c.at, RightOverwrite), map[string]int{"f": 204, "d": 405}[kind(c.at)]
		if !exists(c.at) {
			allowed, status = makes(c.at), 201
		}
	case "PATCH":
		allowed, status = has(c.at, RightOverwrite), map[string]int{"f": 204, "d": 405}[kind(c.at)]
	case "MKCOL":
		allowed, status = makes(c.at), map[bool]int{true: 405, false: 201}[exists(c.at)]
	case "PROPPATCH":
		allowed, status = has(c.at, RightProps|RightOverwrite), 207
	case "LOCK":
		allowed, status = has(c.at, RightProps|RightOverwrite), 200
		if !exists(c.at) {
			allowed, status = has(c.at, RightProps) && makes(c.at), 201
		}
		if allowed && c.depth != "0" && !all(c.at, c.at, RightProps|RightOverwrite) {
			return 403
		}
	case "DELETE":
		allowed, status = has(c.at, RightDelete), 204
		if allowed && !all(c.at, c.at, RightDelete) {
			return 403
		}
	case "COPY", "MOVE":
		need := RightRead
		if c.method == "MOVE" {
			need |= RightDelete
		}
		allowed, status = has(c.at, need), 201
		onto := makes(c.to)
		if exists(c.to) {
			status, onto = 204, has(c.to, RightOverwrite)
		}
		if kind(c.to) == "d" {
			onto = onto && has(c.to, RightDelete) && all(c.to, c.to, RightDelete)
		}
		if c.depth != "0" {
			onto = onto && all(c.at, c.at, need) && all(c.at, c.to, RightCreate)
		}
		if allowed && !onto {
			if !exists(c.at) && makes(c.to) {
				return 404
			}
			return 403
		}
	}
	switch {
	case !allowed && has(path.Dir(c.at), RightList):
		return 403
	case !allowed:
		return 404
	case !exists(c.at) && status != 201, !exists(c.at) && c.to != "":
		return 404
	}
	return status
}

// oracleArchive is what has to be in the archive of a directory: files that may be
// read, and directories that may be listed, all the way down.
func oracleArchive(rights func(string) Right, dir string) string {
	var lines []string
	var gather func(dir, prefix string)
	gather = func(dir, prefix string) {
		below := make(map[string]string) // content by the name of a member; of a directory a slash
		for name, content := range matrixFiles {
			if rest, ok := strings.CutPrefix(name, dir+"/"); ok && rest != "" {
				member, _, isDir := strings.Cut(rest, "/")
				if below[member] = content; isDir {
					below[member] = "/"
				}
			}
		}
		for member, content := range below {
			right := rights(dir + "/" + member)
			switch {
			case content == "/" && right&RightList != 0:
				lines = append(lines, prefix+member+"/")
				gather(dir+"/"+member, prefix+member+"/")
			case content != "/" && right&RightRead != 0:
				lines = append(lines, prefix+member+"="+content)
			}
		}
	}
	gather(dir, "")
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// matrixMembers are all things beneath a directory, as "/m".
func matrixMembers(dir string) (members []string) {
	for name := range matrixFiles {
		if below, ok := strings.CutPrefix(name, dir+"/"); ok {
			for ; below != "."; below = path.Dir(below) {
				members = append(members, "/"+below)
			}
		}
	}
	return members
}

// A matrixServer is one server for trees that come and go.
type matrixServer struct {
	share
	t       *testing.T
	base    string
	n       int
	serving atomic.Pointer[Handler]
	access  Access
	close   func()
}

func newMatrixServer(t *testing.T) *matrixServer {
	s := &matrixServer{t: t, base: t.TempDir(), close: func() {}}
	for name, content := range matrixFiles {
		makeFile(t, filepath.Join(s.base, "lower", name), content, strings.HasSuffix(name, "/"))
	}
	s.share.t = t
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serving.Load().ServeHTTP(w, r) }))
	t.Cleanup(func() {
		s.Close()
		s.close()
	})
	s.renew()
	return s
}

// renew begins with a tree that nobody has changed.
func (s *matrixServer) renew() {
	s.close()
	s.n++
	work := filepath.Join(s.base, fmt.Sprint("work", s.n))
	s.upper = filepath.Join(s.base, fmt.Sprint("upper", s.n))
	mustDo(s.t, os.Mkdir(s.upper, 0o755))
	mustDo(s.t, os.Mkdir(work, 0o755))
	tree, err := overlay.Open(overlay.Options{Lowers: []string{filepath.Join(s.base, "lower")}, Upper: s.upper, Work: work, Durability: overlay.DurabilityNone})
	mustDo(s.t, err)
	s.close = func() { mustDo(s.t, tree.Close()) }
	s.tree, s.fs = tree, NewFileSystem(tree)
	s.handler, err = NewHandler(s.fs, Options{Access: func(*http.Request) Access { return s.access }, Archives: &Archives{PerUser: 1}})
	mustDo(s.t, err)
	s.serving.Store(s.handler)
}

// changed says what a request has changed: the upper was empty before, and so
// were the locks.
func (s *matrixServer) changed() string {
	var b strings.Builder
	mustDo(s.t, filepath.WalkDir(s.upper, func(path string, _ fs.DirEntry, err error) error {
		if path != s.upper {
			fmt.Fprintln(&b, strings.TrimPrefix(path, s.upper))
		}
		return err
	}))
	for _, lock := range s.handler.locks.All() {
		fmt.Fprintf(&b, "lock on %s\n", lock.Root)
	}
	return b.String()
}

func (s *matrixServer) request(c matrixCase) answer {
	body, headers := "", []string{"Lock-Token: <urn:uuid:none>", "X-OC-Mtime: 1000000000"}
	switch c.method {
	case "ZIP":
		return s.do("GET", "/"+c.at+"?zip", "")
	case "PUT":
		body = "new"
	case "PATCH":
		body = "x"
		headers = append(headers, "Content-Type: "+patchType, "X-Update-Range: bytes=0-0")
	case "PROPPATCH":
		body = patchSet("<x:a>1</x:a>")
	case "LOCK":
		body = lockExclusive
	}
	if c.depth != "" {
		headers = append(headers, "Depth: "+c.depth)
	}
	if c.to != "" {
		headers = append(headers, "Destination: /"+c.to)
	}
	return s.do(c.method, "/"+c.at, body, headers...)
}

// isMatrixSample says whether a set of rights is tried out: none, one, all but
// one, and all; every one of them in a soak (see the Makefile).
func isMatrixSample(right Right) bool {
	n := bits.OnesCount8(uint8(right))
	return n <= 1 || n >= 5 || os.Getenv("OVERDAV_SOAK") != ""
}

// Every method, of what is there and what is not, in one's own place, in
// another's, where something is closed in the midst of it, and where only the
// name begins alike, with every set of rights: the answer is the oracle's, and
// what is refused changes nothing.
func TestPermissionMatrix(t *testing.T) {
	t.Parallel()
	for _, doubt := range []bool{false, true} {
		t.Run(fmt.Sprintf("doubtful=%v", doubt), func(t *testing.T) {
			t.Parallel()
			s := newMatrixServer(t)
			cases, refused := matrixCases(), 0
			for right := range allRights + 1 {
				if doubt && right%7 != 0 || !doubt && !isMatrixSample(right) {
					continue
				}
				rs := matrixRules(right)
				if s.access = rs; doubt {
					s.access = doubtful{rs}
				}
				for _, c := range cases {
					got, want := s.request(c), oracle(rs.Rights, c)
					if got.status != want {
						t.Errorf("%06b: %v: got %d, want %d", right, c, got.status, want)
					}
					if c.method == "ZIP" && got.status == 200 && path.Base(c.at) == "d" {
						if got, want := archived(t, got.body), oracleArchive(rs.Rights, c.at); got != want {
							t.Errorf("%06b: %v: got %q, want %q", right, c, got, want)
						}
					}
					changed := s.changed()
					if got.status >= 400 {
						refused++
						if changed != "" {
							t.Errorf("%06b: %v: %d, and yet something is changed:\n%s", right, c, got.status, changed)
						}
					}
					if changed != "" {
						s.renew()
					}
				}
			}
			t.Logf("%d refused", refused)
		})
	}
}

// Who could give a name is asked for it, whatever is refused, and nobody else.
func TestRefusalAsksForAName(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "d/f": "2", "d/no/f": "3", "shut/f": "4"}, func(o *Options) {
		o.Access = func(*http.Request) Access {
			return rules{{"d/no", 0}, {"d", allRights}, {"shut", 0}, {".", RightRead | RightList}}
		}
		o.Challenge = func(h http.Header, r *http.Request) bool {
			if r.Header.Get("X-User") != "" {
				return false
			}
			h.Set("WWW-Authenticate", `Basic realm="x"`)
			return true
		}
	})
	for _, step := range []struct {
		method, path, header string
		want                 int // of who has given a name
	}{
		{"PUT", "/f", "", 403},
		{"GET", "/shut", "", 403},
		{"GET", "/shut/f", "", 404},
		{"PROPFIND", "/shut/none", "", 404},
		{"MKCOL", "/new", "", 403},
		{"DELETE", "/d", "", 403},
		{"COPY", "/d", "Destination: /d2", 403},
		{"MOVE", "/d/f", "Destination: /f", 403},
	} {
		headers := slices.DeleteFunc([]string{step.header}, func(h string) bool { return h == "" })
		got := s.do(step.method, step.path, "", headers...)
		if got.status != 401 || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s %s: got %d, want 401 with a challenge", step.method, step.path, got.status)
		}
		got = s.do(step.method, step.path, "", append(headers, "X-User: alice")...)
		if got.status != step.want || got.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s %s of alice: got %d, want %d without a challenge", step.method, step.path, got.status, step.want)
		}
	}
	if got := s.do("GET", "/d/none", ""); got.status != 404 {
		t.Errorf("GET of nothing: got %d", got.status)
	}
}

// Allow, and the classes, follow the rights.
func TestOptionsFollowTheRights(t *testing.T) {
	files := map[string]string{"f": "1", "d/f": "2", "shut/f": "3"}
	const full = "1, 2, 3, sabredav-partialupdate"
	for _, test := range []struct {
		access     rules
		path       string
		allow, dav string
	}{
		{rules{{".", allRights}}, "/f", "OPTIONS, GET, HEAD, PROPFIND, PUT, PATCH, DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK", full},
		{rules{{".", RightRead | RightList}}, "/f", "OPTIONS, GET, HEAD, PROPFIND", "1, 3"},
		{rules{{".", RightRead | RightList}}, "/none", "OPTIONS", "1, 3"},
		{rules{{"d", allRights}, {".", RightRead | RightList}}, "/f", "OPTIONS, GET, HEAD, PROPFIND, COPY", full},
		{rules{{".", RightRead | RightOverwrite}}, "/f", "OPTIONS, GET, HEAD, PROPFIND, PUT, PATCH, COPY", full},
		{rules{{".", RightCreate | RightList}}, "/none", "OPTIONS, PUT, MKCOL", full},
		{rules{{".", RightDelete | RightList}}, "/d", "OPTIONS, GET, HEAD, DELETE", full},
		{rules{{"shut", 0}, {".", allRights}}, "/shut", "OPTIONS", full},
		{rules{{"shut", 0}, {".", allRights}}, "/shut/f", "OPTIONS", full},
		{rules{{"shut", 0}, {".", allRights}}, "/shut/none", "OPTIONS", full},
	} {
		s := serve(t, files, func(o *Options) { o.Access = func(*http.Request) Access { return test.access } })
		for _, method := range []string{"OPTIONS", "TRACE"} { // the latter is answered 405
			got := s.do(method, test.path, "")
			if allow := got.header.Get("Allow"); allow != test.allow {
				t.Errorf("%v: %s %s: Allow is %q, want %q", test.access, method, test.path, allow, test.allow)
			}
			if dav := got.header.Values("DAV"); method == "OPTIONS" && dav[0] != test.dav {
				t.Errorf("%v: %s: DAV is %q, want %q", test.access, test.path, dav, test.dav)
			}
		}
	}
}

// Members that may not be read are listed by name alone, where they may be
// listed; collections that may not be listed are not gone into.
func TestListingOfWhatMayNotBeRead(t *testing.T) {
	var members []Member
	s := serve(t, map[string]string{"in/f": "1", "in/g": "2", "closed/f": "3", "free/f": "4"}, func(o *Options) {
		o.InfiniteDepth = 100
		o.Access = func(*http.Request) Access {
			return rules{{"in/g", RightRead}, {"in", RightList}, {"closed", RightRead}, {".", RightRead | RightList}}
		}
		o.Listing = func(w http.ResponseWriter, _ *http.Request, _ string, all []Member) {
			members = all
			w.WriteHeader(http.StatusOK)
		}
	})
	got := s.want(207, "PROPFIND", "/", "", "Depth: infinity").body
	for href, want := range map[string]string{
		"/in/": "403", "/in/f": "403", "/in/g": "200", "/closed/": "200", "/free/": "200", "/free/f": "200", "/": "200",
	} {
		_, rest, found := strings.Cut(got, "<D:href>"+href+"</D:href>")
		rest, _, _ = strings.Cut(rest, "</D:response>")
		if !found || !strings.Contains(rest, "HTTP/1.1 "+want) || want == "403" && strings.Contains(rest, "<D:prop>") {
			t.Errorf("%s: found %v, want %s: %s", href, found, want, rest)
		}
	}
	if !strings.Contains(got, "<D:response><D:href>/closed/</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>") {
		t.Error("that the members of closed are not told is not said")
	}
	s.want(403, "PROPFIND", "/closed", "", "Depth: 1")
	s.want(200, "GET", "/in/", "")
	if len(members) != 2 || members[0].Name != "f" || members[0].Info != nil || members[1].Info == nil {
		t.Errorf("the page is told of %v", members)
	}
}

// Who may change nothing reaches no change by any method or header, and neither
// does anybody where the engine has no upper.
func TestReadersChangeNothing(t *testing.T) {
	files := map[string]string{"f": "1", "d/f": "2"}
	for name, s := range map[string]*share{
		"by rights": serve(t, files, func(o *Options) {
			o.Access = func(*http.Request) Access { return rules{{".", RightRead | RightList}} }
		}),
		"by share":      serve(t, files, func(o *Options) { o.ReadOnly = true }),
		"by the engine": serveOn(t, files, func(o *overlay.Options) { o.Upper, o.Work = "", "" }),
	} {
		for _, path := range []string{"/f", "/d", "/new", "/d/new", "/"} {
			for _, q := range [][]string{
				{"PUT", "x"},
				{"PUT", "x", "X-OC-Mtime: 1"},
				{"PUT", "x", "Content-Range: bytes 0-0/*"},
				{"PUT", "x", "Content-Range: bytes 1-1/2"},
				{"PATCH", "x", "Content-Type: " + patchType, "X-Update-Range: append"},
				{"MKCOL", ""},
				{"MKCOL", "", "X-OC-Mtime: 1"},
				{"DELETE", ""},
				{"LOCK", lockExclusive},
				{"LOCK", lockShared, "Depth: 0"},
				{"LOCK", "", "If: (<urn:uuid:x>)"},
				{"PROPPATCH", patchSet("<x:a>1</x:a>")},
				{"PROPPATCH", patchSet("<D:getlastmodified>Thu, 02 Jan 2020 03:04:05 GMT</D:getlastmodified>")},
				{"COPY", "", "Destination: /copy"},
				{"COPY", "", "Destination: /f"},
				{"COPY", "", "Destination: /d", "X-OC-Mtime: 1"},
				{"MOVE", "", "Destination: /moved"},
				{"MOVE", "", "Destination: /f", "Overwrite: T"},
			} {
				if got := s.do(q[0], path, q[1], q[2:]...); got.status < 400 && !strings.Contains(got.body, "HTTP/1.1 403") {
					t.Errorf("%s: %s %s %v: got %d %s", name, q[0], path, q[2:], got.status, got.body)
				}
			}
		}
		s.wantMerged("d/ d/f=2 f=1")
		if entries, err := os.ReadDir(s.upper); err != nil || len(entries) > 0 {
			t.Errorf("%s: the upper has %v, %v", name, entries, err)
		}
		if locks := s.handler.locks.All(); name != "by the engine" && len(locks) > 0 {
			t.Errorf("%s: %v is locked", name, locks)
		}
	}
}
