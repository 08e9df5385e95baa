package overlay

import (
	"path"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// A place is a name in an open merged directory. The root is the name "." in
// itself.
type place struct {
	dir  *dir
	name string
}

// path is the merged path, without symlinks.
func (p place) path() string { return p.dir.join(p.name) }

func (p place) isRoot() bool { return p.name == "." }

// maxLinks bounds the symlinks that one walk follows, as the kernel's does
// (path_resolution(7)).
const maxLinks = 40

// maxName is the longest name (NAME_MAX).
const maxName = 255

// maxPath is the longest path, as the kernel's (PATH_MAX, without the NUL).
const maxPath = 4095

// splitName splits a name into its components; none is the root.
// Errors: EINVAL for what is not a name in the form of io/fs (its bytes may be
// any but NUL and slash), ENAMETOOLONG.
func splitName(name string) ([]string, error) {
	if name == "." {
		return nil, nil
	}
	if len(name) > maxPath {
		return nil, syscall.ENAMETOOLONG
	}
	components := strings.Split(name, "/")
	for _, c := range components {
		switch {
		case c == "" || c == "." || c == ".." || strings.IndexByte(c, 0) >= 0:
			return nil, syscall.EINVAL
		case len(c) > maxName:
			return nil, syscall.ENAMETOOLONG
		}
	}
	return components, nil
}

// walk goes from a name to the open directory that holds it. Every operation
// comes this way. Symlinks in the middle are resolved inside the merged tree,
// the last one only with follow; an absolute target counts from the tree's
// root, and ".." in one stays inside it. The last component need not exist.
//
// Errors: ENOENT, ENOTDIR, ELOOP after 40 links, and lookup's.
func (fsys *FS) walk(name string, follow bool) (place, error) {
	p, _, err := fsys.walkOn(name, follow, toChange)
	return p, err
}

// walkOn is walk, with what is there when following the last component has
// looked it up: then at of f is not nil.
func (fsys *FS) walkOn(name string, follow bool, why purpose) (p place, f found, err error) {
	components, err := splitName(name)
	if err != nil {
		return place{}, f, err
	}
	w := walker{fsys: fsys, at: fsys.root, pending: components, why: why}
	w.leap()
	if err := w.run(follow); err != nil {
		w.at.close()
		return place{}, f, err
	}
	if len(w.pending) == 0 {
		// Only a link can end on a directory that was entered.
		p, err = fsys.placeOf(w.at)
		return p, f, err
	}
	return place{w.at, w.pending[0]}, w.found, nil
}

// Resolve returns the merged path without symlinks to which name leads, the
// last component followed only with follow, and how many symlinks there were.
// What is not there stays as it is written.
// Errors: ELOOP after 40 links, and lookup's.
func (fsys *FS) Resolve(name string, follow bool) (resolved string, links int, err error) {
	components, err := splitName(name)
	if err != nil {
		return "", 0, pathError("resolve", name, err)
	}
	t, err := fsys.look()
	if err != nil {
		return "", 0, pathError("resolve", name, err)
	}
	w := walker{fsys: fsys, at: fsys.root, pending: components, why: toLook}
	w.leap()
	err = w.run(follow)
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		err = nil
	}
	resolved = path.Join("/", w.at.path, path.Join(w.pending...))[1:]
	if resolved == "" {
		resolved = "."
	}
	w.at.close()
	return resolved, w.links, pathError("resolve", name, t.end(err))
}

// placeOf is where a directory that was entered has its name.
func (fsys *FS) placeOf(d *dir) (place, error) {
	if d == fsys.root {
		return place{d, "."}, nil
	}
	d.close()
	return fsys.walk(d.path, false)
}

// A purpose is what a walk is for, and so what may be known of its last name
// from before.
type purpose int

const (
	toChange purpose = iota // nothing: he who changes a name looks while he holds it
	toLook                  // which layers have nothing of it
	toOpen                  // and that it is a file: whether it is the one is seen when it is open
)

// A walker is a walk under way.
type walker struct {
	fsys    *FS
	at      *dir
	pending []string
	why     purpose
	found   found  // what is at the last component, if it was looked up
	since   moment // of the directory that leap entered
	links   int
	races   int // names that changed between two looks
}

func (w *walker) run(follow bool) error {
	for len(w.pending) > 0 {
		name := w.pending[0]
		last := len(w.pending) == 1
		switch {
		case name == "" || name == ".": // from a link's target
			w.pending = w.pending[1:]
			continue
		case name == "..":
			if err := w.up(); err != nil {
				return err
			}
			continue
		case len(name) > maxName:
			return syscall.ENAMETOOLONG
		case last && !follow:
			return nil
		}
		if !last && w.jump() {
			continue
		}
		done, err := w.step(name, last)
		if err != nil || done {
			return err
		}
	}
	return nil
}

// step enters the next component or follows it; done says that it is the last
// and stays where it is.
func (w *walker) step(name string, last bool) (done bool, err error) {
	if !last {
		e, err := w.fsys.lookupCached(w.at, name)
		if err != nil {
			return false, err
		}
		if e.isDir() {
			w.enter(e.dir)
			w.pending = w.pending[1:]
			return false, nil
		}
	}
	if err := w.find(name); err != nil {
		w.found.at = nil
		if last && err == syscall.ENOENT {
			return true, nil
		}
		return false, err
	}
	switch {
	case w.found.st.IsSymlink():
		return false, w.follow(name)
	case last:
		return true, nil
	case w.found.st.IsDir(): // made since it was looked up
		w.found.at = nil
		if w.races++; w.races > maxRaces {
			return false, errRaced
		}
		return false, nil
	}
	return false, syscall.ENOTDIR
}

func (w *walker) enter(d *dir) {
	w.at.close()
	w.at = d
}

// leap enters, from the root, what of the way is in the cache.
func (w *walker) leap() {
	if w.fsys.cache == nil || len(w.pending) == 0 || len(w.pending) == 1 && w.why == toChange {
		return
	}
	var n int
	w.since, n = w.fsys.cache.deepest(w.pending[:len(w.pending)-1])
	w.enter(w.since.dir)
	w.pending = w.pending[n:]
}

// lookupCached looks up a directory to be walked through, and keeps it if it
// can be kept.
func (fsys *FS) lookupCached(parent *dir, name string) (*entry, error) {
	if fsys.cache == nil {
		return fsys.lookup(parent, name, true)
	}
	a := fsys.cache.expect(parent, name)
	e, err := fsys.lookup(parent, name, true)
	if err != nil {
		fsys.cache.add(a, nil)
		return nil, err
	}
	fsys.cache.add(a, e.dir)
	return e, nil
}

// up goes to the parent; the root is its own.
func (w *walker) up() error {
	w.pending = w.pending[1:]
	if w.at == w.fsys.root {
		return nil
	}
	parent, _ := splitLast(w.at.path)
	components, err := splitName(parent)
	if err != nil {
		return err
	}
	// The way down again has no links and no dots: it was walked.
	w.pending = append(components, w.pending...)
	w.enter(w.fsys.root)
	return nil
}

// splitLast cuts the last component off a path.
func splitLast(path string) (parent, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ".", path
	}
	return path[:i], path[i+1:]
}

// follow puts the target of the symlink name, which was found, in its place.
func (w *walker) follow(name string) error {
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	target, err := w.found.at.Readlink(name)
	w.found.at = nil
	if err != nil {
		return err
	}
	w.pending = append(strings.Split(target, "/"), w.pending[1:]...)
	if strings.HasPrefix(target, "/") {
		w.enter(w.fsys.root)
	}
	return nil
}

// jump enters all but the last component at once where nothing can be merged
// any more: beneath a directory of the lowest layer alone, no mark counts. What
// the cache can keep is entered one by one, for the next time. It leaves symlinks and whatever it cannot enter to step.
func (w *walker) jump() bool {
	d := w.at
	if d.node != nil || d.upper != nil || len(d.lowers) != 1 || !d.lowers[0].layer.last || len(w.fsys.traps) > 0 {
		return false
	}
	way := w.pending[:len(w.pending)-1]
	for _, name := range way {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	path := strings.Join(way, "/")
	inner, err := d.lowers[0].OpenPath(path)
	if err != nil {
		return false
	}
	w.enter(&dir{
		path:   d.join(path),
		abs:    d.abs + "/" + path,
		lowers: []lowerDir{{d.lowers[0].layer, inner}},
	})
	w.pending = w.pending[len(way):]
	return true
}

// A found is the object that the merged tree shows under a name.
type found struct {
	st    at.Stat
	layer int     // 0 is upper
	at    *at.Dir // its directory in that layer
	white bool    // upper has a whiteout: with ENOENT
	since moment  // of its merged directory, if that is kept
	known *fact   // nobody has looked: st is what was known before
}

// find is FS.find where the walk is, with what is known of the name, into
// w.found. Whoever holds locks has to look himself: what he waited for may not
// have been heard when the walk began.
func (w *walker) find(name string) error {
	w.found = found{}
	if w.since.dir != w.at {
		return w.fsys.findBelow(&w.found, w.at, name, 0)
	}
	from := 0
	known := w.since.about(name)
	if known != nil {
		from = known.layer
		if w.why == toOpen && w.found.take(w.at, known) {
			w.found.since = w.since
			return nil
		}
	}
	err := w.fsys.findBelow(&w.found, w.at, name, from)
	w.found.since = w.since
	switch {
	case known != nil || w.found.white:
	case err == syscall.ENOENT:
		w.since.note(name, fact{layer: noLayer})
	case err == nil && w.found.at != w.at.top():
		w.since.note(name, fact{layer: w.found.layer})
	}
	return err
}

// find looks name in d up as far as its attributes need: the topmost object
// that is not a whiteout. What a directory there is merged with is not asked.
// Errors: ENOENT, and what a layer answers.
func (fsys *FS) find(d *dir, name string) (f found, err error) {
	err = fsys.findBelow(&f, d, name, 0)
	return f, err
}

// findBelow is find in the layers from number from on.
func (fsys *FS) findBelow(f *found, d *dir, name string, from int) error {
	if name == "." {
		f.at = d.top()
		if d.upper == nil {
			f.layer = d.lowers[0].layer.index
		}
		return f.at.Stat(".", &f.st)
	}
	if d.upper != nil && from == 0 {
		f.at = &d.upper.Dir
		white, err := fsys.findIn(f, name)
		if err == nil && white {
			f.white = true
			return syscall.ENOENT
		}
		if !at.IsMissing(err) {
			return upperError(err)
		}
	}
	for _, l := range d.lowers {
		if l.layer.index < from {
			continue
		}
		f.at, f.layer = l.Dir, l.layer.index
		white, err := fsys.findIn(f, name)
		if err == nil && white {
			break
		}
		if err == nil {
			return nil
		}
		if !at.IsMissing(err) {
			return &layerError{l.layer, err}
		}
	}
	return syscall.ENOENT
}

// findIn looks name up in the one directory f.at.
func (fsys *FS) findIn(f *found, name string) (white bool, err error) {
	if err := f.at.Stat(name, &f.st); err != nil {
		return false, err
	}
	return fsys.marks.isWhiteout(f.at, name, &f.st)
}
