package davfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// FileSystem is a merged tree as a webdav.FileSystem. It is right under a bare
// webdav.Handler, as far as that lets it be: files are replaced whole when
// they are closed, nothing is opened before its content is asked for, and an
// upload that breaks off leaves what was there.
//
// Names are cleaned as package path does, from the root. Errors are
// *os.PathError and *os.LinkError with the errno directly inside, because
// webdav.Handler tells them apart by os.IsNotExist and by type, neither of
// which unwraps.
//
// Safe for use by many goroutines.
type FileSystem struct {
	tree  *overlay.FS
	names nameLocks // what a change holds while it looks and then changes
}

var _ webdav.FileSystem = (*FileSystem)(nil)

// NewFileSystem returns tree as a webdav.FileSystem. The caller closes tree.
func NewFileSystem(tree *overlay.FS) *FileSystem { return &FileSystem{tree: tree} }

// Mkdir makes a directory.
func (s *FileSystem) Mkdir(_ context.Context, name string, perm os.FileMode) error {
	clean, err := cleanName(name)
	if err == nil {
		err = s.tree.Mkdir(clean, perm)
	}
	return flatten("mkdir", name, err)
}

// OpenFile opens a file or a directory. With O_CREATE and O_TRUNC it is an
// upload: the file changes in one step at Close, unless a write or a read of
// its source failed. With O_RDWR alone nothing is copied up before the first
// write. FIFOs, devices and sockets open, but have no content.
func (s *FileSystem) OpenFile(_ context.Context, name string, flag int, perm os.FileMode) (webdav.File, error) {
	clean, err := cleanName(name)
	if err != nil {
		return nil, flatten("open", name, err)
	}
	f, err := s.open(clean, flag, perm)
	if err != nil {
		return nil, flatten("open", name, err)
	}
	return f, nil
}

func (s *FileSystem) open(name string, flag int, perm os.FileMode) (webdav.File, error) {
	const replace = os.O_CREATE | os.O_TRUNC
	info, err := statOrLink(s.tree, name)
	switch {
	case err == nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, syscall.EEXIST
	case err != nil && !(flag&os.O_CREATE != 0 && errors.Is(err, syscall.ENOENT)):
		return nil, err
	case err == nil && info.IsDir() && flag&replace != 0:
		return nil, syscall.EISDIR
	case flag&os.O_TRUNC != 0 || err != nil:
		u, err := s.newUpload(name, perm)
		if err != nil {
			return nil, err
		}
		return u, nil
	}
	return &File{fs: s, name: name, flag: flag, info: info}, nil
}

// RemoveAll removes a file, or a directory with all in it, in one step.
// Unlike os.RemoveAll it answers ENOENT when there is nothing to remove.
func (s *FileSystem) RemoveAll(_ context.Context, name string) error {
	clean, err := cleanName(name)
	if err == nil {
		err = removeAll(s.tree, clean)
	}
	return flatten("removeall", name, err)
}

// removeAll removes name and all beneath it. The root stays.
func removeAll(tree *overlay.FS, name string) error {
	if name == "." {
		return syscall.EPERM
	}
	if _, err := tree.Lstat(name); err != nil {
		return err
	}
	return tree.RemoveAll(name)
}

// Rename renames a file or a directory, replacing a file of the new name in
// the same step. EINVAL when the names are one, or one lies in the other.
func (s *FileSystem) Rename(_ context.Context, oldName, newName string) error {
	err := s.rename(oldName, newName)
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: errno(err)}
}

func (s *FileSystem) rename(oldName, newName string) error {
	src, err := cleanName(oldName)
	if err != nil {
		return err
	}
	dst, err := cleanName(newName)
	if err != nil {
		return err
	}
	if contains(src, dst) || contains(dst, src) {
		return syscall.EINVAL
	}
	return s.tree.Rename(src, dst)
}

// Stat tells of a file or directory; of a symlink that leads nowhere, itself.
// The result is a webdav.ETager and a webdav.ContentTyper.
func (s *FileSystem) Stat(_ context.Context, name string) (os.FileInfo, error) {
	clean, err := cleanName(name)
	if err != nil {
		return nil, flatten("stat", name, err)
	}
	info, err := statOrLink(s.tree, clean)
	if err != nil {
		return nil, flatten("stat", name, err)
	}
	return newInfo(clean, info), nil
}

// LockSystem shows locks on the tree to a bare webdav.Handler, in the name of
// one principal.
func (s *FileSystem) LockSystem(locks *Locks, principal string) *LockSystem {
	return locks.LockSystem(principal, func(p Path) (etag string, exists bool, err error) {
		info, err := look(s.tree, p)
		if info == nil {
			return "", false, err
		}
		return entityTag(info), true, nil
	})
}

// look finds what a path shows: nil for nothing.
func look(tree *overlay.FS, p Path) (*overlay.Info, error) {
	sight, err := tree.Look(p.Name(), true)
	return sight.Shown, err
}

// isNothing says that there is nothing, and cannot be.
func isNothing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

// statOrLink follows symlinks, but tells of one that leads nowhere itself: it
// must be seen to be removed.
func statOrLink(tree *overlay.FS, name string) (*overlay.Info, error) {
	info, err := tree.Stat(name)
	if err == nil {
		return info, nil
	}
	if link, lerr := tree.Lstat(name); lerr == nil && link.Mode()&fs.ModeSymlink != 0 {
		return link, nil
	}
	return nil, err
}

// cleanName turns what webdav.Handler calls a name into what the tree does.
// Errors: EINVAL for a name with a NUL.
func cleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", syscall.EINVAL
	}
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

// contains says whether name is dir or lies in it.
func contains(dir, name string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

// flatten makes err an *os.PathError with the errno directly inside.
func flatten(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: errno(err)}
}

// errno is the errno inside err, or the innermost error where there is none.
func errno(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
