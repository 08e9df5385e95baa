package overlay

import (
	"sync"

	"overdav/overlay/internal/at"
)

// dirSyncs has one fsync of a directory answer everybody whose changes in it
// were finished before it began. Who comes while one runs waits for the next,
// and so do all who come after him; a crash finds each of them unanswered until
// his own is done. A failed fsync fails all of them: the kernel reports a loss
// once.
//
// The zero value is ready.
type dirSyncs struct {
	mu sync.Mutex
	// +checklocks:mu
	dirs map[*at.RWDir]*dirSync
}

// A dirSync is one directory that somebody syncs. Directories that are kept open
// are one RWDir for all; of others everybody has his own, and syncs it himself.
type dirSync struct {
	running sync.Mutex // held for the time of an fsync
	next    *syncRound // that has not begun; guarded by dirSyncs.mu
	users   int        // guarded by dirSyncs.mu
}

// A syncRound is one fsync and those whom it answers.
type syncRound struct {
	done bool // with err, guarded by dirSync.running
	err  error
}

// sync makes the names in d last.
func (s *dirSyncs) sync(d *at.RWDir, fsync func() error) error {
	dir, round := s.join(d)
	defer s.leave(d, dir)
	dir.running.Lock()
	defer dir.running.Unlock()
	if round.done {
		return round.err
	}
	s.mu.Lock()
	dir.next = new(syncRound) // who comes from here on may have changed what this fsync does not see
	s.mu.Unlock()
	round.done, round.err = true, fsync()
	return round.err
}

// join finds the round that has not begun.
func (s *dirSyncs) join(d *at.RWDir) (*dirSync, *syncRound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.dirs[d]
	if dir == nil {
		dir = &dirSync{next: new(syncRound)}
		if s.dirs == nil {
			s.dirs = make(map[*at.RWDir]*dirSync)
		}
		s.dirs[d] = dir
	}
	dir.users++
	return dir, dir.next
}

func (s *dirSyncs) leave(d *at.RWDir, dir *dirSync) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dir.users--; dir.users == 0 {
		delete(s.dirs, d)
	}
}
