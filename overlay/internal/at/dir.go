package at

import (
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/xattr"
)

// A Dir is an open directory of a layer. Its methods read one name in it; "."
// is the directory itself.
type Dir struct {
	fd      int
	pathfd  bool // opened O_PATH: may be searched but not listed
	shared  bool // a layer's root: many use it at once, so its offset is nobody's
	noatime bool // reads leave the access time alone where the kernel lets us
	bare    bool // nobody is asked for attributes (WithoutXattrs)
	mount   *Dir // what holds a private mount clone; nil without one
}

// Open opens the directory at a host path, following symlinks in it: only for
// what an administrator names.
func Open(path string) (*Dir, error) {
	fd, err := sysOpenHost(path)
	if err != nil {
		return nil, err
	}
	return &Dir{fd: fd, shared: true, noatime: ownedByUs(fd)}, nil
}

// OpenReadOnlyClone opens the directory at a host path as a private clone of
// its mount: read-only, without submounts, access times or symlinks. Needs
// CAP_SYS_ADMIN; EPERM otherwise.
func OpenReadOnlyClone(path string) (*Dir, error) {
	fd, err := sysCloneMount(path)
	if err != nil {
		return nil, err
	}
	// The clone's own descriptor is O_PATH and holds the mount: the directory
	// is opened beneath it.
	mount := &Dir{fd: fd}
	inner, err := sysOpenBeneath(fd, ".", openDir, false)
	if err != nil {
		mount.Close()
		return nil, err
	}
	return &Dir{fd: inner, shared: true, mount: mount}, nil
}

func ownedByUs(fd int) bool {
	var st Stat
	if err := sysStat(fd, ".", &st); err != nil {
		return false // then access times are kept the ordinary way
	}
	euid := syscall.Geteuid()
	return euid == 0 || st.UID == uint32(euid)
}

// Close closes the directory. Closing twice is harmless.
func (d *Dir) Close() {
	if d.fd >= 0 {
		sysClose(d.fd)
		d.fd = -1
	}
	if d.mount != nil {
		d.mount.Close()
	}
}

// Stat looks name up, following nothing.
func (d *Dir) Stat(name string, st *Stat) error {
	if err := single(name); err != nil {
		return err
	}
	return sysStat(d.fd, self(name), st)
}

// self is name as the calls have it that take an empty one for the directory
// itself: they ask no right to search it, "." does.
func self(name string) string {
	if name == "." {
		return ""
	}
	return name
}

// OpenDir opens the directory name.
// Errors: ENOTDIR for whatever is not a directory, a symlink included; EXDEV
// for a submount.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	return d.openBeneath(name)
}

// OpenPath opens the directory at a slash-separated path beneath d.
// Errors: ELOOP when a symlink is on the way, ENOTDIR, EXDEV for a submount.
func (d *Dir) OpenPath(path string) (*Dir, error) { return d.openBeneath(path) }

func (d *Dir) openBeneath(path string) (*Dir, error) {
	fd, err := sysOpenBeneath(d.fd, path, openDir, d.noatime)
	if err == nil {
		return &Dir{fd: fd, noatime: d.noatime, bare: d.bare}, nil
	}
	if err != syscall.EACCES {
		return nil, notDir(path, err)
	}
	// A directory that may be searched but not read.
	fd, err = sysOpenBeneath(d.fd, path, openPathDir, false)
	if err != nil {
		return nil, notDir(path, err)
	}
	return &Dir{fd: fd, pathfd: true, noatime: d.noatime, bare: d.bare}, nil
}

// notDir gives a symlink in the place of a single directory the answer that
// anything else there would get.
func notDir(path string, err error) error {
	if err == syscall.ELOOP && strings.IndexByte(path, '/') < 0 {
		return syscall.ENOTDIR
	}
	return err
}

// OpenFile opens the file name for reading. It never blocks, on a FIFO neither;
// that it is regular is for the caller to see.
// Errors: ENXIO for a socket, ELOOP for a symlink.
func (d *Dir) OpenFile(name string) (*File, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	fd, err := sysOpenBeneath(d.fd, name, openRead, d.noatime)
	if err != nil {
		return nil, err
	}
	return &File{fd: fd, bare: d.bare}, nil
}

// Readlink returns the target of the symlink name.
func (d *Dir) Readlink(name string) (string, error) {
	if err := single(name); err != nil {
		return "", err
	}
	return sysReadlink(d.fd, name)
}

// WithoutXattrs has every question about attributes of d, and of all that is
// opened beneath it, answered with EOPNOTSUPP, as by a file system that has none:
// for one that has none and says so in other ways.
func (d *Dir) WithoutXattrs() { d.bare = true }

// Getxattr returns the attribute attr of name; ENODATA when there is none.
func (d *Dir) Getxattr(name, attr string) ([]byte, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	if d.bare {
		return nil, syscall.EOPNOTSUPP
	}
	if name == "." && !d.pathfd {
		return sysFgetxattr(d.fd, attr)
	}
	if value, err := sysGetxattr(d.fd, name, attr); err != syscall.ENOSYS {
		return value, err
	}
	value, err := xattr.LGet(d.procPath(name), attr)
	runtime.KeepAlive(d)
	return value, xattrErrno(err)
}

// CheckXattr is Getxattr without the value.
func (d *Dir) CheckXattr(name, attr string) error {
	if err := single(name); err != nil {
		return err
	}
	if d.bare {
		return syscall.EOPNOTSUPP
	}
	if name != "." || d.pathfd {
		if err := sysHasXattr(d.fd, name, attr); err != syscall.ENOSYS {
			return err
		}
	}
	_, err := d.Getxattr(name, attr)
	return err
}

// XattrNames returns the names of d's own attributes as flistxattr(2) does, each
// ended by a NUL, in buf if they fit.
func (d *Dir) XattrNames(buf []byte) ([]byte, error) {
	if d.bare {
		return nil, syscall.EOPNOTSUPP
	}
	if !d.pathfd {
		return sysFlistxattr(d.fd, buf)
	}
	names, err := d.Listxattr(".")
	for _, name := range names {
		buf = append(append(buf, name...), 0)
	}
	return buf, err
}

// Listxattr returns the names of the attributes of name.
func (d *Dir) Listxattr(name string) ([]string, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	if d.bare {
		return nil, syscall.EOPNOTSUPP
	}
	if name == "." && !d.pathfd {
		list, err := sysFlistxattr(d.fd, make([]byte, 512))
		return splitNames(list), err
	}
	if list, err := sysListxattr(d.fd, name); err != syscall.ENOSYS {
		return splitNames(list), err
	}
	names, err := xattr.LList(d.procPath(name))
	runtime.KeepAlive(d)
	return names, xattrErrno(err)
}

// splitNames splits names of which each is ended by a NUL.
func splitNames(list []byte) (names []string) {
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Handle returns the file handle of name, as name_to_handle_at(2) does.
// Errors: EOPNOTSUPP where the file system has none.
func (d *Dir) Handle(name string) (kind int32, handle []byte, err error) {
	if err := single(name); err != nil {
		return 0, nil, err
	}
	return sysHandle(d.fd, name)
}

// UUID returns the identifier of d's file system; false where it has none.
func (d *Dir) UUID() (uuid [16]byte, ok bool) { return sysUUID(d.fd) }

// Space tells of the file system of d.
func (d *Dir) Space() (Space, error) { return sysSpace(d.fd) }

// A Space is the room in a file system, in bytes, as an ordinary user sees it,
// and in inodes; those are 0 where they are not counted.
type Space struct {
	Total, Free, Available uint64
	Inodes, FreeInodes     uint64
	ReadOnly               bool
	NoSUID                 bool // setuid means nothing there
	Overlay                bool // the file system is overlayfs
	Temporary              bool // tmpfs: gone with the power
	FUSE                   bool // some program is the file system
}

// procPath is name in d as the calls see it that take no descriptor. The last
// component is not followed by their L-forms; "." resolves to d itself.
func (d *Dir) procPath(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name
}

// xattrErrno takes the errno out of pkg/xattr's error.
func xattrErrno(err error) error {
	if e, ok := err.(*xattr.Error); ok {
		return e.Err
	}
	return err
}

// A DirReader yields the names of a directory in the order of its file system.
type DirReader struct {
	fd       int
	own      bool
	buf      []byte
	pos, end int
}

// direntBuffer is large enough that the calls vanish beside the work per name.
const direntBuffer = 64 << 10

// Reader returns a reader of d's names from the first.
func (d *Dir) Reader() (*DirReader, error) {
	if d.shared || d.pathfd {
		fd, err := sysOpenBeneath(d.fd, ".", openDir, d.noatime)
		if err != nil {
			return nil, err
		}
		return &DirReader{fd: fd, own: true}, nil
	}
	r := &DirReader{fd: d.fd}
	return r, r.Rewind()
}

// Rewind starts again: names made since are seen.
func (r *DirReader) Rewind() error {
	r.pos, r.end = 0, 0
	_, err := sysSeek(r.fd, 0, 0)
	return err
}

// Next returns the next name and its type, a DT constant ("." and ".." left
// out); ok is false at the end. The name is good until the next call.
func (r *DirReader) Next() (name []byte, dtype byte, ok bool, err error) {
	for {
		if r.pos >= r.end {
			if r.buf == nil {
				r.buf = make([]byte, direntBuffer)
			}
			n, err := sysGetdents(r.fd, r.buf)
			if err != nil || n <= 0 {
				return nil, 0, false, err
			}
			r.pos, r.end = 0, n
		}
		name, dtype, r.pos = parseDirent(r.buf, r.pos)
		if s := string(name); s != "." && s != ".." {
			return name, dtype, true, nil
		}
	}
}

// Close ends the reading.
func (r *DirReader) Close() {
	if r.own && r.fd >= 0 {
		sysClose(r.fd)
	}
	r.fd = -1
}

// The types of directory entries, as in getdents64(2).
const (
	DTUnknown = 0
	DTFIFO    = 1
	DTChr     = 2
	DTDir     = 4
	DTBlk     = 6
	DTReg     = 8
	DTLnk     = 10
	DTSock    = 12
)

// RealPath is a host path without symlinks, for messages and comparisons.
func RealPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}
