package overlay_test

import (
	"path/filepath"
	"slices"
	"testing"

	"overdav/overlay"
)

// What goes on after a removal was answered is told of, from its beginning to its
// end.
func TestPurgingIsTold(t *testing.T) {
	dir := t.TempDir()
	o := overlay.Options{Lowers: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{o.Lowers[0], o.Work} {
		mustMkdir(t, d)
	}
	mustWrite(t, filepath.Join(o.Upper, "d/e/f"), 3)
	var told []bool
	o.Events.Purging = func(begins bool) { told = append(told, begins) }
	fsys := mustOpen(t, o)
	if err := fsys.RemoveAll("d"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Close(); err != nil { // waits for what is being deleted
		t.Fatal(err)
	}
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told of %v, want a beginning and an end", told)
	}
}
