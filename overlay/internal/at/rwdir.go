package at

import (
	"runtime"
	"syscall"
	"time"

	"github.com/pkg/xattr"
)

// An RWDir is a Dir of the upper layer or of the workdir: it can be changed.
type RWDir struct {
	Dir
	hook  Hook
	usage *Usage // nil: nothing is counted
}

// OpenRW opens the directory at a host path for changes, each of which asks
// hook first.
func OpenRW(path string, hook Hook) (*RWDir, error) {
	d, err := Open(path)
	if err != nil {
		return nil, err
	}
	return &RWDir{Dir: *d, hook: hook}, nil
}

// OpenRWDir opens the directory name for changes.
func (d *RWDir) OpenRWDir(name string) (*RWDir, error) {
	inner, err := d.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &RWDir{Dir: *inner, hook: d.hook, usage: d.usage}, nil
}

// OpenRWPath opens the directory at a slash-separated path beneath d for
// changes.
func (d *RWDir) OpenRWPath(path string) (*RWDir, error) {
	inner, err := d.OpenPath(path)
	if err != nil {
		return nil, err
	}
	return &RWDir{Dir: *inner, hook: d.hook, usage: d.usage}, nil
}

func (d *RWDir) change(op Op, name string, call func() error) error {
	d.usage.wait()
	return d.hook.do(op, name, func() error {
		if err := single(name); err != nil {
			return err
		}
		return retry(call)
	})
}

// Mkdir makes the directory name. No limit of a Usage refuses it: to delete what
// is in a directory of a lower, upper must have the directory.
func (d *RWDir) Mkdir(name string, perm uint32) error {
	return d.takes(OpMkdir, name, true, func() error {
		return d.change(OpMkdir, name, func() error { return sysMkdir(d.fd, name, perm) })
	})
}

// Create makes the regular file name, which must not exist.
func (d *RWDir) Create(name string, perm uint32) (*RWFile, error) {
	fd := -1
	err := d.takes(OpCreate, name, false, func() error {
		return d.change(OpCreate, name, func() (err error) {
			fd, err = sysCreate(d.fd, name, perm)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return &RWFile{File: File{fd: fd}, hook: d.hook, usage: d.usage, charged: usageUnit}, nil
}

// Tmpfile makes a regular file without a name in d, whose default ACL and
// group it inherits; RWFile.Link gives it one.
// Errors: EOPNOTSUPP where the file system has no O_TMPFILE.
func (d *RWDir) Tmpfile(perm uint32) (*RWFile, error) {
	fd := -1
	err := d.takes(OpTmpfile, ".", false, func() error {
		return d.change(OpTmpfile, ".", func() (err error) {
			fd, err = sysTmpfile(d.fd, perm)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return &RWFile{File: File{fd: fd}, hook: d.hook, usage: d.usage, charged: usageUnit, nameless: true}, nil
}

// OpenWrite opens the regular file name for reading and writing. Never blocks.
func (d *RWDir) OpenWrite(name string) (*RWFile, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	fd, err := sysOpenBeneath(d.fd, name, openReadWrite, false)
	if err != nil {
		return nil, err
	}
	f := &RWFile{File: File{fd: fd}, hook: d.hook, usage: d.usage}
	if f.usage != nil {
		var st Stat
		if err := f.Stat(&st); err != nil {
			sysClose(fd)
			return nil, err
		}
		f.charged = CostOf(&st)
	}
	return f, nil
}

// Symlink makes the symlink name.
func (d *RWDir) Symlink(target, name string) error {
	return d.takes(OpSymlink, name, false, func() error {
		return d.change(OpSymlink, name, func() error { return sysSymlink(target, d.fd, name) })
	})
}

// Mknod makes the device, FIFO or socket name; mode carries its type.
func (d *RWDir) Mknod(name string, mode uint32, rdev uint64) error {
	return d.change(OpMknod, name, func() error { return sysMknod(d.fd, name, mode, rdev) })
}

// Link gives the object name in d a second name in another directory. A
// symlink is linked itself.
func (d *RWDir) Link(name string, to *RWDir, newName string) error {
	return to.change(OpLink, newName, func() error {
		if err := single(name); err != nil {
			return err
		}
		return sysLink(d.fd, name, to.fd, newName)
	})
}

// Unlink removes the name of something that is not a directory.
func (d *RWDir) Unlink(name string) error {
	return d.gives(name, func() error {
		return d.change(OpUnlink, name, func() error { return sysUnlink(d.fd, name, false) })
	})
}

// Rmdir removes the empty directory name.
func (d *RWDir) Rmdir(name string) error {
	return d.gives(name, func() error {
		return d.change(OpRmdir, name, func() error { return sysUnlink(d.fd, name, true) })
	})
}

// RenameFlag is a flag of renameat2(2).
type RenameFlag uint

// The flags of renameat2(2).
const (
	RenamePlain     RenameFlag = 0
	RenameNoReplace RenameFlag = 1 // EEXIST when the new name exists
	RenameExchange  RenameFlag = 2 // both names stay, with each other's object
	RenameWhiteout  RenameFlag = 4 // a whiteout is left at the old name
)

// Rename moves name to newName in another directory, in one atomic step.
func (d *RWDir) Rename(name string, to *RWDir, newName string, flag RenameFlag) error {
	rename := func() error {
		return to.change(OpRename, newName, func() error {
			if err := single(name); err != nil {
				return err
			}
			return sysRename(d.fd, name, to.fd, newName, uint(flag))
		})
	}
	if flag&(RenameExchange|RenameNoReplace) != 0 {
		return rename()
	}
	return to.gives(newName, rename) // what it replaces
}

// Chmod sets the permissions of name, which is not a symlink.
func (d *RWDir) Chmod(name string, perm uint32) error {
	return d.change(OpChmod, name, func() error { return sysChmod(d.fd, name, perm) })
}

// Chown sets the owner of name; -1 keeps one.
func (d *RWDir) Chown(name string, uid, gid int) error {
	return d.change(OpChown, name, func() error { return sysChown(d.fd, self(name), uid, gid) })
}

// SetTimes sets the access and modification time of name; a zero time keeps
// the one there is.
func (d *RWDir) SetTimes(name string, atime, mtime time.Time) error {
	return d.change(OpSetTimes, name, func() error { return sysSetTimes(d.fd, self(name), atime, mtime) })
}

// Setxattr sets the attribute attr of name.
func (d *RWDir) Setxattr(name, attr string, value []byte) error {
	return d.change(OpSetxattr, name, func() error {
		if name == "." && !d.pathfd {
			return sysFsetxattr(d.fd, attr, value)
		}
		if err := sysSetxattr(d.fd, name, attr, value); err != syscall.ENOSYS {
			return err
		}
		err := xattr.LSet(d.procPath(name), attr, value)
		runtime.KeepAlive(d)
		return xattrErrno(err)
	})
}

// Removexattr removes the attribute attr of name; ENODATA when there is none.
func (d *RWDir) Removexattr(name, attr string) error {
	return d.change(OpRemovexattr, name, func() error {
		if name == "." && !d.pathfd {
			return sysFremovexattr(d.fd, attr)
		}
		if err := sysRemovexattr(d.fd, name, attr); err != syscall.ENOSYS {
			return err
		}
		err := xattr.LRemove(d.procPath(name), attr)
		runtime.KeepAlive(d)
		return xattrErrno(err)
	})
}

// Sync makes the names in d last (fsync of the directory).
func (d *RWDir) Sync() error {
	return d.hook.do(OpSync, ".", func() error {
		return retry(func() error { return d.onReadable(sysFsync) })
	})
}

// SyncName makes content and attributes of the file or directory name last.
// Errors: EACCES for what may not be read.
func (d *RWDir) SyncName(name string) error {
	return d.change(OpSync, name, func() error {
		fd, err := sysOpenBeneath(d.fd, name, openRead, false)
		if err != nil {
			return err
		}
		defer sysClose(fd)
		return sysFsync(fd)
	})
}

// onReadable calls with a descriptor that is not O_PATH.
func (d *RWDir) onReadable(call func(fd int) error) error {
	if !d.pathfd {
		return call(d.fd)
	}
	fd, err := sysOpenBeneath(d.fd, ".", openDir, false)
	if err != nil {
		return err
	}
	defer sysClose(fd)
	return call(fd)
}

// Flags returns the inode flags (chattr) of the directory d; none where the
// file system has none.
func (d *Dir) Flags() uint32 {
	if d.pathfd {
		return 0
	}
	return sysFlags(d.fd)
}

// SetFlags sets the inode flags of the directory d.
func (d *RWDir) SetFlags(flags uint32) error {
	return d.hook.do(OpSetFlags, ".", func() error { return sysSetFlags(d.fd, flags) })
}

// Lock takes the advisory lock on the file name in d, made if missing, for as
// long as the File returned is open (flock(2)).
// Errors: EWOULDBLOCK when another process has it.
func (d *RWDir) Lock(name string) (*File, error) {
	fd, err := sysOpenLock(d.fd, name)
	if err != nil {
		return nil, err
	}
	if err := sysFlock(fd); err != nil {
		sysClose(fd)
		return nil, err
	}
	return &File{fd: fd}, nil
}

// LockDir is Lock for the directory itself.
func (d *RWDir) LockDir() (*File, error) {
	fd, err := sysOpenBeneath(d.fd, ".", openDir, false)
	if err != nil {
		return nil, err
	}
	if err := sysFlock(fd); err != nil {
		sysClose(fd)
		return nil, err
	}
	return &File{fd: fd}, nil
}

// SyncAll writes everything of the file system that d is on (syncfs(2)).
func (d *RWDir) SyncAll() error {
	return d.hook.do(OpSync, ".", func() error { return d.onReadable(sysSyncfs) })
}

// Inode flags, as chattr(1) sets them: S, i and A.
const (
	FlagSync      = 0x08
	FlagImmutable = 0x10
	FlagNoatime   = 0x80
)

// IsMissing says that err means there is nothing of that name: absent, a name
// too long for the file system to have, or a parent that is no directory.
func IsMissing(err error) bool {
	return err == syscall.ENOENT || err == syscall.ENAMETOOLONG || err == syscall.ENOTDIR
}
