package overlay

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"overdav/overlay/internal/at"
)

// staging is <workdir>/overdav: where things are made before anybody sees
// them and where they go when nobody shall see them any more. The kernel never
// looks there; what a crash leaves there is swept at the next start.
type staging struct {
	dir   *at.RWDir // <workdir>/overdav
	tmp   *at.RWDir // .../tmp, what is being made
	trash *at.RWDir // .../trash, what is being deleted
	usage *at.Usage // what the trash is leaving; nil without a quota
	seq   atomic.Uint64
	busy  atomic.Int64 // temps that are open and names that wait in the trash

	unfinished atomic.Bool // a move could neither be finished nor undone: only a start can

	// whiteMu guards the name tmp/wh, of which every whiteout is a hard link.
	whiteMu sync.Mutex

	// users are the temps that are open and the lower objects being copied:
	// FS.Close waits for them. One is added only by a transaction or by who is
	// one already.
	users  sync.WaitGroup
	purges sync.WaitGroup
	purge  chan purge
}

// A purge is a name in the trash that is to be deleted.
type purge struct {
	name string
	gone func() // to be called then
}

// sharedWhiteout is the whiteout that the others are links of.
const sharedWhiteout = "wh"

// newName is a name that nothing in staging has.
func (s *staging) newName() string { return "t" + strconv.FormatUint(s.seq.Add(1), 36) }

// whiteout makes a whiteout in tmp and returns its name. It is a link of one
// shared inode, so that deleting costs none, and works on a full disk; where
// that has all the links it can have, a fresh one takes its place.
func (s *staging) whiteout() (string, error) {
	name := s.newName()
	err := s.tmp.Link(sharedWhiteout, s.tmp, name)
	if err == nil {
		return name, nil
	}
	if !errors.Is(err, syscall.EMLINK) && !errors.Is(err, syscall.ENOENT) {
		return "", err
	}
	s.whiteMu.Lock()
	defer s.whiteMu.Unlock()
	if err := s.tmp.Link(sharedWhiteout, s.tmp, name); err == nil {
		return name, nil // somebody made a fresh one
	}
	if err := s.tmp.Mknod(name, syscall.S_IFCHR, 0); err != nil {
		return "", err
	}
	// The fresh one is shared from now on, if that can be; it serves either way.
	if fresh := s.newName(); s.tmp.Link(name, s.tmp, fresh) == nil {
		if err := s.tmp.Rename(fresh, s.tmp, sharedWhiteout, at.RenamePlain); err != nil {
			s.discard(fresh)
		}
	}
	return name, nil
}

// discard removes what is left in tmp under name, of whatever kind.
func (s *staging) discard(name string) {
	err := s.tmp.Unlink(name)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		err = removeTree(s.tmp, name)
	}
	_ = err // what stays is swept at the next start
}

// toTrash moves what stands in tmp under name to the trash, to be deleted when
// there is time.
func (s *staging) toTrash(name string) {
	if s.tmp.Rename(name, s.trash, name, at.RenamePlain) != nil {
		s.discard(name)
		return
	}
	s.deleteLater(name)
}

// deleteLater has what stands in trash under name deleted.
func (s *staging) deleteLater(name string) {
	s.busy.Add(1)
	s.purges.Add(1)
	p := purge{name, s.usage.Leaving()}
	select {
	case s.purge <- p:
	default: // many wait already
		go func() { s.purge <- p }()
	}
}

// purger deletes what comes into the trash, one tree at a time, and tells when it
// does.
func (s *staging) purger(tell func(begins bool)) {
	for p := range s.purge {
		tell(true)
		_ = removeTree(s.trash, p.name) // what stays is swept at the next start
		tell(false)
		p.gone()
		s.busy.Add(-1)
		s.purges.Done()
	}
}

// removeTree removes name in d and everything in it. A directory that forbids
// it is made to allow it: what is removed here, nobody sees. Others may do the
// same at the same time.
func removeTree(d *at.RWDir, name string) error {
	return removeTreeUntil(context.Background(), d, name)
}

// removeTreeUntil is removeTree, until ctx is done.
func removeTreeUntil(ctx context.Context, d *at.RWDir, name string) error {
	var st at.Stat
	if err := d.Stat(name, &st); err != nil {
		if at.IsMissing(err) {
			return nil
		}
		return err
	}
	if !st.IsDir() {
		return goneOK(d.Unlink(name))
	}
	if st.Mode&0o700 != 0o700 {
		if err := d.Chmod(name, 0o700); err != nil {
			return goneOK(err)
		}
	}
	if err := emptyDirUntil(ctx, d, name); err != nil {
		return goneOK(err)
	}
	return goneOK(d.Rmdir(name))
}

// emptyDir removes everything in the directory name in d, or as much of it as can
// be. Of several errors it answers one that is not isUndeletable, if there is any.
func emptyDir(d *at.RWDir, name string) error { return emptyDirUntil(context.Background(), d, name) }

func emptyDirUntil(ctx context.Context, d *at.RWDir, name string) error {
	inner, err := d.OpenRWDir(name)
	if err != nil {
		return err
	}
	defer inner.Close()
	names, err := readNames(&inner.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		if n.dtype != at.DTDir && n.dtype != at.DTUnknown {
			failed = goneOK(inner.Unlink(n.name))
		} else {
			failed = removeTreeUntil(ctx, inner, n.name)
		}
		if failed != nil && (err == nil || isUndeletable(err)) {
			err = failed
		}
	}
	return err
}

// goneOK takes what is gone already for removed.
func goneOK(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// A rawName is a name as a layer has it.
type rawName struct {
	name  string
	dtype byte
}

// readNames reads all names of one directory of one layer.
func readNames(d *at.Dir) ([]rawName, error) {
	r, err := d.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var names []rawName
	for {
		name, dtype, ok, err := r.Next()
		if err != nil || !ok {
			return names, err
		}
		names = append(names, rawName{string(name), dtype})
	}
}

// A temp is an object that nobody sees yet: a file without a name, or whatever
// stands under a name in a staging directory.
type temp struct {
	s    *staging
	file *at.RWFile // open, when it is a regular file
	dir  *at.RWDir  // where name is
	name string     // "" has none yet
	nest string     // the nursery in tmp that dir is; "" dir is tmp
	open bool       // counted in s.busy and s.users
}

// place installs the object under a name of upper that is free.
// Errors: EEXIST when it is not.
func (t *temp) place(to *at.RWDir, name string) error {
	if t.name == "" {
		return t.file.Link(to, name)
	}
	if err := t.dir.Rename(t.name, to, name, at.RenameNoReplace); err != nil {
		return err
	}
	t.name = ""
	return nil
}

// replace installs the object over a whiteout or a non-directory, in one
// atomic step.
func (t *temp) replace(to *at.RWDir, name string) error {
	if err := t.giveName(); err != nil {
		return err
	}
	if err := t.dir.Rename(t.name, to, name, at.RenamePlain); err != nil {
		return err
	}
	t.name = ""
	return nil
}

// exchange installs the object in the place of whatever has the name, which
// takes the object's place in staging.
func (t *temp) exchange(to *at.RWDir, name string) error {
	if err := t.giveName(); err != nil {
		return err
	}
	return t.dir.Rename(t.name, to, name, at.RenameExchange)
}

func (t *temp) giveName() error {
	if t.name != "" {
		return nil
	}
	t.begin()
	t.dir, t.name = t.s.tmp, t.s.newName()
	if err := t.file.Link(t.dir, t.name); err != nil {
		t.name = ""
		return err
	}
	return nil
}

// close ends the staging: what still has a name there is removed.
func (t *temp) close() {
	if t.file != nil {
		_ = t.file.Close() // it was synced where that was asked for, or is thrown away
	}
	if t.name != "" && t.nest == "" {
		t.s.discard(t.name)
	}
	if t.nest != "" {
		t.dir.Close()
		t.s.discard(t.nest)
	}
	t.name, t.nest = "", ""
	if t.open {
		t.open = false
		t.s.busy.Add(-1)
		t.s.users.Done()
	}
}

// begin counts the object among those that need staging.
func (t *temp) begin() {
	if !t.open {
		t.open = true
		t.s.busy.Add(1)
		t.s.users.Add(1)
	}
}

// reserve reserves a name in tmp, where what is made inherits nothing.
func (s *staging) reserve() *temp {
	t := &temp{s: s, dir: s.tmp, name: s.newName()}
	t.begin()
	return t
}

// newFile makes an empty file without a name in the directory d, of which it
// inherits; on a file system that has no such files, one in tmp.
func (s *staging) newFile(d *at.RWDir, perm uint32) (*temp, error) {
	file, err := d.Tmpfile(perm)
	if err == nil {
		return &temp{s: s, file: file}, nil
	}
	if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EISDIR) {
		return nil, err
	}
	t, err := s.newNamed(&dir{upper: d})
	if err != nil {
		return nil, err
	}
	if t.file, err = t.dir.Create(t.name, perm); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// aclDefault is what the objects made in a directory inherit (acl(5)).
const aclDefault = "system.posix_acl_default"

// newNamed reserves a name in staging where what is made inherits from d, which
// is in upper, as if it were made there: in tmp itself or, where d passes on its
// group or an ACL, in a directory of tmp that passes on the same.
func (s *staging) newNamed(d *dir) (*temp, error) {
	in, err := d.passesOn()
	if err != nil {
		return nil, err
	}
	t := s.reserve()
	if !in.setgid && in.acl == nil {
		return t, nil
	}
	if err := t.makeNursery(in); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// A legacy is what a directory passes on to what is made in it.
type legacy struct {
	setgid bool // its group
	gid    uint32
	acl    []byte // nil: none
	at     uint64 // the directory's attributes
}

// passesOn finds out what d, which is in upper, passes on. A directory of the
// cache hears when its attributes change, and so remembers.
func (d *dir) passesOn() (*legacy, error) {
	seen := d.attributes.Load()
	if known := d.legacy.Load(); known != nil && known.at == seen {
		return known, nil
	}
	var st at.Stat
	if err := d.upper.Stat(".", &st); err != nil {
		return nil, err
	}
	acl, err := d.upper.Getxattr(".", aclDefault)
	if err != nil && err != syscall.ENODATA && err != syscall.EOPNOTSUPP {
		return nil, err
	}
	in := &legacy{st.Mode&syscall.S_ISGID != 0, st.GID, acl, seen}
	if d.cache != nil {
		d.legacy.Store(in)
	}
	return in, nil
}

func (t *temp) makeNursery(in *legacy) error {
	s := t.s
	name := s.newName()
	err := s.tmp.Mkdir(name, 0o700)
	if err == nil && in.setgid {
		if err = s.tmp.Chown(name, -1, int(in.gid)); err == nil {
			err = s.tmp.Chmod(name, 0o700|syscall.S_ISGID)
		}
	}
	if err == nil && in.acl != nil {
		err = s.tmp.Setxattr(name, aclDefault, in.acl)
	}
	if err == nil {
		t.dir, err = s.tmp.OpenRWDir(name)
	}
	if err != nil {
		t.dir = s.tmp
		s.discard(name)
		return err
	}
	t.nest = name
	return nil
}
