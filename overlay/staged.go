package overlay

import (
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
	old     *at.Stat  // of the file whose attributes the content has; nil for none
	plain   bool      // the content has no ACL: its directory passes none on
	note    note
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

// StageSeen is Stage of what was seen.
// Errors: ErrChanged when a symlink is on the way now.
func (fsys *FS) StageSeen(seen Sight, perm fs.FileMode) (*Staged, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, pathError("stage", seen.Path, err)
	}
	p, err := t.walkTo(&seen)
	if err != nil {
		return nil, pathError("stage", seen.Path, t.end(err))
	}
	f, err := seen.found(p.dir)
	s, err := fsys.stageAt(t, p, f, err, perm)
	if err != nil {
		return nil, pathError("stage", seen.Path, err)
	}
	s.name = seen.Path
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
	s, err := fsys.stageAt(t, p, f, err, perm)
	if err != nil {
		return nil, err
	}
	s.name = name
	return s, nil
}

// stageAt stages what is to have the name p, where f is, or by lookErr nothing.
// It ends the transaction.
func (fsys *FS) stageAt(t *txn, p place, f found, lookErr error, perm fs.FileMode) (*Staged, error) {
	err := lookErr
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
	plain := false
	if p.dir.cache != nil { // else to find out costs more than it saves
		in, err := p.dir.passesOn()
		plain = err == nil && in.acl == nil
	}
	temp, err := fsys.staging.newFile(p.dir.upper, at.Perm(perm))
	if err != nil {
		return nil, t.end(err)
	}
	if err := t.end(nil); err != nil {
		temp.close()
		return nil, err
	}
	return &Staged{fsys: fsys, path: p.path(), temp: temp, plain: plain}, nil
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
	_, err = s.temp.file.CopyFrom(f.read, info.Size(), s.fsys.hasRoom)
	return pathError("copy", s.name, err)
}

// SetModTime sets the modification time that Commit gives the file.
func (s *Staged) SetModTime(t time.Time) { s.modTime = t }

// A note is an attribute that tells of the content with one entity tag.
type note struct {
	attr  string // "" for none
	value func(etag string) []byte
	tag   tag // that the file gets; zero without the attribute
}

// SetNote has Commit give the file an extended attribute that tells of its new
// content: value makes it of the entity tag that the file will have. The
// attribute is synced with the content. If it cannot be set, Commit goes on
// without.
func (s *Staged) SetNote(attr string, value func(etag string) []byte) {
	s.note = note{attr: attr, value: value}
}

// take gives content its note. Its tag is what the content would have now: the
// change times that follow are our own.
func (n *note) take(file *at.RWFile) error {
	n.tag = tag{}
	if n.attr == "" {
		return nil
	}
	var st at.Stat
	if err := file.Stat(&st); err != nil {
		return err
	}
	made := derivedTag(&st)
	if writable(file, func() error { return file.Setxattr(n.attr, n.value(made.shown())) }) == nil { // else see SetNote
		n.tag = made
	}
	return nil
}

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
//  1. The content gets the old file's attributes, and its note.
//  2. It is synced, unless durability is none.
//  3. It takes the name. Before: the old content; after: the new. A crash
//     leaves one or the other, never a part.
//  4. The directory is synced, if durability is full.
//
// Errors leave the old content. Whatever comes of it, the Staged is done.
func (s *Staged) Commit() (*Info, error) { return s.commit(nil) }

// CommitOver is Commit, if what is there is still what was seen.
// Errors: ErrChanged when it is not; then the Staged is as it was, to be
// committed over something else.
func (s *Staged) CommitOver(seen Sight) (*Info, error) { return s.commit(&seen) }

func (s *Staged) commit(seen *Sight) (info *Info, err error) {
	if s.done {
		return nil, pathError("commit", s.name, fs.ErrClosed)
	}
	for range maxRaces {
		if err = s.tryCommit(seen); err != errRaced {
			break
		}
	}
	if err == ErrChanged {
		return nil, pathError("commit", s.name, err)
	}
	if err == nil {
		info, err = s.committed()
	}
	s.Abort()
	return info, pathError("commit", s.name, err)
}

// committed tells of the file.
func (s *Staged) committed() (*Info, error) {
	var f found
	err := s.temp.file.Stat(&f.st)
	if err == nil && s.note.tag != (tag{}) {
		s.fsys.tags.keep(s.note.tag, &f.st)
	}
	return s.fsys.newInfo(baseName(s.name), &f), err
}

// Abort throws the content away. After Commit it does nothing.
func (s *Staged) Abort() {
	if !s.done {
		s.done = true
		s.temp.close()
	}
}

// tryCommit is one attempt. What needs no sync takes its attributes and its
// name under one lock; else the sync stands between, under none.
func (s *Staged) tryCommit(seen *Sight) error {
	fsys := s.fsys
	if fsys.durability != DurabilityNone {
		if err := s.prepare(seen); err != nil {
			return err
		}
	}
	t, err := fsys.change()
	if err != nil {
		return err
	}
	p, err := t.walk(s.path, false)
	if err == nil {
		err = t.raise(&p)
	}
	if err != nil {
		return t.end(err)
	}
	f, old, err := s.replaced(p, seen)
	switch {
	case err != nil:
	case fsys.durability == DurabilityNone:
		err = s.takeAttributes(p, f, old)
	case !s.isTaken(old):
		err = errRaced
	}
	if err != nil {
		return t.end(err)
	}
	err = s.show(t, p, f, old)
	if old == nil {
		err = seen.taken(err)
	}
	return t.end(err)
}

// prepare gives the content its attributes and syncs it.
func (s *Staged) prepare(seen *Sight) error {
	t, err := s.fsys.look()
	if err != nil {
		return err
	}
	p, err := t.walk(s.path, false)
	if err != nil {
		return t.end(err)
	}
	f, old, err := s.replaced(p, seen)
	if err == nil {
		err = s.takeAttributes(p, f, old)
	}
	if err = t.end(err); err != nil {
		return err
	}
	return s.temp.file.Sync()
}

// replaced finds what the content is about to replace; old is nil for nothing.
func (s *Staged) replaced(p place, seen *Sight) (f found, old *at.Stat, err error) {
	if p.isRoot() {
		return f, nil, syscall.EISDIR
	}
	if seen.isFree(p.dir) {
		return f, nil, nil
	}
	f, err = s.fsys.find(p.dir, p.name)
	switch {
	case err == syscall.ENOENT:
		err = nil
	case err != nil:
		return f, nil, err
	default:
		old = &f.st
	}
	if err := seen.still(old, f.layer); err != nil {
		return f, nil, err
	}
	if old != nil && old.IsDir() {
		return f, nil, syscall.EISDIR
	}
	if old != nil && !old.IsRegular() {
		return f, nil, syscall.ENXIO // a link or a device took its place
	}
	return f, old, nil
}

// takeAttributes gives the content the attributes of the file that it replaces,
// and its time.
func (s *Staged) takeAttributes(p place, f found, old *at.Stat) error {
	s.old = nil
	if old != nil {
		if err := s.fsys.inherit(f, p.name, s.temp.file, s.plain); err != nil {
			return err
		}
		st := *old
		s.old = &st
	}
	if err := s.note.take(s.temp.file); err != nil {
		return err
	}
	if s.modTime.IsZero() {
		return nil
	}
	return s.temp.file.SetTimes(time.Time{}, s.modTime)
}

// isTaken says whether the content has the attributes of the file that is there
// now.
func (s *Staged) isTaken(now *at.Stat) bool {
	if now == nil || s.old == nil {
		return now == nil && s.old == nil
	}
	return now.Same(s.old) && now.Ctime.Equal(s.old.Ctime)
}

// show gives the content its name: a link where upper has none of it, a rename
// over a file or a whiteout. Where nothing is synced they change places instead,
// and the old goes with the Staged: a rename over a file has ext4 write the new
// content out first (auto_da_alloc, ext4(5)), and then wait for that when it is
// replaced in turn.
//
// Preconditions: the names in p.dir are locked.
func (s *Staged) show(t *txn, p place, f found, old *at.Stat) error {
	t.changed(p.dir.upper)
	switch {
	case !f.white && (old == nil || f.layer != 0):
		return s.temp.place(p.dir.upper, p.name)
	case s.fsys.durability == DurabilityNone:
		return raced(s.temp.exchange(p.dir.upper, p.name))
	}
	return s.temp.replace(p.dir.upper, p.name)
}

// inherit gives new content the attributes of the regular file that it
// replaces. plain says that the new content has no ACL.
func (fsys *FS) inherit(f found, name string, to *at.RWFile, plain bool) error {
	var own at.Stat
	if err := to.Stat(&own); err != nil {
		return err
	}
	if own.UID != f.st.UID || own.GID != f.st.GID {
		if _, err := chownAs(to, &f.st); err != nil {
			return err
		}
	}
	late, err := fsys.copyXattrs(f.at, name, to, true)
	if err != nil {
		return err
	}
	hadACL := false
	if !plain {
		if hadACL, err = dropACL(to); err != nil {
			return err
		}
	}
	if perm := withoutPrivileges(&f.st); hadACL || own.Mode&0o7777 != perm {
		if err := to.Chmod(perm); err != nil {
			return err
		}
	}
	for _, attr := range late {
		if err := to.Setxattr(attr.name, attr.value); err != nil {
			return fmt.Errorf("%s: %w", attr.name, err)
		}
	}
	return nil
}

// dropACL takes from new content the ACL that it inherited from its directory,
// which is not the old file's. To ask costs less than to remove what is not
// there, which file systems write down.
func dropACL(file *at.RWFile) (had bool, err error) {
	switch _, err := file.Getxattr(aclAccess); err {
	case nil:
		return true, file.Removexattr(aclAccess)
	case syscall.ENODATA, syscall.EOPNOTSUPP:
		return false, nil
	default:
		return false, err
	}
}
