package overlaytest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"testing"

	"overdav/overlay/internal/at"
)

// A Class is the prefix of the attributes that hold marks.
type Class string

// The classes.
const (
	Trusted Class = "trusted.overlay."
	User    Class = "user.overlay." // of a mount with userxattr
)

// Build makes the tree of text in dir, which is made if missing, with marks of
// class Trusted.
func Build(t testing.TB, dir, text string) {
	t.Helper()
	if err := Trusted.Build(dir, text); err != nil {
		t.Fatalf("build %s: %v", dir, err)
	}
}

// Build makes the tree of text in dir, which is made if missing. Directories
// that are there stay, with the attributes that the text gives them; everything
// else is replaced.
func (c Class) Build(dir, text string) error {
	tree, err := Parse(text)
	if err != nil {
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	root, err := at.OpenRW(dir, nil)
	if err != nil {
		return err
	}
	defer root.Close()
	b := builder{class: c, root: root}
	for _, e := range tree {
		if err := b.add(e); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	for _, e := range tree {
		if e.Link != "" {
			if err := b.link(e); err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
	}
	if err := b.setTimes(); err != nil {
		return err
	}
	for _, e := range b.made {
		if e.Flags != 0 {
			if err := setFlags(filepath.Join(dir, e.Name), e.Flags); err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
	}
	return nil
}

// errNoFlags: the file system has not all the flags.
var errNoFlags = errors.New("this file system has no such chattr flags")

// Unprotect takes away the flags and the modes that keep the layer in dir from
// being deleted.
func (c Class) Unprotect(dir string) error {
	tree, err := c.Read(dir)
	if err != nil {
		return err
	}
	for _, e := range tree {
		if e.Flags != 0 {
			err = errors.Join(err, setFlags(filepath.Join(dir, e.Name), 0))
		}
		if e.Mode&syscall.S_IFMT == syscall.S_IFDIR && e.Mode&0o700 != 0o700 {
			err = errors.Join(err, os.Chmod(filepath.Join(dir, e.Name), 0o700))
		}
	}
	return err
}

type builder struct {
	class Class
	root  *at.RWDir
	made  Tree // what needs its times set, parents first
}

func (b *builder) add(e Entry) error {
	switch {
	case e.Link != "":
		return nil // when the file is there
	case e.Refused != "":
		return fmt.Errorf("what is refused cannot be built")
	}
	if err := b.makeParents(e.Name); err != nil {
		return err
	}
	return b.in(e.Name, func(dir *at.RWDir, name string) error {
		if err := makeObject(dir, name, e); err != nil {
			return err
		}
		if e.Mode&syscall.S_IFMT == syscall.S_IFCHR && e.Rdev == 0 {
			return nil // a whiteout has nothing but its name
		}
		b.made = append(b.made, e)
		return b.setAttrs(dir, name, e)
	})
}

// in calls with the open directory of name and its last component.
func (b *builder) in(name string, call func(dir *at.RWDir, name string) error) error {
	if name == "." {
		return call(b.root, ".")
	}
	dir, err := b.root.OpenRWPath(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return call(dir, path.Base(name))
}

func (b *builder) makeParents(name string) error {
	parent := path.Dir(name)
	if parent == "." {
		return nil
	}
	if d, err := b.root.OpenPath(parent); err == nil {
		d.Close()
		return nil
	}
	e, err := parseEntry(quote(parent, " =[]") + "/")
	if err != nil {
		return err
	}
	return b.add(e)
}

// makeObject makes e without its attributes.
func makeObject(dir *at.RWDir, name string, e Entry) error {
	kind := e.Mode & syscall.S_IFMT
	if kind != syscall.S_IFDIR {
		if err := dir.Unlink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch kind {
	case syscall.S_IFDIR:
		if name == "." {
			return nil
		}
		if err := dir.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case syscall.S_IFLNK:
		return dir.Symlink(e.Target, name)
	case syscall.S_IFREG:
		return makeFile(dir, name, e)
	}
	return dir.Mknod(name, e.Mode, e.Rdev)
}

func makeFile(dir *at.RWDir, name string, e Entry) error {
	f, err := dir.Create(name, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(e.Size); err != nil {
		return err
	}
	for _, d := range e.Data {
		if _, err := f.WriteAt([]byte(d.Data), d.Off); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) setAttrs(dir *at.RWDir, name string, e Entry) error {
	if err := dir.Chown(name, e.UID, e.GID); err != nil {
		return err
	}
	for mark, value := range e.Marks {
		if err := dir.Setxattr(name, string(b.class)+mark, []byte(value)); err != nil {
			return err
		}
	}
	for attr, value := range e.Xattrs {
		if err := dir.Setxattr(name, b.class.stored(attr), []byte(value)); err != nil {
			return fmt.Errorf("%s: %w", attr, err)
		}
	}
	if kind := e.Mode & syscall.S_IFMT; kind == syscall.S_IFLNK || kind == syscall.S_IFDIR && name != "." {
		return nil // a directory's may let nobody make what is in it: setTimes
	}
	return dir.Chmod(name, e.Mode&^syscall.S_IFMT)
}

func (b *builder) link(e Entry) error {
	return b.in(e.Link, func(from *at.RWDir, old string) error {
		return b.in(e.Name, func(to *at.RWDir, name string) error {
			return from.Link(old, to, name)
		})
	})
}

// setTimes sets the times last and from the end, because making a member
// changes its directory's, and with them the modes of directories.
func (b *builder) setTimes() error {
	for i := len(b.made) - 1; i >= 0; i-- {
		e := b.made[i]
		if e.Mtime.IsZero() {
			e.Mtime = Epoch
		}
		err := b.in(e.Name, func(dir *at.RWDir, name string) error {
			if e.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				if err := dir.Chmod(name, e.Mode&^syscall.S_IFMT); err != nil {
					return err
				}
			}
			return dir.SetTimes(name, e.Mtime, e.Mtime)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stored is the name on disk of an attribute of the text.
func (c Class) stored(attr string) string {
	if len(attr) > len("overlay.") && attr[:len("overlay.")] == "overlay." {
		return string(c) + attr
	}
	return attr
}
