package overlay

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"overdav/overlay/internal/at"
)

// Whoever comes while as many fsyncs of a directory run as may is not answered
// by one of those but by the next, and all who wait are answered by one.
func TestOneSyncAnswersThoseBeforeIt(t *testing.T) {
	var s dirSyncs
	var d at.RWDir
	lost := errors.New("lost")
	began, end := make(chan int), make([]chan error, atOnce+2)
	for i := range end {
		end[i] = make(chan error)
	}
	var mu sync.Mutex
	runs := 0
	fsync := func() error {
		mu.Lock()
		n := runs
		runs++
		mu.Unlock()
		began <- n
		return <-end[n]
	}
	var wg sync.WaitGroup
	come := func(people int, want error) {
		for range people {
			wg.Go(func() {
				if err := s.sync(&d, fsync); err != want {
					t.Errorf("answered %v, want %v", err, want)
				}
			})
		}
	}
	awaitUsers := func(n int) {
		for {
			s.mu.Lock()
			users := s.dirs[&d].users
			s.mu.Unlock()
			if users == n {
				return
			}
			runtime.Gosched()
		}
	}
	for range atOnce {
		come(1, nil)
		<-began
	}
	come(9, lost)
	awaitUsers(atOnce + 9)
	end[0] <- nil
	if n := <-began; n != atOnce {
		t.Fatalf("fsync %d, want %d", n, atOnce)
	}
	awaitUsers(atOnce - 1 + 9)
	come(1, nil) // must not be answered by the one that runs
	awaitUsers(atOnce - 1 + 10)
	end[atOnce] <- lost
	if n := <-began; n != atOnce+1 {
		t.Fatalf("fsync %d, want %d", n, atOnce+1)
	}
	for n := range end {
		if n != 0 && n != atOnce {
			end[n] <- nil
		}
	}
	wg.Wait()
	if runs != atOnce+2 {
		t.Errorf("%d fsyncs, want %d", runs, atOnce+2)
	}
	if len(s.dirs) != 0 {
		t.Errorf("%d directories are kept", len(s.dirs))
	}
}
