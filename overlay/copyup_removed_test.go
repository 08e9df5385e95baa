package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// Who removes, underneath, each directory as soon as it is copied up makes what
// needs it in upper fail, and nothing else: the engine goes on answering.
func TestCopiedUpDirectoryIsRemovedUnderneath(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/e/\nd/e/f = one\n")
	o := options(l)
	o.Hook = func(at.Op, string) error {
		_ = os.RemoveAll(filepath.Join(l.Upper, "d")) // it is there only sometimes
		return nil
	}
	fsys := mustOpen(t, o)
	for name, change := range map[string]func() error{
		"mkdir":  func() error { return fsys.Mkdir("d/e/new", 0o755) },
		"chmod":  func() error { return fsys.Chmod("d/e/f", 0o600) },
		"remove": func() error { return fsys.Remove("d/e/f") },
		"move":   func() error { return fsys.Move("d/e/f", "d/e/g", true) },
		"copy":   func() error { return fsys.Copy("d/e/f", "d/e/g", overlay.CopyOptions{}) },
	} {
		if err := change(); !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: got %v, want EAGAIN or ENOENT", name, err)
		}
		if _, err := fsys.Stat("d/e/f"); err != nil {
			t.Errorf("stat after %s: %v", name, err)
		}
	}
}
