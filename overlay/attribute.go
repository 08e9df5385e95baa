package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// Chmod sets the permissions of name, with setuid, setgid and sticky, copying
// it up. Symlinks are followed.
func (fsys *FS) Chmod(name string, mode fs.FileMode) error {
	return fsys.setAttribute("chmod", name, true, func(t target) error { return t.Chmod(at.Perm(mode)) })
}

// Chown sets the owner of name, copying it up; -1 keeps one. Symlinks are
// followed.
func (fsys *FS) Chown(name string, uid, gid int) error {
	return fsys.setAttribute("chown", name, true, func(t target) error { return t.Chown(uid, gid) })
}

// Lchown is Chown for a symlink itself.
func (fsys *FS) Lchown(name string, uid, gid int) error {
	return fsys.setAttribute("lchown", name, false, func(t target) error { return t.Chown(uid, gid) })
}

// Chtimes sets the access and modification time of name, copying it up; a zero
// time keeps the one there is. Symlinks are followed.
func (fsys *FS) Chtimes(name string, atime, mtime time.Time) error {
	return fsys.setAttribute("chtimes", name, true, func(t target) error { return t.SetTimes(atime, mtime) })
}

// Setxattr sets an extended attribute of name, copying it up. Symlinks are
// followed. A name in the namespace of the marks is kept escaped
// (overlayfs.rst, "Nesting").
func (fsys *FS) Setxattr(name, attr string, value []byte) error {
	stored, err := fsys.marks.stored(attr)
	if err != nil {
		return pathError("setxattr", name, err)
	}
	return fsys.setAttribute("setxattr", name, true, func(t target) error {
		return writable(t, func() error { return t.Setxattr(stored, value) })
	})
}

// Removexattr removes an extended attribute of name, copying it up.
// Errors: ENODATA when there is none; then nothing is copied up.
func (fsys *FS) Removexattr(name, attr string) error {
	if _, err := fsys.getxattr(name, attr); err != nil {
		return pathError("removexattr", name, err)
	}
	stored, err := fsys.marks.stored(attr)
	if err != nil {
		return pathError("removexattr", name, err)
	}
	return fsys.setAttribute("removexattr", name, true, func(t target) error {
		return writable(t, func() error { return t.dir.Removexattr(t.name, stored) })
	})
}

// Getxattr returns an extended attribute of name. Symlinks are followed.
// Errors: ENODATA when there is none, and for every mark.
func (fsys *FS) Getxattr(name, attr string) ([]byte, error) {
	value, err := fsys.getxattr(name, attr)
	return value, pathError("getxattr", name, err)
}

func (fsys *FS) getxattr(name, attr string) (value []byte, err error) {
	stored, err := fsys.marks.stored(attr)
	if err != nil {
		return nil, err
	}
	err = fsys.see(name, true, func(p place, f found) error {
		value, err = f.at.Getxattr(p.name, stored)
		return err
	})
	return value, err
}

// Listxattr returns the names of the extended attributes of name, without the
// marks. Symlinks are followed.
func (fsys *FS) Listxattr(name string) (attrs []string, err error) {
	err = fsys.see(name, true, func(p place, f found) error {
		stored, err := f.at.Listxattr(p.name)
		for _, s := range stored {
			if attr, ok := fsys.marks.shown(s); ok {
				attrs = append(attrs, attr)
			}
		}
		return err
	})
	return attrs, pathError("listxattr", name, err)
}

// see finds the object that name shows and has it looked at.
func (fsys *FS) see(name string, follow bool, fn func(p place, f found) error) error {
	t, err := fsys.look()
	if err != nil {
		return err
	}
	p, f, err := t.find(name, follow, toLook)
	if err == nil {
		err = fn(p, f)
	}
	return t.end(err)
}

// setAttribute copies name up and changes one attribute of it.
func (fsys *FS) setAttribute(op, name string, follow bool, set func(target) error) error {
	for range maxRaces {
		if err := fsys.copyUp(name, follow, anyContent); err != nil {
			return pathError(op, name, err)
		}
		err := fsys.trySetAttribute(name, follow, set)
		if err != errRaced {
			return pathError(op, name, err)
		}
	}
	return pathError(op, name, errRaced)
}

func (fsys *FS) trySetAttribute(name string, follow bool, set func(target) error) error {
	t, err := fsys.change()
	if err != nil {
		return err
	}
	p, err := t.walk(name, follow)
	if err != nil {
		return t.end(err)
	}
	t.lock(p.dir.path)
	f, err := fsys.find(p.dir, p.name)
	if err != nil {
		return t.end(err)
	}
	if f.layer != 0 || follow && f.st.IsSymlink() { // a link came there since the walk
		return t.end(errRaced)
	}
	if err := fsys.refuseMarked(f.at, p.name); err != nil {
		return t.end(err)
	}
	if wait := t.lockIncomplete(&f.st); wait != nil {
		t.end(nil) // nothing was changed
		wait()
		return errRaced
	}
	if err := set(target{p.dir.upper, p.name}); err != nil {
		return t.end(err)
	}
	fsys.keepTag(fsys.tagOf(&f), f.at, p.name)
	return t.end(fsys.syncAttributes(p.dir.upper, p.name, &f.st))
}

// refuseMarked refuses to change what the protattr mark protects.
func (fsys *FS) refuseMarked(d *at.Dir, name string) error {
	value, err := d.Getxattr(name, fsys.marks.protattr)
	if err == nil && parseProtection(value).any() {
		return errProtected
	}
	switch err {
	case nil, syscall.ENODATA, syscall.EOPNOTSUPP:
		return nil
	case syscall.EACCES: // it may not be read, see marks.has
		if has, listErr := fsys.marks.has(d, name, fsys.marks.protattr); listErr != nil || !has {
			return listErr
		}
	}
	return err
}

// syncAttributes makes changed attributes of an object last.
func (fsys *FS) syncAttributes(d *at.RWDir, name string, st *at.Stat) error {
	if fsys.durability != DurabilityFull {
		return nil
	}
	if st.IsDir() || st.IsRegular() {
		return fsys.syncName(d, name)
	}
	return d.Sync() // nothing else can be opened to be synced
}

func (fsys *FS) syncName(d *at.RWDir, name string) error { return fsys.orSyncAll(d.SyncName(name)) }

// orSyncAll syncs all of upper's file system where something may not be read
// by us, and so not be synced alone.
func (fsys *FS) orSyncAll(err error) error {
	if errors.Is(err, syscall.EACCES) {
		return fsys.work.SyncAll()
	}
	return err
}

// A target is a name in a directory of upper or of staging, the attributes of
// which are set.
type target struct {
	dir  *at.RWDir
	name string
}

func (t target) Stat(st *at.Stat) error { return t.dir.Stat(t.name, st) }

func (t target) Chmod(perm uint32) error { return t.dir.Chmod(t.name, perm) }

func (t target) Chown(uid, gid int) error { return t.dir.Chown(t.name, uid, gid) }

func (t target) Setxattr(attr string, value []byte) error {
	return t.dir.Setxattr(t.name, attr, value)
}

func (t target) SetTimes(atime, mtime time.Time) error {
	return t.dir.SetTimes(t.name, atime, mtime)
}

// attributes are set on a target or on an open file.
type attributes interface {
	Chmod(perm uint32) error
	Chown(uid, gid int) error
	Setxattr(attr string, value []byte) error
	SetTimes(atime, mtime time.Time) error
}

// moded has permissions that can be looked at and set.
type moded interface {
	Stat(st *at.Stat) error
	Chmod(perm uint32) error
}

// writable makes a change to o, which is ours, also where its mode does not let
// an ordinary user write to it: the mode is then another one meanwhile, and
// after a crash in between.
func writable(o moded, change func() error) error {
	err := change()
	if !errors.Is(err, syscall.EACCES) {
		return err
	}
	var st at.Stat
	if o.Stat(&st) != nil || o.Chmod(st.Mode&0o7777|0o200) != nil {
		return err
	}
	return errors.Join(change(), o.Chmod(st.Mode&0o7777))
}

// attributes of a staged object.
func (t *temp) attributes() attributes {
	if t.file != nil {
		return t.file
	}
	return target{t.dir, t.name}
}

// Attributes that need care.
const (
	aclAccess  = "system.posix_acl_access"
	capability = "security.capability"
)

// copyAttributes gives a copy the attributes of a lower object, in the order
// in which none spoils another: chown(2) clears setuid and the capabilities,
// chmod(2) rewrites the ACL, a read-only mode refuses user attributes. A file
// that has the owner and the permissions already keeps them: to ask costs less.
func (fsys *FS) copyAttributes(src *lowerObject, t *temp) (err error) {
	to := t.attributes()
	var own at.Stat // zero: not asked
	if t.file != nil {
		if err := t.file.Stat(&own); err != nil {
			return err
		}
	}
	squashed, owned := false, t.file != nil && own.UID == src.st.UID && own.GID == src.st.GID
	if !owned {
		if squashed, err = chownAs(to, &src.st); err != nil {
			return err
		}
	}
	strip := squashed || src.layer.nosuid
	late, err := fsys.copyXattrs(src.at, src.name, to, strip)
	if err != nil {
		return err
	}
	if err := fsys.setOrigin(src, to); err != nil {
		return err
	}
	if p := src.layer.protection(&src.st); p.any() {
		if err := to.Setxattr(fsys.marks.protattr, formatProtection(p)); err != nil {
			return err
		}
	}
	if !owned || len(late) > 0 || own.Mode&0o7777 != src.st.Mode&0o7777 {
		if err := fsys.chmodAs(to, &src.st, strip, late); err != nil {
			return err
		}
	}
	if err := copyFlags(src, t); err != nil {
		return err
	}
	if err := to.SetTimes(src.st.Atime, src.st.Mtime); err != nil {
		return err
	}
	return fsys.syncTemp(t, &src.st)
}

// chownAs gives the owner of st. Who may not give files away keeps them, and
// they lose what their owner's rights would mean under another.
func chownAs(to attributes, st *at.Stat) (squashed bool, err error) {
	err = to.Chown(int(st.UID), int(st.GID))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) {
		return true, nil
	}
	return false, err
}

// chmodAs gives the permissions of st, and then the attributes that these must
// precede.
func (fsys *FS) chmodAs(to attributes, st *at.Stat, strip bool, late []xattrPair) error {
	perm := st.Mode & 0o7777
	if strip {
		perm = withoutPrivileges(st)
	}
	switch {
	case st.IsSymlink():
		return nil
	case st.IsDir():
		return fsys.setLateOfDir(to, perm, late)
	}
	return setLate(to, perm, late)
}

// setLateOfDir is setLate for a directory: it opens it to an ordinary user, also
// if it has an ACL, in which the owner's bits are others.
func (fsys *FS) setLateOfDir(to attributes, perm uint32, late []xattrPair) error {
	perm |= fsys.openDirs
	err := setLate(to, perm, late)
	if err == nil && len(late) > 0 && fsys.openDirs != 0 {
		err = to.Chmod(perm)
	}
	return err
}

// withoutPrivileges is the mode without setuid, and without setgid where that
// lends a group's rights.
func withoutPrivileges(st *at.Stat) uint32 {
	perm := st.Mode & 0o7777
	if st.IsDir() {
		return perm
	}
	perm &^= syscall.S_ISUID
	if perm&0o010 != 0 {
		perm &^= syscall.S_ISGID
	}
	return perm
}

type xattrPair struct {
	name  string
	value []byte
}

// copyXattrs copies all attributes but the marks; those that the mode must
// precede are returned.
func (fsys *FS) copyXattrs(from *at.Dir, name string, to attributes, strip bool) (late []xattrPair, err error) {
	pairs, err := fsys.clientXattrs(from, name)
	if err != nil {
		return nil, err
	}
	return fsys.setXattrs(pairs, to, strip)
}

// setXattrs is copyXattrs for attributes that were read.
func (fsys *FS) setXattrs(pairs []xattrPair, to attributes, strip bool) (late []xattrPair, err error) {
	for _, attr := range pairs {
		switch {
		case strip && attr.name == capability:
			continue
		case attr.name == aclAccess || attr.name == capability:
			late = append(late, attr)
			continue
		}
		if err := to.Setxattr(attr.name, attr.value); err != nil && !fsys.mayLack(attr.name, err) {
			return nil, fmt.Errorf("%s: %w", attr.name, err)
		}
	}
	return late, nil
}

// clientXattrs are the attributes of an object as they are stored, but for the
// marks.
func (fsys *FS) clientXattrs(d *at.Dir, name string) (pairs []xattrPair, err error) {
	attrs, err := d.Listxattr(name)
	if err != nil && err != syscall.EOPNOTSUPP {
		return nil, err
	}
	for _, attr := range attrs {
		if fsys.marks.private(attr) {
			continue
		}
		value, err := d.Getxattr(name, attr)
		if err == syscall.ENODATA || err == syscall.EOPNOTSUPP {
			continue // gone since the listing, or not for us to see
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", attr, err)
		}
		pairs = append(pairs, xattrPair{attr, value})
	}
	return pairs, nil
}

// mayLack says that a copy may do without an attribute which upper refused: a
// namespace it has not, or one that only root may write to.
func (fsys *FS) mayLack(attr string, err error) bool {
	if strings.HasPrefix(attr, "system.posix_acl_") {
		return false // it grants or denies
	}
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return !strings.HasPrefix(attr, "security.")
	}
	return errors.Is(err, syscall.EPERM) && !fsys.privileged && !strings.HasPrefix(attr, "user.")
}

// copyFlags carries the chattr flags over that the kernel does: S and A.
func copyFlags(src *lowerObject, t *temp) error {
	switch {
	case src.file != nil:
		if flags := src.file.Flags() & (at.FlagSync | at.FlagNoatime); flags != 0 {
			return ignoreNoFlags(t.file.SetFlags(t.file.Flags() | flags))
		}
	case src.st.IsDir():
		flags := src.at.Flags() & (at.FlagSync | at.FlagNoatime)
		if flags == 0 {
			return nil
		}
		d, err := t.dir.OpenRWDir(t.name)
		if err != nil {
			return err
		}
		defer d.Close()
		return ignoreNoFlags(d.SetFlags(d.Flags() | flags))
	}
	return nil
}

// ignoreNoFlags lets a file system be without inode flags, as the kernel does.
func ignoreNoFlags(err error) error {
	for _, e := range []error{syscall.ENOTTY, syscall.EOPNOTSUPP, syscall.EINVAL} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// syncTemp makes a staged object last before it is shown.
func (fsys *FS) syncTemp(t *temp, st *at.Stat) error {
	switch {
	case fsys.durability == DurabilityNone:
		return nil
	case t.file != nil:
		return t.file.Sync()
	case st.IsDir() && fsys.durability == DurabilityFull:
		return fsys.syncName(t.dir, t.name)
	}
	return nil // the directory that shows it is synced later
}
