package at

import (
	"io"
	"syscall"
	"time"
)

// A File is an open regular file that can be read. It belongs to one goroutine
// at a time, but for ReadAt.
type File struct {
	fd   int
	bare bool // nobody is asked for attributes (Dir.WithoutXattrs)
}

// Stat tells of the open file.
func (f *File) Stat(st *Stat) error { return sysStat(f.fd, "", st) }

// Read reads up to len(p) bytes at the file's offset; io.EOF at the end.
func (f *File) Read(p []byte) (int, error) {
	return ioResult(p, func() (int, error) { return sysRead(f.fd, p) })
}

// ReadAt reads len(p) bytes at off, fewer only at the end of the file (io.ReaderAt).
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = ioResult(p[n:], func() (int, error) { return sysPread(f.fd, p[n:], off+int64(n)) })
		n += m
	}
	return n, err
}

func ioResult(p []byte, call func() (int, error)) (n int, err error) {
	err = retry(func() (err error) { n, err = call(); return err })
	switch {
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Seek sets the file's offset.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	return sysSeek(f.fd, offset, whence)
}

// NextData returns the first stretch of data at or after off; start is the
// file's size where only holes follow. A file system that knows no holes has
// one stretch.
func (f *File) NextData(off, size int64) (start, end int64, err error) {
	return sysNextData(f.fd, off, size)
}

// Close closes the file. Closing twice is harmless.
func (f *File) Close() error {
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return sysClose(fd)
}

// Flags returns the inode flags (chattr) of the file; none where the file
// system has none.
func (f *File) Flags() uint32 { return sysFlags(f.fd) }

// Getxattr returns the attribute attr of the open file.
func (f *File) Getxattr(attr string) ([]byte, error) {
	if f.bare {
		return nil, syscall.EOPNOTSUPP
	}
	return sysFgetxattr(f.fd, attr)
}

// XattrNames returns the names of the file's attributes as flistxattr(2) does,
// each ended by a NUL, in buf if they fit.
func (f *File) XattrNames(buf []byte) ([]byte, error) {
	if f.bare {
		return nil, syscall.EOPNOTSUPP
	}
	return sysFlistxattr(f.fd, buf)
}

// SyscallConn gives net/http the descriptor, so that a file is sent without
// passing through this process (sendfile(2)).
func (f *File) SyscallConn() (syscall.RawConn, error) { return rawFile{f}, nil }

// rawFile is the RawConn of a file: regular files are always ready.
type rawFile struct{ f *File }

func (r rawFile) Control(fn func(fd uintptr)) error {
	fn(uintptr(r.f.fd))
	return nil
}

func (r rawFile) Read(fn func(fd uintptr) bool) error {
	for !fn(uintptr(r.f.fd)) {
	}
	return nil
}

func (r rawFile) Write(fn func(fd uintptr) bool) error { return r.Read(fn) }

// An RWFile is an open regular file of the upper layer or of the workdir.
type RWFile struct {
	File
	hook     Hook
	usage    *Usage // nil: nothing is counted
	charged  int64  // that usage has counted for it; guarded by usage.mu
	nameless bool   // from Tmpfile, and not linked: it is gone when it is closed
}

// Close closes the file. Closing twice is harmless.
func (f *RWFile) Close() error {
	if f.nameless && f.fd >= 0 {
		f.usage.give(f.charged)
	}
	return f.File.Close()
}

// Write writes at the file's offset, all of p or an error.
func (f *RWFile) Write(p []byte) (int, error) {
	at := int64(0)
	if f.usage != nil {
		var err error
		if at, err = f.Seek(0, io.SeekCurrent); err != nil {
			return 0, err
		}
	}
	return f.writeAll(p, at, func(p []byte, _ int) (int, error) { return sysWrite(f.fd, p) })
}

// WriteAt writes at off, all of p or an error.
func (f *RWFile) WriteAt(p []byte, off int64) (int, error) {
	return f.writeAll(p, off, func(p []byte, done int) (int, error) {
		return sysPwrite(f.fd, p, off+int64(done))
	})
}

func (f *RWFile) writeAll(p []byte, at int64, write func(p []byte, done int) (int, error)) (n int, err error) {
	call := func() error {
		for n < len(p) {
			m := 0
			err := retry(func() (err error) { m, err = write(p[n:], n); return err })
			if err != nil {
				return err
			}
			if m == 0 {
				return io.ErrShortWrite
			}
			n += m
		}
		return nil
	}
	err = f.grows(OpWrite, at+int64(len(p)), func() error { return f.hook.do(OpWrite, "", call) })
	return n, err
}

// CopyFrom makes the file a copy of the first size bytes of src, holes
// included: a reflink where the file system can, else copy_file_range, else
// read and write. The bytes copied are fewer than size only when src is shorter.
//
// room, unless it is nil, is asked before bytes are copied that no reflink
// shares; its error ends the copy.
func (f *RWFile) CopyFrom(src *File, size int64, room func(bytes int64) error) (copied int64, err error) {
	if size == 0 {
		return 0, nil
	}
	err = f.grows(OpCopyRange, size, func() (err error) {
		copied, err = f.copyFrom(src, size, room)
		return err
	})
	if f.usage != nil && copied < size {
		f.usage.settle(f)
	}
	return copied, err
}

func (f *RWFile) copyFrom(src *File, size int64, room func(bytes int64) error) (copied int64, err error) {
	var cloned bool
	err = f.hook.do(OpClone, "", func() error { cloned = sysClone(f.fd, src.fd) == nil; return nil })
	if err != nil {
		return 0, err
	}
	if cloned {
		return f.clonedSize(size)
	}
	for off := int64(0); off < size; {
		start, end, err := src.NextData(off, size)
		if err != nil {
			return copied, err
		}
		if start >= size {
			break
		}
		end = min(end, size)
		if room != nil {
			if err := room(end - start); err != nil {
				return copied, err
			}
		}
		if err := f.copyStretch(src, start, end); err == io.EOF {
			return copied, nil // src became shorter
		} else if err != nil {
			return copied, err
		}
		off, copied = end, end
	}
	// A hole at the end is copied by the length alone.
	var st Stat
	if err := src.Stat(&st); err != nil {
		return copied, err
	}
	size = min(size, st.Size)
	if err := f.Truncate(size); err != nil {
		return copied, err
	}
	return size, nil
}

// clonedSize cuts a clone back to size when src had grown past it.
func (f *RWFile) clonedSize(size int64) (int64, error) {
	var st Stat
	if err := f.Stat(&st); err != nil {
		return 0, err
	}
	if st.Size > size {
		return size, f.Truncate(size)
	}
	return st.Size, nil
}

// copyStep bounds what one call copies, and so how long it is in the kernel.
const copyStep = 16 << 20

func (f *RWFile) copyStretch(src *File, start, end int64) error {
	for off := start; off < end; {
		n := 0
		err := f.hook.do(OpCopyRange, "", func() error {
			return retry(func() (err error) {
				n, err = sysCopyRange(f.fd, src.fd, off, int(min(copyStep, end-off)))
				return err
			})
		})
		switch {
		case cannotCopyRange(err), err == nil && n == 0:
			return f.copyBytes(src, off, end) // which knows an end from a file system that answers 0
		case err != nil:
			return err
		}
		off += int64(n)
	}
	return nil
}

// copyBytes copies by read and write, for file systems that leave
// copy_file_range no other way.
func (f *RWFile) copyBytes(src *File, off, end int64) error {
	buf := make([]byte, 256<<10)
	for off < end {
		n, err := src.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if n > 0 {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *RWFile) change(op Op, call func() error) error {
	return f.hook.do(op, "", func() error { return retry(call) })
}

// Truncate sets the file's length.
func (f *RWFile) Truncate(size int64) error {
	err := f.grows(OpTruncate, size, func() error {
		return f.change(OpTruncate, func() error { return sysTruncate(f.fd, size) })
	})
	if f.usage != nil && err == nil {
		f.usage.settle(f)
	}
	return err
}

// Chmod sets the file's permissions.
func (f *RWFile) Chmod(perm uint32) error {
	return f.change(OpChmod, func() error { return sysFchmod(f.fd, perm) })
}

// Chown sets the file's owner; -1 keeps one.
func (f *RWFile) Chown(uid, gid int) error {
	return f.change(OpChown, func() error { return sysChown(f.fd, "", uid, gid) })
}

// SetTimes sets the access and modification time; a zero time keeps the one
// there is.
func (f *RWFile) SetTimes(atime, mtime time.Time) error {
	return f.change(OpSetTimes, func() error { return sysSetTimes(f.fd, "", atime, mtime) })
}

// Setxattr sets an attribute of the open file.
func (f *RWFile) Setxattr(attr string, value []byte) error {
	return f.change(OpSetxattr, func() error { return sysFsetxattr(f.fd, attr, value) })
}

// Removexattr removes an attribute of the open file; ENODATA when there is none.
func (f *RWFile) Removexattr(attr string) error {
	return f.change(OpRemovexattr, func() error { return sysFremovexattr(f.fd, attr) })
}

// SetFlags sets the inode flags (chattr) of the file.
func (f *RWFile) SetFlags(flags uint32) error {
	return f.change(OpSetFlags, func() error { return sysSetFlags(f.fd, flags) })
}

// Sync makes content and attributes last (fsync). An error is final: the
// kernel reports a lost page once.
func (f *RWFile) Sync() error {
	return f.change(OpSync, func() error { return sysFsync(f.fd) })
}

// Link gives the open file the name newName in a directory of its file system.
// Errors: EEXIST when there is one.
func (f *RWFile) Link(to *RWDir, newName string) error {
	err := to.change(OpLink, newName, func() error { return sysLinkFile(f.fd, to.fd, newName) })
	if err == nil {
		f.nameless = false
	}
	return err
}
