package at

// A Watcher is told of changes in directories, whoever makes them (inotify(7)).
// What was changed by a call that has returned is in the queue: who reads it
// before trusting what he keeps, trusts nothing stale.
type Watcher struct {
	fd  int
	buf []byte
}

// An Event says that something changed in, or about, a watched directory.
type Event struct {
	Watch int32
	// Name was made, removed, renamed or given other attributes; "" says that
	// the directory itself was.
	Name string
	// Lost says that events were dropped: anything may have changed.
	Lost bool
}

// NewWatcher returns a watcher of nothing.
// Errors: EMFILE when this user has as many as allowed.
func NewWatcher() (*Watcher, error) {
	fd, err := sysWatcher()
	if err != nil {
		return nil, err
	}
	return &Watcher{fd: fd, buf: make([]byte, 16<<10)}, nil
}

// Add watches the directory d. A directory that is watched already keeps its
// number.
// Errors: ENOSPC when this user watches as many as allowed; EACCES.
func (w *Watcher) Add(d *Dir) (watch int32, err error) { return sysWatch(w.fd, d.fd) }

// Remove ends a watch.
func (w *Watcher) Remove(watch int32) {
	sysUnwatch(w.fd, watch)
}

// maxEvent is the longest event: its head and a name of NAME_MAX with its NUL.
const maxEvent = 16 + 256

// Drain calls fn for each event that is in the queue.
func (w *Watcher) Drain(fn func(Event)) error {
	for {
		n, err := sysRead(w.fd, w.buf)
		switch {
		case isAgain(err):
			return nil
		case isInterrupted(err):
			continue
		case err != nil:
			return err
		}
		parseEvents(w.buf[:n], fn)
		if len(w.buf)-n >= maxEvent {
			return nil // another would have fitted: there was none (inotify(7))
		}
	}
}

// Close ends all watches.
func (w *Watcher) Close() { sysClose(w.fd) }

// Watchable says whether every change on the file system of d goes through
// this kernel, so that a Watcher hears of it: not so on a network, and not
// where another file system is beneath.
func (d *Dir) Watchable() bool { return sysWatchable(d.fd) }

// Share makes d one that many may use at once.
func (d *Dir) Share() { d.shared = true }
