package overlay

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A listing keeps what a directory showed, for as long as the directory is kept
// open (dircache.go) and its watcher proves each object unchanged. A name that
// was heard of is looked up again before the listing is used. What no event
// tells of is looked at each time: directories, whose times change with what is
// in them; files with several names, which can be changed by another one; and
// files that somebody opened meanwhile, who may write through a mapping
// (inotify(7), "Limitations and caveats"). A mapping that is older than the
// listing is not heard of until its file is closed.
//
// Lock order: mu, then dirCache.mu.
type listing struct {
	cache *dirCache
	node  *dirNode

	// changed has the names that were heard of since they were looked up, and
	// what is to be done about them; guarded by dirCache.mu, as are lost (nobody
	// may use the listing any more) and complete (it has the whole directory).
	changed        map[string]remedy
	lost, complete bool
	account        int64 // of keptBytes

	mu sync.RWMutex
	// INVARIANT: object i has name i. Objects are only ever appended.
	// +checklocks:mu
	names nameTable
	// +checklocks:mu
	objects keptObjects
	// attrs are the attributes, as they are stored, of which some object was found to have none.
	// +checklocks:mu
	attrs []string
}

// A remedy is what an event asks for.
type remedy uint8

const (
	lookAgain  remedy = 1 << iota // before the listing is used
	lookAlways                    // whenever it is used
)

// A keptObject is an Info without its name and what is the same for all.
type keptObject struct {
	mode, uid, gid, nlink      uint32
	size, blocks               int64
	ino                        uint64
	atime, mtime, ctime, btime keptTime

	gone   bool   // a whiteout, or removed since
	always bool   // to be looked at each time
	absent uint8  // bit i: has no attribute attrs[i]
	looked uint16 // how often it was looked up
}

// keptObjects are in blocks, so that to take in one more moves none.
type keptObjects struct {
	blocks [][]keptObject // of keptBlock each, but the last
	count  int
}

const keptBlock = 1024

func (k *keptObjects) at(i int) *keptObject { return &k.blocks[i/keptBlock][i%keptBlock] }

func (k *keptObjects) add(o keptObject) {
	if k.count%keptBlock == 0 {
		size := keptBlock
		if k.count == 0 {
			size = 0 // most directories are small
		}
		k.blocks = append(k.blocks, make([]keptObject, 0, size))
	}
	last := len(k.blocks) - 1
	k.blocks[last] = append(k.blocks[last], o)
	k.count++
}

// size is what they take, in bytes.
func (k *keptObjects) size() int {
	if len(k.blocks) == 0 {
		return 0
	}
	return keptObjectSize * (cap(k.blocks[0]) + keptBlock*(len(k.blocks)-1))
}

// A keptTime is a time.Time without its location; nsec is noTime for none.
type keptTime struct {
	sec  int64
	nsec uint32
}

const noTime = 1 << 30

func keepTime(t time.Time) keptTime {
	if t == (time.Time{}) {
		return keptTime{nsec: noTime}
	}
	return keptTime{t.Unix(), uint32(t.Nanosecond())}
}

func (k keptTime) time() time.Time {
	if k.nsec == noTime {
		return time.Time{}
	}
	return time.Unix(k.sec, int64(k.nsec))
}

// A keptRef is an object of a listing, as it was at one look.
type keptRef struct {
	listing *listing
	index   uint32
	looked  uint16
}

// Bounds of what listings take, in bytes: all of this process together, and one.
// What is beyond is listed anew each time.
const (
	maxKeptBytes    = 48 << 20
	maxListingBytes = 24 << 20
	keptObjectSize  = 112
	maxKeptAttrs    = 8
	// maxChanged is how many names of a listing may have changed before it is
	// simpler to list again.
	maxChanged = 1024
)

// keptBytes is what the listings of all trees take.
var keptBytes atomic.Int64

func keep(st *at.Stat) keptObject {
	return keptObject{
		mode: st.Mode, uid: st.UID, gid: st.GID, nlink: st.Nlink,
		size: st.Size, blocks: st.Blocks, ino: st.Ino,
		atime: keepTime(st.Atime), mtime: keepTime(st.Mtime), ctime: keepTime(st.Ctime), btime: keepTime(st.Btime),
		always: !(st.IsRegular() || st.IsSymlink()) || st.Nlink > 1,
	}
}

func (o *keptObject) stat() at.Stat {
	return at.Stat{
		Mode: o.mode, UID: o.uid, GID: o.gid, Nlink: o.nlink, Size: o.size, Blocks: o.blocks, Ino: o.ino,
		Atime: o.atime.time(), Mtime: o.mtime.time(), Ctime: o.ctime.time(), Btime: o.btime.time(),
	}
}

// listing returns what is kept of d, up to date but for the names in changed;
// or, with fills, a listing for the caller to fill; or nil.
func (c *dirCache) listing(d *dir) (l *listing, fills bool) {
	if c == nil || d.node == nil || keptBytes.Load() > maxKeptBytes && !c.makeRoom(d.node) {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hear()
	node := d.node
	switch {
	case node.dropped:
		return nil, false
	case node.listing != nil && node.listing.complete:
		return node.listing, false
	case node.listing != nil: // somebody is filling it
		return nil, false
	}
	if !c.arm(node) {
		return nil, false
	}
	l = &listing{cache: c, node: node, changed: make(map[string]remedy)}
	node.listing = l
	return l, true
}

// arm makes the watcher tell of what happens to content in a directory, too.
//
// Preconditions: mu is held.
// +checklocks:c.mu
func (c *dirCache) arm(node *dirNode) bool {
	if node.armed {
		return true
	}
	for i := range node.dir.sources() {
		d, _ := node.dir.source(i)
		if _, err := c.watcher.AddContent(d); err != nil {
			return false // then nothing is kept
		}
	}
	node.armed = true
	return true
}

// makeRoom forgets the listing that was not used for longest, but for that of
// spare; false when there is no other.
func (c *dirCache) makeRoom(spare *dirNode) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.leaves.Front(); e != nil; e = e.Next() {
		if node := e.Value.(*dirNode); node != spare && node.listing != nil && node.listing.complete {
			c.forgetListing(node.listing)
			return true
		}
	}
	return spare.listing != nil // it makes none, it has one
}

// forgetListing ends the use of a listing by those who come after.
//
// Preconditions: mu is held.
// +checklocks:c.mu
func (c *dirCache) forgetListing(l *listing) {
	if l == nil || l.lost {
		return
	}
	l.lost = true
	keptBytes.Add(-l.account)
	l.account = 0
	l.node.listing = nil
}

// note takes in an event about a name.
//
// Preconditions: dirCache.mu is held.
func (l *listing) note(e at.Event) {
	need := lookAgain
	if e.Content {
		need |= lookAlways
	}
	l.changed[e.Name] |= need
	if len(l.changed) > maxChanged {
		l.cache.forgetListing(l)
	}
}

// refresh looks the changed names up again; false when the listing turned out
// to be lost.
func (l *listing) refresh(fsys *FS, d *dir) (ok bool, err error) {
	l.mu.Lock() // also waits for who is looking at what he took from changed
	defer l.mu.Unlock()
	l.cache.mu.Lock()
	var changed map[string]remedy
	if len(l.changed) > 0 {
		changed, l.changed = l.changed, make(map[string]remedy)
	}
	lost := l.lost
	l.cache.mu.Unlock()
	if lost {
		return false, nil
	}
	for name, need := range changed {
		if err := l.lookUp(fsys, d, name, need); err != nil {
			l.cache.mu.Lock()
			defer l.cache.mu.Unlock()
			l.cache.forgetListing(l) // what was not looked up is not known any more
			return false, err
		}
	}
	return true, nil
}

// lookUp brings what is kept of name up to date.
//
// Preconditions: mu is held.
// +checklocks:l.mu
func (l *listing) lookUp(fsys *FS, d *dir, name string, need remedy) error {
	f, err := fsys.find(d, name)
	missing := err != nil && at.IsMissing(err)
	if err != nil && !missing {
		return err
	}
	i := l.names.find([]byte(name))
	switch {
	case i < 0 && missing:
		return nil
	case i < 0:
		i, _ = l.names.add([]byte(name), 0)
		l.objects.add(keptObject{})
	}
	o := l.objects.at(i)
	looked, always := o.looked+1, o.always && o.ino == f.st.Ino
	if missing {
		o.gone = true
	} else {
		l.names.refs[i].source = d.sourceOf(f.layer)
		*o = keep(&f.st)
		o.always = o.always || always || need&lookAlways != 0
	}
	o.looked, o.absent = looked, 0
	return nil
}

// sourceOf is the source of d that is in a layer which it has.
func (d *dir) sourceOf(layer int) uint16 {
	for i := range d.sources() {
		if _, l := d.source(i); l == layer {
			return uint16(i)
		}
	}
	return 0
}

// keep takes an object that was just listed into the listing that l fills.
func (l *lister) keep(info *Info, ok bool) {
	k := l.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	o := keptObject{gone: true}
	if ok {
		o = keep(&info.st)
		if info.without && o.hasOneName() {
			o.absent = k.absence(l.wanted)
		}
		info.kept = keptRef{k, uint32(k.objects.count), 0}
	}
	k.objects.add(o)
	if k.objects.count%keptBlock == 0 && !k.charge() {
		l.fills = false
	}
}

// charge accounts for what the listing takes; false when that is too much, or
// the listing is lost.
//
// Preconditions: mu is held.
// +checklocks:l.mu
func (l *listing) charge() bool {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	size := int64(l.names.size() + l.objects.size())
	if !l.lost && size > maxListingBytes {
		l.cache.forgetListing(l)
	}
	if l.lost {
		return false
	}
	keptBytes.Add(size - l.account)
	l.account = size
	return true
}

// abandon gives up filling a listing; what is left is only listed.
func (l *lister) abandon() {
	if !l.fills {
		return
	}
	l.fills = false
	l.kept.cache.mu.Lock()
	defer l.kept.cache.mu.Unlock()
	l.kept.cache.forgetListing(l.kept)
}

// complete ends filling: the listing may be used.
func (l *lister) complete() {
	if !l.fills {
		return
	}
	l.fills = false
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	if !l.kept.charge() {
		return
	}
	l.kept.cache.mu.Lock()
	defer l.kept.cache.mu.Unlock()
	l.kept.complete = !l.kept.lost
}

// fillFromKept is fill for a listing that is kept.
func (l *lister) fillFromKept(infos []Info) (n int, err error) {
	k := l.kept
	k.mu.RLock()
	defer k.mu.RUnlock()
	for n == 0 {
		first := l.next
		names := k.take(&l.next, len(infos))
		if l.next == first {
			return 0, io.EOF
		}
		base := k.names.refs[first].start
		for i := first; i < l.next; i++ {
			if k.objects.at(i).gone {
				continue
			}
			ref := k.names.refs[i]
			ok, err := l.fromKept(i, names[ref.start-base:][:ref.length], &infos[n])
			if err != nil {
				return n, err
			}
			if ok {
				n++
			}
		}
	}
	return n, nil
}

// take goes on from *next past at most count objects that are there, and returns
// the names of all on the way, which lie side by side, as one string.
//
// Preconditions: mu is held.
func (l *listing) take(next *int, count int) string {
	first := *next
	for ; *next < l.objects.count && count > 0; *next++ {
		if !l.objects.at(*next).gone {
			count--
		}
	}
	if *next == first {
		return ""
	}
	last := l.names.refs[*next-1]
	return string(l.names.bytes[l.names.refs[first].start : last.start+uint32(last.length)])
}

// fromKept sets info to object i, called name; not ok when a look shows that it
// is gone.
//
// Preconditions: kept.mu is held.
func (l *lister) fromKept(i int, name string, info *Info) (ok bool, err error) {
	o, source := l.kept.objects.at(i), int(l.kept.names.refs[i].source)
	if o.always {
		if ok, err = l.fsys.statIn(l.d, name, source, info); !ok {
			return false, l.readError(source, err)
		}
	} else {
		_, layer := l.d.source(source)
		*info = Info{name: name, st: o.stat(), layer: layer, tags: &l.fsys.tags}
	}
	info.kept = keptRef{l.kept, uint32(i), o.looked}
	return true, nil
}

// hasNot says whether it is known that the object has no attribute attr.
func (r keptRef) hasNot(attr string) bool {
	if r.listing == nil {
		return false
	}
	r.listing.mu.RLock()
	defer r.listing.mu.RUnlock()
	o := r.listing.objects.at(int(r.index))
	for i, a := range r.listing.attrs {
		if a == attr {
			return o.looked == r.looked && o.absent&(1<<i) != 0
		}
	}
	return false
}

// noteAbsent notes that the object has no attribute attr, if it is still the one
// that was looked at, and if an event would tell of a new one: another name of
// the file would not.
func (r keptRef) noteAbsent(attr string) {
	l := r.listing
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.objects.at(int(r.index)); o.looked == r.looked && o.hasOneName() {
		o.absent |= l.absence(attr)
	}
}

// hasOneName says whether an event of its directory tells of every change of the
// object's attributes.
func (o *keptObject) hasOneName() bool {
	return o.nlink <= 1 || o.mode&syscall.S_IFMT == syscall.S_IFDIR
}

// absence is the bit of keptObject.absent that stands for an attribute; 0 when
// there is none for one more.
//
// Preconditions: mu is held.
// +checklocks:l.mu
func (l *listing) absence(attr string) uint8 {
	i := slices.Index(l.attrs, attr)
	if i < 0 {
		if len(l.attrs) == maxKeptAttrs {
			return 0
		}
		i = len(l.attrs)
		l.attrs = append(l.attrs, attr)
	}
	return 1 << i
}
