package overlay

import (
	"io/fs"
	"sync"
	"syscall"

	"overdav/overlay/internal/at"
)

// A txn is one look at the merged tree or one change to it: the locks it
// holds, the directories it opened and those whose names must reach the disk
// before it is done.
type txn struct {
	fsys      *FS
	exclusive bool
	unlocks   []func()
	opened    []*dir
	unsynced  []*at.RWDir
}

// look begins a reading.
func (fsys *FS) look() (*txn, error) {
	fsys.treeMu.RLock()
	if fsys.closed {
		fsys.treeMu.RUnlock()
		return nil, fs.ErrClosed
	}
	return &txn{fsys: fsys}, nil
}

// change begins a change to names in directories that stay where they are.
func (fsys *FS) change() (*txn, error) {
	t, err := fsys.look()
	if err == nil && fsys.readOnly() {
		t.end(nil) // nothing was changed that could fail to last
		return nil, syscall.EROFS
	}
	return t, err
}

// changeTree begins a change that moves or removes a directory.
func (fsys *FS) changeTree() (*txn, error) {
	fsys.treeMu.Lock()
	t := &txn{fsys: fsys, exclusive: true}
	switch {
	case fsys.closed:
		t.end(nil) // as above
		return nil, fs.ErrClosed
	case fsys.readOnly():
		t.end(nil) // as above
		return nil, syscall.EROFS
	}
	return t, nil
}

// begin is change or changeTree.
func (fsys *FS) begin(exclusive bool) (*txn, error) {
	if exclusive {
		return fsys.changeTree()
	}
	return fsys.change()
}

// end releases the locks and then, when all went well, makes the changed names
// last. It returns err or what that met.
func (t *txn) end(err error) error {
	for _, unlock := range t.unlocks {
		unlock()
	}
	if s := t.fsys.staging; s != nil && len(t.unsynced) > 0 {
		s.users.Add(1) // the locks no longer keep FS.Close waiting
		defer s.users.Done()
	}
	if t.exclusive {
		t.fsys.treeMu.Unlock()
	} else {
		t.fsys.treeMu.RUnlock()
	}
	if err == nil && t.fsys.durability == DurabilityFull {
		err = t.syncDirs()
	}
	for _, d := range t.opened {
		d.close()
	}
	return err
}

func (t *txn) syncDirs() error {
	for _, d := range t.unsynced {
		err := t.fsys.syncs.sync(d, func() error { return t.fsys.orSyncAll(d.Sync()) })
		if err != nil {
			return err
		}
	}
	return nil
}

// keep closes d when the transaction ends.
func (t *txn) keep(d *dir) *dir {
	if d != nil {
		t.opened = append(t.opened, d)
	}
	return d
}

// release takes d, which is to outlive the transaction, out of its keeping.
func (t *txn) release(d *dir) {
	for i, o := range t.opened {
		if o == d {
			t.opened[i] = nil
		}
	}
}

// changed notes that names in d changed.
func (t *txn) changed(d *at.RWDir) {
	for _, o := range t.unsynced {
		if o == d {
			return
		}
	}
	t.unsynced = append(t.unsynced, d)
}

// walk is FS.walk; the directory lives as long as the transaction.
func (t *txn) walk(name string, follow bool) (place, error) {
	p, err := t.fsys.walk(name, follow)
	if err == nil {
		t.keep(p.dir)
	}
	return p, err
}

// find walks to name and finds what it shows. The directory lives as long as the
// transaction.
func (t *txn) find(name string, follow bool, why purpose) (place, found, error) {
	p, f, err := t.fsys.walkOn(name, follow, why)
	if err != nil {
		return p, f, err
	}
	t.keep(p.dir)
	if f.at == nil {
		f, err = t.fsys.find(p.dir, p.name)
	}
	return p, f, err
}

// lookup is FS.lookup; a directory it opens lives as long as the transaction.
func (t *txn) lookup(p place) (*entry, presence, error) {
	e, err := t.fsys.lookup(p.dir, p.name, false)
	if err != nil {
		return nil, absent, err
	}
	t.keep(e.dir)
	return e, t.fsys.presence(p.dir, e), nil
}

// raise sees to it that the directory of p is in upper, copying up what of its
// ancestors is not. Nobody sees a difference. The names in it are then locked,
// and p says where it is.
func (t *txn) raise(p *place) error {
	if err := t.raiseUnlocked(p); err != nil {
		return err
	}
	t.lock(p.dir.path)
	return nil
}

func (t *txn) raiseUnlocked(p *place) error {
	if p.dir.upper != nil {
		return nil
	}
	d, err := t.copyUpDirs(p.dir.path)
	if err != nil {
		return err
	}
	p.dir = d
	return nil
}

// lock locks the names in the directories at these merged paths, in the one
// order that everybody keeps. A transaction locks once.
func (t *txn) lock(paths ...string) {
	t.unlocks = append(t.unlocks, t.fsys.names.lock(paths...))
}

// nameLocks has a lock for the names in each directory that somebody is
// changing, by merged path. Paths stay what they are because whoever moves a
// directory holds treeMu for itself.
type nameLocks struct {
	mu sync.Mutex
	// +checklocks:mu
	held map[string]*nameLock
}

type nameLock struct {
	sync.RWMutex
	users int // guarded by nameLocks.mu
}

// lock locks one or two directories, the lesser path first.
func (n *nameLocks) lock(paths ...string) (unlock func()) {
	if len(paths) == 2 && paths[0] == paths[1] {
		paths = paths[:1]
	}
	if len(paths) == 2 && paths[1] < paths[0] {
		paths = []string{paths[1], paths[0]}
	}
	for _, path := range paths {
		n.get(path).Lock()
	}
	return func() {
		for _, path := range paths {
			n.put(path, (*nameLock).Unlock)
		}
	}
}

// tryLock is lock for one, unless somebody has it.
func (n *nameLocks) tryLock(path string) (unlock func(), ok bool) {
	if !n.get(path).TryLock() {
		n.put(path, func(*nameLock) {})
		return nil, false
	}
	return func() { n.put(path, (*nameLock).Unlock) }, true
}

// rlock keeps the names in one directory as they are.
func (n *nameLocks) rlock(path string) (unlock func()) {
	n.get(path).RLock()
	return func() { n.put(path, func(l *nameLock) { l.RUnlock() }) }
}

func (n *nameLocks) get(path string) *nameLock {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.held[path]
	if l == nil {
		l = new(nameLock)
		if n.held == nil {
			n.held = make(map[string]*nameLock)
		}
		n.held[path] = l
	}
	l.users++
	return l
}

func (n *nameLocks) put(path string, unlock func(*nameLock)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.held[path]
	unlock(l)
	if l.users--; l.users == 0 {
		delete(n.held, path)
	}
}
