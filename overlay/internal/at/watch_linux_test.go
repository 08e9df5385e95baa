package at

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// heardOf are the names that a watcher has heard of in a watch.
func heardOf(t *testing.T, w *Watcher, watch int32) (names []string, lost bool) {
	t.Helper()
	err := w.Drain(func(e Event) {
		if lost = lost || e.Lost; e.Watch == watch && !e.Lost {
			names = append(names, e.Name)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, lost
}

// All watchers share one queue: each hears what it watches, whoever reads, and
// nothing once it has given up.
func TestWatchersShareOneQueue(t *testing.T) {
	shared, own := t.TempDir(), t.TempDir()
	touch := func(dir, name string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var watchers [3]*Watcher
	var watches [3]int32
	for i := range watchers {
		var err error
		if watchers[i], err = NewWatcher(); err != nil {
			t.Fatal(err)
		}
		if watches[i], err = watchers[i].Add(mustOpen(t, shared)); err != nil {
			t.Fatal(err)
		}
	}
	if watches[0] != watches[2] {
		t.Errorf("one directory is watched as %v", watches)
	}
	ownWatch, err := watchers[0].Add(mustOpen(t, own))
	if err != nil {
		t.Fatal(err)
	}

	touch(shared, "a")
	touch(own, "b")
	for i, w := range watchers {
		if got, _ := heardOf(t, w, watches[i]); !slices.Equal(got, []string{"a"}) {
			t.Errorf("watcher %d heard of %q in the shared directory, want a", i, got)
		}
	}
	touch(own, "c")
	if got, _ := heardOf(t, watchers[1], ownWatch); got != nil {
		t.Errorf("a watcher heard of %q in what another watches", got)
	}
	if got, _ := heardOf(t, watchers[0], ownWatch); !slices.Equal(got, []string{"c"}) { // b went with the first Drain
		t.Errorf("heard of %q, want c", got)
	}

	watchers[0].Remove(watches[0])
	watchers[1].Close()
	touch(shared, "d")
	if got, _ := heardOf(t, watchers[0], watches[0]); got != nil {
		t.Errorf("heard of %q after Remove", got)
	}
	if got, _ := heardOf(t, watchers[2], watches[2]); !slices.Equal(got, []string{"d"}) {
		t.Errorf("heard of %q, want d: another's Remove has ended the watch", got)
	}

	// Who does not listen loses what there was, and knows it.
	for i := range maxHeard + 1 {
		touch(own, strconv.Itoa(i))
		_, _ = heardOf(t, watchers[2], 0) // reads for all
	}
	if _, lost := heardOf(t, watchers[0], ownWatch); !lost {
		t.Error("a watcher that did not listen was not told that it lost something")
	}
	for _, w := range []*Watcher{watchers[0], watchers[2]} {
		w.Close()
	}
	if theQueue.watching != nil || len(theQueue.watchers) > 0 {
		t.Errorf("after the last watcher: %+v", &theQueue)
	}
}
