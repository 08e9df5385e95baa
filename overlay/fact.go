package overlay

import (
	"hash/maphash"
	"sync/atomic"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A fact is what was found out about a name of a directory that is kept open,
// and is true for as long as nothing is heard of that directory (dircache.go).
// Facts save looking in layers that have nothing of the name, and for the mark
// that a file does not have. Nobody changes one.
type fact struct {
	node, heard uint64 // see moment
	name        string

	layer int // no layer above has anything of the name; noLayer: none at all

	// The file in that layer with this inode number, changed last at this time,
	// has one name, and is no metacopy. Zero when nobody asked.
	plain      uint64
	plainCtime time.Time
}

// noLayer is beneath all layers.
const noLayer = 1 << 16

// A moment is a directory that is kept, when the watcher had been asked for all
// that had happened. Its zero value is one of which nothing is known.
type moment struct {
	dir   *dir
	node  uint64 // of all directories that any cache has ever kept
	heard uint64 // how often something was heard of it
}

// facts are those of all trees, each at the place that its name's hash gives:
// the newer one takes the place of the older.
var (
	facts     [32 << 10]atomic.Pointer[fact]
	factsSeed = maphash.MakeSeed()
)

func (m *moment) place(name string) *atomic.Pointer[fact] {
	return &facts[(maphash.String(factsSeed, name)^m.node*0x9e3779b97f4a7c15)%uint64(len(facts))]
}

// about returns what is known of a name; nil for nothing.
func (m *moment) about(name string) *fact {
	if m.dir == nil {
		return nil
	}
	f := m.place(name).Load()
	if f == nil || f.node != m.node || f.heard != m.heard || f.name != name {
		return nil
	}
	return f
}

// note takes in a fact about a name, found out after the moment. Should somebody
// have changed something meanwhile, then the event is yet to be heard, and
// nobody will use the fact.
func (m *moment) note(name string, f fact) {
	if m.dir == nil {
		return
	}
	f.node, f.heard, f.name = m.node, m.heard, name
	m.place(name).Store(&f)
}

// take takes what is known of a file in d, without a look, for who opens it next:
// that a FIFO or a device is in its place now would have been heard. It says
// whether that is enough.
func (f *found) take(d *dir, known *fact) bool {
	in := d.inLayer(known.layer)
	if known.plain == 0 || in == nil {
		return false
	}
	f.at, f.layer, f.known = in, known.layer, known
	f.st.Mode, f.st.Ino = syscall.S_IFREG, known.plain
	return true
}

// isStill says whether the file that was found is the one that is open now, which
// st tells of.
func (f *found) isStill(st *at.Stat) bool {
	if f.known == nil {
		return st.Same(&f.st)
	}
	return f.known.is(st)
}

// forget makes the next look at the name a look.
func (f *found) forget(name string) { f.since.place(name).Store(nil) }

// is says whether st is of the file that is known to be no metacopy.
func (k *fact) is(st *at.Stat) bool {
	return k.plain != 0 && k.plain == st.Ino && k.plainCtime.Equal(st.Ctime)
}

// isPlain says whether it is known that the file which was found is no metacopy;
// st tells of it now that it is open.
func (f *found) isPlain(name string, st *at.Stat) bool {
	known := f.since.about(name)
	return known != nil && known.layer == f.layer && known.is(st)
}

// notePlain notes that the file which was found is no metacopy. By another name
// it could become one unheard.
func (f *found) notePlain(name string, st *at.Stat) {
	if st.Nlink == 1 {
		f.since.note(name, fact{layer: f.layer, plain: st.Ino, plainCtime: st.Ctime})
	}
}
