package at

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How a name is opened beneath a directory.
const (
	openDir       = unix.O_RDONLY | unix.O_DIRECTORY
	openPathDir   = unix.O_PATH | unix.O_DIRECTORY
	openRead      = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	openReadWrite = unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY
)

// maxAgain bounds the attempts when a rename on the way makes openat2 answer
// EAGAIN (openat2(2)).
const maxAgain = 8

func sysOpenHost(path string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, openDir|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func sysOpenBeneath(dirfd int, path string, flags int, noatime bool) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	if noatime {
		how.Flags |= unix.O_NOATIME
	}
	for again := 0; ; {
		fd, err := unix.Openat2(dirfd, path, &how)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN && again < maxAgain:
			again++
		case err == unix.EPERM && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME // not ours: its access time may change
		default:
			return fd, err
		}
	}
}

// sysCloneMount clones the mount of the directory at path, without submounts,
// and makes the clone read-only.
func sysCloneMount(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	// Access times are one field of several bits: it must be cleared whole.
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
			unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NOATIME,
		Attr_clr: unix.MOUNT_ATTR__ATIME,
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sysClose(fd int) error { return unix.Close(fd) }

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// A cString is a name as the kernel takes it, of a file or an attribute, which have
// 255 bytes at most. One on the stack costs no allocation.
type cString [unix.NAME_MAX + 1]byte

// set sets an empty cString.
// Errors: ENAMETOOLONG, EINVAL.
func (c *cString) set(s string) error {
	if len(s) >= len(c) {
		return unix.ENAMETOOLONG
	}
	if strings.IndexByte(s, 0) >= 0 {
		return unix.EINVAL
	}
	copy(c[:], s)
	return nil
}

// sysStat looks name up in a directory; "" is the open file itself. A listing
// makes one call for each name: nothing of it is allocated.
func sysStat(dirfd int, name string, st *Stat) error {
	var path cString
	if err := path.set(name); err != nil {
		return err
	}
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var sx unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])),
			uintptr(flags), statxMask, uintptr(unsafe.Pointer(&sx)), 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return errno
		}
	}
	*st = Stat{
		Mode: uint32(sx.Mode), UID: sx.Uid, GID: sx.Gid, Nlink: sx.Nlink,
		Dev:  uint64(sx.Dev_major)<<32 | uint64(sx.Dev_minor),
		Rdev: uint64(sx.Rdev_major)<<32 | uint64(sx.Rdev_minor),
		Ino:  sx.Ino, Size: int64(sx.Size), Blocks: int64(sx.Blocks),
		Atime: timeOf(sx.Atime), Mtime: timeOf(sx.Mtime), Ctime: timeOf(sx.Ctime),
		MountID:   sx.Mnt_id,
		Immutable: sx.Attributes&unix.STATX_ATTR_IMMUTABLE != 0,
		Append:    sx.Attributes&unix.STATX_ATTR_APPEND != 0,
		MountRoot: sx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}
	if sx.Mask&unix.STATX_BTIME != 0 {
		st.Btime = timeOf(sx.Btime)
	}
	return nil
}

func timeOf(ts unix.StatxTimestamp) time.Time { return time.Unix(ts.Sec, int64(ts.Nsec)) }

func sysReadlink(dirfd int, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n := 0
		err := retry(func() (err error) { n, err = unix.Readlinkat(dirfd, name, buf); return err })
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 4*len(buf))
	}
}

func sysFlistxattr(fd int, buf []byte) ([]byte, error) {
	buf = buf[:cap(buf)]
	n, err := unix.Flistxattr(fd, buf)
	for err == unix.ERANGE {
		if n, err = unix.Flistxattr(fd, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+256)
		n, err = unix.Flistxattr(fd, buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

func sysFgetxattr(fd int, attr string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Fgetxattr(fd, attr, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
		if n, err = unix.Fgetxattr(fd, attr, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+256)
	}
}

// The *xattrat(2) calls have these numbers on every architecture; Linux 6.13
// brought them.
const (
	sysSetxattrat    = 463
	sysGetxattrat    = 464
	sysListxattrat   = 465
	sysRemovexattrat = 466
)

// noXattrat is set when the kernel turned out to have none of them.
var noXattrat atomic.Bool

// struct xattr_args, of a machine whose pointers have 64 bits. value is a pointer
// and no number, so that the runtime corrects it when it moves the stack that it
// points into.
type xattrArgs struct {
	value       unsafe.Pointer
	size, flags uint32
}

// xattrCall makes a call of the *xattrat family for a name, not following it;
// ENOSYS where the kernel has none.
func xattrCall(call uintptr, dirfd int, name string, p unsafe.Pointer, args *xattrArgs, size int) (int, error) {
	if noXattrat.Load() || unsafe.Sizeof(args) != 8 {
		return 0, unix.ENOSYS
	}
	var path cString
	if err := path.set(name); err != nil {
		return 0, err
	}
	var n uintptr
	var errno syscall.Errno
	if args != nil {
		n, _, errno = unix.Syscall6(call, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])), unix.AT_SYMLINK_NOFOLLOW,
			uintptr(p), uintptr(unsafe.Pointer(args)), uintptr(size))
	} else {
		n, _, errno = unix.Syscall6(call, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])), unix.AT_SYMLINK_NOFOLLOW,
			uintptr(p), uintptr(size), 0)
	}
	if errno == unix.ENOSYS {
		noXattrat.Store(true)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

const xattrArgsSize = int(unsafe.Sizeof(xattrArgs{}))

// maxXattrValue is the longest value there can be (xattr(7)).
const maxXattrValue = 64 << 10

// sysGetxattr reads an attribute of a name without opening it; ENOSYS where
// the kernel cannot.
func sysGetxattr(dirfd int, name, attr string) ([]byte, error) {
	var attrName cString
	if err := attrName.set(attr); err != nil {
		return nil, err
	}
	buf := make([]byte, 256)
	for {
		args := xattrArgs{value: unsafe.Pointer(&buf[0]), size: uint32(len(buf))}
		n, err := xattrCall(sysGetxattrat, dirfd, name, unsafe.Pointer(&attrName[0]), &args, xattrArgsSize)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE || len(buf) == maxXattrValue {
			return nil, err
		}
		buf = make([]byte, maxXattrValue)
	}
}

// sysHasXattr is sysGetxattr without the value.
func sysHasXattr(dirfd int, name, attr string) error {
	var attrName cString
	if err := attrName.set(attr); err != nil {
		return err
	}
	_, err := xattrCall(sysGetxattrat, dirfd, name, unsafe.Pointer(&attrName[0]), &xattrArgs{}, xattrArgsSize)
	return err
}

// sysSetxattr sets an attribute of a name without opening it; ENOSYS where the
// kernel cannot.
func sysSetxattr(dirfd int, name, attr string, value []byte) error {
	var attrName cString
	if err := attrName.set(attr); err != nil {
		return err
	}
	args := xattrArgs{value: unsafe.Pointer(unsafe.SliceData(value)), size: uint32(len(value))}
	_, err := xattrCall(sysSetxattrat, dirfd, name, unsafe.Pointer(&attrName[0]), &args, xattrArgsSize)
	return err
}

// sysRemovexattr removes an attribute of a name without opening it; ENOSYS
// where the kernel cannot.
func sysRemovexattr(dirfd int, name, attr string) error {
	var attrName cString
	if err := attrName.set(attr); err != nil {
		return err
	}
	_, err := xattrCall(sysRemovexattrat, dirfd, name, unsafe.Pointer(&attrName[0]), nil, 0)
	return err
}

// sysListxattr lists the attributes of a name without opening it; ENOSYS where
// the kernel cannot.
func sysListxattr(dirfd int, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := xattrCall(sysListxattrat, dirfd, name, unsafe.Pointer(&buf[0]), nil, len(buf))
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE || len(buf) == maxXattrValue {
			return nil, err
		}
		buf = make([]byte, maxXattrValue)
	}
}

func sysHandle(dirfd int, name string) (int32, []byte, error) {
	handle, _, err := unix.NameToHandleAt(dirfd, name, 0)
	if err != nil {
		return 0, nil, err
	}
	return handle.Type(), handle.Bytes(), nil
}

// The two ways to ask a file system for its UUID.
const (
	fsIocGetFSUUID = 0x80111500
	btrfsIocFSInfo = 0x8400941f
)

func sysUUID(fd int) (uuid [16]byte, ok bool) {
	var fsuuid [17]byte // its length, then the bytes
	if ioctl(fd, fsIocGetFSUUID, unsafe.Pointer(&fsuuid[0])) == nil && fsuuid[0] == 16 {
		copy(uuid[:], fsuuid[1:])
		return uuid, true
	}
	var sfs unix.Statfs_t
	if unix.Fstatfs(fd, &sfs) != nil {
		return uuid, false
	}
	switch int64(sfs.Type) {
	case unix.BTRFS_SUPER_MAGIC:
		var info [1024]byte // struct btrfs_ioctl_fs_info_args; fsid at 16
		if ioctl(fd, btrfsIocFSInfo, unsafe.Pointer(&info[0])) == nil {
			copy(uuid[:], info[16:32])
			return uuid, true
		}
	case unix.SQUASHFS_MAGIC:
		return uuid, true // has file handles, and the null UUID
	}
	return uuid, false
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func sysSpace(fd int) (Space, error) {
	var sfs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &sfs) }); err != nil {
		return Space{}, err
	}
	unit := uint64(sfs.Frsize)
	return Space{
		Total: sfs.Blocks * unit, Free: sfs.Bfree * unit, Available: sfs.Bavail * unit,
		Inodes: sfs.Files, FreeInodes: sfs.Ffree,
		ReadOnly:  sfs.Flags&unix.ST_RDONLY != 0,
		NoSUID:    sfs.Flags&unix.ST_NOSUID != 0,
		Overlay:   int64(sfs.Type) == unix.OVERLAYFS_SUPER_MAGIC,
		Temporary: int64(sfs.Type) == unix.TMPFS_MAGIC,
		FUSE:      int64(sfs.Type) == unix.FUSE_SUPER_MAGIC,
	}, nil
}

func sysGetdents(fd int, buf []byte) (n int, err error) {
	err = retry(func() error { n, err = unix.Getdents(fd, buf); return err })
	return n, err
}

// parseDirent takes one struct linux_dirent64 out of buf at pos.
func parseDirent(buf []byte, pos int) (name []byte, dtype byte, next int) {
	reclen := int(binary.NativeEndian.Uint16(buf[pos+16:]))
	name = buf[pos+19 : pos+reclen]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return name, buf[pos+18], pos + reclen
}

func sysSeek(fd int, offset int64, whence int) (int64, error) { return unix.Seek(fd, offset, whence) }

func sysNextData(fd int, off, size int64) (start, end int64, err error) {
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	switch err {
	case nil:
	case unix.ENXIO: // only a hole follows
		return size, size, nil
	case unix.EINVAL: // holes are not told
		return off, size, nil
	default:
		return 0, 0, err
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	return start, end, err
}

func sysRead(fd int, p []byte) (int, error) { return unix.Read(fd, p) }

// sysReadEvents reads an inotify instance that never blocks: the scheduler need
// not hear of the call.
func sysReadEvents(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func sysPread(fd int, p []byte, off int64) (int, error) { return unix.Pread(fd, p, off) }

func sysWrite(fd int, p []byte) (int, error) { return unix.Write(fd, p) }

func sysPwrite(fd int, p []byte, off int64) (int, error) { return unix.Pwrite(fd, p, off) }

func sysClone(dst, src int) error { return unix.IoctlFileClone(dst, src) }

func sysCopyRange(dst, src int, off int64, n int) (int, error) {
	in, out := off, off
	return unix.CopyFileRange(src, &in, dst, &out, n, 0)
}

// cannotCopyRange says that copy_file_range does not serve these two files;
// read and write do.
func cannotCopyRange(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS, unix.EBADF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func sysMkdir(dirfd int, name string, perm uint32) error { return unix.Mkdirat(dirfd, name, perm) }

func sysCreate(dirfd int, name string, perm uint32) (int, error) {
	return unix.Openat(dirfd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
}

func sysTmpfile(dirfd int, perm uint32) (int, error) {
	return unix.Openat(dirfd, ".", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, perm)
}

func sysSymlink(target string, dirfd int, name string) error {
	return unix.Symlinkat(target, dirfd, name)
}

func sysMknod(dirfd int, name string, mode uint32, rdev uint64) error {
	return unix.Mknodat(dirfd, name, mode, int(unix.Mkdev(uint32(rdev>>32), uint32(rdev))))
}

func sysLink(oldfd int, name string, newfd int, newName string) error {
	return unix.Linkat(oldfd, name, newfd, newName, 0)
}

// linksByName says that the kernel has refused to link a descriptor as such, as it
// does without CAP_DAC_READ_SEARCH: before Linux 6.10 always, since then if other
// credentials have opened it, and those of each thread are others to it under
// Landlock (linkat(2), AT_EMPTY_PATH). To find it in /proc makes a link a half dearer.
var linksByName atomic.Bool

func sysLinkFile(fd, newfd int, newName string) error {
	if !linksByName.Load() {
		if err := unix.Linkat(fd, "", newfd, newName, unix.AT_EMPTY_PATH); err != unix.ENOENT {
			return err
		}
	}
	err := unix.Linkat(unix.AT_FDCWD, procFD(fd), newfd, newName, unix.AT_SYMLINK_FOLLOW)
	if err == nil { // the directory was there all the time
		linksByName.Store(true)
	}
	return err
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func sysUnlink(dirfd int, name string, dir bool) error {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(dirfd, name, flags)
}

func sysRename(oldfd int, name string, newfd int, newName string, flags uint) error {
	return unix.Renameat2(oldfd, name, newfd, newName, flags)
}

func sysChmod(dirfd int, name string, perm uint32) error {
	err := unix.Fchmodat(dirfd, name, perm, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return err
	}
	// Before Linux 6.6 there is no fchmodat2: through a descriptor of the name.
	fd, err := sysOpenBeneath(dirfd, name, unix.O_PATH, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(procFD(fd), perm)
}

func sysFchmod(fd int, perm uint32) error { return unix.Fchmod(fd, perm) }

func sysChown(dirfd int, name string, uid, gid int) error {
	return unix.Fchownat(dirfd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW|emptyPath(name))
}

func emptyPath(name string) int {
	if name == "" {
		return unix.AT_EMPTY_PATH
	}
	return 0
}

func sysSetTimes(dirfd int, name string, atime, mtime time.Time) error {
	var path cString
	if err := path.set(name); err != nil {
		return err
	}
	times := [2]kernelTimespec{timespec(atime), timespec(mtime)}
	_, _, errno := unix.Syscall6(utimensat, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])),
		uintptr(unsafe.Pointer(&times)), uintptr(unix.AT_SYMLINK_NOFOLLOW|emptyPath(name)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// A kernelTimespec is struct __kernel_timespec. unix.Timespec, on machines of 32
// bits, ends in 2038.
type kernelTimespec struct{ sec, nsec int64 }

// utimensat is the number of the call that takes it: utimensat(2), and on machines
// of 32 bits utimensat_time64, which is 412 on all of them (syscalls(2)).
const utimensat = unix.SYS_UTIMENSAT*(^uintptr(0)>>63) + 412*(1-^uintptr(0)>>63)

// timespec is t, or says that there is none. A file's time is another value than
// none, also where it is the first moment of the year 1.
func timespec(t time.Time) kernelTimespec {
	if t == (time.Time{}) {
		return kernelTimespec{nsec: unix.UTIME_OMIT}
	}
	return kernelTimespec{t.Unix(), int64(t.Nanosecond())}
}

func sysTruncate(fd int, size int64) error { return unix.Ftruncate(fd, size) }

func sysFsetxattr(fd int, attr string, value []byte) error {
	return unix.Fsetxattr(fd, attr, value, 0)
}

func sysFremovexattr(fd int, attr string) error { return unix.Fremovexattr(fd, attr) }

func sysFlags(fd int) uint32 {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0 // the file system has none
	}
	return flags
}

func sysSetFlags(fd int, flags uint32) error {
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags))
}

func sysFsync(fd int) error { return unix.Fsync(fd) }

func sysSyncfs(fd int) error { return unix.Syncfs(fd) }

func sysOpenLock(dirfd int, name string) (int, error) {
	return unix.Openat(dirfd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
}

func sysFlock(fd int) error {
	return retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
}
