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

// A nameHold is a name that somebody has taken, or is about to.
type nameHold struct {
	name  string
	alone bool
	lock  *nameLock
}

// lock holds names until unlock is called. It must not be called by somebody
// who holds any.
func (l *nameLocks) lock(names ...string) (unlock func()) {
	holds := make([]nameHold, 0, 8)
	for _, name := range names {
		for up := range ancestors(name) {
			holds = take(holds, up, false)
		}
		holds = take(holds, name, true)
	}
	if len(names) > 1 {
		// Everybody takes locks in one order: nobody waits in a ring. A name and
		// what contains it are in it already.
		slices.SortFunc(holds, func(a, b nameHold) int { return strings.Compare(orderOf(a.name), orderOf(b.name)) })
	}
	l.use(holds)
	for _, h := range holds {
		if h.alone {
			h.lock.Lock()
		} else {
			h.lock.RLock()
		}
	}
	return func() { l.release(holds) }
}

// take adds a name to those to be held.
func take(holds []nameHold, name string, alone bool) []nameHold {
	for i := range holds {
		if holds[i].name == name {
			holds[i].alone = holds[i].alone || alone
			return holds
		}
	}
	return append(holds, nameHold{name: name, alone: alone})
}

// orderOf is what names are ordered by: whatever contains a name comes before
// it, the root first.
func orderOf(name string) string {
	if name == "." {
		return ""
	}
	return name
}

func (l *nameLocks) use(holds []nameHold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = make(map[string]*nameLock)
	}
	for i := range holds {
		h := &holds[i]
		if h.lock = l.held[h.name]; h.lock == nil {
			h.lock = new(nameLock)
			l.held[h.name] = h.lock
		}
		h.lock.users++
	}
}

func (l *nameLocks) release(holds []nameHold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range holds {
		if h.alone {
			h.lock.Unlock()
		} else {
			h.lock.RUnlock()
		}
		if h.lock.users--; h.lock.users == 0 {
			delete(l.held, h.name)
		}
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
