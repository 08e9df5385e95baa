package overlay

import (
	"container/list"
	"sync"
	"sync/atomic"

	"overdav/overlay/internal/at"
)

// A dirCache keeps merged directories open between operations, for as long as
// a watcher proves that they are what they were: it watches each of them in
// every layer, and reads what the watcher heard before it gives one away. It
// makes no difference between our changes and anybody else's.
//
// It is a tree like the merged one. A directory is kept only while its parent
// is, for what tells that it is another directory now are events of the
// parent. One that is reached by a redirect is not kept: its lowers are beneath
// directories that nobody watches.
type dirCache struct {
	marks *marks
	mu    sync.Mutex
	// +checklocks:mu
	watcher *at.Watcher
	root    *dirNode
	// +checklocks:mu
	watched map[int32][]*dirNode
	// +checklocks:mu
	leaves list.List // of *dirNode, the least recently used first; all but the root
	// +checklocks:mu
	coming map[*arrival]bool
	// +checklocks:mu
	open int // descriptors held
}

// maxCachedDescriptors bounds the descriptors that all caches of the process
// hold; so does a quarter of what it may have.
const maxCachedDescriptors = 2048

// cached is what all caches of the process are and hold.
var cached struct{ caches, descriptors atomic.Int64 }

var mostCached = sync.OnceValue(func() int64 { return int64(min(maxCachedDescriptors, at.MaxDescriptors()/4)) })

// isFull says whether the cache must make room: there is none left, or it has
// more than its share of what becomes scarce.
func (c *dirCache) isFull() bool {
	most, all := mostCached(), cached.descriptors.Load()
	return all > most || all > most/2 && int64(c.open) > most/max(cached.caches.Load(), 1)
}

// hold counts n more descriptors.
func (c *dirCache) hold(n int) {
	c.open += n
	cached.descriptors.Add(int64(n))
}

// A dirNode is a directory in the cache.
type dirNode struct {
	dir      *dir
	name     string
	parent   *dirNode // nil: the root, or dropped
	children map[string]*dirNode
	watches  []int32
	listing  *listing // that is kept or being filled; nil for none
	armed    bool     // the watches tell of content too
	used     *list.Element
	users    int // walks and files that have dir
	dropped  bool
	doubted  bool // the marks in upper may have changed

	id, heard uint64 // see moment
}

// lastNode is the number that was last given to a directory.
var lastNode atomic.Uint64

// An arrival is a directory being looked up, which an event may spoil before it
// is in the cache.
type arrival struct {
	parent  *dirNode
	name    string
	spoiled bool
}

// newDirCache returns a cache of directories below root; nil when a layer's
// changes cannot all be heard of.
func newDirCache(root *dir, marks *marks) *dirCache {
	for i := range root.sources() {
		if d, _ := root.source(i); !d.Watchable() {
			return nil
		}
	}
	watcher, err := at.NewWatcher()
	if err != nil {
		return nil // all works without
	}
	c := &dirCache{marks: marks, watcher: watcher, watched: make(map[int32][]*dirNode), coming: make(map[*arrival]bool)}
	c.root = &dirNode{dir: root, children: make(map[string]*dirNode), id: lastNode.Add(1)}
	if c.root.watches, err = c.watch(root); err != nil {
		watcher.Close()
		return nil // likewise
	}
	for _, w := range c.root.watches {
		c.watched[w] = append(c.watched[w], c.root)
	}
	root.node = c.root
	cached.caches.Add(1)
	return c
}

// watch watches a directory in each layer.
func (c *dirCache) watch(d *dir) (watches []int32, err error) {
	for i := range d.sources() {
		source, _ := d.source(i)
		w, err := c.watcher.Add(source)
		if err != nil {
			return watches, err
		}
		watches = append(watches, w)
	}
	return watches, nil
}

// deepest returns the directory of the longest beginning of path that is in the
// cache, now, and how many components that is. Closing it gives it back.
func (c *dirCache) deepest(path []string) (moment, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hear()
	node, n := c.root, 0
	for _, name := range path {
		child := node.children[name]
		if child == nil || !c.isStill(child) {
			break
		}
		node, n = child, n+1
	}
	if node != c.root {
		node.users++
		c.leaves.MoveToBack(node.used)
	}
	return moment{node.dir, node.id, node.heard}, n
}

// child returns the directory name in parent, if it is in the cache; nil
// otherwise. Closing it gives it back.
func (c *dirCache) child(parent *dir, name string) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hear()
	if parent.node == nil || parent.node.dropped {
		return nil
	}
	node := parent.node.children[name]
	if node == nil || !c.isStill(node) {
		return nil
	}
	node.users++
	c.leaves.MoveToBack(node.used)
	return node.dir
}

// expect says that name in parent is about to be looked up; nil when it will
// not be kept.
func (c *dirCache) expect(parent *dir, name string) *arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	if parent.node == nil || parent.node.dropped {
		return nil
	}
	a := &arrival{parent: parent.node, name: name}
	c.coming[a] = true
	return a
}

// add takes in what was looked up, unless something was heard meanwhile. d is
// then the cache's; closing it gives it back. d may be nil.
func (c *dirCache) add(a *arrival, d *dir) {
	if a == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Watched under the lock: who else gives up the same directory meanwhile
	// would end the watch.
	var watches []int32
	var err error
	if d != nil {
		watches, err = c.watch(d)
	}
	c.hear()
	delete(c.coming, a)
	node := &dirNode{dir: d, name: a.name, parent: a.parent, children: make(map[string]*dirNode), watches: watches, users: 1, id: lastNode.Add(1)}
	if d == nil || err != nil || a.spoiled || a.parent.dropped || a.parent.children[a.name] != nil || d.redirected {
		c.unwatch(watches)
		return
	}
	for i := range d.sources() {
		source, _ := d.source(i)
		source.Share()
	}
	d.node, d.cache = node, c
	a.parent.children[a.name] = node
	node.used = c.leaves.PushBack(node)
	for _, w := range watches {
		c.watched[w] = append(c.watched[w], node)
	}
	c.hold(d.sources())
	c.evict()
}

// evict drops what was not used for longest, leaves first, until the rest fits.
func (c *dirCache) evict() {
	for e := c.leaves.Front(); e != nil && c.isFull(); {
		node := e.Value.(*dirNode)
		e = e.Next()
		if len(node.children) == 0 {
			c.drop(node)
		}
	}
}

// release gives back a directory of the cache.
func (c *dirCache) release(node *dirNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node.users--
	c.closeUnused(node)
}

// closeUnused closes what is neither in the cache nor with anybody.
func (c *dirCache) closeUnused(node *dirNode) {
	if node.dropped && node.users == 0 {
		c.hold(-node.dir.sources())
		node.dir.closeLayers()
	}
}

// isUpper says whether a watch is of the directory in upper.
func (n *dirNode) isUpper(watch int32) bool {
	return n.dir.upper != nil && len(n.watches) > 0 && n.watches[0] == watch
}

// doubt says that the attributes of the directory in upper may have changed.
func (n *dirNode) doubt() {
	n.doubted = true
	n.dir.attributes.Add(1)
}

// isStill says whether the directory of a node is what it was when it was looked
// up, and drops it if not. Where its attributes in upper may have changed, the marks
// tell: a copy-up of a member puts back its times, and to look at the marks costs a
// call, while to watch it anew has the kernel go through all names in it that it
// knows.
func (c *dirCache) isStill(node *dirNode) bool {
	if !node.doubted {
		return true
	}
	node.doubted = false
	now, err := c.marks.readDir(&node.dir.upper.Dir)
	if err == nil && now == node.dir.marks {
		return true
	}
	c.drop(node)
	return false
}

// hear drops what the watcher heard of.
func (c *dirCache) hear() {
	err := c.watcher.Drain(func(e at.Event) {
		if e.Lost {
			c.dropAll()
			return
		}
		// drop changes the slice.
		for _, node := range append([]*dirNode(nil), c.watched[e.Watch]...) {
			c.heard(node, e)
		}
	})
	if err != nil {
		c.dropAll()
	}
}

// heard drops the child that an event tells of, or the directory itself.
func (c *dirCache) heard(node *dirNode, e at.Event) {
	if node.listing != nil && e.Name != "" {
		node.listing.note(e)
	}
	if e.Content {
		return
	}
	name := e.Name
	ofUpper := e.Attributes && node.isUpper(e.Watch)
	if ofUpper && name == "" {
		node.doubt()
		return
	}
	node.heard++
	for a := range c.coming {
		if a.parent == node && (name == "" || a.name == name) {
			a.spoiled = true
		}
	}
	if name != "" {
		switch child := node.children[name]; {
		case child == nil:
		case ofUpper && child.dir.upper != nil:
			child.doubt()
		default:
			c.drop(child)
		}
		return
	}
	if node == c.root {
		return // its marks mean nothing, and it is held open
	}
	c.drop(node)
}

func (c *dirCache) dropAll() {
	for a := range c.coming {
		a.spoiled = true
	}
	c.forgetListing(c.root.listing)
	c.root.heard++
	for _, child := range c.root.children {
		c.drop(child)
	}
}

// drop takes a directory, and those below it, out of the cache.
func (c *dirCache) drop(node *dirNode) {
	if node.dropped {
		return
	}
	node.dropped = true
	for _, child := range node.children {
		c.drop(child)
	}
	c.forgetListing(node.listing)
	delete(node.parent.children, node.name)
	c.leaves.Remove(node.used)
	for _, w := range node.watches {
		c.watched[w] = without(c.watched[w], node)
	}
	c.unwatch(node.watches)
	c.closeUnused(node)
}

func without(nodes []*dirNode, node *dirNode) []*dirNode {
	for i, n := range nodes {
		if n == node {
			return append(nodes[:i:i], nodes[i+1:]...)
		}
	}
	return nodes
}

// unwatch ends the watches that no directory in the cache needs.
func (c *dirCache) unwatch(watches []int32) {
	for _, w := range watches {
		if len(c.watched[w]) == 0 {
			delete(c.watched, w)
			c.watcher.Remove(w)
		}
	}
}

// close drops everything. What somebody still has is closed by him.
func (c *dirCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropAll()
	c.watcher.Close()
	cached.caches.Add(-1)
}
