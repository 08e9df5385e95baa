package davfs

import (
	"slices"
	"strings"
	"sync"
)

// nameLocks let a change look at preconditions and then change without another
// change between the two. A change holds its names alone, and all that contain
// them together with others: so no two changes of one name overlap, nor one of
// a name and one of something in it, but any two of neighbours do.
//
// The zero value is ready.
type nameLocks struct {
	mu sync.Mutex
	// held has the names that somebody holds or waits for.
	held map[string]*nameLock // guarded by mu
}

type nameLock struct {
	sync.RWMutex
	users int // guarded by nameLocks.mu
}

// lock holds names until unlock is called. It must not be called by somebody
// who holds any.
func (l *nameLocks) lock(names ...string) (unlock func()) {
	alone := make(map[string]bool)
	for _, name := range names {
		for up := range ancestors(name) {
			alone[up] = alone[up] || false
		}
		alone[name] = true
	}
	// Everybody takes locks in the order of the names: nobody waits in a ring.
	ordered := make([]string, 0, len(alone))
	for name := range alone {
		ordered = append(ordered, name)
	}
	slices.Sort(ordered)
	taken := make([]*nameLock, len(ordered))
	for i, name := range ordered {
		taken[i] = l.use(name)
		if alone[name] {
			taken[i].Lock()
		} else {
			taken[i].RLock()
		}
	}
	return func() {
		for i, name := range ordered {
			if alone[name] {
				taken[i].Unlock()
			} else {
				taken[i].RUnlock()
			}
			l.release(name)
		}
	}
}

func (l *nameLocks) use(name string) *nameLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = make(map[string]*nameLock)
	}
	lock := l.held[name]
	if lock == nil {
		lock = new(nameLock)
		l.held[name] = lock
	}
	lock.users++
	return lock
}

func (l *nameLocks) release(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock := l.held[name]
	if lock.users--; lock.users == 0 {
		delete(l.held, name)
	}
}

// ancestors yields all directories that contain name, the root first.
func ancestors(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if name == "." || !yield(".") {
			return
		}
		for i := 0; ; i++ {
			next := strings.IndexByte(name[i:], '/')
			if next < 0 {
				return
			}
			if i += next; !yield(name[:i]) {
				return
			}
		}
	}
}
