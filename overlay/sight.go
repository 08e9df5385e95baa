package overlay

import (
	"errors"
	"path"
	"syscall"

	"overdav/overlay/internal/at"
)

// A Sight is what one look at a name found. Whoever decides by it makes his
// change on condition that it is still true (Staged.CommitOver, RemoveSeen,
// MoveSeen): the engine looks once more when it holds the names, and answers
// ErrChanged when it is not.
type Sight struct {
	// Path is the merged path without symlinks to which the name leads. What
	// is not there stays as it is written.
	Path string
	// Links is how many symlinks were followed.
	Links int
	// Here is what Path is of; nil for nothing.
	Here *Info
	// Shown is what the name shows to whoever follows symlinks; of a link that
	// leads nowhere, the link itself. It is Here but for symlinks.
	Shown *Info

	in    *dirNode // the directory of Path; nil where none is kept open
	white bool     // upper has a whiteout there
}

// ErrChanged says that something else is under the name than was seen. Nothing
// was done.
var ErrChanged = errors.New("changed since it was looked at")

// Look finds out in one look what name shows and where that is; follow says
// whether Path is of what a symlink leads to or of the symlink. That there is
// nothing of that name is no error.
func (fsys *FS) Look(name string, follow bool) (Sight, error) {
	h, err := fsys.Hold(name, follow)
	h.Close()
	return h.Sight, err
}

// A Held is a Sight with the directory that it was seen in still open, so that
// to ask more of the object costs no walk. Close it when done.
type Held struct {
	Sight
	fsys *FS
	dir  *dir    // nil: nothing was seen, or a symlink that leads nowhere
	at   *at.Dir // what is shown is here
	name string  // in at
}

// Hold is Look, for who wants to know more of what it shows.
func (fsys *FS) Hold(name string, follow bool) (h Held, err error) {
	components, err := splitName(name)
	if err == syscall.ENAMETOOLONG {
		return Held{Sight: Sight{Path: name}}, nil
	}
	if err != nil {
		return Held{}, pathError("look", name, err)
	}
	t, err := fsys.look()
	if err != nil {
		return Held{}, pathError("look", name, err)
	}
	w := walker{fsys: fsys, at: fsys.root, pending: components, why: toLook}
	w.leap()
	h.fsys = fsys
	err = w.look(&h.Sight, name, follow)
	if err = t.end(err); err != nil || h.Shown == nil || h.Shown.st.IsSymlink() {
		w.at.close()
		return h, pathError("look", name, err)
	}
	h.dir, h.at, h.name = w.at, w.found.at, w.last()
	return h, nil
}

// Getxattr returns an extended attribute of what was shown, as FS.Getxattr does.
// Errors: ENOENT when it is gone meanwhile.
func (h *Held) Getxattr(attr string) ([]byte, error) {
	if h.dir == nil {
		return nil, pathError("getxattr", h.Path, syscall.ENOENT)
	}
	stored, err := h.fsys.marks.stored(attr)
	if err != nil {
		return nil, pathError("getxattr", h.Path, err)
	}
	value, err := h.at.Getxattr(h.name, stored)
	if err == syscall.ENODATA {
		return nil, errNoXattr
	}
	return value, pathError("getxattr", h.Path, err)
}

// Close lets go of the directory.
func (h *Held) Close() {
	if h.dir != nil {
		h.dir.close()
		h.dir = nil
	}
}

// look walks to what name shows and tells s of it; w.found is where that was.
func (w *walker) look(s *Sight, name string, follow bool) error {
	if err := w.run(false); err != nil {
		s.Path, s.Links = w.path(), w.links
		return missingOK(err)
	}
	s.Path, s.Links = w.path(), w.links
	err := w.find(w.last())
	s.in, s.white = w.at.node, w.found.white
	if err != nil {
		return missingOK(err)
	}
	s.Here = w.fsys.newInfo(baseName(name), &w.found)
	s.Shown = s.Here
	if !w.found.st.IsSymlink() {
		return nil
	}
	if err = w.run(true); err == nil {
		err = w.find(w.last())
	}
	switch {
	case err == nil:
		s.Shown = w.fsys.newInfo(baseName(name), &w.found)
	case !at.IsMissing(err):
		return nil // the link leads nowhere that can be told: it stands for itself
	}
	if follow {
		s.Path, s.Links, s.Here = w.path(), w.links, nil
		s.in, s.white = nil, false
		if err == nil {
			s.Here = s.Shown
		}
	}
	return nil
}

// last is the name that the walk has led to, in w.at.
func (w *walker) last() string {
	if len(w.pending) == 0 {
		return "."
	}
	return w.pending[0]
}

// path is where the walk is, with what it has yet to walk.
func (w *walker) path() string {
	switch len(w.pending) {
	case 0:
		return w.at.path
	case 1:
		return w.at.join(w.pending[0])
	}
	return path.Join("/", w.at.path, path.Join(w.pending...))[1:]
}

// walkTo walks to where something was seen.
// Errors: ErrChanged when a symlink is on the way now.
func (t *txn) walkTo(s *Sight) (place, error) {
	parent, name := splitLast(s.Path)
	for _, d := range t.opened {
		if d != nil && d.path == parent && name != "." {
			return place{d, name}, nil // walked to already, as a change of two names in it does
		}
	}
	p, err := t.walk(s.Path, false)
	if err == nil && p.path() != s.Path {
		err = ErrChanged
	}
	return p, err
}

// walkSeen is walkTo, or without anything seen the walk to name.
func (t *txn) walkSeen(name string, seen *Sight) (place, error) {
	if seen != nil {
		return t.walkTo(seen)
	}
	return t.walk(name, false)
}

// still says whether what is there now is what was seen; nil is nothing.
func (s *Sight) still(now *at.Stat, layer int) error {
	if s == nil {
		return nil // nobody looked
	}
	old := s.Here
	switch {
	case old == nil && now == nil:
		return nil
	case old == nil || now == nil, old.layer != layer, !old.st.Same(now),
		!old.st.Ctime.Equal(now.Ctime), !old.st.Mtime.Equal(now.Mtime):
		return ErrChanged
	}
	return nil
}

// stillEntry is still for what a lookup found.
func (s *Sight) stillEntry(e *entry) error {
	switch {
	case s == nil:
		return nil
	case !e.exists():
		return s.still(nil, 0)
	case e.inUpper:
		return s.still(&e.upper, 0)
	}
	return s.still(&e.lower, e.layer().index)
}

// isFree says that nothing was seen under the name, in d itself, and no whiteout
// either. The lowers are as they were, or have changed only now: so nothing is
// there, unless upper has got something, which a call that replaces nothing
// finds out by itself.
func (s *Sight) isFree(d *dir) bool { return s != nil && s.Here == nil && !s.white && s.isIn(d) }

// isIn says whether d, which is in upper, is the directory that was looked in.
func (s *Sight) isIn(d *dir) bool { return s.in != nil && s.in == d.node && d.upper != nil }

// lowerFile is what was seen, as an entry, if that is a lower's and no directory,
// and was seen in d itself; else nil.
func (s *Sight) lowerFile(d *dir) *entry {
	if s == nil || s.Here == nil || s.Here.layer == 0 || s.Here.IsDir() || !s.isIn(d) {
		return nil
	}
	_, name := splitLast(s.Path)
	for _, l := range d.lowers {
		if l.layer.index == s.Here.layer {
			return &entry{name: name, inLower: true, lower: s.Here.st, from: l}
		}
	}
	return nil
}

// taken is the answer to a call that replaces nothing, where nothing was seen.
func (s *Sight) taken(err error) error {
	if s != nil && s.Here == nil && errors.Is(err, syscall.EEXIST) {
		return ErrChanged
	}
	return err
}

// found is what was seen, in the directory in which it was.
// Errors: ENOENT for nothing; ErrChanged when its layer is not in d any more.
func (s *Sight) found(d *dir) (f found, err error) {
	if s.Here == nil {
		return f, syscall.ENOENT
	}
	f.st, f.layer = s.Here.st, s.Here.layer
	if f.at = d.inLayer(f.layer); f.at == nil {
		return f, ErrChanged
	}
	return f, nil
}

// isDir says whether a directory was seen.
func (s *Sight) isDir() bool { return s != nil && s.Here != nil && s.Here.IsDir() }
