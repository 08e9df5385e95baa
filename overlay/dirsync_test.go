package overlay

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"overdav/overlay/internal/at"
)

// Whoever comes while a directory is synced is not answered by that fsync but
// by the next, and all who wait are answered by one.
func TestOneSyncAnswersThoseBeforeIt(t *testing.T) {
	var s dirSyncs
	var d at.RWDir
	lost := errors.New("lost")
	results := []error{nil, lost, nil}
	groups := []int{1, 9, 1} // how many come before fsync 0, while 0 runs, while 1 runs
	began, end, runs := make(chan int), make(chan struct{}), 0
	fsync := func() error { // one at a time, by its promise
		n := runs
		runs++
		began <- n
		<-end
		return results[n]
	}
	var wg sync.WaitGroup
	come := func(n int) {
		for range groups[n] {
			wg.Go(func() {
				if err := s.sync(&d, fsync); err != results[n] {
					t.Errorf("a change of group %d is answered %v, want %v", n, err, results[n])
				}
			})
		}
	}
	waiting := func(n int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.dirs[&d].users == n
	}
	come(0)
	for n := range groups {
		if got := <-began; got != n {
			t.Errorf("fsync %d, want %d", got, n)
		}
		if n+1 < len(groups) {
			come(n + 1)
		}
		// Those of the last group leave when they are answered.
		for n+1 < len(groups) && !waiting(groups[n]+groups[n+1]) {
			runtime.Gosched()
		}
		end <- struct{}{}
	}
	wg.Wait()
	if runs != len(groups) {
		t.Errorf("%d fsyncs for %d groups", runs, len(groups))
	}
	if len(s.dirs) != 0 {
		t.Errorf("%d directories are kept", len(s.dirs))
	}
}
