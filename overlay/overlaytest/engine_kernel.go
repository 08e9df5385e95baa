package overlaytest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// Kernel is the kernel's overlayfs as an Engine.
var Kernel = Opener{Name: "kernel", Open: func(l Layers, options []string) (Engine, error) {
	k, err := openKernel(l, options...)
	if err != nil {
		return nil, err // not a nil *kernel in an Engine
	}
	return k, nil
}}

// kernel does with ordinary system calls on a mount what scripts ask for.
type kernel struct {
	dir  string // "" when closed
	root *at.RWDir
}

func openKernel(l Layers, options ...string) (*kernel, error) {
	dir, err := os.MkdirTemp("", "overlaytest")
	if err != nil {
		return nil, err
	}
	if err := mountOverlay(dir, kernelOptions(l, options)); err != nil {
		os.Remove(dir) // the mount's error is the one that tells
		return nil, err
	}
	root, err := at.OpenRW(dir, nil)
	if err != nil {
		return nil, errors.Join(err, unmount(dir), os.Remove(dir))
	}
	return &kernel{dir: dir, root: root}, nil
}

// Close unmounts; closing twice is harmless.
func (k *kernel) Close() error {
	if k.dir == "" {
		return nil
	}
	k.root.Close()
	dir := k.dir
	k.dir = ""
	if err := unmount(dir); err != nil {
		return err
	}
	return os.Remove(dir)
}

func (k *kernel) path(name string) string { return filepath.Join(k.dir, name) }

func (k *kernel) open(name string, flag int, use func(f *os.File) error) error {
	f, err := os.OpenFile(k.path(name), flag, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(use(f), f.Close())
}

// Put does what careful programs do: a new file, then its rename.
func (k *kernel) Put(name, content string) error {
	if st, err := os.Stat(k.path(name)); err == nil && st.IsDir() {
		return syscall.EISDIR
	}
	name, err := k.resolve(name)
	if err != nil {
		return err
	}
	temp := path.Join(path.Dir(name), ".put")
	defer os.Remove(k.path(temp)) // is gone unless something failed
	err = k.open(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, func(f *os.File) error {
		_, err := f.WriteString(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := k.copyAttrs(name, temp, keepOwner); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return k.Rename(temp, name)
}

// resolve is name without symlinks: a file is replaced where it is. What is
// missing or dangling is left to the call that finds it so.
func (k *kernel) resolve(name string) (string, error) {
	real, err := filepath.EvalSymlinks(k.path(name))
	if err == nil {
		return filepath.Rel(k.dir, real)
	}
	dir, err := filepath.EvalSymlinks(k.path(path.Dir(name)))
	if err != nil {
		return name, nil
	}
	rel, err := filepath.Rel(k.dir, dir)
	return path.Join(rel, path.Base(name)), err
}

func (k *kernel) Write(name, content string) error {
	return k.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, func(f *os.File) error {
		_, err := f.WriteString(content)
		return err
	})
}

func (k *kernel) Append(name, content string) error {
	return k.open(name, os.O_WRONLY|os.O_APPEND, func(f *os.File) error {
		_, err := f.WriteString(content)
		return err
	})
}

func (k *kernel) WriteAt(name string, off int64, content string) error {
	return k.open(name, os.O_WRONLY, func(f *os.File) error {
		_, err := f.WriteAt([]byte(content), off)
		return err
	})
}

func (k *kernel) Truncate(name string, size int64) error { return os.Truncate(k.path(name), size) }
func (k *kernel) Mkdir(name string) error                { return os.Mkdir(k.path(name), 0o755) }
func (k *kernel) Rm(name string) error                   { return syscall.Unlink(k.path(name)) }
func (k *kernel) Rmdir(name string) error                { return syscall.Rmdir(k.path(name)) }

func (k *kernel) Rmtree(name string) error {
	if _, err := os.Lstat(k.path(name)); err != nil {
		return err
	}
	return os.RemoveAll(k.path(name))
}

// Rename is rename(2) and nothing else: os.Rename refuses more.
func (k *kernel) Rename(from, to string) error {
	return syscall.Rename(k.path(from), k.path(to))
}

// Mv falls back to copying as mv(1) does.
func (k *kernel) Mv(from, to string) error {
	err := k.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := syscall.Rmdir(k.path(to)); err != nil && err != syscall.ENOENT {
		return err
	}
	if err := k.copyTree(from, to, keepOwner); err != nil {
		return err
	}
	return os.RemoveAll(k.path(from))
}

// Cp copies in place of what is there: content, permissions but setuid and
// setgid, attributes and times. The copy is its maker's; what is no file,
// directory or symlink is left out.
func (k *kernel) Cp(from, to string) error {
	if from == to || strings.HasPrefix(to+"/", from+"/") || strings.HasPrefix(from+"/", to+"/") {
		return syscall.EINVAL
	}
	if _, err := os.Lstat(k.path(from)); err != nil {
		return err
	}
	if err := os.RemoveAll(k.path(to)); err != nil {
		return err
	}
	return k.copyTree(from, to, 0)
}

func (k *kernel) copyTree(from, to string, keep copyMode) error {
	st, err := os.Lstat(k.path(from))
	if err != nil {
		return err
	}
	switch st.Mode().Type() {
	case 0:
		content, err := os.ReadFile(k.path(from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(k.path(to), content, 0o600); err != nil {
			return err
		}
	case fs.ModeDir:
		if err := k.copyMembers(from, to, keep); err != nil {
			return err
		}
	case fs.ModeSymlink:
		target, err := os.Readlink(k.path(from))
		if err != nil {
			return err
		}
		if err := os.Symlink(target, k.path(to)); err != nil {
			return err
		}
	default:
		return nil
	}
	return k.copyAttrs(from, to, keep|keepTimes)
}

func (k *kernel) copyMembers(from, to string, keep copyMode) error {
	if err := os.Mkdir(k.path(to), 0o700); err != nil {
		return err
	}
	members, err := os.ReadDir(k.path(from))
	for _, m := range members {
		err := k.copyTree(path.Join(from, m.Name()), path.Join(to, m.Name()), keep)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // listed, and denied
			return err
		}
	}
	return err
}

// A copyMode says what a copy takes over besides permissions and attributes.
type copyMode int

const (
	keepOwner copyMode = 1 << iota // and setuid and setgid with it
	keepTimes
)

func (k *kernel) copyAttrs(from, to string, keep copyMode) error {
	host := hostView{root: &k.root.Dir}
	st, err := host.stat(from)
	if err != nil {
		return err
	}
	attrs, err := host.xattrs(from)
	if err != nil {
		return err
	}
	return k.in(to, func(dir *at.RWDir, name string) error {
		perm := st.Mode & 0o7777
		if keep&keepOwner == 0 {
			// A directory keeps what it has from the one it was made in.
			var made at.Stat
			if err := dir.Stat(name, &made); err != nil {
				return err
			}
			perm &^= syscall.S_ISUID | syscall.S_ISGID
			if made.IsDir() {
				perm |= made.Mode & syscall.S_ISGID
			}
		} else if err := dir.Chown(name, int(st.UID), int(st.GID)); err != nil {
			return err
		}
		for attr, value := range attrs {
			if err := dir.Setxattr(name, attr, []byte(value)); err != nil {
				return err
			}
		}
		if !st.IsSymlink() {
			if err := dir.Chmod(name, perm); err != nil {
				return err
			}
		}
		if keep&keepTimes == 0 {
			return nil
		}
		return dir.SetTimes(name, st.Atime, st.Mtime)
	})
}

// in calls with the open directory of name and its last component.
func (k *kernel) in(name string, call func(dir *at.RWDir, name string) error) error {
	b := builder{root: k.root}
	return b.in(name, call)
}

func (k *kernel) Ln(from, to string) error {
	return os.Link(k.path(from), k.path(to))
}

func (k *kernel) Symlink(target, name string) error { return os.Symlink(target, k.path(name)) }

func (k *kernel) Mkfifo(name string) error { return syscall.Mkfifo(k.path(name), 0o644) }

func (k *kernel) Chmod(name string, perm uint32) error {
	return syscall.Chmod(k.path(name), perm)
}

func (k *kernel) Chown(name string, uid, gid int) error { return os.Chown(k.path(name), uid, gid) }

func (k *kernel) Touch(name string, mtime time.Time) error {
	return os.Chtimes(k.path(name), mtime, mtime)
}

func (k *kernel) Setxattr(name, attr, value string) error {
	return k.in(name, func(dir *at.RWDir, name string) error {
		return dir.Setxattr(name, attr, []byte(value))
	})
}

func (k *kernel) Rmxattr(name, attr string) error {
	return k.in(name, func(dir *at.RWDir, name string) error { return dir.Removexattr(name, attr) })
}

func (k *kernel) Getxattr(name, attr string) (value string, err error) {
	err = k.in(name, func(dir *at.RWDir, name string) error {
		v, err := dir.Getxattr(name, attr)
		value = string(v)
		return err
	})
	return value, err
}

func (k *kernel) Listxattr(name string) (names []string, err error) {
	err = k.in(name, func(dir *at.RWDir, name string) (err error) {
		names, err = dir.Listxattr(name)
		return err
	})
	sort.Strings(names)
	return names, err
}

func (k *kernel) Cat(name string) (string, error) {
	content, err := os.ReadFile(k.path(name))
	return string(content), err
}

// Ls lists what is there: of names that are listed and denied it says so.
func (k *kernel) Ls(name string) ([]string, error) {
	dir, err := os.Open(k.path(name))
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	sort.Strings(names)
	for i, member := range names {
		if _, err := os.Lstat(filepath.Join(dir.Name(), member)); err != nil {
			names[i] = fmt.Sprintf("%s (%s)", member, ErrClass(err))
		}
	}
	return names, errors.Join(err, dir.Close())
}

func (k *kernel) Readlink(name string) (string, error) { return os.Readlink(k.path(name)) }

func (k *kernel) Tree() (string, error) { return MergedDir(k.dir) }
