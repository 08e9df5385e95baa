package overlay_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

func TestState(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(),
		"d/\nd/f = one\nd/g = two\nd/gone = x\nkept/\nkept/f = x\nold/\nold/f = x\nmode/\nl -> d\nm -> d\nfile = x\nsame = x\ntouched = x\nmoved = x\n")
	fsys := open(t, optionsOf(l))
	for _, err := range []error{
		put(fsys, "d/f", "changed"),
		put(fsys, "new", "x"),
		fsys.Mkdir("newdir", 0o755),
		fsys.Chmod("d/g", 0o600),
		fsys.Remove("d/gone"),
		fsys.Rename("old", "renamed"),
		fsys.Rename("moved", "moved2"),
		fsys.Chmod("mode", 0o700),
		fsys.CopyUp("same"),
		fsys.CopyUp("kept"),
		fsys.Chtimes("touched", time.Time{}, time.Unix(1, 0)),
		fsys.Remove("l"), fsys.Symlink("elsewhere", "l"),
		fsys.CopyUp("m"),
		fsys.Remove("file"), fsys.Mkdir("file", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]overlay.State{
		".": overlay.StateUnchanged, "kept/f": overlay.StateUnchanged, "kept": overlay.StateUnchanged,
		"same": overlay.StateUnchanged, "m": overlay.StateUnchanged, "d": overlay.StateUnchanged,
		"d/f": overlay.StateModified, "l": overlay.StateModified, "file": overlay.StateModified,
		"touched": overlay.StateModified,
		"new":     overlay.StateAdded, "newdir": overlay.StateAdded,
		"d/g": overlay.StateAttributes, "mode": overlay.StateAttributes,
		"renamed": overlay.StateRenamed, "moved2": overlay.StateRenamed, "renamed/f": overlay.StateUnchanged,
	} {
		if got, err := fsys.State(name); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := fsys.State("d/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deleted file: %v, want that it does not exist", err)
	}
}

func put(fsys *overlay.FS, name, content string) error {
	s, err := fsys.Stage(name, 0o644)
	if err != nil {
		return err
	}
	defer s.Abort()
	if _, err := s.Write([]byte(content)); err != nil {
		return err
	}
	_, err = s.Commit()
	return err
}

// A tag must be another whenever the content is, and the same as long as it
// is not.
func TestETag(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/f = one\n")
	fsys := open(t, optionsOf(l))
	tag := func(name string) string {
		t.Helper()
		info, err := fsys.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if opened, err := f.Info(); err != nil || opened.ETag() != info.ETag() {
			t.Errorf("%s: the open file has tag %s, %v, the name %s", name, opened.ETag(), err, info.ETag())
		}
		return info.ETag()
	}
	lower := tag("d/f")
	keeps := func(what, name string, err error) {
		t.Helper()
		if got := tag(name); err != nil || got != lower {
			t.Errorf("%s: tag %s, %v, want %s as before", what, got, err, lower)
		}
	}
	keeps("a copy-up", "d/f", fsys.CopyUp("d/f"))
	keeps("a rename", "d/g", fsys.Rename("d/f", "d/g"))
	keeps("a rename of its directory", "e/g", fsys.Rename("d", "e"))
	keeps("an attribute", "e/g", fsys.Setxattr("e/g", "user.a", []byte("b")))
	keeps("a mode", "e/g", fsys.Chmod("e/g", 0o600))
	keeps("a time", "e/g", fsys.Chtimes("e/g", time.Time{}, time.Unix(1e9, 0)))
	keeps("a link", "e/h", fsys.Link("e/g", "e/h"))
	keeps("a copy", "copy", fsys.Copy("e/g", "copy", overlay.CopyOptions{}))
	keeps("the copy of its directory", "e2/g", fsys.Copy("e", "e2", overlay.CopyOptions{}))
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	fsys = open(t, optionsOf(l))
	keeps("a restart", "e/g", nil)

	// Another content, of the same size, with the old time.
	info, err := fsys.Lstat("e/g")
	if err != nil {
		t.Fatal(err)
	}
	s, err := fsys.Stage("e/g", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	s.SetModTime(info.ModTime())
	if _, err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	replaced := tag("e/g")
	if replaced == lower {
		t.Error("a replaced file keeps its tag")
	}
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	dir, unmount := overlaytest.KernelMount(t, l)
	for _, err := range []error{
		os.WriteFile(dir+"/copy", []byte("six"), 0o600),
		os.Chtimes(dir+"/copy", info.ModTime(), info.ModTime()),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	unmount()
	fsys = open(t, optionsOf(l))
	if got := tag("copy"); got == lower {
		t.Error("a file that the kernel's mount rewrote keeps its tag")
	}
}
