package overlay

import (
	"errors"
	"io/fs"
	"syscall"

	"overdav/overlay/internal/at"
)

// Mkdir makes a directory. What a lower has under a whiteout of that name
// stays hidden.
func (fsys *FS) Mkdir(name string, perm fs.FileMode) error {
	return pathError("mkdir", name, fsys.mkdir(name, perm, nil))
}

// MkdirSeen is Mkdir where nothing was seen.
// Errors: ErrChanged when something is there now, or a symlink on the way.
func (fsys *FS) MkdirSeen(seen Sight, perm fs.FileMode) error {
	return pathError("mkdir", seen.Path, seen.taken(fsys.mkdir(seen.Path, perm, &seen)))
}

// mkdir makes a directory.
//
//   - Where no whiteout is, it is made in its place: nothing of its name is
//     below. Then it is marked opaque, see markNewDir.
//   - Onto a whiteout, it is made in staging and marked opaque; then it changes
//     places with the whiteout. A crash before that leaves it to the sweep;
//     after it, the whiteout.
func (fsys *FS) mkdir(name string, perm fs.FileMode, seen *Sight) error {
	t, p, e, here, err := fsys.beginCreate(name, false, seen)
	if err != nil {
		return err
	}
	if e.exists() {
		return t.end(syscall.EEXIST)
	}
	upper := p.dir.upper
	t.changed(upper)
	if here == absent {
		if err = upper.Mkdir(p.name, at.Perm(perm)); err == nil {
			fsys.markNewDir(p)
		}
		return t.end(err)
	}
	temp, err := fsys.staging.newNamed(p.dir)
	if err != nil {
		return t.end(err)
	}
	defer temp.close()
	if err = temp.dir.Mkdir(temp.name, at.Perm(perm)); err == nil {
		err = fsys.setOwnXattr(temp.dir, temp.name, fsys.marks.opaque, opaqueYes)
	}
	if err == nil {
		err = fsys.syncTemp(temp, &at.Stat{Mode: syscall.S_IFDIR})
	}
	if err == nil {
		err = fsys.show(t, p, here, temp, e, true)
	}
	return t.end(err)
}

// markNewDir marks a directory that was just made opaque wherever something of
// its name may come to be below, if redirects are written at all. Nothing is
// now: without the mark it shows the same, and so a failure is none (compare
// ovl_create_upper).
func (fsys *FS) markNewDir(p place) {
	if p.dir.isMerged() && fsys.writeRedirects {
		_ = fsys.setOwnXattr(p.dir.upper, p.name, fsys.marks.opaque, opaqueYes) // see above
	}
}

// isNewOpaque says whether a new directory that takes its name when it is full
// is marked opaque: where something of its name is below, and wherever
// something may come to be there, if redirects are written at all (compare
// ovl_create_upper).
func (fsys *FS) isNewOpaque(p place, here presence) bool {
	return here == whitedOut || fsys.hidesLower(p.dir, p.name) || p.dir.isMerged() && fsys.writeRedirects
}

// MkdirAll makes a directory and those above it that are missing.
func (fsys *FS) MkdirAll(name string, perm fs.FileMode) error {
	components, err := splitName(name)
	if err != nil {
		return pathError("mkdir", name, err)
	}
	path := "."
	for _, c := range components {
		path = joinPath(path, c)
		if err := fsys.mkdir(path, perm, nil); err != nil && !errors.Is(err, syscall.EEXIST) {
			return pathError("mkdir", path, err)
		}
	}
	info, err := fsys.Stat(name)
	if err == nil && !info.IsDir() {
		err = pathError("mkdir", name, syscall.ENOTDIR)
	}
	return err
}

// Symlink makes newname a symlink to oldname, whatever that is.
func (fsys *FS) Symlink(oldname, newname string) error {
	return linkError("symlink", oldname, newname, fsys.symlink(oldname, newname))
}

func (fsys *FS) symlink(target, name string) error {
	t, p, e, here, err := fsys.beginCreate(name, false, nil)
	if err != nil {
		return err
	}
	if e.exists() {
		return t.end(syscall.EEXIST)
	}
	upper := p.dir.upper
	t.changed(upper)
	if here == absent {
		return t.end(upper.Symlink(target, p.name))
	}
	temp, err := fsys.staging.newNamed(p.dir)
	if err != nil {
		return t.end(err)
	}
	defer temp.close()
	if err = temp.dir.Symlink(target, temp.name); err == nil {
		err = fsys.show(t, p, here, temp, e, false)
	}
	return t.end(err)
}

// Link gives the file oldname a second name. Both are in upper then, and
// content written through one shows through the other.
// Errors: EEXIST; EPERM for a directory.
func (fsys *FS) Link(oldname, newname string) error {
	var err error
	for range maxRaces {
		if err = fsys.tryLink(oldname, newname); err == errContentFar {
			err = errorOr(fsys.copyUp(oldname, false, wholeContent), errRaced)
		}
		if err != errRaced {
			break
		}
	}
	return linkError("link", oldname, newname, err)
}

func (fsys *FS) tryLink(oldname, newname string) error {
	t, err := fsys.change()
	if err != nil {
		return err
	}
	po, err := t.walk(oldname, false)
	if err != nil {
		return t.end(err)
	}
	old, err := fsys.find(po.dir, po.name)
	if err != nil {
		return t.end(err)
	}
	pn, err := t.walk(newname, false)
	if err != nil {
		return t.end(err)
	}
	if _, err := fsys.find(pn.dir, pn.name); err == nil {
		return t.end(syscall.EEXIST)
	} else if err != syscall.ENOENT {
		return t.end(err)
	}
	if old.st.IsDir() {
		return t.end(syscall.EPERM)
	}
	if old.layer != 0 {
		t.end(nil) // nothing was changed
		if err := fsys.copyUp(oldname, false, anyContent); err != nil {
			return err
		}
		return errRaced
	}
	if err := t.raiseUnlocked(&pn); err != nil {
		return t.end(err)
	}
	t.lock(po.dir.path, pn.dir.path)
	return t.end(fsys.linkLocked(t, po, pn))
}

// linkLocked links what upper has at po.
//
//  1. The new parent is marked impure if the file has an origin.
//  2. A metacopy gets a redirect that leads to its content from anywhere.
//  3. The link is made; over a whiteout, in staging, and renamed onto it.
//
// Preconditions: the names in both directories are locked.
func (fsys *FS) linkLocked(t *txn, po, pn place) error {
	e, here, err := t.lookup(pn)
	if err != nil {
		return err
	}
	if e.exists() {
		return syscall.EEXIST
	}
	if err := fsys.refuseInto(pn.dir); err != nil {
		return err
	}
	if err := fsys.refuseMarked(&po.dir.upper.Dir, po.name); err != nil {
		return err
	}
	if err := fsys.carryImpure(po.dir.upper, po.name, pn.dir); err != nil {
		return err
	}
	f, err := fsys.find(po.dir, po.name)
	if err != nil || f.layer != 0 {
		return errorOr(err, errRaced) // removed or replaced since
	}
	if err := fsys.redirectMetacopy(po, &f.st, false); err != nil {
		return err
	}
	defer func() { fsys.keepTag(fsys.tagOf(&f), f.at, po.name) }()
	t.changed(pn.dir.upper)
	if here == absent {
		return raced(po.dir.upper.Link(po.name, pn.dir.upper, pn.name))
	}
	temp := fsys.staging.reserve()
	defer temp.close()
	if err := po.dir.upper.Link(po.name, temp.dir, temp.name); err != nil {
		return raced(err)
	}
	return temp.replace(pn.dir.upper, pn.name)
}

// raced says that what was just seen is no longer there.
func raced(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) {
		return errRaced
	}
	return err
}

// carryImpure marks the directory to as impure when it is about to hold the
// object name of from, which has an origin.
func (fsys *FS) carryImpure(from *at.RWDir, name string, to *dir) error {
	has, err := fsys.marks.has(&from.Dir, name, fsys.marks.origin)
	if err != nil || !has {
		return err
	}
	return fsys.markImpure(to)
}

// beginCreate begins the making of name: its parent is in upper, the names in
// there are locked, and what the name is made of is known. The transaction is
// ended when there is an error.
//
// If something was seen there, or nothing, it is still so; of a free name
// (Sight.isFree) it is so until the name is taken.
func (fsys *FS) beginCreate(name string, follow bool, seen *Sight) (t *txn, p place, e *entry, here presence, err error) {
	if t, err = fsys.change(); err != nil {
		return nil, p, nil, absent, err
	}
	fail := func(err error) (*txn, place, *entry, presence, error) {
		return nil, p, nil, absent, t.end(err)
	}
	if seen != nil {
		p, err = t.walkTo(seen)
	} else {
		p, err = t.walk(name, follow)
	}
	if err != nil {
		return fail(err)
	}
	if p.dir.upper == nil {
		// What cannot be made leaves its ancestors where they are.
		if _, err := fsys.find(p.dir, p.name); err == nil {
			return fail(syscall.EEXIST)
		} else if err != syscall.ENOENT {
			return fail(err)
		}
	}
	if err := fsys.refuseInto(p.dir); err != nil {
		return fail(err)
	}
	if err := t.raise(&p); err != nil {
		return fail(err)
	}
	if p.isRoot() {
		return fail(syscall.EEXIST)
	}
	if seen.isFree(p.dir) {
		return t, p, &entry{name: p.name}, absent, nil
	}
	if e, here, err = t.lookup(p); err != nil {
		return fail(err)
	}
	if err := seen.stillEntry(e); err != nil {
		return fail(err)
	}
	return t, p, e, here, nil
}

// refuseInto refuses new names in a directory that chattr +i protects.
func (fsys *FS) refuseInto(d *dir) error {
	p, err := d.protection()
	if err == nil && p.immutable {
		err = errProtected
	}
	return err
}

// show gives a staged object the name p, where e is, in one atomic step:
// whatever had it is replaced, a full directory included. isDir is of the
// object.
//
//  1. The object takes the name in upper. Before: e; after: the object.
//  2. What changed places with it goes to the trash. A crash leaves it to the
//     sweep.
//
// Preconditions: p.dir is in upper, its names are locked; an object that is a
// directory is opaque if anything can be below.
func (fsys *FS) show(t *txn, p place, here presence, temp *temp, e *entry, isDir bool) error {
	upper := p.dir.upper
	t.changed(upper)
	switch here {
	case absent, lowerOnly:
		return temp.place(upper, p.name)
	case whitedOut:
		if !isDir {
			return temp.replace(upper, p.name)
		}
		return temp.exchange(upper, p.name) // the whiteout goes with temp.close
	case pureUpper, covering, merged:
	}
	if !isDir && !e.isDir() {
		return temp.replace(upper, p.name)
	}
	if err := temp.exchange(upper, p.name); err != nil {
		return err
	}
	if e.isDir() {
		temp.retire()
	}
	return nil
}

// retire sends what took a staged object's place, a tree, to the trash.
func (t *temp) retire() {
	if t.nest != "" {
		return // it goes with the nursery
	}
	name := t.name
	t.name = ""
	t.s.toTrash(name)
}
