// Package at is the seam between the engine and the kernel: one name in one
// open directory at a time.
//
// A Dir reads. An RWDir also writes; a lower layer is never opened as one, so
// that overdav changes no lower layer is checked by the compiler. Names are
// single components: a slash in one is a programming error and answers EINVAL,
// which makes leaving a layer impossible by construction. Only Dir.OpenPath
// takes several components, and the kernel resolves those beneath the
// directory, through no symlink and into no other mount (openat2(2)).
//
// Reading methods return the bare errno. Changing methods return an
// *fs.PathError whose Op is the system call, because what failed half way is
// what its reader needs to know. Before each change the Hook is asked, if
// there is one; that is how tests fail or stop the world at the n-th change.
//
// No method follows a symlink. Nothing here locks: a Dir and a File belong to
// one goroutine at a time, except that any number may look names up in one Dir.
//
// This is the only package that imports x/sys/unix and pkg/xattr. On other
// systems than Linux it builds, and every call answers ENOSYS.
package at

import (
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// An Op names a changing call, after its system call.
type Op string

// The changing calls.
const (
	OpChmod       Op = "fchmodat"
	OpChown       Op = "fchownat"
	OpClone       Op = "ficlone"
	OpCopyRange   Op = "copy_file_range"
	OpCreate      Op = "openat"
	OpLink        Op = "linkat"
	OpMkdir       Op = "mkdirat"
	OpMknod       Op = "mknodat"
	OpRemovexattr Op = "removexattr"
	OpRename      Op = "renameat2"
	OpRmdir       Op = "rmdir"
	OpSetFlags    Op = "ioctl(FS_IOC_SETFLAGS)"
	OpSetTimes    Op = "utimensat"
	OpSetxattr    Op = "setxattr"
	OpSymlink     Op = "symlinkat"
	OpSync        Op = "fsync"
	OpTmpfile     Op = "openat(O_TMPFILE)"
	OpTruncate    Op = "ftruncate"
	OpUnlink      Op = "unlinkat"
	OpWrite       Op = "write"
)

// A Hook is called before each call that changes a directory or a file, with
// the name concerned ("" for an open file). A non-nil error stands in for the
// call's own, and the call is not made.
type Hook func(op Op, name string) error

// do asks the hook, makes the call and names what failed.
func (h Hook) do(op Op, name string, call func() error) error {
	if h != nil {
		if err := h(op, name); err != nil {
			return &fs.PathError{Op: string(op), Path: name, Err: err}
		}
	}
	if err := call(); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// single refuses a name that is not one component.
func single(name string) error {
	if name == "" || name == ".." || strings.IndexByte(name, '/') >= 0 {
		return syscall.EINVAL
	}
	return nil
}

// retry makes a call again for as long as a signal interrupts it.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

// A Stat is what statx(2) tells of one object. Times are to the nanosecond.
type Stat struct {
	Mode      uint32 // type and permissions, as st_mode
	UID, GID  uint32
	Nlink     uint32
	Dev, Rdev uint64 // major<<32 | minor
	Ino       uint64
	Size      int64
	Blocks    int64 // of 512 bytes
	Atime     time.Time
	Mtime     time.Time
	Ctime     time.Time
	Btime     time.Time // zero where the file system keeps none
	MountID   uint64
	Immutable bool // chattr +i
	Append    bool // chattr +a
	MountRoot bool // the root of a mount: a submount, unless it is a layer's root
}

// Type is the object's type: one of the S_IF constants.
func (st *Stat) Type() uint32 { return st.Mode & syscall.S_IFMT }

// DType is the object's type as directory entries have it: one of the DT
// constants.
func (st *Stat) DType() byte { return byte(st.Type() >> 12) }

// IsDir says whether st is of a directory.
func (st *Stat) IsDir() bool { return st.Type() == syscall.S_IFDIR }

// IsRegular says whether st is of a regular file.
func (st *Stat) IsRegular() bool { return st.Type() == syscall.S_IFREG }

// IsSymlink says whether st is of a symbolic link.
func (st *Stat) IsSymlink() bool { return st.Type() == syscall.S_IFLNK }

// IsWhiteoutDevice says whether st is of a character device 0:0
// (overlayfs.rst, "whiteouts and opaque directories").
func (st *Stat) IsWhiteoutDevice() bool {
	return st.Type() == syscall.S_IFCHR && st.Rdev == 0
}

// Same says whether two stats are of one object: device and inode.
func (st *Stat) Same(other *Stat) bool { return st.Dev == other.Dev && st.Ino == other.Ino }

// FileMode is the mode in Go's form.
func (st *Stat) FileMode() fs.FileMode {
	mode := fs.FileMode(st.Mode & 0o777)
	switch st.Type() {
	case syscall.S_IFDIR:
		mode |= fs.ModeDir
	case syscall.S_IFLNK:
		mode |= fs.ModeSymlink
	case syscall.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case syscall.S_IFSOCK:
		mode |= fs.ModeSocket
	case syscall.S_IFBLK:
		mode |= fs.ModeDevice
	case syscall.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	if st.Mode&syscall.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if st.Mode&syscall.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if st.Mode&syscall.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// Perm turns the permission part of a Go mode, with setuid, setgid and sticky,
// into the kernel's bits.
func Perm(mode fs.FileMode) uint32 {
	perm := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		perm |= syscall.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		perm |= syscall.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		perm |= syscall.S_ISVTX
	}
	return perm
}
