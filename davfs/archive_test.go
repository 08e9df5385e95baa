package davfs

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"overdav/overlay/overlaytest"
)

// withArchives offers archives without limits but those given.
func withArchives(a *Archives) func(*Options) {
	if a.PerUser == 0 {
		a.PerUser = 1
	}
	return func(o *Options) { o.Archives = a }
}

// archived is an archive as text: "d/" and "f=content", sorted.
func archived(t testing.TB, body string) string {
	t.Helper()
	z, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	var lines []string
	for _, f := range z.File {
		line := f.Name
		if !strings.HasSuffix(f.Name, "/") {
			line += "=" + unpacked(t, f)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func unpacked(t testing.TB, f *zip.File) string {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r) // the checksum is held against it
	if err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
	return string(content)
}

func TestArchiveIsTheMergedView(t *testing.T) {
	files := map[string]string{
		"d/f": "one", "d/gone": "x", "d/dir/g": "two", "d/dir/gone/x": "x", "d/old/x": "x", "d/empty/": "", "d/zero": "", "d/pipe": "|",
		"d/to-f": "-> f", "d/to-dir": "-> dir", "d/to-nothing": "-> none", "d/out": "-> ../../../etc/passwd", "d/around": "-> ../other", "other": "three", "d/jpeg.jpg": "four",
	}
	s := serve(t, files, withArchives(&Archives{}), func(o *Options) { o.Prefix = "/dav" })
	s.want(204, "DELETE", "/dav/d/gone", "")
	s.want(204, "DELETE", "/dav/d/dir/gone", "")
	s.want(204, "DELETE", "/dav/d/old", "")
	s.want(201, "MKCOL", "/dav/d/old", "") // opaque
	s.want(201, "PUT", "/dav/d/old/new", "five")
	s.want(204, "PUT", "/dav/d/f", "six")
	const want = "around=three dir/ dir/g=two empty/ f=six jpeg.jpg=four old/ old/new=five to-f=six zero="
	for _, path := range []string{"/dav/d?zip", "/dav/d/?zip", "/dav/d/?sort=size&zip=1"} {
		got := s.want(200, "GET", path, "")
		if text := archived(t, got.body); text != want {
			t.Errorf("%s has\n%s\nwant\n%s", path, text, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/zip", "Content-Disposition": `attachment; filename="d.zip"`, "Accept-Ranges": "none",
			"X-Content-Type-Options": "nosniff",
		} {
			if value := got.header.Get(name); value != want {
				t.Errorf("%s: %s is %q, want %q", path, name, value, want)
			}
		}
		head := s.want(200, "HEAD", path, "")
		for _, name := range []string{"Content-Type", "Content-Disposition", "Accept-Ranges"} {
			if head.header.Get(name) != got.header.Get(name) {
				t.Errorf("HEAD %s: %s is %q", path, name, head.header.Get(name))
			}
		}
	}
	if got := s.want(200, "GET", "/dav/d/f?zip", ""); got.body != "six" {
		t.Errorf("a file is answered with %q", got.body)
	}
	if got := s.want(200, "GET", "/dav/?zip", ""); got.header.Get("Content-Disposition") != `attachment; filename="dav.zip"` || !strings.Contains(archived(t, got.body), "d/dir/g=two") {
		t.Errorf("the root is called %s", got.header.Get("Content-Disposition"))
	}
	s.want(404, "GET", "/dav/none?zip", "")
}

func TestArchiveWithoutSymlinks(t *testing.T) {
	files := map[string]string{"d/f": "1", "d/l": "-> f", "d/e/l": "-> ../f", "ld": "-> d"}
	s := serve(t, files, withArchives(&Archives{}), func(o *Options) { o.HideSymlinks = true })
	if got := archived(t, s.want(200, "GET", "/?zip", "").body); got != "d/ d/e/ d/f=1" {
		t.Errorf("got %s", got)
	}
	s.want(404, "GET", "/ld?zip", "")
	shown := serve(t, files, withArchives(&Archives{}))
	if got := archived(t, shown.want(200, "GET", "/ld?zip", "").body); got != "e/ e/l=1 f=1 l=1" {
		t.Errorf("through a link: got %s", got)
	}
}

// What another share stands on cannot be reached, nor be had by the way of an
// archive.
func TestArchiveLeavesOutWhatIsElsewhere(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "b/f": "2", "c/b/f": "3"}, withArchives(&Archives{}), func(o *Options) {
		o.Prefix, o.Others = "/a", []string{"/a/b", "/.overdav"}
	})
	if got := archived(t, s.want(200, "GET", "/a/?zip", "").body); got != "c/ c/b/ c/b/f=3 f=1" {
		t.Errorf("got %s", got)
	}
}

// Times, and whether a file can be run, are in an archive; times that it cannot
// hold are the nearest that it can. Text is compressed, what is compressed is not.
func TestArchiveHasTimesAndModes(t *testing.T) {
	long := strings.Repeat("all work and no play ", 10_000)
	s := serve(t, map[string]string{"text.txt": long, "picture.jpg": long, "d/run.sh": "#!"}, withArchives(&Archives{}))
	mustDo(t, s.tree.Chmod("d/run.sh", 0o700))
	times := map[string]time.Time{
		"text.txt": time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC), "picture.jpg": time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC),
		"d/run.sh": time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), "d/": time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for _, name := range []string{"text.txt", "picture.jpg", "d/run.sh", "d/"} {
		mustDo(t, s.tree.Chtimes(strings.TrimSuffix(name, "/"), times[name], times[name]))
	}
	times["picture.jpg"], times["d/run.sh"] = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<32-1, 0)
	body := s.want(200, "GET", "/?zip", "").body
	z, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	mustDo(t, err)
	modes := map[string]fs.FileMode{"text.txt": 0o644, "picture.jpg": 0o644, "d/run.sh": 0o755, "d/": fs.ModeDir | 0o755}
	for _, f := range z.File {
		if !f.Modified.Equal(times[f.Name]) || f.Mode() != modes[f.Name] {
			t.Errorf("%s: got %v, %v, want %v, %v", f.Name, f.Modified, f.Mode(), times[f.Name], modes[f.Name])
		}
		small := f.CompressedSize64 < f.UncompressedSize64/10
		if f.Name == "text.txt" && !small || f.Name == "picture.jpg" && small {
			t.Errorf("%s: %d bytes for %d", f.Name, f.CompressedSize64, f.UncompressedSize64)
		}
	}
	if len(z.File) != 4 {
		t.Errorf("%d members", len(z.File))
	}
}

// Of a collection that may be listed but not read, an archive has no time.
func TestArchiveTellsNoTimeOfWhatMayNotBeRead(t *testing.T) {
	s := serve(t, map[string]string{"in/f": "1", "out/f": "2"}, withArchives(&Archives{}), func(o *Options) {
		o.Access = func(*http.Request) Access {
			return rules{{"in/f", RightRead}, {"in", RightList}, {"out", RightRead}, {".", RightRead | RightList}}
		}
	})
	body := s.want(200, "GET", "/?zip", "").body
	z, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	mustDo(t, err)
	for _, f := range z.File {
		if told := f.Modified.Year() >= 1980; told != (f.Name == "in/f") {
			t.Errorf("%s: the time is %v", f.Name, f.Modified)
		}
	}
	if got := archived(t, body); got != "in/ in/f=1" {
		t.Errorf("got %s", got)
	}
}

// escapes are names, and how they are written in an archive.
var escapes = map[string]string{
	"plain": "plain", "a b": "a b", "ü": "ü", "日本": "日本", "ab:c": "ab:c", "a:b": "a%3Ab", "a..": "a..", "..a": "..a", "100%": "100%", "5%x": "5%x", "a\nb": "a\nb",
	`a\b`: "a%5Cb", `..\x`: "..%5Cx", `\\h\s`: "%5C%5Ch%5Cs", "C:": "C%3A", "c:x": "c%3Ax", "...": "%2E%2E%2E", ".. ": "%2E%2E ", " ..": " %2E%2E", ". .": "%2E %2E",
	"a\xffb": "a%FFb", "\xc3": "%C3", "a%5Cb": "a%255Cb", "%2e%2e": "%252e%252e", "%": "%", "%20": "%20", "%25": "%2525", "%C3": "%25C3", "%%5C": "%%255C", "\ufffd": "\ufffd",
}

func TestArchiveNames(t *testing.T) {
	files := make(map[string]string)
	for name, want := range escapes {
		if got := archiveName(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
		files[name+"/"+name] = want
	}
	s := serve(t, files, withArchives(&Archives{}))
	got := archived(t, s.want(200, "GET", "/?zip", "").body)
	for name, want := range escapes {
		if line := want + "/" + want + "=" + want; !strings.Contains(got, line) {
			t.Errorf("%q is not called %q in\n%s", name, line, got)
		}
	}
}

// isSafeInArchives says whether no reader takes a name for a path that leads
// elsewhere.
func isSafeInArchives(name string) bool {
	for part := range strings.SplitSeq(strings.TrimSuffix(name, "/"), "/") {
		if strings.Trim(part, ". ") == "" && strings.Contains(part, ".") || part == "" {
			return false
		}
	}
	return !strings.ContainsAny(name, "\\\x00") && (len(name) < 2 || name[1] != ':') && utf8.ValidString(name)
}

// Whatever a name is, in an archive it is one name, and that of no other.
func FuzzArchiveName(f *testing.F) {
	for name := range escapes {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if (namePolicy{bytes: true}).checkName(name) != nil {
			return // there is no such file
		}
		got := archiveName(name)
		if !isSafeInArchives(got) || strings.Contains(got, "/") {
			t.Errorf("%q is called %q", name, got)
		}
		var back []byte
		for i := 0; i < len(got); i++ {
			if isEscape(got[i:]) {
				hi, _ := unhex(got[i+1])
				lo, _ := unhex(got[i+2])
				back = append(back, hi<<4|lo)
				i += 2
			} else {
				back = append(back, got[i])
			}
		}
		if string(back) != name {
			t.Errorf("%q is called %q, which is %q", name, got, back)
		}
	})
}

func TestAttachmentName(t *testing.T) {
	for name, want := range map[string]string{
		"a.zip": `attachment; filename="a.zip"`, "a b;c.zip": `attachment; filename="a b;c.zip"`,
		"ü.zip": `attachment; filename="_.zip"; filename*=UTF-8''%C3%BC.zip`, `a"b\c%41.zip`: `attachment; filename="a_b_c_41.zip"; filename*=UTF-8''a%22b%5Cc%2541.zip`,
		"a\r\nX: y.zip": `attachment; filename="a__X: y.zip"`, "\u202egnp.zip": `attachment; filename="_gnp.zip"`, "\xff é.zip": `attachment; filename="_ _.zip"; filename*=UTF-8''_%20%C3%A9.zip`,
	} {
		got := attachment(name)
		if got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
		if _, _, err := mime.ParseMediaType(got); err != nil {
			t.Errorf("%q: %s: %v", name, got, err)
		}
	}
}

// The limits hold: what is at them is sent, what is one beyond is refused before
// anything is.
func TestLimitsOfArchives(t *testing.T) {
	files := map[string]string{"d/a": "12345", "d/e/b": "678", "d/l": "-> a", "no": "1"}
	const bytes, entries = 13, 4
	for _, test := range []struct {
		limits *Archives
		want   int
	}{
		{&Archives{PerUser: 1, Bytes: bytes, Entries: entries}, 200},
		{&Archives{PerUser: 1, Bytes: bytes - 1, Entries: entries}, 403},
		{&Archives{PerUser: 1, Bytes: bytes, Entries: entries - 1}, 403},
		{&Archives{PerUser: 1}, 200},
		{&Archives{PerUser: 0, Bytes: bytes, Entries: entries}, 403},
	} {
		s := serve(t, files, func(o *Options) { o.Archives = test.limits })
		got := s.want(test.want, "GET", "/d?zip", "")
		if test.want != 200 && (got.header.Get("Content-Type") != "text/plain; charset=utf-8" || got.header.Get("Content-Disposition") != "") {
			t.Errorf("%d: refused as %v", test.want, got.header)
		}
		s.want(200, "GET", "/d", "") // the page
		s.Close()                    // waits for the handlers
		if len(test.limits.running) > 0 {
			t.Errorf("%v is still running", test.limits.running)
		}
	}
	serve(t, files).want(403, "GET", "/d?zip", "")
}

// slowly asks for an archive and reads only its head.
func (s *share) slowly(path string, headers ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequest("GET", s.URL+path, nil)
	mustDo(s.t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	mustDo(s.t, err)
	return response
}

// One user is sent one archive at once, and the next when that has ended, in
// whichever way.
func TestArchivesAtOnce(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	files := make(map[string]string)
	for i := range 32 { // more than what is buffered on the way
		files[fmt.Sprintf("d/%d.jpg", i)] = big
	}
	files["e/f"] = "1"
	limits := &Archives{PerUser: 1, Of: func(r *http.Request) string { return r.Header.Get("X-User") }}
	s := serve(t, files, withArchives(limits), withRights(nil))
	first := s.slowly("/d?zip", alice)
	got := s.want(429, "GET", "/e?zip", "", alice)
	if got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "another download") {
		t.Errorf("refused with %v %q", got.header, got.body)
	}
	s.want(200, "HEAD", "/e?zip", "", alice)
	s.want(200, "GET", "/e?zip", "", "X-User: bob")
	body, err := io.ReadAll(first.Body)
	first.Body.Close()
	if err != nil || strings.Count(archived(t, string(body)), "=xx") != 32 {
		t.Errorf("the first archive: %v", err)
	}
	s.awaitArchive("/e?zip", alice)

	gone := s.slowly("/d?zip", alice)
	s.want(429, "GET", "/e?zip", "", alice)
	gone.Body.Close() // the client goes away
	s.awaitArchive("/e?zip", alice)
}

// awaitArchive asks until the server has noticed that the last one has ended.
func (s *share) awaitArchive(path string, headers ...string) {
	s.t.Helper()
	for began := time.Now(); ; {
		got := s.do("GET", path, "", headers...)
		if got.status == 200 {
			return
		}
		if got.status != 429 || time.Since(began) > 10*time.Second {
			s.t.Fatalf("got %d", got.status)
		}
	}
}

// A spoiler does something when the first bytes of a body are written.
type spoiler struct {
	http.ResponseWriter
	spoil func()
}

func (w *spoiler) Write(p []byte) (int, error) {
	if w.spoil != nil {
		w.spoil()
		w.spoil = nil
	}
	return w.ResponseWriter.Write(p)
}

// What fails midway breaks the connection, and what has come is no archive: a
// file or a directory that went, one that something else has taken the place of, a file
// that is shorter than it was, and one that has grown beyond the limit.
func TestArchiveThatFailsIsVisiblyBroken(t *testing.T) {
	const size = 1 << 20
	both := func(s *share, do func(name string) error) { // one is being read, whichever is listed first
		mustDo(s.t, do("d/a.jpg"))
		mustDo(s.t, do("d/b.jpg"))
	}
	content := strings.Repeat("x", size)
	for name, spoil := range map[string]func(s *share){
		"nothing": func(*share) {},
		"gone":    func(s *share) { both(s, s.tree.Remove) },
		"moved": func(s *share) {
			mustDo(s.t, s.tree.Rename("e/a", "elsewhere"))
			mustDo(s.t, s.tree.Rename("e/b", "else"))
		},
		"link": func(s *share) {
			both(s, s.tree.Remove)
			both(s, func(name string) error { return s.tree.Symlink("../other", name) })
		},
		"directory": func(s *share) {
			both(s, s.tree.Remove)
			both(s, func(name string) error { return s.tree.Mkdir(name, 0o755) })
		},
		"shorter": func(s *share) {
			both(s, func(name string) error { return os.Truncate(filepath.Join(s.upper, name), 1) })
		},
		"grown": func(s *share) {
			both(s, func(name string) error { return os.Truncate(filepath.Join(s.upper, name), size+1) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			var logged []error
			s := serve(t, map[string]string{"other": content}, withArchives(&Archives{Bytes: 2 * size}), func(o *Options) {
				o.Log = func(_ *http.Request, _ int, err error) { logged = append(logged, err) }
			})
			for _, path := range []string{"/d", "/e", "/e/a", "/e/b"} {
				s.want(201, "MKCOL", path, "")
			}
			for _, path := range []string{"/d/a.jpg", "/d/b.jpg", "/e/a/a.jpg", "/e/b/b.jpg"} {
				s.want(201, "PUT", path, content)
			}
			s.restart(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.handler.ServeHTTP(&spoiler{w, func() { spoil(s) }}, r)
			}))
			response := s.slowly(map[bool]string{true: "/e?zip", false: "/d?zip"}[name == "moved"])
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			_, zerr := zip.NewReader(bytes.NewReader(body), int64(len(body)))
			s.Close() // waits for the handler
			if name == "nothing" {
				if err != nil || zerr != nil || len(logged) > 0 {
					t.Errorf("got %v, %v, logged %v", err, zerr, logged)
				}
				return
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) || zerr == nil || len(body) == 0 {
				t.Errorf("the client gets %d bytes, %v, %v", len(body), err, zerr)
			}
			if len(logged) != 1 {
				t.Errorf("logged are %v", logged)
			}
		})
	}
}

// An archive is what other programs take for one, with all names and content, and
// in a stream as well.
func TestOthersReadArchives(t *testing.T) {
	s := serve(t, map[string]string{
		"d/text.txt": strings.Repeat("text ", 1000), "d/ünï.jpg": "picture", "d/empty/": "", "d/zero": "", `d/..\up`: "1", "d/sp ace": "2",
	}, withArchives(&Archives{}))
	file := filepath.Join(t.TempDir(), "d.zip")
	mustDo(t, os.WriteFile(file, []byte(s.want(200, "GET", "/d?zip", "").body), 0o644))
	want := snapshotNames(t, filepath.Join(s.lower, "d"))
	for _, tool := range []struct{ name, how string }{
		{"unzip", "unzip -q $ZIP"},
		{"python3", "python3 -m zipfile -e $ZIP . && python3 -m zipfile -t $ZIP"},
		{"bsdtar", "bsdtar -x -f - < $ZIP"},
	} {
		t.Run(tool.name, func(t *testing.T) {
			if _, err := exec.LookPath(tool.name); tool.name == "unzip" {
				overlaytest.Need(t, err == nil, "the program unzip (make deps)")
			} else if err != nil {
				t.Skip(err) // one witness will do
			}
			cmd := exec.Command("sh", "-c", tool.how)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "ZIP="+file, "LC_ALL=C.UTF-8")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := snapshotNames(t, cmd.Dir); got != strings.ReplaceAll(want, `..\up`, "..%5Cup") {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// snapshotNames is a tree on disk as names and content.
func snapshotNames(t *testing.T, dir string) string {
	t.Helper()
	var text string
	mustDo(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, dir)
		if err != nil || e.IsDir() {
			text += name + "/\n"
			return err
		}
		content, err := os.ReadFile(path)
		text += fmt.Sprintf("%s=%s\n", name, content)
		return err
	}))
	return text
}
