package overlay_test

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"overdav/overlay"
)

// Directories that many look at while they are being changed stay watched: what
// appears in one afterwards is seen at the next look. A watch belongs to
// everybody who watches the same directory, and one who gives up must not end
// it for the others.
func TestCachedDirectoriesStayWatched(t *testing.T) {
	lower, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	var names []string
	for i := range 16 {
		names = append(names, "x"+strconv.Itoa(i))
		mustMkdir(t, filepath.Join(lower, names[i], "y"))
		mustMkdir(t, filepath.Join(upper, names[i]))
	}
	fsys, err := overlay.Open(overlay.Options{Lowers: []string{lower}, Upper: upper, Work: work})
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()

	for range 25 {
		lookWhileChanged(t, fsys, upper, names)
		for _, name := range names {
			y := filepath.Join(upper, name, "y")
			mustMkdir(t, filepath.Join(y, "new"))
			if _, err := fsys.Stat(name + "/y/new"); err != nil {
				t.Fatalf("what has just appeared in upper: got %v, want it found", err)
			}
			if err := os.RemoveAll(y); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// lookWhileChanged lets many walk through the directories names while
// attributes of these change.
func lookWhileChanged(t *testing.T, fsys *overlay.FS, upper string, names []string) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; ; n++ {
				select {
				case <-done:
					return
				default:
					_, _ = fsys.Stat(names[n/8%len(names)] + "/y/none") // ENOENT; the way there counts
				}
			}
		})
	}
	for range 4 {
		for _, name := range names {
			if err := os.Chmod(filepath.Join(upper, name), 0o755); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	wg.Wait()
}
