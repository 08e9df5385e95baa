package at

import (
	"slices"
	"sync"
)

// A Watcher is told of changes in directories, whoever makes them (inotify(7)).
// What was changed by a call that has returned is in the queue: who reads it
// before trusting what he keeps, trusts nothing stale.
//
// All watchers of the process share one queue of the kernel's, of which a user
// may have only some hundred: whoever reads it hands the others what is theirs.
// So one directory, of a lower that many trees have in common, is watched once.
type Watcher struct {
	heard []Event // guarded by theQueue.mu
}

// An Event says that something changed in, or about, a watched directory.
type Event struct {
	Watch int32
	// Name was made, removed, renamed or given other attributes; "" says that
	// the directory itself was.
	Name string
	// Content says that the name was opened, written to or cut, and is still the
	// same object; only of a directory that AddContent watches.
	Content bool
	// Attributes says that nothing but the attributes of what Name says was changed.
	Attributes bool
	// Lost says that events were dropped: anything may have changed.
	Lost bool
}

// maxHeard bounds what waits for a watcher that does not listen; more, and it
// has lost what there was.
const maxHeard = 1024

// A queue is an inotify instance and who listens to it.
type queue struct {
	mu sync.Mutex
	// +checklocks:mu
	fd int // while there are watchers
	// +checklocks:mu
	buf []byte
	// +checklocks:mu
	watchers []*Watcher
	// +checklocks:mu
	watching map[int32][]*Watcher
}

var theQueue queue

// NewWatcher returns a watcher of nothing.
// Errors: EMFILE when this user has as many queues as allowed.
func NewWatcher() (*Watcher, error) {
	q := &theQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.watchers) == 0 {
		fd, err := sysWatcher()
		if err != nil {
			return nil, err
		}
		q.fd, q.buf, q.watching = fd, make([]byte, 16<<10), make(map[int32][]*Watcher)
	}
	w := new(Watcher)
	q.watchers = append(q.watchers, w)
	return w, nil
}

// Add watches the directory d. A directory that is watched already keeps its
// number.
// Errors: ENOSPC when this user watches as many as allowed; EACCES.
func (w *Watcher) Add(d *Dir) (watch int32, err error) { return w.add(d, sysWatch) }

// AddContent is Add, also for what happens to the content of the files in d.
func (w *Watcher) AddContent(d *Dir) (watch int32, err error) { return w.add(d, sysWatchContent) }

func (w *Watcher) add(d *Dir, add func(fd, dirfd int) (int32, error)) (watch int32, err error) {
	q := &theQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	if watch, err = add(q.fd, d.fd); err != nil {
		return 0, err
	}
	if !slices.Contains(q.watching[watch], w) {
		q.watching[watch] = append(q.watching[watch], w)
	}
	return watch, nil
}

// Remove ends a watch.
func (w *Watcher) Remove(watch int32) {
	q := &theQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.removeLocked(w, watch)
}

func (q *queue) removeLocked(w *Watcher, watch int32) {
	rest := slices.DeleteFunc(q.watching[watch], func(other *Watcher) bool { return other == w })
	if len(rest) > 0 {
		q.watching[watch] = rest
		return
	}
	if _, ok := q.watching[watch]; ok {
		delete(q.watching, watch)
		sysUnwatch(q.fd, watch)
	}
}

// Drain calls fn for each event of w's that is in the queue.
func (w *Watcher) Drain(fn func(Event)) error {
	q := &theQueue
	q.mu.Lock()
	err := q.readLocked()
	heard := w.heard
	w.heard = nil
	q.mu.Unlock()
	for _, e := range heard {
		fn(e)
	}
	return err
}

// maxEvent is the longest event: its head, and a name of NAME_MAX with its NUL.
const maxEvent = 16 + 256

// readLocked empties the kernel's queue.
func (q *queue) readLocked() error {
	for {
		n, err := sysReadEvents(q.fd, q.buf)
		switch {
		case isAgain(err):
			return nil
		case isInterrupted(err):
			continue
		case err != nil:
			return err
		}
		parseEvents(q.buf[:n], q.handOutLocked)
		if len(q.buf)-n >= maxEvent {
			return nil // another would have fitted: there was none (inotify(7))
		}
	}
}

// handOutLocked gives an event to those whom it concerns.
func (q *queue) handOutLocked(e Event) {
	if e.Lost {
		for _, w := range q.watchers {
			w.heard = append(w.heard[:0], e)
		}
		return
	}
	for _, w := range q.watching[e.Watch] {
		switch {
		case len(w.heard) == 1 && w.heard[0].Lost:
		case len(w.heard) >= maxHeard:
			w.heard = append(w.heard[:0], Event{Lost: true})
		default:
			w.heard = append(w.heard, e)
		}
	}
}

// Close ends all watches.
func (w *Watcher) Close() {
	q := &theQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	for watch, watchers := range q.watching {
		if slices.Contains(watchers, w) {
			q.removeLocked(w, watch)
		}
	}
	q.watchers = slices.DeleteFunc(q.watchers, func(other *Watcher) bool { return other == w })
	if len(q.watchers) == 0 {
		sysClose(q.fd)
		q.watching, q.buf = nil, nil
	}
}

// Watchable says whether every change on the file system of d goes through
// this kernel, so that a Watcher hears of it: not so on a network, and not
// where another file system is beneath.
func (d *Dir) Watchable() bool { return sysWatchable(d.fd) }

// Share makes d one that many may use at once.
func (d *Dir) Share() { d.shared = true }
