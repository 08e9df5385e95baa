package overlay

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"overdav/overlay/internal/at"
)

// A File is an open file or directory of the merged tree. It keeps showing the
// content it was opened on, whatever replaces it. Its offset belongs to one
// goroutine at a time; ReadAt and WriteAt to any.
type File struct {
	fsys *FS
	name string // as opened
	info Info

	parent, base string // where it was found, see Path

	read     *at.File   // a regular file
	below    bool       // it is a metacopy, and read the lower file that has the content
	limit    int64      // which is longer: so many bytes of it count; 0 all
	write    *at.RWFile // the same, when it may be written
	flag     int
	strip    sync.Once // before the first write
	stripErr error     // for good: other content under the old rights must not be

	dir  *dir // a directory
	list lister
}

// Open opens a file or a directory for reading.
// Errors: ENXIO for a FIFO, a socket or a device, which are listed but never
// opened; EPERM for a metacopy.
func (fsys *FS) Open(name string) (*File, error) {
	f, err := fsys.open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

func (fsys *FS) open(name string) (*File, error) {
	for range maxRaces {
		f, err := fsys.tryOpen(name)
		if err != errRaced {
			return f, err
		}
	}
	return nil, errRaced
}

func (fsys *FS) tryOpen(name string) (*File, error) {
	t, err := fsys.look()
	if err != nil {
		return nil, err
	}
	p, found, err := t.find(name, true, toOpen)
	if err != nil {
		return nil, t.end(err)
	}
	f := &File{fsys: fsys, name: name, parent: p.dir.path, base: p.name, info: *fsys.newInfo(baseName(name), &found)}
	switch {
	case found.st.IsDir():
		err = f.openDir(t, p)
	case found.st.IsRegular():
		err = f.openRegular(p, &found)
	default:
		err = syscall.ENXIO
	}
	if err = t.end(err); err != nil {
		return nil, err
	}
	return f, nil
}

// baseName is the name by which an opened object calls itself.
func baseName(name string) string {
	_, base := splitLast(name)
	return base
}

func (f *File) openDir(t *txn, p place) error {
	if p.isRoot() {
		f.dir = p.dir
		return nil
	}
	if c := t.fsys.cache; c != nil {
		if f.dir = c.child(p.dir, p.name); f.dir != nil {
			return nil
		}
	}
	e, err := t.fsys.lookupCached(p.dir, p.name)
	if err != nil {
		return err
	}
	if !e.isDir() {
		return errRaced
	}
	f.dir = e.dir
	return nil
}

// openRegular opens the regular file that was found and makes sure that it is
// the one.
func (f *File) openRegular(p place, found *found) error {
	err := f.openFound(p, found)
	if err != nil && found.known != nil {
		found.forget(p.name)
		return errRaced
	}
	return err
}

func (f *File) openFound(p place, found *found) error {
	file, err := found.at.OpenFile(p.name)
	if err != nil {
		return raced(err)
	}
	var st at.Stat
	err = file.Stat(&st)
	if err == nil && !found.isStill(&st) {
		err = errRaced
	}
	if err == nil && st.Size > 0 && !found.isPlain(p.name, &st) {
		if err = f.fsys.refuseMetacopy(file); err == nil {
			found.notePlain(p.name, &st)
		}
	}
	if err == nil {
		found.st = st
		f.read, f.info.st, f.info.tag = file, st, f.fsys.tagOf(found)
		return nil
	}
	_ = file.Close() // only read
	if err == errMetacopy && f.fsys.metacopy {
		return f.openBelow(p, found)
	}
	return err
}

// OpenFile opens name with the flags of os.OpenFile. Opening for writing copies
// a file up, with O_TRUNC without its content; perm is for a file that is made.
// A write goes straight into the file: after a crash a part of it may be there.
// Stage replaces a file in one step.
func (fsys *FS) OpenFile(name string, flag int, perm fs.FileMode) (*File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) == 0 {
		return fsys.Open(name)
	}
	for range maxRaces {
		f, err := fsys.openWrite(name, flag, perm)
		if err != errRaced {
			if err != nil {
				return nil, pathError("open", name, err)
			}
			return f, nil
		}
	}
	return nil, pathError("open", name, errRaced)
}

// Create makes or empties a file (os.Create).
func (fsys *FS) Create(name string) (*File, error) {
	return fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// CreateSeen makes an empty file where nothing was seen.
// Errors: ErrChanged when something is there now, or a symlink on the way.
func (fsys *FS) CreateSeen(seen Sight, perm fs.FileMode) error {
	return pathError("create", seen.Path, seen.taken(fsys.createEmpty(&seen, perm)))
}

// createEmpty makes an empty file, which is whole from the first moment on: in
// its place, or onto a whiteout from staging.
func (fsys *FS) createEmpty(seen *Sight, perm fs.FileMode) error {
	t, p, e, here, err := fsys.beginCreate(seen.Path, false, seen)
	if err != nil {
		return err
	}
	if e.exists() {
		return t.end(syscall.EEXIST)
	}
	t.changed(p.dir.upper)
	if here != absent {
		temp, err := fsys.staging.newFile(p.dir.upper, at.Perm(perm))
		if err == nil {
			err = fsys.show(t, p, here, temp, e, false)
			temp.close()
		}
		return t.end(err)
	}
	file, err := p.dir.upper.Create(p.name, at.Perm(perm))
	if err == nil {
		_ = file.Close() // nothing was written
	}
	return t.end(err)
}

func (fsys *FS) openWrite(name string, flag int, perm fs.FileMode) (*File, error) {
	exclusive := flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL
	truncate := flag&os.O_TRUNC != 0
	err := fsys.see(name, !exclusive, func(_ place, f found) error {
		// A copy that may not be opened for writing must have its content.
		truncate = truncate && f.st.Mode&syscall.S_IWUSR != 0
		switch {
		case exclusive:
			return syscall.EEXIST
		case f.st.IsDir():
			return syscall.EISDIR
		case !f.st.IsRegular():
			return syscall.ENXIO
		}
		return nil
	})
	if errors.Is(err, syscall.ENOENT) && flag&os.O_CREATE != 0 {
		return fsys.createFile(name, flag, perm, !exclusive)
	}
	if err != nil {
		return nil, err
	}
	want := wholeContent
	if truncate {
		want = noContent
	}
	if err := fsys.copyUp(name, true, want); err != nil {
		return nil, err
	}
	return fsys.openUpper(name, flag)
}

// openUpper opens a file that is in upper for writing.
func (fsys *FS) openUpper(name string, flag int) (*File, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, err
	}
	p, err := t.walk(name, true)
	if err != nil {
		return nil, t.end(err)
	}
	found, err := fsys.find(p.dir, p.name)
	if err == nil && (found.layer != 0 || !found.st.IsRegular()) {
		err = errRaced
	}
	if err == nil {
		err = fsys.refuseMarked(found.at, p.name)
	}
	if err != nil {
		return nil, t.end(raced(err))
	}
	file, err := p.dir.upper.OpenWrite(p.name)
	if err != nil {
		return nil, t.end(raced(err))
	}
	if err = fsys.refuseMetacopy(&file.File); err == errMetacopy && fsys.metacopy {
		err = errRaced // another since it was copied up
	}
	if err == nil && flag&os.O_TRUNC != 0 {
		err = file.Truncate(0)
	}
	if err = t.end(err); err != nil {
		_ = file.Close() // nothing was written
		return nil, err
	}
	f := &File{fsys: fsys, name: name, parent: p.dir.path, base: p.name, flag: flag, read: &file.File, write: file}
	f.info.name = baseName(name)
	return f, nil
}

// createFile makes a file and opens it.
func (fsys *FS) createFile(name string, flag int, perm fs.FileMode, follow bool) (*File, error) {
	t, p, e, here, err := fsys.beginCreate(name, follow, nil)
	if errors.Is(err, syscall.EEXIST) && flag&os.O_EXCL == 0 {
		return nil, errRaced
	}
	if err != nil {
		return nil, err
	}
	if e.exists() {
		t.end(nil) // nothing was changed
		if flag&os.O_EXCL != 0 {
			return nil, syscall.EEXIST
		}
		return nil, errRaced
	}
	temp, err := fsys.staging.newFile(p.dir.upper, at.Perm(perm))
	if err != nil {
		return nil, t.end(err)
	}
	f := &File{fsys: fsys, name: name, parent: p.dir.path, base: p.name, flag: flag, read: &temp.file.File, write: temp.file}
	f.info.name = baseName(name)
	err = fsys.show(t, p, here, temp, e, false)
	if err = t.end(err); err == nil {
		temp.file = nil // it is f's now
	}
	temp.close()
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Name is the name that was opened.
func (f *File) Name() string { return f.name }

// Stat tells of the open object as it is now.
func (f *File) Stat() (fs.FileInfo, error) {
	info, err := f.Info()
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Opened tells of the object as it was when Open returned, which costs no call.
// It belongs to f.
func (f *File) Opened() *Info { return &f.info }

// Info is Stat with our own type.
func (f *File) Info() (*Info, error) {
	info := f.info
	if f.below {
		return &info, nil // of the content that was opened: the file may have another by now
	}
	release, err := f.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	switch {
	case f.read != nil:
		err = f.read.Stat(&info.st)
	case f.dir != nil:
		err = f.dir.top().Stat(".", &info.st)
	}
	if err != nil {
		return nil, pathError("stat", f.name, err)
	}
	info.tag = f.fsys.tagOf(&found{st: info.st, layer: info.layer})
	return &info, nil
}

// Read reads from the file's offset.
func (f *File) Read(p []byte) (int, error) {
	if f.read == nil {
		return 0, pathError("read", f.name, syscall.EISDIR)
	}
	p, err := f.within(p)
	if err != nil {
		return 0, f.ioError("read", err)
	}
	n, err := f.read.Read(p)
	return n, f.ioError("read", err)
}

// ReadAt reads at off (io.ReaderAt).
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.read == nil {
		return 0, pathError("read", f.name, syscall.EISDIR)
	}
	if f.limit > 0 && off+int64(len(p)) > f.limit {
		n, err := f.read.ReadAt(p[:max(f.limit-off, 0)], off)
		return n, f.ioError("read", errorOr(err, io.EOF))
	}
	n, err := f.read.ReadAt(p, off)
	return n, f.ioError("read", err)
}

func (f *File) ioError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return pathError(op, f.name, err)
}

// Seek sets the offset; on a directory, to its beginning alone.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	if f.dir != nil {
		if offset != 0 || whence != io.SeekStart {
			return 0, pathError("seek", f.name, syscall.EINVAL)
		}
		f.list.rewind()
		return 0, nil
	}
	if f.read == nil {
		return 0, pathError("seek", f.name, fs.ErrClosed)
	}
	if f.limit > 0 && whence == io.SeekEnd {
		offset, whence = f.limit+offset, io.SeekStart
	}
	n, err := f.read.Seek(offset, whence)
	return n, f.ioError("seek", err)
}

// Write writes at the file's offset, or at its end with O_APPEND.
func (f *File) Write(p []byte) (int, error) {
	if err := f.beforeWrite("write"); err != nil {
		return 0, err
	}
	if f.flag&os.O_APPEND != 0 {
		if _, err := f.read.Seek(0, io.SeekEnd); err != nil {
			return 0, pathError("write", f.name, err)
		}
	}
	n, err := f.write.Write(p)
	return n, f.ioError("write", err)
}

// WriteAt writes at off.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.beforeWrite("write"); err != nil {
		return 0, err
	}
	n, err := f.write.WriteAt(p, off)
	return n, f.ioError("write", err)
}

// Truncate sets the file's length.
func (f *File) Truncate(size int64) error {
	if err := f.beforeWrite("truncate"); err != nil {
		return err
	}
	return f.ioError("truncate", f.write.Truncate(size))
}

// beforeWrite refuses a file opened for reading, and takes from one that is
// about to get other content the rights that its old content had.
func (f *File) beforeWrite(op string) error {
	if f.write == nil {
		return pathError(op, f.name, syscall.EBADF)
	}
	f.strip.Do(func() {
		var st at.Stat
		if f.stripErr = f.write.Stat(&st); f.stripErr == nil {
			f.stripErr = stripPrivileges(f.write, &st)
		}
	})
	return f.ioError(op, f.stripErr)
}

// stripPrivileges takes setuid, setgid and the capabilities from a file.
func stripPrivileges(file *at.RWFile, st *at.Stat) error {
	if perm := withoutPrivileges(st); perm != st.Mode&0o7777 {
		if err := file.Chmod(perm); err != nil {
			return err
		}
	}
	switch _, err := file.Getxattr(capability); err {
	case nil:
		return file.Removexattr(capability)
	case syscall.ENODATA, syscall.EOPNOTSUPP:
		return nil // the usual case: it has none
	default:
		return err
	}
}

// Sync makes what was written last.
func (f *File) Sync() error {
	if f.write == nil {
		return nil
	}
	return f.ioError("sync", f.write.Sync())
}

// Close closes the file; one that was written is synced first if durability
// says so.
func (f *File) Close() error {
	if f.dir != nil {
		f.list.close()
		f.dir.close()
		f.dir = nil
		return nil
	}
	if f.read == nil {
		return nil
	}
	var err error
	if f.write != nil && f.fsys.durability != DurabilityNone {
		err = f.write.Sync()
	}
	if cerr := f.read.Close(); err == nil {
		err = cerr
	}
	f.read, f.write = nil, nil
	return f.ioError("close", err)
}

// ReadDir returns the next n objects of a directory, all that are left with
// n <= 0 (fs.ReadDirFile), in no order.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) {
	infos, err := f.Infos(n)
	entries := make([]fs.DirEntry, len(infos))
	for i, info := range infos {
		entries[i] = info
	}
	return entries, err
}

// hold keeps the root, which is not f's own, from being closed.
func (f *File) hold() (release func(), err error) {
	if f.dir == nil || !f.dir.shared {
		return func() {}, nil
	}
	t, err := f.fsys.look()
	if err != nil {
		return nil, pathError("readdir", f.name, err)
	}
	return func() { _ = t.end(nil) }, nil // nothing was changed
}

// Infos is ReadDir with our own type.
func (f *File) Infos(n int) ([]*Info, error) {
	var infos []*Info
	for n <= 0 || len(infos) < n {
		size := infosBlock
		if n > 0 {
			size = min(size, n-len(infos))
		}
		block := make([]Info, size)
		got, err := f.ReadInfos(block)
		for i := range got {
			infos = append(infos, &block[i])
		}
		if err == io.EOF {
			if n > 0 && len(infos) == 0 {
				return nil, io.EOF
			}
			break
		}
		if err != nil {
			return infos, err
		}
	}
	return infos, nil
}

const infosBlock = 64

// ReadInfos sets infos to the next objects of a directory and returns how many
// it set, or io.EOF after the last. A listing costs little more than a call for
// each object, and one that is kept (listing.go) not even that.
func (f *File) ReadInfos(infos []Info) (int, error) {
	if f.dir == nil {
		return 0, pathError("readdir", f.name, syscall.ENOTDIR)
	}
	release, err := f.hold()
	if err != nil {
		return 0, err
	}
	defer release()
	if f.list.fsys == nil {
		f.list.fsys, f.list.d = f.fsys, f.dir
	}
	n, err := f.list.fill(infos)
	if err == io.EOF {
		return 0, io.EOF
	}
	return n, pathError("readdir", f.name, err)
}

// Want has ReadInfos find out of each object whether it has the attribute, which
// MemberXattr will be asked for: so it costs least.
func (f *File) Want(attr string) {
	if stored, err := f.fsys.marks.stored(attr); err == nil { // else nothing has it
		f.list.wanted = stored
	}
}

// MemberXattr returns an extended attribute of a member of the directory that
// ReadInfos told of, as FS.Getxattr does, but of the member itself where it is a
// symlink, and without walking there. That there is none is one error for all.
func (f *File) MemberXattr(member *Info, attr string) ([]byte, error) {
	if f.dir == nil {
		return nil, pathError("getxattr", f.name, syscall.ENOTDIR)
	}
	stored, err := f.fsys.marks.stored(attr)
	if err != nil {
		return nil, pathError("getxattr", joinPath(f.name, member.name), err)
	}
	if member.without && stored == f.list.wanted || member.kept.hasNot(stored) {
		return nil, errNoXattr
	}
	d := f.dir.inLayer(member.layer)
	if d == nil {
		return nil, pathError("getxattr", joinPath(f.name, member.name), syscall.ESTALE)
	}
	value, err := d.Getxattr(member.name, stored)
	if err == syscall.ENODATA {
		member.kept.noteAbsent(stored)
		return nil, errNoXattr
	}
	return value, pathError("getxattr", joinPath(f.name, member.name), err)
}

// inLayer is the directory in one layer; nil when that has none.
func (d *dir) inLayer(index int) *at.Dir {
	for i := range d.sources() {
		if source, layer := d.source(i); layer == index {
			return source
		}
	}
	return nil
}

// errNoXattr is made once, for listings that ask for the attributes of many.
var errNoXattr = pathError("getxattr", "member", syscall.ENODATA)

// SyscallConn gives net/http the descriptor of a regular file (sendfile(2)).
func (f *File) SyscallConn() (syscall.RawConn, error) {
	if f.read == nil {
		return nil, pathError("syscallconn", f.name, syscall.EISDIR)
	}
	return f.read.SyscallConn()
}
