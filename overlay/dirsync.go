package overlay

import (
	"sync"

	"overdav/overlay/internal/at"
)

// dirSyncs has one fsync of a directory answer everybody whose changes in it
// were finished before it began. Who comes while others run begins his own at
// once, up to a number, and beyond that waits for the next with all who come
// after him; a crash finds each of them unanswered until his own is done. A
// failed fsync fails all whom it answers. What makes a directory's fsync fail
// is a journal that the file system gave up, and then the others fail, too.
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
	slots chan struct{} // has one for each fsync that runs
	next  *syncRound    // that has not begun; guarded by dirSyncs.mu
	users int           // guarded by dirSyncs.mu
}

// A syncRound is one fsync and those whom it answers.
type syncRound struct {
	begun bool          // guarded by dirSyncs.mu
	done  chan struct{} // closed when err is the answer
	err   error
}

// atOnce is how many fsyncs of one directory run at once; who comes then shares
// the next. With one alone the journal waits, from its end until the next has
// begun, for us, and eight who upload at once get half of what they get bare.
const atOnce = 8

// sync makes the names in d last.
func (s *dirSyncs) sync(d *at.RWDir, fsync func() error) error {
	dir, round := s.join(d)
	defer s.leave(d, dir)
	select {
	case <-round.done:
		return round.err
	case dir.slots <- struct{}{}:
	}
	if s.begin(dir, round) {
		round.err = fsync()
		close(round.done)
	}
	<-dir.slots
	<-round.done
	return round.err
}

// begin says whether the caller is to make the round's fsync.
func (s *dirSyncs) begin(dir *dirSync, round *syncRound) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if round.begun {
		return false
	}
	round.begun = true
	dir.next = newSyncRound() // who comes from here on may have changed what this fsync does not see
	return true
}

func newSyncRound() *syncRound { return &syncRound{done: make(chan struct{})} }

// join finds the round that has not begun.
func (s *dirSyncs) join(d *at.RWDir) (*dirSync, *syncRound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.dirs[d]
	if dir == nil {
		dir = &dirSync{next: newSyncRound(), slots: make(chan struct{}, atOnce)}
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
