package overlay

import (
	"bytes"
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
	if err := c.copyTop(from, staged, isDir); err != nil {
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

// A copier makes copies in staging. One of a tree opens each directory once, and
// reaches from there what is in it.
type copier struct {
	fsys    *FS
	shallow bool
	buf     []byte       // for small files
	names   []byte       // for the names of attributes
	tags    []writtenTag // of copies, not written down yet
}

// copyTop copies what the merged path shows to a name in staging:
//
//  1. The object is copied with everything in it. Of a tree nothing is synced.
//  2. A file is synced while it is open; for a tree, all that was written to
//     upper's file system is, at once: a sync of each file takes minutes.
//
// A crash leaves it to the sweep.
func (c *copier) copyTop(path string, to *temp, isDir bool) error {
	if err := c.copyPath(path, to, true); err != nil {
		return err
	}
	c.keepTags()
	switch {
	case !isDir || c.fsys.durability == DurabilityNone:
		return nil
	case c.shallow:
		return c.fsys.syncTemp(to, &at.Stat{Mode: syscall.S_IFDIR})
	}
	return c.fsys.work.SyncAll()
}

// copyPath copies what the merged path shows. What is deleted while a tree is
// copied is left out, and so are FIFOs, sockets and devices, which mean something
// only where they are.
func (c *copier) copyPath(path string, to *temp, top bool) error {
	var src *source
	var f found
	var target string
	err := c.fsys.see(path, false, func(p place, seen found) (err error) {
		f = seen
		switch {
		case f.st.IsRegular():
			src, err = c.open(p.dir, f, p.name)
		case f.st.IsSymlink():
			target, err = f.at.Readlink(p.name)
		}
		return err
	})
	switch {
	case at.IsMissing(err) && !top:
		return nil
	case err != nil:
		return err
	case src != nil:
		return c.copyFile(src, to, top)
	case f.st.IsSymlink():
		return to.dir.Symlink(target, to.name)
	case f.st.IsDir():
		return c.copyDir(path, to)
	case top:
		return syscall.ENXIO
	}
	return nil
}

// A source is a file to be copied, with its attributes.
type source struct {
	file  *at.File
	st    at.Stat
	tag   tag
	attrs []xattrPair
}

// open opens the regular file that was found in d.
// Errors: errRaced when it is another by now.
func (c *copier) open(d *dir, f found, name string) (src *source, err error) {
	src = new(source)
	if src.file, err = f.at.OpenFile(name); err != nil {
		return nil, raced(err)
	}
	if err = src.file.Stat(&src.st); err == nil && (!src.st.Same(&f.st) || !src.st.IsRegular()) {
		err = errRaced
	}
	if err == nil {
		src.tag = c.fsys.tagOf(&found{st: src.st, layer: f.layer})
		err = c.readAttributes(src, d, f, name)
	}
	if err != nil {
		_ = src.file.Close() // only read
		return nil, err
	}
	return src, nil
}

// readAttributes reads the attributes of a file, and leads to its content if it
// is a metacopy. Most have no attribute at all.
func (c *copier) readAttributes(src *source, d *dir, f found, name string) error {
	if c.names == nil {
		c.names = make([]byte, 512)
	}
	names, err := src.file.XattrNames(c.names)
	if err != nil && err != syscall.EOPNOTSUPP {
		return err
	}
	metacopy, shown := false, false
	for attr := range bytes.SplitSeq(names, []byte{0}) {
		metacopy = metacopy || string(attr) == c.fsys.marks.metacopy
		shown = shown || len(attr) > 0 && !c.fsys.marks.private(string(attr))
	}
	if shown {
		if src.attrs, err = c.fsys.clientXattrs(f.at, name); err != nil {
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

// smallFile is read and written at once: that takes fewer calls than a reflink
// or copy_file_range, and less time.
const smallFile = 64 << 10

// copyFile makes a copy of src, which it closes.
func (c *copier) copyFile(src *source, to *temp, sync bool) error {
	defer src.file.Close()
	file, err := to.dir.Create(to.name, src.st.Mode&0o777)
	if err != nil {
		return err
	}
	defer file.Close()
	if err = c.copyContent(file, src); err != nil {
		return err
	}
	var made at.Stat
	if err = c.setAttributes(file, src, &made); err != nil {
		return err
	}
	if sync && c.fsys.durability != DurabilityNone {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	c.tags = append(c.tags, writtenTag{made.Ino, tagRecord{made.Ctime.UnixNano(), src.tag}}) // the same content
	if len(c.tags) >= maxUnwrittenTags {
		c.keepTags()
	}
	return nil
}

// maxUnwrittenTags bounds the memory for them.
const maxUnwrittenTags = 4096

func (c *copier) keepTags() {
	c.fsys.tags.keepAll(c.tags)
	c.tags = c.tags[:0]
}

func (c *copier) copyContent(to *at.RWFile, src *source) error {
	size := src.st.Size
	if size == 0 {
		return nil
	}
	if size > smallFile || src.st.Blocks*512 < size { // large, or with holes
		return c.fsys.copyContent(to, src.file, size)
	}
	if err := c.fsys.hasRoom(size); err != nil {
		return err
	}
	if c.buf == nil {
		c.buf = make([]byte, smallFile)
	}
	if _, err := src.file.ReadAt(c.buf[:size], 0); err == io.EOF {
		return errShorter
	} else if err != nil {
		return err
	}
	_, err := to.Write(c.buf[:size])
	return err
}

// setAttributes gives a copy what belongs to content: permissions, extended
// attributes, modification time. made is what the copy is then.
func (c *copier) setAttributes(to *at.RWFile, src *source, made *at.Stat) error {
	late, err := c.fsys.setXattrs(src.attrs, to, true)
	if err != nil {
		return err
	}
	if err := to.SetTimes(src.st.Atime, src.st.Mtime); err != nil {
		return err
	}
	if err := to.Stat(made); err != nil {
		return err
	}
	perm := src.st.Mode & 0o1777
	if len(late) == 0 && made.Mode&0o7777 == perm {
		return nil // as it was made: the umask took nothing
	}
	if err := setLate(to, perm, late); err != nil {
		return err
	}
	return to.Stat(made)
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

// copyDir copies the directory that the merged path shows. It keeps the bit of
// its mode that it has from the directory it is made in.
func (c *copier) copyDir(path string, to *temp) error {
	src, err := c.fsys.open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	if src.dir == nil {
		return fmt.Errorf("%s became a file while it was copied: %w", path, syscall.ENOTDIR)
	}
	if err := to.dir.Mkdir(to.name, 0o700); err != nil {
		return err
	}
	inner, err := to.dir.OpenRWDir(to.name)
	if err != nil {
		return err
	}
	defer inner.Close()
	if !c.shallow {
		if err := c.copyMembers(src, path, inner); err != nil {
			return err
		}
	}
	return c.setDirAttributes(inner, src)
}

func (c *copier) setDirAttributes(to *at.RWDir, src *File) error {
	var made at.Stat
	if err := to.Stat(".", &made); err != nil {
		return err
	}
	attrs, err := c.fsys.clientXattrs(src.dir.top(), ".")
	if err != nil {
		return err
	}
	self := target{to, "."}
	late, err := c.fsys.setXattrs(attrs, self, true)
	if err != nil {
		return err
	}
	st := &src.info.st
	if err := setLate(self, st.Mode&0o1777|made.Mode&syscall.S_ISGID, late); err != nil {
		return err
	}
	return self.SetTimes(st.Atime, st.Mtime)
}

func (c *copier) copyMembers(src *File, path string, to *at.RWDir) error {
	for {
		infos, err := src.Infos(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, info := range infos {
			member := &temp{dir: to, name: info.name}
			if err := c.copyMember(src.dir, info, joinPath(path, info.name), member); err != nil {
				return err
			}
		}
	}
}

// copyMember copies a member of d. If it is a file, it is reached from there;
// else, and when it is another by now, by its path.
func (c *copier) copyMember(d *dir, info *Info, path string, to *temp) error {
	if !info.st.IsRegular() {
		return c.copyPath(path, to, false)
	}
	src, err := c.open(d, found{st: info.st, layer: info.layer, at: d.inLayer(info.layer)}, info.name)
	if err == errRaced {
		return c.copyPath(path, to, false)
	}
	if err != nil {
		return err
	}
	return c.copyFile(src, to, false)
}
