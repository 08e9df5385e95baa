package overlay_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"overdav/overlay/overlaytest"
)

// TestRefusedTruncateKeepsContent: an ordinary user's file of mode 0444 may not
// be opened for writing, and must not have been emptied on the way to finding
// that out.
func TestRefusedTruncateKeepsContent(t *testing.T) {
	if !overlaytest.AsOrdinaryUser(t) {
		return
	}
	dir := t.TempDir()
	l := overlaytest.Layers{
		Lowers: []string{filepath.Join(dir, "lower")},
		Upper:  filepath.Join(dir, "upper"),
		Work:   filepath.Join(dir, "work"),
	}
	for _, tree := range []struct{ dir, text string }{{l.Lowers[0], "f 0444 = content\n"}, {l.Upper, ""}, {l.Work, ""}} {
		if err := overlaytest.User.Build(tree.dir, tree.text); err != nil {
			t.Fatal(err)
		}
	}
	fsys, err := overlaytest.OpenFS(l, []string{"userxattr"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := fsys.OpenFile("f", os.O_WRONLY|os.O_TRUNC, 0); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("open of a read-only file for writing: got %v, want %v", err, fs.ErrPermission)
	}
	content, err := fs.ReadFile(fsys.FS(), "f")
	if got, want := string(content), "content"; err != nil || got != want {
		t.Errorf("content afterwards: got %q, %v, want %q", got, err, want)
	}
}
