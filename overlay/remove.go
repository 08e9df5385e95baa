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

func (fsys *FS) remove(name string, all bool) error {
	err := fsys.removeOne(name, all, false)
	if err == errIsTree {
		err = fsys.removeOne(name, all, true)
	}
	return err
}

// removeOne removes what name shows.
// Errors: errIsTree for a directory, which needs the tree for itself.
func (fsys *FS) removeOne(name string, all, exclusive bool) error {
	t, err := fsys.begin(exclusive)
	if err != nil {
		return err
	}
	p, err := t.walk(name, false)
	if err == nil && p.isRoot() {
		err = syscall.EBUSY
	}
	if err != nil {
		return t.end(err)
	}
	e, _, err := t.lookup(p)
	if err == nil {
		err = fsys.refuseRemoval(p, e, all)
	}
	if err == nil && e.isDir() && !exclusive {
		return t.endFor(errIsTree)
	}
	if err == nil {
		err = t.raise(&p)
	}
	if err != nil {
		return t.end(err)
	}
	return t.end(fsys.removeLocked(t, p))
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
// Preconditions: p.dir is in upper and its names are locked.
func (fsys *FS) removeLocked(t *txn, p place) error {
	e, here, err := t.lookup(p)
	if err != nil {
		return err
	}
	s, upper := fsys.staging, p.dir.upper
	t.changed(upper)
	if !e.exists() {
		return syscall.ENOENT
	}
	if e.isDir() && !t.exclusive {
		return errIsTree // made since the file of that name was looked at
	}
	if !fsys.needsWhiteout(p.dir, p.name, here) {
		return fsys.removePure(upper, p.name, e.isDir())
	}
	white, err := s.whiteout()
	if err != nil {
		return err
	}
	if e.inUpper && e.isDir() {
		return fsys.whiteOutDir(upper, p.name, white)
	}
	// RENAME_NOREPLACE is not for the covering file that goes here.
	if err := s.tmp.Rename(white, upper, p.name, at.RenamePlain); err != nil {
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
