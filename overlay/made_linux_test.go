package overlay_test

import (
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// For an upper and a work that were made just now less is asked, and the same is
// made: the guard, staging, the UUID.
func TestMadeIsOpenedWithFewerQuestions(t *testing.T) {
	overlaytest.NeedRoot(t)
	made := func(made bool) (names []string, changes int) {
		l := overlaytest.NewLayers(t, t.TempDir(), "a = a\n")
		o := overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Made: made, Hook: func(at.Op, string) error {
			changes++
			return nil
		}}
		fsys := mustOpen(t, o)
		defer fsys.Close()
		guarded(t, l)
		if n, err := syscall.Getxattr(l.Upper, "trusted.overlay.uuid", nil); n != 16 {
			t.Errorf("made %v: a UUID of %d bytes: %v", made, n, err)
		}
		opened := changes
		must(t, fsys.Remove("a"), fsys.Mkdir("d", 0o755))
		err := filepath.WalkDir(filepath.Dir(l.Upper), func(path string, _ fs.DirEntry, err error) error {
			name, _ := filepath.Rel(filepath.Dir(l.Upper), path) // it is below
			names = append(names, name)
			return err
		})
		must(t, err)
		return names, opened
	}
	fewer, changes := made(true)
	all, more := made(false)
	if !slices.Equal(fewer, all) {
		t.Errorf("made just now: %q, else %q", fewer, all)
	}
	if changes > more {
		t.Errorf("made just now: %d changes, else %d", changes, more)
	}
}
