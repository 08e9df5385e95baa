package overlaytest

import (
	"errors"
	"net/http/httptest"
	"testing"

	"golang.org/x/net/webdav"
)

// openDAV serves a plain directory, so that the engine of verbs over HTTP is
// tried apart from any overlay.
func openDAV(t *testing.T, dir string) Engine {
	t.Helper()
	server := httptest.NewServer(&webdav.Handler{FileSystem: webdav.Dir(dir), LockSystem: webdav.NewMemLS()})
	t.Cleanup(server.Close)
	return NewHTTP(server.URL, server.Client(), func() error { server.Close(); return nil })
}

func TestHTTPEngineDoesWhatScriptsSay(t *testing.T) {
	dir := t.TempDir()
	if err := User.Build(dir, "d/\nd/a = one\nempty/\nf = two\n\"sp ace%41#\" = odd\n"); err != nil {
		t.Fatal(err)
	}
	e := openDAV(t, dir)
	for _, step := range []struct {
		what string
		got  error
		want string // as ErrClass has it, "" for none, "?" for any
	}{
		{"put", e.Put("d/new", "content"), ""},
		{"mkdir", e.Mkdir("d/sub"), ""},
		{"mkdir again", e.Mkdir("d/sub"), "?"},
		{"rm a directory", e.Rm("d"), "EISDIR"},
		{"rmdir of a full one", e.Rmdir("d"), "EEXIST"},
		{"rmdir of a file", e.Rmdir("f"), "ENOTDIR"},
		{"mv over a directory", e.Mv("f", "d"), "EISDIR"},
		{"mv of a directory over a file", e.Mv("d", "f"), "ENOTDIR"},
		{"mv over a full directory", e.Mv("empty", "d"), "EEXIST"},
		{"mv", e.Mv("f", "d/sub/g"), ""},
		{"cp", e.Cp("d", "copy"), ""},
		{"rm", e.Rm("d/a"), ""},
		{"rmdir", e.Rmdir("empty"), ""},
		{"rmtree", e.Rmtree("d/sub"), ""},
	} {
		if got := ErrClass(step.got); got != step.want && (step.want != "?" || got == "") {
			t.Errorf("%s: got %q (%v), want %q", step.what, got, step.got, step.want)
		}
	}
	got, err := e.Tree()
	want := "copy/\ncopy/a = one\ncopy/new = content\ncopy/sub/\ncopy/sub/g = two\nd/\nd/new = content\n\"sp ace%41#\" = odd\n"
	if got != want || err != nil {
		t.Errorf("tree: %v\n%s", err, Diff(want, got))
	}
	if err := e.Chmod("d", 0o700); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("chmod: got %v, want errors.ErrUnsupported", err)
	}
}

func TestAsHTTPLeavesWhatAClientSees(t *testing.T) {
	for _, test := range []struct {
		text, want string
		ok         bool
	}{
		{"d/ 0700 3:4 @5 [user.k=v]\nd/a 0600 = one\n", "d/\nd/a = one\n", true},
		{"l -> a\n", "", false},
		{"p fifo\n", "", false},
		{"bad !EINVAL\n", "", false},
	} {
		got, ok := AsHTTP(test.text)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("AsHTTP(%q) = %q, %v, want %q, %v", test.text, got, ok, test.want, test.ok)
		}
	}
}
