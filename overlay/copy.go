package overlay

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"

	"overdav/overlay/internal/at"
)

// CopyOptions say how Copy copies.
type CopyOptions struct {
	Overwrite bool // replace what stands at the destination, a full directory included
	Shallow   bool // a directory without its members (RFC 4918, section 9.8.3, Depth 0)
}

// Copy copies a file, or a directory with everything in it, to dst in one
// atomic step: the copy is made in staging, by reflink where the file system
// can, and then shown. Permissions but setuid and setgid, times, attributes and
// holes are copied; the copy is its maker's. Symlinks are copied as links, hard
// links as files; FIFOs, sockets and devices are left out. The copy of a file
// has its entity tag; so has a file in a copied directory, if it has attributes.
//
// Errors: ENOENT; EEXIST without Overwrite; EINVAL onto itself, into itself or
// over what it is in. Whatever goes wrong, dst is as it was.
func (fsys *FS) Copy(src, dst string, o CopyOptions) error {
	return linkError("copy", src, dst, fsys.copy(src, dst, o))
}

func (fsys *FS) copy(src, dst string, o CopyOptions) error {
	from, isDir, err := fsys.beforeCopy(src, dst, o)
	if err != nil {
		return err
	}
	parent, name := splitLast(dst)
	staged, err := fsys.stageIn(parent, name)
	if err != nil {
		return err
	}
	defer staged.close()
	if err := fsys.copyToStaging(from, staged, isDir, o.Shallow); err != nil {
		return err
	}
	for range maxRaces {
		if err := fsys.showCopy(staged, dst, isDir, o.Overwrite); err != errRaced {
			return err
		}
	}
	return errRaced
}

// beforeCopy refuses what cannot be copied before anything is done. from is
// the source's path without symlinks.
func (fsys *FS) beforeCopy(src, dst string, o CopyOptions) (from string, isDir bool, err error) {
	t, err := fsys.change()
	if err != nil {
		return "", false, err
	}
	ps, err := t.walk(src, true)
	if err != nil {
		return "", false, t.end(err)
	}
	pd, err := t.walk(dst, false)
	if err != nil {
		return "", false, t.end(err)
	}
	from = ps.path()
	to := pd.path()
	f, err := fsys.find(ps.dir, ps.name)
	if err != nil {
		return "", false, t.end(err)
	}
	if from == to || inside(from, to) || f.st.IsDir() && inside(to, from) {
		return "", false, t.end(syscall.EINVAL)
	}
	if _, err = fsys.find(pd.dir, pd.name); err == nil && !o.Overwrite {
		err = syscall.EEXIST
	} else if err == syscall.ENOENT {
		err = nil
	}
	return from, f.st.IsDir(), t.end(err)
}

// stageIn reserves a name in staging that inherits from the directory parent,
// which is copied up.
func (fsys *FS) stageIn(parent, name string) (*temp, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, err
	}
	p, err := t.walk(joinPath(parent, name), false)
	if err == nil {
		err = fsys.refuseInto(p.dir)
	}
	if err == nil {
		err = t.raiseUnlocked(&p)
	}
	if err != nil {
		return nil, t.end(err)
	}
	temp, err := fsys.staging.newNamed(p.dir)
	if err != nil {
		return nil, t.end(err)
	}
	if err := t.end(nil); err != nil {
		temp.close()
		return nil, err
	}
	return temp, nil
}

// showCopy gives the finished copy its name.
func (fsys *FS) showCopy(staged *temp, dst string, isDir, overwrite bool) error {
	t, err := fsys.changeTree() // what is replaced may be a directory
	if err != nil {
		return err
	}
	p, err := t.walk(dst, false)
	if err == nil {
		err = t.raise(&p)
	}
	if err == nil && p.isRoot() {
		err = syscall.EBUSY
	}
	if err != nil {
		return t.end(err)
	}
	e, here, err := t.lookup(p)
	if err != nil {
		return t.end(err)
	}
	if e.exists() {
		if !overwrite {
			return t.end(syscall.EEXIST)
		}
		if err := fsys.refuseRemoval(p, e, true); err != nil {
			return t.end(err)
		}
	}
	if isDir {
		return t.end(fsys.showDirCopy(t, p, here, staged, e))
	}
	var st at.Stat
	if err := staged.dir.Stat(staged.name, &st); err != nil {
		return t.end(err)
	}
	if err := fsys.show(t, p, here, staged, e, false); err != nil {
		return t.end(err)
	}
	fsys.keepTag(fsys.tags.of(&st), &p.dir.upper.Dir, p.name)
	return t.end(nil)
}

// showDirCopy is show for the copy of a directory, which is whole: nothing below
// belongs to it. Its times are set once more, because xfs gives a directory that
// changes places a new modification time.
func (fsys *FS) showDirCopy(t *txn, p place, here presence, staged *temp, e *entry) error {
	var st at.Stat
	if err := staged.dir.Stat(staged.name, &st); err != nil {
		return err
	}
	if fsys.isNewOpaque(p, here) {
		if err := fsys.setOwnXattr(staged.dir, staged.name, fsys.marks.opaque, opaqueYes); err != nil {
			return err
		}
	}
	if err := fsys.show(t, p, here, staged, e, true); err != nil {
		return err
	}
	_ = p.dir.upper.SetTimes(p.name, st.Atime, st.Mtime) // it shows; its time is no reason to say that it does not
	return nil
}

// copyToStaging copies what the merged path shows to a name in staging:
//
//  1. The object is copied with everything in it. Of a tree nothing is synced.
//  2. A file is synced while it is open; for a tree, all that was written to
//     upper's file system is, at once: a sync of each file takes minutes.
//
// A crash leaves it to the sweep.
func (fsys *FS) copyToStaging(path string, to *temp, isDir, shallow bool) error {
	tree := newTreeCopy(fsys, shallow)
	if err := tree.run(path, to); err != nil {
		return err
	}
	switch {
	case !isDir || fsys.durability == DurabilityNone:
		return nil
	case shallow:
		return fsys.syncTemp(to, &at.Stat{Mode: syscall.S_IFDIR})
	}
	return fsys.work.SyncAll()
}

// A copier copies one object after another to staging, for a treeCopy.
type copier struct {
	*treeCopy
	names []byte // for the names of attributes
}

// copyPath copies what the merged path shows. What is deleted while a tree is
// copied is left out, and so are FIFOs, sockets and devices, which mean something
// only where they are. in is the directory that the copy is made in; nil for the
// top, which must be there.
func (c *copier) copyPath(path string, to *temp, in *dirCopy) error {
	top := in == nil
	src, f, target, err := c.find(path)
	for range maxRaces {
		if err != errRaced {
			break
		}
		src, f, target, err = c.find(path)
	}
	switch {
	case at.IsMissing(err) && !top:
		return nil
	case err != nil:
		return err
	case src != nil:
		return c.copyFile(src, to, in.keep())
	case f.st.IsSymlink():
		return to.dir.Symlink(target, to.name)
	case f.st.IsDir():
		return c.copyDir(path, to, in)
	case top:
		return syscall.ENXIO
	}
	return nil
}

// find finds what is to be copied, and opens it if it is a file, or reads where
// it leads if it is a symlink.
// Errors: errRaced when it is another by now.
func (c *copier) find(path string) (src *source, f found, target string, err error) {
	err = c.fsys.see(path, false, func(p place, seen found) (err error) {
		f = seen
		switch {
		case f.st.IsRegular():
			src, err = c.open(p.dir, f.at, f.layer, p.name)
		case f.st.IsSymlink():
			target, err = f.at.Readlink(p.name)
		}
		return err
	})
	return src, f, target, err
}

// A source is a file to be copied, with its attributes.
type source struct {
	file  *at.File
	st    at.Stat
	layer int
	attrs []xattrPair
}

func (s *source) tag(fsys *FS) tag { return fsys.tagOf(&found{st: s.st, layer: s.layer}) }

// open opens the regular file name of d that is in a layer, where d is from.
// Errors: errRaced when no regular file shows there by now.
func (c *copier) open(d *dir, from *at.Dir, layer int, name string) (src *source, err error) {
	file, err := from.OpenFile(name)
	if err != nil {
		return nil, raced(err)
	}
	src = &source{file: file, layer: layer}
	if err = file.Stat(&src.st); err == nil && !src.st.IsRegular() {
		err = errRaced
	}
	if err == nil {
		err = c.readAttributes(src, d, from, name)
	}
	if err != nil {
		_ = src.file.Close() // only read
		return nil, err
	}
	return src, nil
}

// readAttributes reads the attributes of a file, and leads to its content if it
// is a metacopy. Most have no attribute at all.
// Errors: errRaced for a whiteout.
func (c *copier) readAttributes(src *source, d *dir, from *at.Dir, name string) error {
	if c.names == nil {
		c.names = make([]byte, 512)
	}
	names, err := src.file.XattrNames(c.names)
	if err != nil && err != syscall.EOPNOTSUPP {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	marks := c.fsys.marks
	metacopy, white, shown := false, false, false
	for attr := range bytes.SplitSeq(names, []byte{0}) {
		metacopy = metacopy || string(attr) == marks.metacopy
		white = white || string(attr) == marks.whiteout
		shown = shown || len(attr) > 0 && !marks.private(string(attr))
	}
	if white && src.st.Size == 0 {
		return errRaced
	}
	if shown {
		if src.attrs, err = c.fsys.clientXattrs(from, name); err != nil {
			return err
		}
	}
	switch {
	case !metacopy || src.st.Size == 0:
		return nil
	case !c.fsys.metacopy:
		return errMetacopy
	}
	content, err := c.fsys.openContent(d, name, &src.st)
	if err == nil {
		_ = src.file.Close() // only read
		src.file = content
	}
	return err
}

// copyFile makes a copy of src, which it closes; keep is what the directory lets
// its files keep, nil for a file that is copied alone. In a directory those keep
// their tags that have attributes, which may tell of their content.
func (c *copier) copyFile(src *source, to *temp, keep *kept) error {
	defer src.file.Close()
	perm := src.st.Mode & 0o777
	if len(src.attrs) > 0 {
		perm |= 0o600 // a read-only mode refuses user attributes, setAttributes has the last word
	}
	file, err := to.dir.Create(to.name, perm)
	if err != nil {
		return err
	}
	defer file.Close()
	if err = c.fsys.copyWhole(file, src.file, &src.st); err != nil {
		return err
	}
	alone := keep == nil
	if alone {
		keep = new(kept)
	}
	if err = c.setAttributes(file, src, keep); err != nil {
		return err
	}
	if alone && c.fsys.durability != DurabilityNone {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	if !alone && len(src.attrs) == 0 {
		return nil
	}
	var made at.Stat
	if err := file.Stat(&made); err != nil {
		return err
	}
	c.fsys.tags.keep(src.tag(c.fsys), &made) // the same content
	return nil
}

// kept are the permissions that files keep which are made with them in one
// directory, as far as is known: the umask or a default ACL takes the same from
// each (umask(2), acl(5)).
type kept struct{ atomic.Uint32 }

// setAttributes gives a copy what belongs to content: permissions, extended
// attributes, modification time.
func (c *copier) setAttributes(to *at.RWFile, src *source, keep *kept) error {
	late, err := c.fsys.setXattrs(src.attrs, to, true)
	if err != nil {
		return err
	}
	if err := to.SetTimes(src.st.Atime, src.st.Mtime); err != nil {
		return err
	}
	perm := src.st.Mode & 0o1777
	if len(src.attrs) == 0 && perm&^keep.Load() == 0 {
		return nil // as it was made
	}
	var made at.Stat
	if err := to.Stat(&made); err != nil {
		return err
	}
	if len(late) == 0 && made.Mode&0o7777 == perm {
		if len(src.attrs) == 0 {
			keep.Or(perm)
		}
		return nil
	}
	return setLate(to, perm, late)
}

// setLate sets permissions, and then the attributes that these must precede.
func setLate(to attributes, perm uint32, late []xattrPair) error {
	if err := to.Chmod(perm); err != nil {
		return err
	}
	for _, attr := range late {
		if err := to.Setxattr(attr.name, attr.value); err != nil {
			return fmt.Errorf("%s: %w", attr.name, err)
		}
	}
	return nil
}
