package davfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// A share is a tree behind a server: a lower layer made from a map, an empty
// upper, and the lower's promise checked at the end.
type share struct {
	*httptest.Server
	t            *testing.T
	tree         *overlay.FS
	fs           *FileSystem
	handler      *Handler
	lower, upper string
}

// openTree opens a merged tree over a lower layer with these files: a name
// that ends in a slash is a directory, a value "-> x" a symlink, "|" a FIFO.
func openTree(t *testing.T, files map[string]string, options ...func(*overlay.Options)) (tree *overlay.FS, lower, upper string) {
	t.Helper()
	base := t.TempDir()
	lower, upper = filepath.Join(base, "lower"), filepath.Join(base, "upper")
	work := filepath.Join(base, "work")
	for _, dir := range []string{lower, upper, work} {
		mustDo(t, os.Mkdir(dir, 0o755))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		makeFile(t, filepath.Join(lower, name), files[name], strings.HasSuffix(name, "/"))
	}
	before := snapshot(t, lower)
	o := overlay.Options{Lowers: []string{lower}, Upper: upper, Work: work, Durability: overlay.DurabilityNone}
	for _, option := range options {
		option(&o)
	}
	tree, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Errorf("close the tree: %v", err)
		}
		if after := snapshot(t, lower); after != before {
			t.Errorf("the lower layer changed:\n%s\nwas:\n%s", after, before)
		}
	})
	return tree, lower, upper
}

func makeFile(t *testing.T, path, content string, dir bool) {
	t.Helper()
	mustDo(t, os.MkdirAll(filepath.Dir(path), 0o755))
	target, isLink := strings.CutPrefix(content, "-> ")
	switch {
	case dir:
		mustDo(t, os.MkdirAll(path, 0o755))
	case isLink:
		mustDo(t, os.Symlink(target, path))
	case content == "|":
		mustDo(t, mkfifo(path))
	default:
		mustDo(t, os.WriteFile(path, []byte(content), 0o644))
		old := time.Now().Add(-time.Hour)
		mustDo(t, os.Chtimes(path, old, old))
	}
}

// snapshot is all of a tree in text.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %v", strings.TrimPrefix(path, dir), info.Mode(), info.ModTime())
		if info.Mode().IsRegular() && info.Mode().Perm()&0o400 != 0 {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %.100q", content)
		}
		b.WriteByte('\n')
		return nil
	})
	mustDo(t, err)
	return b.String()
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve serves a tree with these files through Handler.
func serve(t *testing.T, files map[string]string, options ...func(*Options)) *share {
	t.Helper()
	return serveOn(t, files, nil, options...)
}

// serveOn is serve with a say in how the tree is opened.
func serveOn(t *testing.T, files map[string]string, engine func(*overlay.Options), options ...func(*Options)) *share {
	t.Helper()
	var engines []func(*overlay.Options)
	if engine != nil {
		engines = append(engines, engine)
	}
	tree, lower, upper := openTree(t, files, engines...)
	s := &share{t: t, tree: tree, fs: NewFileSystem(tree), lower: lower, upper: upper}
	o := Options{Log: func(r *http.Request, status int, err error) {
		t.Logf("%s %s: %d: %v", r.Method, r.URL, status, err)
	}}
	for _, option := range options {
		option(&o)
	}
	handler, err := NewHandler(s.fs, o)
	if err != nil {
		t.Fatal(err)
	}
	s.handler = handler
	s.restart(handler)
	return s
}

// restart serves on with another handler.
func (s *share) restart(handler http.Handler) {
	if s.Server != nil {
		s.Close()
	}
	s.Server = httptest.NewServer(handler)
	s.t.Cleanup(s.Close)
}

// serveBare serves a tree with these files through x/net's Handler.
func serveBare(t *testing.T, files map[string]string) *share {
	t.Helper()
	return serveBareLocked(t, files, func(*FileSystem) webdav.LockSystem { return webdav.NewMemLS() })
}

// serveBareLocked is serveBare with a choice of locks.
func serveBareLocked(t *testing.T, files map[string]string, locks func(*FileSystem) webdav.LockSystem) *share {
	t.Helper()
	tree, lower, upper := openTree(t, files)
	s := &share{t: t, tree: tree, fs: NewFileSystem(tree), lower: lower, upper: upper}
	s.Server = httptest.NewServer(&webdav.Handler{
		FileSystem: s.fs,
		LockSystem: locks(s.fs),
		Logger: func(r *http.Request, err error) {
			if err != nil {
				t.Logf("%s %s: %v", r.Method, r.URL, err)
			}
		},
	})
	t.Cleanup(s.Close)
	return s
}

// An answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request. Headers are "Name: value"; {base} in them is the URL of
// the server.
func (s *share) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	return s.send(r, headers...)
}

func (s *share) send(r *http.Request, headers ...string) answer {
	s.t.Helper()
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, strings.ReplaceAll(value, "{base}", s.URL))
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer response.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, response.Body); err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return answer{response.StatusCode, response.Header, b.String()}
}

// want does a request and compares the status.
func (s *share) want(status int, method, path, body string, headers ...string) answer {
	s.t.Helper()
	got := s.do(method, path, body, headers...)
	if got.status != status {
		s.t.Fatalf("%s %s %v: got %d %q, want %d", method, path, headers, got.status, got.body, status)
	}
	return got
}

// content is what the merged tree has at a name; "" and a note for nothing.
func (s *share) content(name string) string {
	s.t.Helper()
	f, err := s.tree.Open(name)
	if err != nil {
		return "(" + errno(err).Error() + ")"
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return "(" + errno(err).Error() + ")"
	}
	return string(b)
}

// merged is the merged tree as text: a line for each file, "dir/", "file=content".
func (s *share) merged() string {
	s.t.Helper()
	var lines []string
	var walk func(dir string)
	walk = func(dir string) {
		infos, err := s.tree.ReadDir(dir)
		if err != nil {
			s.t.Fatalf("read %s: %v", dir, err)
		}
		for _, info := range infos {
			name := join(dir, info.Name())
			switch {
			case info.IsDir():
				lines = append(lines, name+"/")
				walk(name)
			case info.Mode().IsRegular():
				lines = append(lines, name+"="+s.content(name))
			default:
				lines = append(lines, name+"~")
			}
		}
	}
	walk(".")
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func (s *share) wantMerged(want string) {
	s.t.Helper()
	if got := s.merged(); got != want {
		s.t.Errorf("the tree is %q, want %q", got, want)
	}
}
