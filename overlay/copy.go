package overlay

import (
	"errors"
	"fmt"
	"io"
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
// has its entity tag.
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
	c := copier{fsys: fsys, shallow: o.Shallow}
	if err := c.copyObject(from, staged, true); err != nil {
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

// A copier makes copies in staging.
type copier struct {
	fsys    *FS
	shallow bool
}

// copyObject copies what the merged path shows to a name in staging.
func (c *copier) copyObject(path string, to *temp, top bool) error {
	f, err := c.fsys.Lstat(path)
	if err != nil {
		if !top && errors.Is(err, syscall.ENOENT) {
			return nil // deleted while the tree was copied
		}
		return err
	}
	switch {
	case f.st.IsDir():
		return c.copyDir(path, &f.st, to, top)
	case f.st.IsRegular():
		return c.copyFile(path, to, top)
	case f.st.IsSymlink():
		target, err := c.fsys.Readlink(path)
		if err != nil {
			return err
		}
		return to.dir.Symlink(target, to.name)
	case top:
		return syscall.ENXIO
	}
	return nil // FIFOs, sockets and devices mean something only where they are
}

func (c *copier) copyFile(path string, to *temp, top bool) error {
	src, err := c.fsys.open(path)
	if !top && errors.Is(err, syscall.ENOENT) {
		return nil // as in copyObject
	}
	if err != nil {
		return err
	}
	defer src.Close()
	if src.read == nil {
		return fmt.Errorf("%s became a directory while it was copied: %w", path, syscall.EISDIR)
	}
	file, err := to.dir.Create(to.name, at.Perm(0o600))
	if err != nil {
		return err
	}
	defer file.Close()
	st := src.info.st
	copied, err := file.CopyFrom(src.read, st.Size)
	if err != nil {
		return err
	}
	if copied != st.Size {
		return fmt.Errorf("%s became shorter while it was copied: %w", path, syscall.EIO)
	}
	if err := c.copyAttributes(path, &st, file, 0); err != nil {
		return err
	}
	if c.fsys.durability != DurabilityNone {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	var copy at.Stat
	if err := file.Stat(&copy); err != nil {
		return err
	}
	c.fsys.tags.keep(c.fsys.tagOf(&found{st: st, layer: src.info.layer}), &copy) // the same content
	return nil
}

// copyAttributes gives a copy what belongs to content: permissions, extended
// attributes, modification time. It keeps the bit of its mode that it has from
// the directory it was made in.
func (c *copier) copyAttributes(path string, st *at.Stat, to attributes, inherited uint32) error {
	return c.fsys.see(path, false, func(p place, f found) error {
		late, err := c.fsys.copyXattrs(f.at, p.name, to, true)
		if err != nil {
			return err
		}
		if err := to.Chmod(st.Mode&0o1777 | inherited); err != nil {
			return err
		}
		for _, attr := range late {
			if err := to.Setxattr(attr.name, attr.value); err != nil {
				return fmt.Errorf("%s: %w", attr.name, err)
			}
		}
		return to.SetTimes(st.Atime, st.Mtime)
	})
}

func (c *copier) copyDir(path string, st *at.Stat, to *temp, top bool) error {
	if err := to.dir.Mkdir(to.name, 0o700); err != nil {
		return err
	}
	var made at.Stat
	if err := to.dir.Stat(to.name, &made); err != nil {
		return err
	}
	if !c.shallow {
		if err := c.copyMembers(path, to); err != nil {
			return err
		}
	}
	if err := c.copyAttributes(path, st, target{to.dir, to.name}, made.Mode&syscall.S_ISGID); err != nil {
		return err
	}
	return c.fsys.syncTemp(to, st)
}

func (c *copier) copyMembers(path string, to *temp) error {
	src, err := c.fsys.open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	inner, err := to.dir.OpenRWDir(to.name)
	if err != nil {
		return err
	}
	defer inner.Close()
	for {
		infos, err := src.Infos(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, info := range infos {
			member := &temp{s: to.s, dir: inner, name: info.name}
			if err := c.copyObject(joinPath(path, info.name), member, false); err != nil {
				return err
			}
		}
	}
}
