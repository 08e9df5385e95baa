package overlay

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

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
	_, err := fsys.untilRenamed(attempt{}, func(a attempt) (string, error) {
		return renaming{fsys: fsys, replace: replace, copy: a.copy}.try(oldname, newname, a.exclusive)
	})
	return err
}

// An attempt is what was found out, and done, for a rename before it is tried.
type attempt struct {
	exclusive bool      // it needs the tree for itself
	full      bool      // and goes by way of a placeholder
	seen      bool      // somebody saw what moves
	up        bool      // and it has been copied up since: what was seen is no longer true
	copy      *fileCopy // of the file of a lower that moves; nil: none was made
}

// A fileCopy is a staged copy of an object of a lower that is no directory.
type fileCopy struct {
	src   *lowerObject
	temp  *temp
	began time.Time
	used  bool // it has a name in upper
}

func (c *fileCopy) close() {
	if c != nil {
		c.temp.close()
		c.src.close()
	}
}

// copied raises the event, if content was copied and is used, and returns how
// many bytes.
func (c *fileCopy) copied(fsys *FS) int64 {
	if c == nil || !c.used || c.src.metacopy {
		return 0
	}
	fsys.copiedUp(c.src.path, c.src.st.Size, c.began)
	if c.src.file == nil {
		return 0
	}
	return c.src.st.Size
}

// copyToMove makes a copy of the object of a lower that path shows; nil when
// upper shows it, or when it is a directory, which the next attempt will see.
func (fsys *FS) copyToMove(path string, seen *Sight) (*fileCopy, error) {
	defer fsys.copying.lock(path)()
	c := &fileCopy{began: time.Now()}
	var err error
	if c.src, err = fsys.openLower(path, false, anyContent, seen); err != nil || c.src == nil || c.src.isDir {
		return nil, err
	}
	if c.temp, err = fsys.stageCopy(c.src, anyContent); err != nil {
		c.src.close()
		return nil, err
	}
	return c, nil
}

// untilRenamed tries until it is done, and does in between what an attempt says
// must be done first to the merged path that it returns. copied is how many bytes
// of content were copied up for it.
func (fsys *FS) untilRenamed(a attempt, try func(attempt) (path string, err error)) (copied int64, err error) {
	defer func() {
		copied += a.copy.copied(fsys)
		a.copy.close()
	}()
	for range maxRaces {
		if a.seen && (a.up || a.copy != nil && a.copy.used) {
			return copied, ErrChanged
		}
		path, err := try(a)
		var n int64
		switch err {
		default:
			return copied, err
		case errRaced:
			continue
		case errIsTree:
			a.exclusive = true
			continue
		case errInTheWay:
			a.full, a.exclusive = true, true
			continue
		case errNotUp:
			n, err = a.raise(fsys, path)
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

// raise has a file of a lower copied: for a rename in one step to staging, from
// where it takes its name in upper under the same locks as it is renamed.
func (a *attempt) raise(fsys *FS, path string) (copied int64, err error) {
	if a.full {
		a.up = true
		return fsys.copyUpCounted(path, false, anyContent)
	}
	a.copy.close() // of what was there before
	a.copy, err = fsys.copyToMove(path, nil)
	return 0, err
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
	if r.from.entry.isDir() && !exclusive {
		return path, t.endFor(errIsTree)
	}
	if r.from.is == lowerOnly && !r.from.entry.isDir() && !r.hasCopy() {
		return path, t.endFor(errNotUp)
	}
	if err = r.raise(); err == nil {
		err = r.move()
	}
	return path, t.end(err)
}

// hasCopy says whether there is a copy of what moves.
func (r *renaming) hasCopy() bool {
	return r.copy != nil && !r.copy.used && r.copy.src.st.Same(&r.from.entry.lower) && r.copy.src.st.Ctime.Equal(r.from.entry.lower.Ctime)
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
	from, to renamed
	same     bool // both names are one object: nothing is to be done
	locked   bool // the names in both directories are
	free     bool // upper had nothing at the new name, and was not looked at again
	copy     *fileCopy
	raised   bool // and has its name in upper, by this attempt
}

// A renamed is one of the two names of a renaming.
type renamed struct {
	place
	entry *entry // what is there
	is    presence
	seen  *Sight // what was there before; nil: nobody looked
}

// begin walks to both names. Where both directories are in upper the names in
// them are locked at once: what is looked up then is good for the rename.
func (r *renaming) begin(t *txn, oldname, newname string) (err error) {
	r.t = t
	if r.from.place, err = t.walkSeen(oldname, r.from.seen); err != nil {
		return err
	}
	if r.to.place, err = t.walkSeen(newname, r.to.seen); err != nil {
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
	if r.from.entry, r.from.is, err = r.t.lookupSeen(r.from.place, r.from.seen); err != nil {
		return err
	}
	if !r.from.entry.exists() {
		return syscall.ENOENT
	}
	if inside(to, from) {
		return syscall.EINVAL
	}
	if r.free = r.to.seen.isFree(r.to.dir); r.free {
		r.to.entry, r.to.is = &entry{name: r.to.name}, absent
	} else {
		r.free = r.to.seen.lowerFile(r.to.dir) != nil
		if r.to.entry, r.to.is, err = r.t.lookupSeen(r.to.place, r.to.seen); err != nil {
			return err
		}
	}
	if r.distinct && (from == to || inside(from, to)) {
		return syscall.EINVAL
	}
	if from == to || r.from.entry.inUpper && r.to.entry.inUpper && r.from.entry.upper.Same(&r.to.entry.upper) {
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
	case !r.to.entry.exists():
		return nil
	case !r.replace:
		return syscall.EEXIST
	case r.full:
		return nil
	case above:
		return syscall.ENOTEMPTY
	case r.from.entry.isDir() && !r.to.entry.isDir():
		return syscall.ENOTDIR
	case !r.from.entry.isDir() && r.to.entry.isDir():
		return syscall.EISDIR
	case r.to.entry.isDir():
		return r.fsys.refuseFull(r.to.entry.dir)
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
	if err := r.fsys.refuseProtectedAt(r.from.place, r.from.entry); err != nil {
		return err
	}
	return r.fsys.refuseProtectedAt(r.to.place, r.to.entry)
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
	if err := r.t.raiseUnlocked(&r.from.place); err != nil {
		return err
	}
	if err := r.t.raiseUnlocked(&r.to.place); err != nil {
		return err
	}
	r.t.lock(r.from.dir.path, r.to.dir.path)
	r.locked = true
	if err := r.look(); err != nil {
		return err
	}
	if !r.t.exclusive && r.from.entry.isDir() {
		return errIsTree
	}
	return nil
}

// move does it (compare ovl_rename):
//
//  1. A directory of a lower is copied up; a file's copy takes the name, when
//     the directory is marked impure. Nobody sees it.
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
	if r.from.is == lowerOnly {
		if err := r.copyUp(); err != nil {
			return err
		}
	}
	if r.to.entry.isDir() && r.to.entry.inUpper {
		if err := fsys.clearWhiteouts(r.t, r.to.dir, r.to.entry); err != nil {
			return err
		}
	}
	if r.from.dir.path != r.to.dir.path {
		if err := fsys.carryImpure(r.from.dir.upper, r.from.name, r.to.dir); err != nil {
			return err
		}
	}
	kept, err := r.tag(), r.mark()
	r.t.changed(r.to.dir.upper)
	r.t.changed(r.from.dir.upper)
	if err == nil {
		err = r.renameUpper()
	}
	switch {
	case err == nil && r.from.entry.upper.IsRegular():
		fsys.keepTag(kept, &r.to.dir.upper.Dir, r.to.name)
	case err != nil && r.raised:
		fsys.keepTag(kept, &r.from.dir.upper.Dir, r.from.name) // it stays where it is, copied up
	}
	return err
}

// tag is that of the file that moves.
func (r *renaming) tag() tag {
	if r.raised {
		return derivedTag(&r.from.entry.lower)
	}
	return r.fsys.tags.of(&r.from.entry.upper)
}

// copyUp has upper hold what moves, under its old name. The directory's times
// are not put back, as after other copying up: the rename changes them.
func (r *renaming) copyUp() error {
	if r.from.entry.isDir() {
		e, err := r.t.copyUpDir(r.from.dir, r.from.entry)
		if err != nil {
			return err
		}
		r.t.keep(e.dir)
		r.from.entry, r.from.is = e, r.fsys.presence(r.from.dir, e)
		return nil
	}
	if !r.hasCopy() {
		return errNotUp
	}
	if err := r.fsys.markImpure(r.from.dir); err != nil {
		return err
	}
	r.t.changed(r.from.dir.upper)
	if err := r.copy.temp.place(r.from.dir.upper, r.from.name); err != nil {
		switch {
		case !errors.Is(err, syscall.EEXIST):
			return err
		case r.from.seen != nil:
			return ErrChanged // upper has got something since
		}
		return errRaced
	}
	r.copy.used, r.raised = true, true
	r.from.entry.inUpper, r.from.entry.upper, r.from.is = true, r.from.entry.lower, covering
	return nil
}

func (r *renaming) renameUpper() error {
	flag, cleanup := at.RenamePlain, false
	leave := r.fsys.needsWhiteout(r.from.dir, r.from.name, r.from.is)
	switch {
	case leave && r.to.is == whitedOut:
		flag = at.RenameExchange // the whiteout moves to the old name
	case leave:
		flag = at.RenameWhiteout
	case r.from.entry.isDir() && r.to.is == whitedOut:
		flag, cleanup = at.RenameExchange, true
	}
	if r.free {
		flag |= at.RenameNoReplace
	}
	from, to := r.from.dir.upper, r.to.dir.upper
	if err := from.Rename(r.from.name, to, r.to.name, flag); err != nil {
		if r.free && errors.Is(err, syscall.EEXIST) {
			return ErrChanged
		}
		return raced(err)
	}
	if cleanup {
		_ = from.Unlink(r.from.name) // it hides nothing
	}
	return nil
}

// mark gives what is about to move the mark that keeps it what it is.
func (r *renaming) mark() error {
	if r.from.entry.isDir() {
		return r.markDir()
	}
	return r.fsys.redirectMetacopy(r.from.place, &r.from.entry.upper, r.from.dir.path == r.to.dir.path)
}

// markDir gives the directory that is about to move its mark.
func (r *renaming) markDir() error {
	fsys, d := r.fsys, r.from.entry.dir
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
	d := r.from.entry.dir
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
