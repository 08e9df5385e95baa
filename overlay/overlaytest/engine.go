package overlaytest

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// An Engine shows the merged tree of some layers and changes it: the kernel,
// the engine, or a server. Names are slash-separated, "." is the root.
//
// A method that the engine has no words for returns an error that is
// errors.ErrUnsupported.
type Engine interface {
	// Put makes or replaces a file's content in one step; an old file's
	// attributes stay.
	Put(name, content string) error
	// Write truncates a file in place, or makes it, and writes.
	Write(name, content string) error
	Append(name, content string) error
	// WriteAt writes into an existing file.
	WriteAt(name string, off int64, content string) error
	Truncate(name string, size int64) error
	Mkdir(name string) error
	Rm(name string) error    // what is no directory
	Rmdir(name string) error // an empty directory
	Rmtree(name string) error
	Rename(from, to string) error // rename(2)
	Mv(from, to string) error     // and by copying where that cannot
	Cp(from, to string) error     // with attributes, in place of what is there
	Ln(from, to string) error
	Symlink(target, name string) error
	Mkfifo(name string) error
	Chmod(name string, perm uint32) error
	Chown(name string, uid, gid int) error
	Touch(name string, mtime time.Time) error
	Setxattr(name, attr, value string) error
	Rmxattr(name, attr string) error
	Getxattr(name, attr string) (string, error)
	Listxattr(name string) ([]string, error)
	Cat(name string) (string, error)
	Ls(name string) ([]string, error)
	Readlink(name string) (string, error)
	// Tree is the merged tree's text.
	Tree() (string, error)
	// Close leaves the layers to the next engine.
	Close() error
}

// An Opener starts an engine over layers. Options are words as mount(8) has
// them for overlay: "userxattr", "redirect_dir=off", "ro".
type Opener struct {
	Name string // "kernel", "fs" or "http", the conditions of scripts
	Open func(l Layers, options []string) (Engine, error)
}

// errnos are the answers that engines must agree on.
var errnos = []struct {
	errno syscall.Errno
	class string
}{
	// The kernel tells some full directories by one and some by the other.
	{syscall.ENOTEMPTY, "EEXIST"},
	{syscall.EEXIST, "EEXIST"},
	{syscall.ENOENT, "ENOENT"},
	{syscall.ENOTDIR, "ENOTDIR"},
	{syscall.EISDIR, "EISDIR"},
	{syscall.EINVAL, "EINVAL"},
	{syscall.EPERM, "EPERM"},
	{syscall.EACCES, "EACCES"},
	{syscall.EBUSY, "EBUSY"},
	{syscall.EXDEV, "EXDEV"},
	{syscall.EIO, "EIO"},
	{syscall.ELOOP, "ELOOP"},
	{syscall.EROFS, "EROFS"},
	{syscall.ENAMETOOLONG, "ENAMETOOLONG"},
	{syscall.ENODATA, "ENODATA"},
	{syscall.EOPNOTSUPP, "EOPNOTSUPP"},
	{syscall.ESTALE, "ESTALE"},
	{syscall.ENXIO, "ENXIO"},
	{syscall.EOVERFLOW, "EOVERFLOW"},
	{syscall.ENOSPC, "ENOSPC"},
}

// ErrClass is the name of the errno in err, "" for no error, and "EEXIST" for
// ENOTEMPTY too.
func ErrClass(err error) string {
	if err == nil {
		return ""
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		for _, e := range errnos {
			if e.errno == errno {
				return e.class
			}
		}
	}
	return fmt.Sprintf("no errno in %q", err)
}
