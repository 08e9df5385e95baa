package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A Discarding throws away everything that is in an upper: the tree is that of the
// lowers again. With Anew an empty upper stands in its place at every moment;
// without, upper and in the end work are gone. Nobody may serve them.
//
// It takes three calls, because the first alone is what anybody waits for:
// Discard takes the old upper out of sight, however large it is; Delete deletes
// it; without Anew RemoveWork then removes work. What nobody got round to, because
// of a crash or otherwise, a later Delete and RemoveWork do.
type Discarding struct {
	Upper, Work string
	Anew        bool
	Hook        at.Hook // for tests, as Options.Hook
}

// discardedDir is in stagingDir, and holds what is discarded and not deleted yet,
// each under a name that no other ever had.
const discardedDir = "discarded"

// Discard takes the old upper out of sight:
//
//  1. The locks of upper and work are taken, and the kernel is asked.
//  2. With Anew, an empty upper is made where it is to be discarded to. A crash
//     leaves it to Delete.
//  3. It changes places with upper; without Anew, upper goes there. Before,
//     nothing is lost; after, all is discarded. Where upper itself cannot be
//     moved, empty does it.
//  4. What staging keeps of the old tree is removed: tags, clients' locks. After
//     a crash before, they are of files that there are no more.
//  5. The note of empty goes, and then the guard, of empty or of a crashed server.
//
// Errors: ErrInUse; an interrupted move that only a start can finish.
func (g Discarding) Discard() error {
	d, err := g.open()
	if err != nil {
		return err
	}
	defer d.close()
	pending, _, err := d.s.readDiscardNote()
	if err == nil && pending != "" {
		err = d.goOn(pending)
	} else if err == nil {
		err = d.take(g.Anew)
	}
	if err != nil {
		return layersError("upper %q: %w", d.plan.upper, hostError(err))
	}
	if err := d.forgetAll(); err != nil {
		return layersError("work %q: what was discarded is not all forgotten: %w", d.plan.work, err)
	}
	return nil
}

// forgetAll is steps 4 and 5 of Discard.
func (d *discard) forgetAll() error {
	if err := d.forget(); err != nil {
		return err
	}
	if err := d.s.removeDiscardNote(); err != nil {
		return err
	}
	return removeGuard(d.work)
}

// Delete deletes what was discarded, until ctx is done. Upper may be served
// meanwhile, and others may delete as well. Nothing there is no error.
func (g Discarding) Delete(ctx context.Context) error {
	s, err := g.openStagingDir()
	if s == nil || err != nil {
		return err
	}
	defer s.Close()
	gone, err := s.OpenRWDir(discardedDir)
	if err != nil {
		return missingOK(err)
	}
	defer gone.Close()
	names, err := readNames(&gone.Dir)
	if err != nil {
		return goneOK(err) // somebody else has deleted it all
	}
	for _, n := range names {
		if err := removeTreeUntil(ctx, gone, n.name); err != nil {
			return layersError("work %q: what was discarded is not all deleted: %w", g.Work, err)
		}
	}
	return goneOK(rmdirEmpty(s, discardedDir))
}

// RemoveWork removes work, if there is no upper to which it belongs and Delete has
// left nothing in it.
// Errors: ErrInUse.
func (g Discarding) RemoveWork() error {
	s, err := g.openStagingDir()
	if s == nil || err != nil {
		return err
	}
	defer s.Close()
	lock, err := s.Lock(lockName)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: %q", ErrInUse, g.Work)
	}
	if err != nil {
		return layersError("work %q: %w", g.Work, hostError(err))
	}
	defer lock.Close()
	var st at.Stat
	if _, err := os.Lstat(g.Upper); !errors.Is(err, fs.ErrNotExist) {
		return err // somebody has made one since
	}
	if err := s.Stat(discardedDir, &st); !at.IsMissing(err) {
		return err
	}
	parent, err := at.OpenRW(filepath.Dir(g.Work), g.Hook)
	if err != nil {
		return layersError("work %q: %w", g.Work, err)
	}
	defer parent.Close()
	return removeTree(parent, filepath.Base(g.Work))
}

// openStagingDir opens <workdir>/overdav; nil when there is none.
func (g Discarding) openStagingDir() (*at.RWDir, error) {
	work, err := at.OpenRW(g.Work, g.Hook)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, layersError("work %q: %w", g.Work, err)
	}
	defer work.Close()
	s, err := work.OpenRWDir(stagingDir)
	return s, missingOK(err)
}

// A discard is an upper about to be discarded, taken.
type discard struct {
	plan  *plan
	upper *at.RWDir
	work  *at.RWDir
	s     *staging
	locks []*at.File
	hook  at.Hook
}

func (g Discarding) open() (d *discard, err error) {
	d = &discard{plan: &plan{mounts: readMounts()}, hook: g.Hook}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	u, err := d.plan.look("upper", g.Upper)
	if err != nil {
		return d, err
	}
	w, err := d.plan.look("work", g.Work)
	if err != nil {
		return d, err
	}
	d.plan.upper, d.plan.work = u.path, w.path
	if err := refuseApart(u, w); err != nil {
		return d, err
	}
	if d.upper, err = at.OpenRW(u.path, g.Hook); err != nil {
		return d, layersError("upper %q: %w", u.path, err)
	}
	if d.work, err = at.OpenRW(w.path, g.Hook); err != nil {
		return d, layersError("work %q: %w", w.path, err)
	}
	if err := d.lock(d.upper.LockDir); err != nil {
		return d, err
	}
	if err := refuseInUse(d.plan); err != nil {
		return d, err
	}
	if d.s, err = openStaging(d.work); err != nil {
		return d, layersError("work %q: %w", w.path, hostError(err))
	}
	if err := d.lock(func() (*at.File, error) { return d.s.dir.Lock(lockName) }); err != nil {
		return d, err
	}
	return d, d.s.refusePending()
}

func (d *discard) lock(take func() (*at.File, error)) error {
	fsys := &FS{}
	err := fsys.takeLock(take, d.plan)
	d.locks = append(d.locks, fsys.locks...)
	return err
}

func (d *discard) close() {
	if d.s != nil {
		d.s.close()
	}
	for _, dir := range []*at.RWDir{d.work, d.upper} {
		if dir != nil {
			dir.Close()
		}
	}
	for _, lock := range d.locks {
		_ = lock.Close() // nothing was written to it
	}
}

// take takes upper out of sight.
func (d *discard) take(anew bool) error {
	gone, err := openMade(d.s.dir, discardedDir)
	if err != nil {
		return err
	}
	defer gone.Close()
	name := strconv.FormatInt(time.Now().UnixNano(), 36)
	if anew {
		if err := d.makeLike(gone, name); err != nil {
			return err
		}
	}
	err = d.move(gone, name, anew)
	if anew && staysInPlace(err) {
		return d.empty(gone, name)
	}
	return err
}

// move has upper go to name in gone, or, with anew, change places with what has
// that name.
func (d *discard) move(gone *at.RWDir, name string, anew bool) error {
	parent, err := at.OpenRW(filepath.Dir(d.plan.upper), d.hook)
	if err != nil {
		return err
	}
	defer parent.Close()
	old := filepath.Base(d.plan.upper)
	if anew {
		err = gone.Rename(name, parent, old, at.RenameExchange)
	} else {
		err = parent.Rename(old, gone, name, at.RenamePlain)
	}
	if err != nil {
		return err
	}
	// What made gone itself last is a sync of the directory it is in.
	return errors.Join(parent.Sync(), gone.Sync(), d.s.dir.Sync())
}

// staysInPlace says whether err is of an upper that may be written to, but not be
// moved: its parent is somebody else's, or read-only; it is where something is
// mounted; or Landlock keeps us from its parent, as it does a server that listens.
func staysInPlace(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.EBUSY, syscall.EXDEV} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// empty discards all that is in upper, but not upper itself:
//
//  1. The guard is set, so that no kernel mount shows a part of the tree. A crash
//     leaves it, and all else as it was.
//  2. The name in gone is written down, and synced. Before, nothing has happened;
//     from here on all is discarded, and whoever opens upper next goes on.
//  3. Everything in upper is moved there. When that cannot be, what was moved is
//     moved back, and the note goes, and a guard that was not there before.
//  4. The marks and properties of the root are removed.
//  5. Both directories are synced.
func (d *discard) empty(gone *at.RWDir, name string) error {
	if err := gone.Chmod(name, 0o700); err != nil {
		return err
	}
	to, err := gone.OpenRWDir(name)
	if err != nil {
		return err
	}
	defer to.Close()
	before, err := incompatible(d.work)
	if err != nil {
		return err
	}
	if err := errors.Join(gone.Sync(), setGuard(d.work)); err != nil {
		return err
	}
	err = d.s.writeDiscardNote(name)
	if err == nil {
		err = moveAll(d.upper, to)
	}
	if err == nil {
		return d.bare(to)
	}
	if moveAll(to, d.upper) != nil || d.s.removeDiscardNote() != nil {
		return err // a start, or another Discard, goes on
	}
	if !slices.Contains(before, guardDir) {
		err = errors.Join(err, removeGuard(d.work))
	}
	return err
}

// goOn goes on with what empty began: everything goes where it says.
func (d *discard) goOn(name string) error {
	gone, err := openMade(d.s.dir, discardedDir)
	if err != nil {
		return err
	}
	defer gone.Close()
	to, err := openMade(gone, name)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := moveAll(d.upper, to); err != nil {
		return err
	}
	return d.bare(to)
}

// bare is steps 4 and 5 of empty.
func (d *discard) bare(to *at.RWDir) error {
	attrs, err := d.upper.Listxattr(".")
	if err != nil && err != syscall.EOPNOTSUPP {
		return err
	}
	for _, attr := range attrs {
		if strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "trusted.") {
			if err := d.upper.Removexattr(".", attr); err != nil && !errors.Is(err, syscall.ENODATA) {
				return err
			}
		}
	}
	return errors.Join(d.upper.Sync(), to.Sync())
}

// moveAll moves everything in from to to. An ordinary user may move a directory
// only if he may write to it.
func moveAll(from, to *at.RWDir) error {
	names, err := readNames(&from.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := from.Rename(n.name, to, n.name, at.RenameNoReplace)
		if errors.Is(err, syscall.EACCES) && n.dtype == at.DTDir && makeReadable(from, n.name) == nil {
			err = from.Rename(n.name, to, n.name, at.RenameNoReplace)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// discardNoteName is, in <workdir>/overdav, a file with the name in discardedDir to
// which empty moves what is in upper.
const discardNoteName = "discarding"

func (s *staging) writeDiscardNote(name string) error {
	if err := s.removeDiscardNote(); err != nil { // one that was written down in part
		return err
	}
	f, err := s.dir.Create(discardNoteName, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(name + "\n"))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = s.dir.Sync()
	}
	if err != nil {
		err = errors.Join(err, s.removeDiscardNote())
	}
	return err
}

func (s *staging) removeDiscardNote() error { return goneOK(s.dir.Unlink(discardNoteName)) }

// readDiscardNote returns the name that empty has written down, "" if none, and
// whether there is a note. One that was written down in part has no name: nothing was
// moved yet.
func (s *staging) readDiscardNote() (name string, noted bool, err error) {
	f, err := s.dir.OpenFile(discardNoteName)
	if err != nil {
		return "", false, missingOK(err)
	}
	defer f.Close()
	var buf [64]byte
	n, _ := f.ReadAt(buf[:], 0) // what is short has no newline
	name, _, whole := strings.Cut(string(buf[:n]), "\n")
	if !whole {
		name = ""
	}
	return name, true, nil
}

// finishDiscard goes on with a Discard that was cut short in empty. The locks are
// taken.
func (fsys *FS) finishDiscard(p *plan, s *staging) error {
	name, noted, err := s.readDiscardNote()
	switch {
	case err != nil || !noted:
		return err
	case name == "":
		return s.removeDiscardNote()
	}
	d := &discard{plan: p, upper: fsys.root.upper, work: fsys.work, s: s}
	if err := d.goOn(name); err != nil {
		return err
	}
	if err := errors.Join(d.forget(), s.removeDiscardNote()); err != nil {
		return err
	}
	fsys.root.marks, err = fsys.marks.readDir(&fsys.root.upper.Dir)
	fsys.rootImpure.Store(fsys.root.marks.impure)
	return err
}

// makeLike makes the directory name in dir with the permissions of upper.
func (d *discard) makeLike(dir *at.RWDir, name string) error {
	var st at.Stat
	if err := d.upper.Stat(".", &st); err != nil {
		return err
	}
	if err := dir.Mkdir(name, 0o700); err != nil {
		return err
	}
	if err := dir.Chown(name, int(st.UID), int(st.GID)); err != nil && !errors.Is(err, syscall.EPERM) { // a group that is not ours
		return err
	}
	if err := dir.Chmod(name, st.Mode&0o7777); err != nil {
		return err
	}
	for _, acl := range []string{"system.posix_acl_access", aclDefault} {
		value, err := d.upper.Getxattr(".", acl)
		if err == nil {
			err = dir.Setxattr(name, acl, value)
		}
		if err != nil && err != syscall.ENODATA && err != syscall.EOPNOTSUPP {
			return err
		}
	}
	return nil
}

// forget removes the files that staging keeps of the tree, and the note not yet.
func (d *discard) forget() error {
	names, err := readNames(&d.s.dir.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.dtype != at.DTDir && n.name != lockName && n.name != discardNoteName {
			err = errors.Join(err, d.s.dir.Unlink(n.name))
		}
	}
	return err
}
