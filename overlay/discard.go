package overlay

import (
	"errors"
	"path/filepath"
	"syscall"

	"overdav/overlay/internal/at"
)

// Discard throws away everything that is in upper: the tree is that of the
// lowers again. With anew an empty upper stands in its place at every moment;
// without, upper and work are gone afterwards. Nobody may serve it:
//
//  1. The locks of upper and work are taken, and the kernel is asked.
//  2. Staging is swept, as at a start.
//  3. With anew, an empty upper is made in staging. A crash leaves it to the
//     next sweep.
//  4. It changes places with upper; without anew, upper goes to staging. Before,
//     nothing is lost; after, all is discarded, and the next sweep deletes it.
//  5. What staging keeps of the old tree is removed: tags, clients' locks. After
//     a crash before, they are of files that there are no more.
//  6. The old upper is deleted, and without anew work.
//
// Errors: ErrInUse; an interrupted move that only a start can finish.
func Discard(upper, work string, anew bool) error {
	d, err := openDiscard(upper, work)
	if err != nil {
		return err
	}
	defer d.close()
	if err := sweep(d.s); err != nil {
		return layersError("work %q: %w", d.plan.work, err)
	}
	parent, err := at.OpenRW(filepath.Dir(d.plan.upper), nil)
	if err != nil {
		return layersError("upper %q: %w", d.plan.upper, err)
	}
	defer parent.Close()
	if err := d.take(parent, filepath.Base(d.plan.upper), anew); err != nil {
		return layersError("upper %q: %w", d.plan.upper, err)
	}
	if err := errors.Join(d.forget(), sweep(d.s), removeGuard(d.work)); err != nil {
		return layersError("work %q: what was discarded is not all deleted: %w", d.plan.work, err)
	}
	if anew {
		return nil
	}
	inner, err := at.OpenRW(filepath.Dir(d.plan.work), nil)
	if err != nil {
		return layersError("work %q: %w", d.plan.work, err)
	}
	defer inner.Close()
	return removeTree(inner, filepath.Base(d.plan.work))
}

// A discard is an upper about to be discarded, taken.
type discard struct {
	plan  *plan
	upper *at.RWDir
	work  *at.RWDir
	s     *staging
	locks []*at.File
}

func openDiscard(upper, work string) (d *discard, err error) {
	d = &discard{plan: &plan{mounts: readMounts()}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	u, err := d.plan.look("upper", upper)
	if err != nil {
		return d, err
	}
	w, err := d.plan.look("work", work)
	if err != nil {
		return d, err
	}
	d.plan.upper, d.plan.work = u.path, w.path
	if err := refuseApart(u, w); err != nil {
		return d, err
	}
	if d.upper, err = at.OpenRW(u.path, nil); err != nil {
		return d, layersError("upper %q: %w", u.path, err)
	}
	if d.work, err = at.OpenRW(w.path, nil); err != nil {
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

// take takes upper, which is name in parent, out of sight.
func (d *discard) take(parent *at.RWDir, name string, anew bool) error {
	gone := d.s.newName()
	if anew {
		if err := d.makeLike(gone); err != nil {
			return err
		}
		if err := d.s.tmp.Rename(gone, parent, name, at.RenameExchange); err != nil {
			return hostError(err)
		}
	} else if err := parent.Rename(name, d.s.tmp, gone, at.RenamePlain); err != nil {
		return hostError(err)
	}
	return errors.Join(parent.Sync(), d.s.tmp.Sync())
}

// makeLike makes the directory name in staging with the permissions of upper.
func (d *discard) makeLike(name string) error {
	var st at.Stat
	if err := d.upper.Stat(".", &st); err != nil {
		return err
	}
	if err := d.s.tmp.Mkdir(name, 0o700); err != nil {
		return err
	}
	if err := d.s.tmp.Chown(name, int(st.UID), int(st.GID)); err != nil && !errors.Is(err, syscall.EPERM) { // a group that is not ours
		return err
	}
	if err := d.s.tmp.Chmod(name, st.Mode&0o7777); err != nil {
		return err
	}
	for _, acl := range []string{"system.posix_acl_access", aclDefault} {
		value, err := d.upper.Getxattr(".", acl)
		if err == nil {
			err = d.s.tmp.Setxattr(name, acl, value)
		}
		if err != nil && err != syscall.ENODATA && err != syscall.EOPNOTSUPP {
			return err
		}
	}
	return nil
}

// forget removes the files that staging keeps of the tree.
func (d *discard) forget() error {
	names, err := readNames(&d.s.dir.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.dtype != at.DTDir && n.name != lockName {
			err = errors.Join(err, d.s.dir.Unlink(n.name))
		}
	}
	return err
}
