package overlay

import (
	"errors"
	"syscall"

	"overdav/overlay/internal/at"
)

// Remove removes a file or an empty directory. A whiteout takes its place where
// a lower would show through.
// Errors: ENOTEMPTY; EBUSY for the root.
func (fsys *FS) Remove(name string) error {
	return pathError("remove", name, fsys.remove(name, false))
}

// RemoveAll removes name and everything below it in one atomic step: nobody,
// after a crash neither, sees a part of it. That there is no such name is no
// error, as with os.RemoveAll.
// Errors: EBUSY for the root.
func (fsys *FS) RemoveAll(name string) error {
	err := fsys.remove(name, true)
	if errors.Is(err, syscall.ENOENT) {
		err = nil
	}
	return pathError("removeall", name, err)
}

// RemoveSeen is RemoveAll of what was seen.
// Errors: ErrChanged when it is something else now.
func (fsys *FS) RemoveSeen(seen Sight) error {
	err := fsys.tryRemove(seen.Path, &seen, true, seen.isDir())
	if err == errIsTree {
		err = ErrChanged
	}
	return pathError("removeall", seen.Path, err)
}

func (fsys *FS) remove(name string, all bool) error {
	err := fsys.tryRemove(name, nil, all, false)
	if err == errIsTree {
		err = fsys.tryRemove(name, nil, all, true)
	}
	return err
}

// tryRemove removes what name shows, if seen is nil or still true.
// Errors: errIsTree for a directory, which needs the tree for itself.
func (fsys *FS) tryRemove(name string, seen *Sight, all, exclusive bool) error {
	t, err := fsys.begin(exclusive)
	if err != nil {
		return err
	}
	p, err := t.walkSeen(name, seen)
	if err == nil && p.isRoot() {
		err = syscall.EBUSY
	}
	if err != nil {
		return t.end(err)
	}
	if p.dir.upper != nil {
		t.lock(p.dir.path) // what is looked up is then removed without another look
	}
	e, here, err := t.lookupSeen(p, seen)
	if err == nil {
		err = fsys.refuseRemoval(p, e, all)
	}
	if err == nil && e.isDir() && !exclusive {
		return t.endFor(errIsTree)
	}
	if err == nil && p.dir.upper == nil {
		e, here, err = t.raiseToRemove(&p)
	}
	if err != nil {
		return t.end(err)
	}
	err = fsys.removeLocked(t, p, e, here)
	if here == lowerOnly && seen != nil && errors.Is(err, syscall.EEXIST) {
		err = ErrChanged // upper has got something since
	}
	return t.end(err)
}

// lookupSeen is lookup of what was seen. A file of a lower needs no second look
// in the directory in which it was seen: it is shown for as long as upper has
// nothing of its name, which the call that whites it out finds out by itself.
// Errors: ErrChanged.
func (t *txn) lookupSeen(p place, seen *Sight) (*entry, presence, error) {
	if e := seen.lowerFile(p.dir); e != nil {
		refused, err := t.fsys.refusesMetacopy(e.from.Dir, e.name, &e.lower)
		if refused {
			err = errMetacopy
		}
		return e, lowerOnly, err
	}
	e, here, err := t.lookup(p)
	if err == nil {
		err = seen.stillEntry(e)
	}
	return e, here, err
}

// raiseToRemove copies the directory of p up and looks again.
func (t *txn) raiseToRemove(p *place) (e *entry, here presence, err error) {
	if err := t.raise(p); err != nil {
		return nil, absent, err
	}
	if e, here, err = t.lookup(*p); err != nil {
		return nil, absent, err
	}
	switch {
	case !e.exists():
		err = syscall.ENOENT
	case e.isDir() && !t.exclusive:
		err = errIsTree // made since the file of that name was looked at
	}
	return e, here, err
}

// refuseRemoval refuses what cannot be removed, before anything is changed.
func (fsys *FS) refuseRemoval(p place, e *entry, all bool) error {
	if !e.exists() {
		return syscall.ENOENT
	}
	if err := fsys.refuseFrom(p.dir); err != nil {
		return err
	}
	if err := fsys.refuseProtected(e); err != nil {
		return err
	}
	if e.inUpper {
		if err := fsys.refuseMarked(&p.dir.upper.Dir, p.name); err != nil {
			return err
		}
	}
	if e.isDir() && !all {
		return fsys.refuseFull(e.dir)
	}
	return nil
}

// refuseFrom refuses to take names out of a directory that chattr protects.
func (fsys *FS) refuseFrom(d *dir) error {
	p, err := d.protection()
	if err == nil && p.any() {
		err = errProtected
	}
	return err
}

// refuseFull answers ENOTEMPTY for a directory that shows a name.
func (fsys *FS) refuseFull(d *dir) error {
	empty, err := fsys.isEmpty(d)
	if err == nil && !empty {
		err = syscall.ENOTEMPTY
	}
	return err
}

// removeLocked removes what p shows, in one step:
//
//   - only below: a whiteout takes the name;
//   - a file over a lower one: a whiteout replaces it;
//   - a directory over a lower one: it changes places with a whiteout in the
//     trash;
//   - only in upper: it goes, a directory by way of the trash.
//
// A crash before the step leaves the whiteout, one after it the tree, to the
// sweep.
//
// Preconditions: p.dir is in upper and its names are locked, e is what p shows,
// and a directory has the tree for itself.
func (fsys *FS) removeLocked(t *txn, p place, e *entry, here presence) error {
	s, upper := fsys.staging, p.dir.upper
	t.changed(upper)
	if !fsys.needsWhiteout(p.dir, p.name, here) {
		return fsys.removePure(upper, p.name, e.isDir())
	}
	if !e.inUpper {
		err := s.tmp.Link(sharedWhiteout, upper, p.name)
		if !errors.Is(err, syscall.EMLINK) && !errors.Is(err, syscall.ENOENT) {
			return err
		} // else whiteout makes a fresh one
	}
	white, err := s.whiteout()
	if err != nil {
		return err
	}
	if e.inUpper && e.isDir() {
		return fsys.whiteOutDir(upper, p.name, white)
	}
	flag := at.RenamePlain // over the covering file that goes here
	if !e.inUpper {
		flag = at.RenameNoReplace
	}
	if err := s.tmp.Rename(white, upper, p.name, flag); err != nil {
		s.discard(white)
		return err
	}
	return nil
}

// removePure removes what only upper has.
func (fsys *FS) removePure(upper *at.RWDir, name string, isDir bool) error {
	if !isDir {
		return upper.Unlink(name)
	}
	if err := upper.Rmdir(name); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	s := fsys.staging
	trashed := s.newName()
	if err := upper.Rename(name, s.trash, trashed, at.RenamePlain); err != nil {
		return err
	}
	s.deleteLater(trashed)
	return nil
}

// whiteOutDir puts the whiteout white of tmp in the place of a directory of
// upper, which goes to the trash.
func (fsys *FS) whiteOutDir(upper *at.RWDir, name, white string) error {
	s := fsys.staging
	if err := s.tmp.Rename(white, s.trash, white, at.RenamePlain); err != nil {
		s.discard(white)
		return err
	}
	if err := s.trash.Rename(white, upper, name, at.RenameExchange); err != nil {
		_ = s.trash.Unlink(white) // the sweep finds it
		return err
	}
	s.deleteLater(white)
	return nil
}
