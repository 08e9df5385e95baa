package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/xattr"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// Each change is made underneath, to a directory that was just walked through
// and may be kept open: the next look must show it.
func TestNextLookShowsWhatChangedUnderneath(t *testing.T) {
	overlaytest.NeedRoot(t)
	rename := func(from, to string) func(l overlaytest.Layers) error {
		return func(l overlaytest.Layers) error {
			dir := filepath.Dir(l.Upper)
			return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
		}
	}
	tests := map[string]struct {
		change func(l overlaytest.Layers) error
		name   string
		want   string // content, "" for none
	}{
		"a lower directory is renamed away": {rename("lower1/a", "lower1/z"), "a/b/f", "two"},
		"its parent is":                     {rename("lower1/a/b", "lower1/z"), "a/b/f", "two"},
		"the new name shows it":             {rename("lower1/a", "lower1/z"), "z/b/f", "one"},
		"an upper directory appears": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(filepath.Join(l.Upper, "a"), "b/\nb/f = upper\n")
		}, "a/b/f", "upper"},
		"an upper directory becomes opaque": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Upper, "up/ [opaque]\n")
		}, "up/f", ""},
		"one below it becomes opaque": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Upper, "up/\nup/d/ [opaque]\n")
		}, "up/d/f", ""},
		"one gets a redirect": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Upper, "up/\nup/d/ [redirect=/only2]\n")
		}, "up/d/f", "old"},
		"one is not opaque any more": {func(l overlaytest.Layers) error {
			return xattr.Remove(filepath.Join(l.Upper, "up/shut"), "trusted.overlay.opaque")
		}, "up/shut/f", "below"},
		"one has another mode, and becomes opaque": {func(l overlaytest.Layers) error {
			if err := os.Chmod(filepath.Join(l.Upper, "up/d"), 0o700); err != nil {
				return err
			}
			return overlaytest.Trusted.Build(l.Upper, "up/\nup/d/ [opaque]\n")
		}, "up/d/f", ""},
		"one is replaced by another": {func(l overlaytest.Layers) error {
			d := filepath.Join(l.Upper, "up/d")
			if err := errors.Join(os.Chmod(d, 0o700), os.Rename(d, d+"-before"), os.Mkdir(d, 0o755)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(d, "f"), []byte("upper"), 0o644)
		}, "up/d/f", "upper"},
		"a lower directory becomes opaque": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Lowers[0], "a/ [opaque]\n")
		}, "a/b/g", ""},
		"a whiteout hides a lower directory": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Upper, "a whiteout\n")
		}, "a/b/f", ""},
		"a middle layer gets the directory": {func(l overlaytest.Layers) error {
			return overlaytest.Trusted.Build(l.Lowers[0], "only2/\nonly2/f = new\n")
		}, "only2/f", "new"},
		"a directory becomes a file": {func(l overlaytest.Layers) error {
			if err := os.RemoveAll(filepath.Join(l.Lowers[0], "a")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(l.Lowers[0], "a"), nil, 0o644)
		}, "a/b/f", ""},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			l := overlaytest.NewLayers(t, t.TempDir(),
				"a/\na/b/\na/b/f = one\nup/\nup/f = below\nup/d/\nup/d/f = below\nup/shut/\nup/shut/f = below\n",
				"a/\na/b/\na/b/f = two\na/b/g = two\nonly2/\nonly2/f = old\n")
			overlaytest.Build(t, l.Upper, "up/\nup/d/\nup/shut/ [opaque]\nup/shut/g = upper\n")
			fsys := mustOpen(t, options(l))
			for _, name := range []string{"a/b/f", "a/b/g", "up/f", "up/d/f", "up/shut/g", "only2/f"} {
				for range 2 { // the second comes from what is kept
					if got := content(fsys, name); got == "" {
						t.Fatalf("%s: no content before the change", name)
					}
				}
			}
			if err := test.change(l); err != nil {
				t.Fatal(err)
			}
			if got := content(fsys, test.name); got != test.want {
				t.Errorf("%s: got %q, want %q", test.name, got, test.want)
			}
		})
	}
}

// content of a file; "" when it cannot be read.
func content(fsys *overlay.FS, name string) string {
	data, err := fs.ReadFile(fsys.FS(), name)
	if err != nil {
		return ""
	}
	return string(data)
}

func TestDirectoriesKeptOpenAreBounded(t *testing.T) {
	overlaytest.NeedRoot(t)
	const dirs = 3000
	l := overlaytest.Layers{Upper: filepath.Join(t.TempDir(), "upper"), Lowers: []string{t.TempDir(), t.TempDir()}}
	l.Work = l.Upper + "-work"
	mustMkdir(t, l.Upper)
	mustMkdir(t, l.Work)
	for i := range dirs {
		mustWrite(t, filepath.Join(l.Lowers[0], fmt.Sprintf("d%d/f", i)), 1)
		mustMkdir(t, filepath.Join(l.Lowers[1], fmt.Sprintf("d%d", i)))
	}
	fsys := mustOpen(t, options(l))
	for i := range dirs {
		if _, err := fsys.Stat(fmt.Sprintf("d%d/f", i)); err != nil {
			t.Fatal(err)
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) < 1000 || len(fds) > 2200 {
		t.Errorf("%d descriptors are open after %d directories in two layers, want some 2,048", len(fds), dirs)
	}
}

// A directory that is kept open passes on what it has now, not what it had when
// it was asked before.
func TestKeptDirectoryPassesOnWhatItHas(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "up/\nup/d/\nup/d/0/\nup/d/1/\nup/d/2/\nup/d/3/\n")
	overlaytest.Build(t, l.Upper, "up/\nup/d/\n")
	fsys := mustOpen(t, options(l))
	upper := filepath.Join(l.Upper, "up/d")
	for i, mode := range []fs.FileMode{0o755, 0o755 | fs.ModeSetgid, 0o755, 0o755 | fs.ModeSetgid} {
		if err := os.Chmod(upper, mode); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it is known
			name := fmt.Sprintf("up/d/%d", i)
			if err := errors.Join(fsys.RemoveAll(name), fsys.Mkdir(name, 0o755)); err != nil { // in place of a whiteout
				t.Fatal(err)
			}
			made, err := os.Stat(filepath.Join(l.Upper, name))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := made.Mode()&fs.ModeSetgid, mode&fs.ModeSetgid; got != want {
				t.Errorf("%s: setgid %v, want %v", name, got, want)
			}
		}
	}
}
