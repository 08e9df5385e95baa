package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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
//     nothing is lost; after, all is discarded.
//  4. What staging keeps of the old tree is removed: tags, clients' locks. After
//     a crash before, they are of files that there are no more.
//  5. The guard of a crashed server goes.
//
// Errors: ErrInUse; an interrupted move that only a start can finish.
func (g Discarding) Discard() error {
	d, err := g.open()
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.take(g.Anew); err != nil {
		return layersError("upper %q: %w", d.plan.upper, hostError(err))
	}
	if err := errors.Join(d.forget(), removeGuard(d.work)); err != nil {
		return layersError("work %q: what was discarded is not all forgotten: %w", d.plan.work, err)
	}
	return nil
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
		return err
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
	parent, err := at.OpenRW(filepath.Dir(d.plan.upper), d.hook)
	if err != nil {
		return err
	}
	defer parent.Close()
	gone, err := openMade(d.s.dir, discardedDir)
	if err != nil {
		return err
	}
	defer gone.Close()
	old, name := filepath.Base(d.plan.upper), strconv.FormatInt(time.Now().UnixNano(), 36)
	if anew {
		if err := d.makeLike(gone, name); err != nil {
			return err
		}
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
