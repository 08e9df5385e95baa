package overlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// maxLowers is the number of lowers that the kernel mounts (compare
// OVL_MAX_STACK).
const maxLowers = 500

// Open puts layers together. With Upper it first makes sure that nobody else
// has it and that its file system can hold an upper, sweeps what a crash left,
// and sets the guard.
//
// Errors wrap ErrLayers, ErrInUse or ErrUnsupported and say what to do; then
// nothing was changed but what a sweep removes.
func Open(o Options) (*FS, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	prefix, err := o.prefix()
	if err == nil {
		err = o.checkMetacopy(prefix)
	}
	if err != nil {
		return nil, err
	}
	fsys := &FS{
		root:            &dir{path: ".", shared: true},
		marks:           newMarks(prefix),
		followRedirects: prefix == trustedPrefix,
		writeRedirects:  prefix == trustedPrefix && !o.NoRedirect,
		metacopy:        o.Metacopy,
		durability:      o.Durability,
		privileged:      prefix == trustedPrefix,
		events:          o.Events,
	}
	if os.Geteuid() != 0 {
		fsys.openDirs = 0o700
	}
	opened := false
	defer func() {
		if !opened {
			fsys.abandon()
		}
	}()
	plan, err := planLayers(o)
	if err != nil {
		return nil, err
	}
	if err := fsys.openLowers(plan); err != nil {
		return nil, err
	}
	if o.Upper != "" {
		if err := fsys.openUpperLayer(o, plan); err != nil {
			return nil, err
		}
	}
	if plan.nested {
		fsys.traps = plan.roots
	}
	for _, w := range plan.warnings {
		fsys.warn(w)
	}
	if len(fsys.traps) == 0 {
		fsys.cache = newDirCache(fsys.root, &fsys.marks)
	}
	if fsys.staging != nil {
		if err := fsys.startQuota(); err != nil {
			return nil, layersError("upper: %w", err)
		}
		go fsys.staging.purger(fsys.purging)
		if err := fsys.finishMove(); err != nil {
			return nil, err
		}
	}
	opened = true
	return fsys, nil
}

// warn raises the event.
func (fsys *FS) warn(message string) {
	if fsys.events.Warning != nil {
		fsys.events.Warning(message)
	}
}

// purging raises the event.
func (fsys *FS) purging(begins bool) {
	if fsys.events.Purging != nil {
		fsys.events.Purging(begins)
	}
}

// abandon undoes a half-done Open.
func (fsys *FS) abandon() {
	if s := fsys.staging; s != nil {
		// A move is half done: the guard stays until a start has finished it.
		s.purges.Wait()
		close(s.purge)
		s.close()
		_ = fsys.tags.close() // the error that led here says more
	}
	if fsys.cache != nil {
		fsys.cache.close()
	}
	fsys.root.closeLayers()
	if fsys.work != nil {
		fsys.work.Close()
	}
	_ = fsys.unlock() // nothing was written to them
}

func (o *Options) check() error {
	switch {
	case len(o.Lowers) == 0:
		return layersError("there is no lower directory; name at least one")
	case len(o.Lowers) > maxLowers:
		return layersError("there are %d lower directories; the kernel mounts %d at most", len(o.Lowers), maxLowers)
	case o.Upper != "" && o.Work == "" && !o.ReadOnly:
		return layersError("upper %q needs a work directory beside it, on the same file system", o.Upper)
	case o.Upper == "" && o.Work != "":
		return layersError("work %q is of no use without an upper; name an upper, or leave work out", o.Work)
	}
	return nil
}

// prefix of the marks: never a guess that could show what a mark hides.
func (o *Options) prefix() (string, error) {
	switch o.Xattr {
	case XattrTrusted:
		return trustedPrefix, nil
	case XattrUser:
		return userPrefix, nil
	}
	if os.Geteuid() == 0 {
		return trustedPrefix, nil
	}
	if o.Upper != "" {
		info, err := os.Stat(o.Upper)
		if err == nil && !ownedByCaller(info) {
			return "", layersError("upper %q belongs to somebody else, and marks it may hold in trusted.* cannot be read; "+
				"run as root, or say that its marks are in user.* (xattr: user)", o.Upper)
		}
	}
	return userPrefix, nil
}

func ownedByCaller(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid()
}

// openLowers opens the lowers: as private read-only clones of their mounts
// where we may, so that the kernel itself keeps them as they are.
func (fsys *FS) openLowers(p *plan) error {
	for i, path := range p.lowers {
		plain, err := at.Open(path)
		if err != nil {
			return layersError("lower %q: %w", path, err)
		}
		space, err := plain.Space()
		if err != nil {
			plain.Close()
			return layersError("lower %q: %w", path, err)
		}
		layer := &lowerLayer{
			index: i + 1, last: i == len(p.lowers)-1, path: path,
			root: plain, nosuid: space.NoSUID, origin: newOriginSource(plain),
		}
		var st at.Stat
		if err := plain.Stat(".", &st); err == nil {
			layer.medium = st.Immutable && plain.Flags()&at.FlagImmutable == 0
		}
		if clone, err := at.OpenReadOnlyClone(path); err == nil {
			plain.Close()
			layer.root = clone
		}
		if err := fsys.hasNoXattrs(layer.root, space.FUSE); err != nil {
			layer.root.WithoutXattrs()
			p.warnings = append(p.warnings, fmt.Sprintf("lower %d %q has no extended attributes, or cannot tell of them (%v): "+
				"whatever is marked there by them is shown as if it were not", i+1, path, err))
		}
		fsys.root.lowers = append(fsys.root.lowers, lowerDir{layer, layer.root})
		fsys.layers = append(fsys.layers, Layer{Index: i + 1, Path: path})
	}
	return nil
}

// hasNoXattrs asks the root of a lower for its marks, and then for the names of its
// attributes: where both are refused because there are none, that is true of all
// beneath it, and err says how it was refused. File systems that are programs
// do not agree on the way: rclone's mount answers EOPNOTSUPP for directories, but
// EIO for files, and of the latter nothing else could be opened. From the kernel's
// own file systems EIO is a broken disk.
func (fsys *FS) hasNoXattrs(root *at.Dir, isProgram bool) error {
	refused := func(err error) bool {
		return err == syscall.EOPNOTSUPP || err == syscall.ENOSYS || err == syscall.EIO && isProgram
	}
	if err := root.CheckXattr(".", fsys.marks.opaque); !refused(err) {
		return nil
	}
	if _, err := root.XattrNames(nil); refused(err) {
		return err
	}
	return nil
}

// openUpperLayer opens upper for reading or, unless ReadOnly, takes it.
func (fsys *FS) openUpperLayer(o Options, p *plan) error {
	upper, err := at.OpenRW(p.upper, o.Hook)
	if err != nil {
		return layersError("upper %q: %w", p.upper, err)
	}
	if o.Quota > 0 && !o.ReadOnly {
		fsys.usage = at.NewUsage(o.Quota)
		upper.Meter(fsys.usage)
	}
	fsys.root.upper = upper
	fsys.layers = slices.Insert(fsys.layers, 0, Layer{Path: p.upper, Writable: !o.ReadOnly})
	if err := fsys.refuseOtherMarks(p.upper); err != nil {
		return err
	}
	if fsys.root.marks, err = fsys.marks.readDir(&upper.Dir); err != nil && !errors.Is(err, ErrCorruptMark) {
		return layersError("upper %q: %w", p.upper, err) // a root's own redirect means nothing
	}
	fsys.rootImpure.Store(fsys.root.marks.impure)
	if o.ReadOnly {
		return refuseHalfDiscarded(o)
	}
	return fsys.takeUpper(o, p)
}

// refuseHalfDiscarded refuses to show the part of a tree that a Discard which was cut
// short has left: only who may write can finish it. Where work cannot be looked into,
// nobody knows of any.
func refuseHalfDiscarded(o Options) error {
	if o.Work == "" {
		return nil
	}
	dir, err := Discarding{Work: o.Work}.openStagingDir()
	if dir == nil || err != nil {
		return nil
	}
	defer dir.Close()
	if name, _, err := (&staging{dir: dir}).readDiscardNote(); err == nil && name != "" {
		return layersError("upper %q: a reset was cut short; serve it once so that it can be changed, or reset again, and it is finished", o.Upper)
	}
	return nil
}

// refuseOtherMarks refuses an upper whose marks are in the other namespace:
// what they hide would come back.
func (fsys *FS) refuseOtherMarks(path string) error {
	other, option := newMarks(userPrefix), "user"
	if fsys.marks.prefix == userPrefix {
		other, option = newMarks(trustedPrefix), "trusted"
	}
	names, err := fsys.root.upper.Listxattr(".")
	if err != nil && err != syscall.EOPNOTSUPP {
		return layersError("upper %q: %w", path, err)
	}
	for _, mark := range []string{other.impure, other.uuid, other.origin} {
		if slices.Contains(names, mark) {
			return layersError("upper %q has its marks in %s*; serve it with xattr: %s", path, other.prefix, option)
		}
	}
	return nil
}

// takeUpper makes upper ours:
//
//  1. The lock on upper, which another overdav would hold. The kernel is asked
//     whether upper or work is in use.
//  2. What a kernel mount forbids, in work/incompat and index, is refused. Up to
//     here nothing was changed, but what kept an ordinary user from looking. Of what
//     was made just now nobody asks.
//  3. The lock on work. A Discard that was cut short is finished.
//  4. Staging and work are swept of what a crash left, but for its guard.
//  5. The file system is tried.
//  6. The guard is set. From here on a kernel mount fails.
//  7. An empty upper gets its UUID.
//  8. That upper may come to hold metacopies is written down, or that it holds
//     none.
//  9. The entity tags that were written down are read.
func (fsys *FS) takeUpper(o Options, p *plan) (err error) {
	if fsys.work, err = at.OpenRW(p.work, o.Hook); err != nil {
		return layersError("work %q: %w", p.work, err)
	}
	fsys.work.Meter(fsys.usage)
	for _, d := range []*at.RWDir{fsys.root.upper, fsys.work} {
		if err := refuseFileSystem(d, p.upper); err != nil {
			return err
		}
	}
	if err := fsys.takeLock(fsys.root.upper.LockDir, p); err != nil {
		return err
	}
	if !o.Made {
		if err = fsys.refuseUsed(p); err != nil {
			return err
		}
	}
	s, err := openStaging(fsys.work)
	if s != nil {
		s.usage = fsys.usage
	}
	if err != nil {
		return layersError("work %q cannot be written to: %w; make it writable, or serve read-only", p.work, hostError(err))
	}
	if err := fsys.takeLock(func() (*at.File, error) { return s.dir.Lock(lockName) }, p); err != nil {
		s.close()
		return err
	}
	if err := fsys.prepareUpper(o, p, s); err != nil {
		fsys.letGo(s)
		return err
	}
	fsys.staging = s
	return nil
}

// takeLock takes a lock that says upper is ours.
func (fsys *FS) takeLock(lock func() (*at.File, error), p *plan) error {
	f, err := lock()
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return fmt.Errorf("%w: another overdav serves upper %q or work %q; stop it first", ErrInUse, p.upper, p.work)
	case err != nil:
		return layersError("upper %q: lock: %w", p.upper, hostError(err))
	}
	fsys.locks = append(fsys.locks, f)
	return nil
}

// refuseUsed refuses what somebody else uses, or has left in a way that forbids
// others to go on.
func (fsys *FS) refuseUsed(p *plan) error {
	if err := refuseInUse(p); err != nil {
		return err
	}
	if err := refuseIncompatible(fsys.work, p.work, fsys.marks); err != nil {
		return err
	}
	return fsys.refuseMetacopies(p.upper)
}

// prepareUpper is takeUpper from the lock on.
func (fsys *FS) prepareUpper(o Options, p *plan, s *staging) error {
	if !o.Made {
		if err := fsys.finishDiscard(p, s); err != nil {
			return layersError("upper %q: what was to be discarded is not all gone: %w", p.upper, err)
		}
		if err := fsys.sweepAll(o, p, s); err != nil {
			return err
		}
	}
	if err := fsys.probeOnce(s, p.upper, !o.Made || o.Hook != nil); err != nil {
		return err
	}
	if !o.NoGuard {
		if err := setGuard(fsys.work); err != nil {
			return layersError("work %q: set the guard: %w", p.work, err)
		}
	}
	if err := fsys.giveUUID(); err != nil {
		return layersError("upper %q: %w", p.upper, err)
	}
	if err := s.noteMetacopies(fsys.metacopy); err != nil {
		return layersError("work %q: %w", p.work, err)
	}
	if err := fsys.tags.open(s); err != nil {
		return layersError("work %q: %w", p.work, err)
	}
	return nil
}

// sweepAll removes what a crash, or a kernel mount, left in work.
func (fsys *FS) sweepAll(o Options, p *plan, s *staging) error {
	err := sweep(s)
	if err == nil {
		err = fsys.retryUndeletable(s, p.work)
	}
	if err == nil {
		err = sweepWork(fsys.work)
	}
	if err == nil && o.NoGuard {
		err = removeGuard(fsys.work)
	}
	if err != nil {
		return layersError("work %q: cannot remove what was left in it: %w", p.work, err)
	}
	if err := s.remake(); err != nil {
		return layersError("work %q: %w", p.work, err)
	}
	return nil
}

// letGo takes back what a start that failed made in work: the guard too,
// unless a move or a Discard waits there that only a start can finish.
func (fsys *FS) letGo(s *staging) {
	_ = sweep(s) // the error that led here says more
	_, pending, err := s.readNote()
	discarding, _, derr := s.readDiscardNote()
	if err == nil && derr == nil && !pending && discarding == "" {
		_ = removeGuard(fsys.work) // as above
	}
	s.close()
}

// refuseFileSystem refuses what cannot hold an upper, before anything is tried.
func refuseFileSystem(d *at.RWDir, path string) error {
	space, err := d.Space()
	switch {
	case err != nil:
		return layersError("upper %q: %w", path, err)
	case space.Overlay:
		return fmt.Errorf("%w: upper %q is on an overlay mount, which cannot hold one; put it on a file system of its own", ErrUnsupported, path)
	case space.ReadOnly:
		return layersError("upper %q: %w; mount it read-write, or serve read-only", path, syscall.EROFS)
	}
	return nil
}

// giveUUID gives an upper that was never mounted the UUID that the first
// kernel mount would (overlayfs.rst, "UUID and fsid").
func (fsys *FS) giveUUID() error {
	upper := fsys.root.upper
	names, err := readNames(&upper.Dir)
	if err != nil || len(names) > 0 || fsys.root.marks.impure {
		return err
	}
	if has, err := fsys.marks.has(&upper.Dir, ".", fsys.marks.uuid); err != nil || has {
		return err
	}
	var uuid [16]byte
	rand.Read(uuid[:]) // never fails
	return fsys.setOwnXattr(upper, ".", fsys.marks.uuid, uuid[:])
}

// Unlock removes the guard that a crashed server left in work, and what it
// left in staging, so that the kernel can mount upper.
// Errors: ErrInUse while a server runs; an interrupted move or Discard that only a
// start of the server can finish.
func Unlock(upper, work string) error {
	w, err := at.OpenRW(work, nil)
	if err != nil {
		return layersError("work %q: %w", work, err)
	}
	defer w.Close()
	dir, err := w.OpenRWDir(stagingDir)
	if errors.Is(err, syscall.ENOENT) {
		return layersError("work %q was never used by overdav; there is nothing to unlock", work)
	}
	if err != nil {
		return layersError("work %q: %w", work, err)
	}
	dir.Close()
	s, err := openStaging(w)
	if err != nil {
		return layersError("work %q: %w", work, hostError(err))
	}
	defer s.close()
	lock, err := s.dir.Lock(lockName)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: overdav serves upper %q; stop it first", ErrInUse, upper)
	}
	if err != nil {
		return layersError("work %q: %w", work, hostError(err))
	}
	defer lock.Close()
	if err := s.refusePending(); err != nil {
		return err
	}
	if name, _, err := s.readDiscardNote(); err != nil {
		return err
	} else if name != "" {
		return layersError("upper %q: a reset was cut short; start overdav on these layers once, or reset again, and it is finished", upper)
	}
	if err := sweep(s); err != nil {
		return err
	}
	err = (Discarding{Upper: upper, Work: work}).Delete(context.Background())
	return errors.Join(err, removeGuard(w))
}

// quoteList is paths for a message.
func quoteList(paths []string) string {
	quoted := make([]string, len(paths))
	for i, p := range paths {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return strings.Join(quoted, ", ")
}

// refusePending refuses to clear up while a move waits to be finished.
func (s *staging) refusePending() error {
	note, ok, err := s.readNote()
	if err == nil && ok {
		err = layersError("a move of %q to %q was cut short; start overdav on these layers once, and it is finished", note.from, note.to)
	}
	return err
}
