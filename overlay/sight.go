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
}

// ErrChanged says that something else is under the name than was seen. Nothing
// was done.
var ErrChanged = errors.New("changed since it was looked at")

// Look finds out in one look what name shows and where that is; follow says
// whether Path is of what a symlink leads to or of the symlink. That there is
// nothing of that name is no error.
func (fsys *FS) Look(name string, follow bool) (Sight, error) {
	components, err := splitName(name)
	if err == syscall.ENAMETOOLONG {
		return Sight{Path: name}, nil
	}
	if err != nil {
		return Sight{}, pathError("look", name, err)
	}
	t, err := fsys.look()
	if err != nil {
		return Sight{}, pathError("look", name, err)
	}
	w := walker{fsys: fsys, at: fsys.root, pending: components}
	w.leap()
	s, err := w.look(name, follow)
	w.at.close()
	return s, pathError("look", name, t.end(err))
}

// look walks to what name shows and tells of it.
func (w *walker) look(name string, follow bool) (s Sight, err error) {
	if err := w.run(false); err != nil {
		s.Path, s.Links = w.path(), w.links
		return s, missingOK(err)
	}
	s.Path, s.Links = w.path(), w.links
	f, err := w.find()
	if err != nil {
		return s, missingOK(err)
	}
	s.Here = w.fsys.newInfo(baseName(name), &f)
	s.Shown = s.Here
	if !f.st.IsSymlink() {
		return s, nil
	}
	if err = w.run(true); err == nil {
		f, err = w.find()
	}
	if err == nil {
		s.Shown = w.fsys.newInfo(baseName(name), &f)
	} else if !at.IsMissing(err) {
		return s, nil // the link leads nowhere that can be told: it stands for itself
	}
	if follow {
		s.Path, s.Links, s.Here = w.path(), w.links, nil
		if err == nil {
			s.Here = s.Shown
		}
	}
	return s, nil
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

// find looks up what the walk has led to.
func (w *walker) find() (found, error) {
	if len(w.pending) == 0 {
		return w.fsys.find(w.at, ".")
	}
	return w.fsys.find(w.at, w.pending[0])
}

// walkTo walks to where something was seen.
// Errors: ErrChanged when a symlink is on the way now.
func (t *txn) walkTo(s *Sight) (place, error) {
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

// found is what was seen, in the directory in which it was.
// Errors: ENOENT for nothing; ErrChanged when its layer is not in d any more.
func (s *Sight) found(d *dir) (f found, err error) {
	if s.Here == nil {
		return f, syscall.ENOENT
	}
	f.st, f.layer = s.Here.st, s.Here.layer
	if f.layer == 0 && d.upper != nil {
		f.at = &d.upper.Dir
		return f, nil
	}
	for _, l := range d.lowers {
		if l.layer.index == f.layer {
			f.at = l.Dir
			return f, nil
		}
	}
	return f, ErrChanged
}

// isDir says whether a directory was seen.
func (s *Sight) isDir() bool { return s != nil && s.Here != nil && s.Here.IsDir() }
