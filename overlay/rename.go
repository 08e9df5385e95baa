package overlay

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// Rename moves oldname to newname, replacing a file there by a file and an
// empty directory by a directory, as rename(2) does. Whatever a directory
// holds, it moves in one step, unless redirects are off and part of it is in a
// lower: then that part is copied up first.
//
// Errors: ENOENT; EBUSY for the root; EINVAL into itself; ENOTEMPTY, ENOTDIR and
// EISDIR for what is in the way.
func (fsys *FS) Rename(oldname, newname string) error {
	return linkError("rename", oldname, newname, fsys.rename(oldname, newname, true))
}

// RenameNoReplace is Rename, but EEXIST when newname exists.
func (fsys *FS) RenameNoReplace(oldname, newname string) error {
	return linkError("rename", oldname, newname, fsys.rename(oldname, newname, false))
}

// What a rename finds that it must have done, without its locks, before it can
// begin again.
var (
	errIsTree   = errors.New("a directory: needs the tree for itself")
	errNotUp    = errors.New("a file of a lower: copy it up first")
	errNotWhole = errors.New("part of the directory is in a lower: flatten it first")

	errContentFar = errors.New("a metacopy that no redirect can lead to its content: copy that up first")
)

func (fsys *FS) rename(oldname, newname string, replace bool) error {
	_, err := fsys.untilRenamed(func(exclusive, _ bool) (string, error) {
		return renaming{fsys: fsys, replace: replace}.try(oldname, newname, exclusive)
	})
	return err
}

// untilRenamed tries until it is done, and does in between what an attempt says
// must be done first to the merged path that it returns. copied is how many bytes
// of content were copied up for it.
func (fsys *FS) untilRenamed(try func(exclusive, full bool) (path string, err error)) (copied int64, err error) {
	exclusive, full := false, false
	for range maxRaces {
		path, err := try(exclusive, full)
		var n int64
		switch err {
		default:
			return copied, err
		case errRaced:
			continue
		case errIsTree:
			exclusive = true
			continue
		case errInTheWay:
			full, exclusive = true, true
			continue
		case errNotUp:
			n, err = fsys.copyUpCounted(path, false, anyContent)
		case errContentFar:
			n, err = fsys.copyUpCounted(path, false, wholeContent)
		case errNotWhole:
			n, err = fsys.flatten(path)
		}
		copied += n
		if err != nil {
			return copied, err
		}
	}
	return copied, errRaced
}

// try renames once what r says. path is the merged path of what must be
// done first.
func (r renaming) try(oldname, newname string, exclusive bool) (path string, err error) {
	t, err := r.fsys.begin(exclusive)
	if err != nil {
		return "", err
	}
	if err := r.begin(t, oldname, newname); err != nil {
		return "", t.end(err)
	}
	path = r.from.path()
	if err = r.look(); err != nil || r.same {
		return path, t.end(err)
	}
	if r.old.isDir() && !exclusive {
		return path, t.endFor(errIsTree)
	}
	if r.oldIs == lowerOnly && !r.old.isDir() {
		return path, t.endFor(errNotUp)
	}
	if err = r.raise(); err == nil {
		err = r.move()
	}
	return path, t.end(err)
}

// endFor ends a transaction that changed nothing, to say what it waits for.
func (t *txn) endFor(reason error) error {
	t.unsynced = nil
	return t.end(reason)
}

// A renaming is one rename under way.
type renaming struct {
	fsys     *FS
	t        *txn
	replace  bool // something may be at the new name
	full     bool // and it may be anything
	distinct bool // one object under both names is an error
	from, to place
	old, new *entry
	oldIs    presence
	newIs    presence
	same     bool   // both names are one object: nothing is to be done
	locked   bool   // the names in both directories are
	sawOld   *Sight // nil: nobody looked before
	sawNew   *Sight
}

// begin walks to both names. Where both directories are in upper the names in
// them are locked at once: what is looked up then is good for the rename.
func (r *renaming) begin(t *txn, oldname, newname string) (err error) {
	r.t = t
	if r.from, err = t.walkSeen(oldname, r.sawOld); err != nil {
		return err
	}
	if r.to, err = t.walkSeen(newname, r.sawNew); err != nil {
		return err
	}
	if r.from.dir.upper != nil && r.to.dir.upper != nil {
		t.lock(r.from.dir.path, r.to.dir.path)
		r.locked = true
	}
	return nil
}

// look finds out what both names are and refuses what cannot be, before
// anything is changed.
func (r *renaming) look() error {
	from, to := r.from.path(), r.to.path()
	if r.from.isRoot() || r.to.isRoot() {
		return syscall.EBUSY
	}
	var err error
	if r.old, r.oldIs, err = r.t.lookup(r.from); err != nil {
		return err
	}
	if err = r.sawOld.stillEntry(r.old); err != nil {
		return err
	}
	if !r.old.exists() {
		return syscall.ENOENT
	}
	if inside(to, from) {
		return syscall.EINVAL
	}
	if r.new, r.newIs, err = r.t.lookup(r.to); err != nil {
		return err
	}
	if err = r.sawNew.stillEntry(r.new); err != nil {
		return err
	}
	if r.distinct && (from == to || inside(from, to)) {
		return syscall.EINVAL
	}
	if from == to || r.old.inUpper && r.new.inUpper && r.old.upper.Same(&r.new.upper) {
		r.same = !r.distinct
		if r.distinct && !r.full {
			return errInTheWay // rename(2) does nothing for two names of one file
		}
		if !r.replace {
			return syscall.EEXIST
		}
		return nil
	}
	if err := r.refuseTarget(inside(from, to)); err != nil {
		return err
	}
	return r.refuseProtected()
}

// inside says whether path is strictly below dir.
func inside(path, dir string) bool {
	return strings.HasPrefix(path, dir+"/") || dir == "." && path != "."
}

// refuseTarget refuses what rename(2) does not replace.
func (r *renaming) refuseTarget(above bool) error {
	switch {
	case !r.new.exists():
		return nil
	case !r.replace:
		return syscall.EEXIST
	case r.full:
		return nil
	case above:
		return syscall.ENOTEMPTY
	case r.old.isDir() && !r.new.isDir():
		return syscall.ENOTDIR
	case !r.old.isDir() && r.new.isDir():
		return syscall.EISDIR
	case r.new.isDir():
		return r.fsys.refuseFull(r.new.dir)
	}
	return nil
}

func (r *renaming) refuseProtected() error {
	if err := r.fsys.refuseFrom(r.from.dir); err != nil {
		return err
	}
	if err := r.fsys.refuseInto(r.to.dir); err != nil {
		return err
	}
	if err := r.fsys.refuseProtectedAt(r.from, r.old); err != nil {
		return err
	}
	return r.fsys.refuseProtectedAt(r.to, r.new)
}

// refuseProtectedAt refuses to change what chattr protects.
func (fsys *FS) refuseProtectedAt(p place, e *entry) error {
	err := fsys.refuseProtected(e)
	if err == nil && e.inUpper && !e.isDir() {
		err = fsys.refuseMarked(&p.dir.upper.Dir, p.name)
	}
	return err
}

// raise copies up both parents and locks the names in them, and then looks
// again: somebody may have been there meanwhile.
func (r *renaming) raise() error {
	if r.locked {
		return nil
	}
	if err := r.t.raiseUnlocked(&r.from); err != nil {
		return err
	}
	if err := r.t.raiseUnlocked(&r.to); err != nil {
		return err
	}
	r.t.lock(r.from.dir.path, r.to.dir.path)
	r.locked = true
	if err := r.look(); err != nil {
		return err
	}
	if !r.t.exclusive && r.old.isDir() {
		return errIsTree
	}
	return nil
}

// move does it (compare ovl_rename):
//
//  1. A directory of a lower is copied up. Nobody sees it.
//  2. An empty directory in the way that holds whiteouts changes places with an
//     opaque empty one. Nobody sees it.
//  3. The new parent is marked impure.
//  4. A directory gets the mark that keeps it what it is elsewhere: a redirect
//     to its lowers, or opaque. At its old name neither means anything. A
//     metacopy gets a redirect to its content.
//  5. One renameat2 moves it and leaves a whiteout where that is needed.
//     Before: as it was; after: done.
//  6. A whiteout that changed places with a directory of upper alone is
//     removed. Left by a crash, it hides nothing.
func (r *renaming) move() error {
	fsys := r.fsys
	if r.same {
		return nil
	}
	if r.oldIs == lowerOnly {
		if !r.old.isDir() {
			return errNotUp
		}
		e, err := r.t.copyUpDir(r.from.dir, r.old)
		if err != nil {
			return err
		}
		r.t.keep(e.dir)
		r.old, r.oldIs = e, fsys.presence(r.from.dir, e)
	}
	if r.new.isDir() && r.new.inUpper {
		if err := fsys.clearWhiteouts(r.t, r.to.dir, r.new); err != nil {
			return err
		}
	}
	if r.from.dir.path != r.to.dir.path {
		if err := fsys.carryImpure(r.from.dir.upper, r.from.name, r.to.dir); err != nil {
			return err
		}
	}
	if err := r.mark(); err != nil {
		return err
	}
	r.t.changed(r.to.dir.upper)
	r.t.changed(r.from.dir.upper)
	if err := r.renameUpper(); err != nil {
		return err
	}
	if r.old.upper.IsRegular() {
		fsys.keepTag(fsys.tags.of(&r.old.upper), &r.to.dir.upper.Dir, r.to.name)
	}
	return nil
}

func (r *renaming) renameUpper() error {
	flag, cleanup := at.RenamePlain, false
	leave := r.fsys.needsWhiteout(r.from.dir, r.from.name, r.oldIs)
	switch {
	case leave && r.newIs == whitedOut:
		flag = at.RenameExchange // the whiteout moves to the old name
	case leave:
		flag = at.RenameWhiteout
	case r.old.isDir() && r.newIs == whitedOut:
		flag, cleanup = at.RenameExchange, true
	}
	from, to := r.from.dir.upper, r.to.dir.upper
	if err := from.Rename(r.from.name, to, r.to.name, flag); err != nil {
		return raced(err)
	}
	if cleanup {
		_ = from.Unlink(r.from.name) // it hides nothing
	}
	return nil
}

// mark gives what is about to move the mark that keeps it what it is.
func (r *renaming) mark() error {
	if r.old.isDir() {
		return r.markDir()
	}
	return r.fsys.redirectMetacopy(r.from, &r.old.upper, r.from.dir.path == r.to.dir.path)
}

// markDir gives the directory that is about to move its mark.
func (r *renaming) markDir() error {
	fsys, d := r.fsys, r.old.dir
	if d.isMerged() {
		redirect, err := r.redirect()
		if err != nil || redirect == d.marks.redirect {
			return err
		}
		r.t.changed(d.upper) // the mark must last before the new name does
		return fsys.setOwnXattr(d.upper, ".", fsys.marks.redirect, []byte(redirect))
	}
	if d.marks.opaque || !r.to.dir.isMerged() {
		return nil
	}
	r.t.changed(d.upper)
	return fsys.setOwnXattr(d.upper, ".", fsys.marks.opaque, opaqueYes)
}

// redirect is what the merged directory must say at its new name: its old name
// beside it, a path from the layers' roots elsewhere (compare ovl_get_redirect).
func (r *renaming) redirect() (string, error) {
	d := r.old.dir
	if !r.fsys.writeRedirects {
		return "", errNotWhole
	}
	if r.from.dir.path == r.to.dir.path {
		if d.marks.redirect != "" {
			return d.marks.redirect, nil
		}
		return r.from.name, nil
	}
	if len(d.abs) > maxRedirect {
		return "", errNotWhole
	}
	return d.abs, nil
}

// clearWhiteouts puts an empty opaque twin in the place of the directory e of
// upper, which shows nothing but may hold whiteouts, so that it can be renamed
// over.
//
//  1. The twin is made in staging, with the attributes of the directory.
//  2. They change places. An empty opaque directory shows what the emptied one
//     does: nothing.
//  3. The directory goes, with its whiteouts.
func (fsys *FS) clearWhiteouts(t *txn, parent *dir, e *entry) error {
	names, err := readNames(&e.dir.upper.Dir)
	if err != nil || len(names) == 0 {
		return err
	}
	temp := fsys.staging.reserve()
	defer temp.close()
	if err := temp.dir.Mkdir(temp.name, 0o700); err != nil {
		return err
	}
	if err := fsys.copyDirAttributes(&e.dir.upper.Dir, &e.upper, temp.attributes()); err != nil {
		return err
	}
	if err := fsys.setOwnXattr(temp.dir, temp.name, fsys.marks.opaque, opaqueYes); err != nil {
		return err
	}
	t.changed(parent.upper)
	if err := temp.exchange(parent.upper, e.name); err != nil {
		return err
	}
	temp.retire()
	return nil
}

// copyDirAttributes makes a directory like another of upper, without its marks.
func (fsys *FS) copyDirAttributes(from *at.Dir, st *at.Stat, to attributes) error {
	if err := to.Chown(int(st.UID), int(st.GID)); err != nil {
		return err
	}
	late, err := fsys.copyXattrs(from, ".", to, false)
	if err != nil {
		return err
	}
	if err := to.Chmod(st.Mode & 0o7777); err != nil {
		return err
	}
	for _, attr := range late {
		if err := to.Setxattr(attr.name, attr.value); err != nil {
			return fmt.Errorf("%s: %w", attr.name, err)
		}
	}
	return to.SetTimes(st.Atime, st.Mtime)
}
