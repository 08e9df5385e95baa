package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func mustMkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestChangesOfSharesAreApart(t *testing.T) {
	user := func(rest string) string { return "/srv/{user}" + rest }
	for _, test := range []struct {
		a, b string // uppers, each with work beside it
		fit  bool
	}{
		{"/srv/a/upper", "/srv/b/upper", true},
		{"/srv/a", "/srv/ab", true},
		{"/srv/a", "/srv/a/upper", false},
		{"/srv/a", "/srv/a.work/b", false},
		{user("/one"), user("/two"), true},
		{user("/one"), user("/one/two"), false},
		{user("/one"), "/srv/alice/two", true},
		{user("/one"), "/srv/alice/one", false},
		{user("/one"), "/srv/alice", false},
		{user("/one"), "/srv/Not a user/one", true},
		{user("/one"), "/srv", false},
		{user("/one"), "/srv/alice/{user}/one", false}, // alice, and one
		{"/srv/a", user("/one"), false},
	} {
		of := func(upper string) *layers {
			return &layers{ShareConfig: ShareConfig{Path: "/x", Upper: upper, Work: upper + ".work"}}
		}
		if err := of(test.a).checkApart(of(test.b)); (err == nil) != test.fit {
			t.Errorf("%s beside %s: %v", test.a, test.b, err)
		}
		made := of(test.b)
		made.makeUpper = true
		if err := of(test.a).checkApart(made); err != nil && test.b == "/srv/alice/one" {
			t.Errorf("%s beside %s, which has a hash in its name: %v", test.a, test.b, err)
		}
		shown := of(test.b)
		shown.ReadOnly = true
		if err := of(test.a).checkApart(shown); err != nil {
			t.Errorf("%s beside %s, which is not changed: %v", test.a, test.b, err)
		}
	}
}

// names lists everything below dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestStateHome(t *testing.T) {
	tests := []struct {
		name   string
		getenv func(string) string
		uid    int
		want   string
	}{
		{"user", getenv("HOME", "/home/ann"), 1000, "/home/ann/.local/state/overdav"},
		{"user with XDG_STATE_HOME", getenv("HOME", "/home/ann", "XDG_STATE_HOME", "/state"), 1000, "/state/overdav"},
		{"relative XDG_STATE_HOME is ignored", getenv("HOME", "/home/ann", "XDG_STATE_HOME", "state"), 1000, "/home/ann/.local/state/overdav"},
		{"root", getenv("HOME", "/root"), 0, "/var/lib/overdav"},
		{"no home", getenv(), 1000, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := stateHome(test.getenv, test.uid); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestStateNameIsReadableAndOnesOwn(t *testing.T) {
	seen := make(map[string][]string)
	for _, lowers := range [][]string{
		{"/srv/release"},
		{"/srv/release/"},
		{"/mnt/release"},
		{"/srv/release", "/mnt/release"},
		{"/mnt/release", "/srv/release"},
		{"/"},
		{"/srv/a", "b"},
		{"/srv/" + strings.Repeat("x", 255)},
	} {
		name := stateName(lowers)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q share %s", lowers, other, name)
		}
		seen[name] = lowers
		if len(name)+len(".work") > 255 || strings.Contains(name, "/") {
			t.Errorf("%q is no file name with room for .work: %s", lowers, name)
		}
	}
	if name := stateName([]string{"/srv/release"}); !strings.HasPrefix(name, "release-") {
		t.Errorf("%s cannot be recognized as release's", name)
	}
}

func TestWorkBeside(t *testing.T) {
	for upper, want := range map[string]string{
		"/v/upper": "/v/work", "/v/upper/": "/v/work", "/v/changes": "/v/changes.work", "upper": "work", "u": "u.work",
	} {
		if got := workBeside(upper); got != want {
			t.Errorf("workBeside(%q) is %q, want %q", upper, got, want)
		}
	}
}

func TestATreeHasOneUpperHoweverItIsNamed(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	tree := mustMkdir(t, dir, "tree")
	if err := os.Symlink("tree", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	want := ""
	for _, name := range []string{tree, tree + "/", "tree", "./tree/../tree", "link"} {
		l, err := newLayers(ShareConfig{Lower: []string{name}}, home)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = l.Upper
		}
		if l.Upper != want {
			t.Errorf("%s has upper %s, want %s", name, l.Upper, want)
		}
	}
	if got := names(t, home); len(got) != 1 {
		t.Errorf("newLayers wrote %q", got)
	}
}

func TestLayersAreRefusedWithAHint(t *testing.T) {
	dir := t.TempDir()
	tree := mustMkdir(t, dir, "tree")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, lower, home, want, hint string }{
		{"missing", filepath.Join(dir, "none"), dir, "there is no directory", "name one that exists"},
		{"a file", file, dir, "is not a directory", "name a directory"},
		{"no place for changes", tree, "", "neither XDG_STATE_HOME nor HOME", "--upper DIR"},
		{"changes inside the lower", tree, filepath.Join(tree, "state"), "which is not to change", "--upper DIR"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := newLayers(ShareConfig{Lower: []string{test.lower}}, test.home)
			var hint *hintError
			if !errors.As(err, &hint) {
				t.Fatalf("got %v, want a hint", err)
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(hint.hint, test.hint) {
				t.Errorf("got %v; %s", err, hint.hint)
			}
		})
	}
}

func TestPrepareMakesWhatNobodyNamedAndUndoRemovesIt(t *testing.T) {
	dir := t.TempDir()
	tree := mustMkdir(t, dir, "tree")
	if err := os.Chmod(tree, 0o750); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "home/state/overdav")
	mustMkdir(t, dir, "home")
	l, err := newLayers(ShareConfig{Lower: []string{tree}}, home)
	if err != nil {
		t.Fatal(err)
	}
	before := strings.Join(names(t, dir), "\n")
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{home: 0o700, l.Upper: 0o750, l.Work: 0o700} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	l.undo()
	if after := strings.Join(names(t, dir), "\n"); after != before {
		t.Errorf("undo left\n%s\nof\n%s", after, before)
	}
}

func TestUndoKeepsWhatWasThereBefore(t *testing.T) {
	dir := t.TempDir()
	l, err := newLayers(ShareConfig{Lower: []string{mustMkdir(t, dir, "tree")}, Upper: mustMkdir(t, dir, "upper")}, "")
	if err != nil {
		t.Fatal(err)
	}
	mustMkdir(t, l.Work)
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	l.undo()
	if _, err := os.Stat(l.Work); err != nil {
		t.Errorf("a work directory from before is gone: %v", err)
	}
}

func TestNoWorkIsMadeBesideAMissingUpper(t *testing.T) {
	dir := t.TempDir()
	l, err := newLayers(ShareConfig{Lower: []string{mustMkdir(t, dir, "tree")}, Upper: filepath.Join(dir, "upper")}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.Work); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("work directory: %v, want none", err)
	}
}

func discardLog() zerolog.Logger { return zerolog.New(io.Discard) }
