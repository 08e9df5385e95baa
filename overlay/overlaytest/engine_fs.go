package overlaytest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"syscall"
	"time"

	"overdav/overlay"
)

// FS is *overlay.FS as an Engine.
var FS = Opener{Name: "fs", Open: func(l Layers, options []string) (Engine, error) {
	fsys, err := OpenFS(l, options)
	if err != nil {
		return nil, err
	}
	return &engineFS{fsys}, nil
}}

// OpenFS opens the layers with the engine's options for the kernel's words.
// Nothing is flushed to disk: no script cuts the power.
func OpenFS(l Layers, options []string) (*overlay.FS, error) {
	o := overlay.Options{
		Lowers: l.Lowers, Upper: l.Upper, Work: l.Work,
		Xattr:      overlay.XattrTrusted,
		NoRedirect: slices.Contains(options, "redirect_dir=off"),
		Metacopy:   slices.Contains(options, "metacopy=on"),
		ReadOnly:   slices.Contains(options, "ro"),
		Durability: overlay.DurabilityNone,
	}
	if slices.Contains(options, "userxattr") {
		o.Xattr = overlay.XattrUser
	}
	return overlay.Open(o)
}

type engineFS struct{ *overlay.FS }

func (e *engineFS) Put(name, content string) error {
	s, err := e.Stage(name, 0o644)
	if err != nil {
		return err
	}
	if _, err := s.Write([]byte(content)); err != nil {
		s.Abort()
		return err
	}
	_, err = s.Commit()
	return err
}

func (e *engineFS) open(name string, flag int, use func(f *overlay.File) error) error {
	f, err := e.OpenFile(name, flag, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(use(f), f.Close())
}

func (e *engineFS) Write(name, content string) error {
	return e.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, func(f *overlay.File) error {
		_, err := f.Write([]byte(content))
		return err
	})
}

func (e *engineFS) Append(name, content string) error {
	return e.open(name, os.O_WRONLY|os.O_APPEND, func(f *overlay.File) error {
		_, err := f.Write([]byte(content))
		return err
	})
}

func (e *engineFS) WriteAt(name string, off int64, content string) error {
	return e.open(name, os.O_WRONLY, func(f *overlay.File) error {
		_, err := f.WriteAt([]byte(content), off)
		return err
	})
}

func (e *engineFS) Truncate(name string, size int64) error {
	return e.open(name, os.O_WRONLY, func(f *overlay.File) error { return f.Truncate(size) })
}

func (e *engineFS) Mkdir(name string) error { return e.FS.Mkdir(name, 0o755) }

func (e *engineFS) Rm(name string) error {
	if info, err := e.Lstat(name); err == nil && info.IsDir() {
		return syscall.EISDIR
	}
	return e.Remove(name)
}

func (e *engineFS) Rmdir(name string) error {
	if info, err := e.Lstat(name); err == nil && !info.IsDir() {
		return syscall.ENOTDIR
	}
	return e.Remove(name)
}

func (e *engineFS) Rmtree(name string) error {
	if _, err := e.Lstat(name); err != nil {
		return err
	}
	return e.RemoveAll(name)
}

func (e *engineFS) Mv(from, to string) error { return e.Rename(from, to) }

func (e *engineFS) Cp(from, to string) error {
	return e.Copy(from, to, overlay.CopyOptions{Overwrite: true})
}

func (e *engineFS) Ln(from, to string) error { return e.Link(from, to) }

func (e *engineFS) Mkfifo(string) error { return errors.ErrUnsupported }

func (e *engineFS) Chmod(name string, perm uint32) error {
	mode := fs.FileMode(perm & 0o777)
	if perm&syscall.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if perm&syscall.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if perm&syscall.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return e.FS.Chmod(name, mode)
}

func (e *engineFS) Touch(name string, mtime time.Time) error { return e.Chtimes(name, mtime, mtime) }

func (e *engineFS) Setxattr(name, attr, value string) error {
	return e.FS.Setxattr(name, attr, []byte(value))
}

func (e *engineFS) Rmxattr(name, attr string) error { return e.Removexattr(name, attr) }

func (e *engineFS) Getxattr(name, attr string) (string, error) {
	value, err := e.FS.Getxattr(name, attr)
	return string(value), err
}

func (e *engineFS) Listxattr(name string) ([]string, error) {
	names, err := e.FS.Listxattr(name)
	sort.Strings(names)
	return names, err
}

func (e *engineFS) Cat(name string) (string, error) {
	f, err := e.FS.Open(name)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(f)
	return string(content), errors.Join(err, f.Close())
}

func (e *engineFS) Ls(name string) ([]string, error) {
	infos, err := e.ReadDir(name)
	var names []string
	for _, info := range infos {
		names = append(names, info.Name())
	}
	sort.Strings(names)
	return names, err
}

func (e *engineFS) Tree() (string, error) { return MergedFS(e.FS) }

// Check reports what the engine finds wrong in its own layers.
func (e *engineFS) Check() (problems []overlay.Problem, err error) {
	err = e.FS.Check(func(p overlay.Problem) { problems = append(problems, p) })
	return problems, err
}
