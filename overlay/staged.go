package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A Staged is the coming content of a file: nobody sees it until Commit gives
// it its name, in one atomic step. Whoever reads the file meanwhile sees the
// old content, and goes on seeing it in what is open. It belongs to one
// goroutine.
type Staged struct {
	fsys    *FS
	name    string // as the caller calls it
	path    string // merged, without symlinks
	temp    *temp
	modTime time.Time // zero: when it was written
	done    bool
}

// Stage begins the replacement of the file name, or its making with
// permissions perm. Its parent is copied up; the file itself never is. A
// symlink is followed: what it leads to is replaced.
// Errors: EISDIR; ENXIO for what is no regular file; ENOENT without a parent.
func (fsys *FS) Stage(name string, perm fs.FileMode) (*Staged, error) {
	s, err := fsys.stage(name, perm)
	if err != nil {
		return nil, pathError("stage", name, err)
	}
	return s, nil
}

func (fsys *FS) stage(name string, perm fs.FileMode) (*Staged, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, err
	}
	p, err := t.walk(name, true)
	if err != nil {
		return nil, t.end(err)
	}
	f, err := fsys.find(p.dir, p.name)
	switch {
	case err == syscall.ENOENT:
		err = fsys.refuseInto(p.dir)
	case err == nil && f.st.IsDir():
		err = syscall.EISDIR
	case err == nil && !f.st.IsRegular():
		err = syscall.ENXIO
	case err == nil:
		err = fsys.refuseReplace(p, f)
	}
	if err == nil {
		err = t.raiseUnlocked(&p)
	}
	if err != nil {
		return nil, t.end(err)
	}
	temp, err := fsys.staging.newFile(p.dir.upper, at.Perm(perm))
	if err != nil {
		return nil, t.end(err)
	}
	if err := t.end(nil); err != nil {
		temp.close()
		return nil, err
	}
	return &Staged{fsys: fsys, name: name, path: p.path(), temp: temp}, nil
}

// refuseReplace refuses to replace what chattr protects.
func (fsys *FS) refuseReplace(p place, f found) error {
	if err := fsys.refuseFrom(p.dir); err != nil {
		return err
	}
	if f.layer != 0 {
		if fsys.root.lowers[f.layer-1].layer.protection(&f.st).any() {
			return errProtected
		}
		return nil
	}
	return fsys.refuseMarked(f.at, p.name)
}

// Write writes at the end of what was written.
func (s *Staged) Write(p []byte) (int, error) {
	n, err := s.temp.file.Write(p)
	return n, pathError("write", s.name, err)
}

// WriteAt writes at off; what was never written is a hole.
func (s *Staged) WriteAt(p []byte, off int64) (int, error) {
	n, err := s.temp.file.WriteAt(p, off)
	return n, pathError("write", s.name, err)
}

// ReadAt reads what was written (io.ReaderAt).
func (s *Staged) ReadAt(p []byte, off int64) (int, error) { return s.temp.file.ReadAt(p, off) }

// Truncate sets the length.
func (s *Staged) Truncate(size int64) error {
	return pathError("truncate", s.name, s.temp.file.Truncate(size))
}

// CopyContent makes the staged content that of the open file f, by reflink
// where the file system can: for a change of a part.
func (s *Staged) CopyContent(f *File) error {
	info, err := f.Info()
	if err != nil {
		return err
	}
	if f.read == nil {
		return pathError("copy", f.name, syscall.EISDIR)
	}
	_, err = s.temp.file.CopyFrom(f.read, info.Size())
	return pathError("copy", s.name, err)
}

// SetModTime sets the modification time that Commit gives the file.
func (s *Staged) SetModTime(t time.Time) { s.modTime = t }

// Stat tells of what was written so far, by the name that it will have.
func (s *Staged) Stat() (*Info, error) {
	info := &Info{name: baseName(s.name)}
	if err := s.temp.file.Stat(&info.st); err != nil {
		return nil, pathError("stat", s.name, err)
	}
	if !s.modTime.IsZero() {
		info.st.Mtime = s.modTime
	}
	return info, nil
}

// Commit shows the content under the name. A file that was there keeps its
// owner, permissions, attributes and ACL, but neither setuid, setgid nor
// capabilities; other hard links of it keep the old content. What is returned
// tells of the file as it then is.
//
//  1. The content gets the old file's attributes.
//  2. It is synced, unless durability is none.
//  3. It takes the name. Before: the old content; after: the new. A crash
//     leaves one or the other, never a part.
//  4. The directory is synced, if durability is full.
//
// Errors leave the old content. Whatever comes of it, the Staged is done.
func (s *Staged) Commit() (*Info, error) {
	if s.done {
		return nil, pathError("commit", s.name, fs.ErrClosed)
	}
	defer s.Abort()
	for range maxRaces {
		err := s.tryCommit()
		if err == errRaced {
			continue
		}
		if err != nil {
			return nil, pathError("commit", s.name, err)
		}
		info, err := s.committed()
		return info, pathError("commit", s.name, err)
	}
	return nil, pathError("commit", s.name, errRaced)
}

// committed tells of the file.
func (s *Staged) committed() (*Info, error) {
	var f found
	err := s.temp.file.Stat(&f.st)
	return s.fsys.newInfo(baseName(s.name), &f), err
}

// Abort throws the content away. After Commit it does nothing.
func (s *Staged) Abort() {
	if !s.done {
		s.done = true
		s.temp.close()
	}
}

func (s *Staged) tryCommit() error {
	old, err := s.takeAttributes()
	if err != nil {
		return err
	}
	if !s.modTime.IsZero() {
		if err := s.temp.file.SetTimes(time.Time{}, s.modTime); err != nil {
			return err
		}
	}
	if s.fsys.durability != DurabilityNone {
		if err := s.temp.file.Sync(); err != nil {
			return err
		}
	}
	t, p, e, here, err := s.fsys.beginReplace(s.path)
	if err != nil {
		return err
	}
	if err := s.unchanged(e, old); err != nil {
		return t.end(err)
	}
	return t.end(s.fsys.show(t, p, here, s.temp, e, false))
}

// unchanged says whether the file is still the one whose attributes were taken.
func (s *Staged) unchanged(e *entry, old *at.Stat) error {
	switch {
	case e.isDir():
		return syscall.EISDIR
	case e.exists() != (old != nil):
		return errRaced
	case old != nil && (!e.stat().Same(old) || !e.stat().Ctime.Equal(old.Ctime)):
		return errRaced
	}
	return nil
}

// takeAttributes gives the content the attributes of the file that is there;
// nil when there is none.
func (s *Staged) takeAttributes() (old *at.Stat, err error) {
	err = s.fsys.see(s.path, false, func(p place, f found) error {
		if f.st.IsDir() {
			return syscall.EISDIR
		}
		if !f.st.IsRegular() {
			return syscall.ENXIO // a link or a device took its place
		}
		old = &f.st
		return s.fsys.inherit(f, p.name, s.temp.file)
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	return old, err
}

// inherit gives new content the attributes of the regular file that it
// replaces.
func (fsys *FS) inherit(f found, name string, to *at.RWFile) error {
	if _, err := chownAs(to, &f.st); err != nil {
		return err
	}
	late, err := fsys.copyXattrs(f.at, name, to, true)
	if err != nil {
		return err
	}
	// An ACL inherited from the directory is not the old file's.
	if err := to.Removexattr(aclAccess); err != nil &&
		!errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	if err := to.Chmod(withoutPrivileges(&f.st)); err != nil {
		return err
	}
	for _, attr := range late {
		if err := to.Setxattr(attr.name, attr.value); err != nil {
			return fmt.Errorf("%s: %w", attr.name, err)
		}
	}
	return nil
}

// beginReplace is beginCreate for a name that may exist.
func (fsys *FS) beginReplace(name string) (t *txn, p place, e *entry, here presence, err error) {
	if t, err = fsys.change(); err != nil {
		return nil, p, nil, absent, err
	}
	if p, err = t.walk(name, false); err == nil {
		err = t.raise(&p)
	}
	if err == nil && p.isRoot() {
		err = syscall.EISDIR
	}
	if err == nil {
		e, here, err = t.lookup(p)
	}
	if err != nil {
		return nil, p, nil, absent, t.end(err)
	}
	return t, p, e, here, nil
}
