package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"overdav/overlay/internal/at"
)

// The directories in <workdir>. "work" and "index" are the kernel's; what is in
// work/incompat names features without which a mount must fail (compare
// ovl_workdir_create and OVL_WORKDIR_NAME).
const (
	stagingDir  = "overdav"
	workDir     = "work"
	incompatDir = "incompat"
	guardDir    = "overdav"
	indexDir    = "index"
	lockName    = "lock" // in stagingDir

	undeletableDir = "undeletable" // likewise
)

// openStaging opens <workdir>/overdav with all it holds, made where missing.
func openStaging(work *at.RWDir) (s *staging, err error) {
	s = &staging{purge: make(chan purge, 64)}
	if s.dir, err = openMade(work, stagingDir); err != nil {
		return nil, err
	}
	if err = s.remake(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// remake makes tmp and trash where they are missing, and opens them.
func (s *staging) remake() (err error) {
	s.closeInner()
	if s.tmp, err = openMade(s.dir, "tmp"); err != nil {
		return err
	}
	s.trash, err = openMade(s.dir, "trash")
	return err
}

func (s *staging) closeInner() {
	for _, d := range []*at.RWDir{s.tmp, s.trash} {
		if d != nil {
			d.Close()
		}
	}
	s.tmp, s.trash = nil, nil
}

func (s *staging) close() {
	s.closeInner()
	s.dir.Close()
}

// openMade opens the directory name in d, made if it is missing.
func openMade(d *at.RWDir, name string) (*at.RWDir, error) {
	if err := d.Mkdir(name, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, err
	}
	return d.OpenRWDir(name)
}

// sweep empties tmp and trash. Nothing there was ever shown, or is any more. What
// the kernel does not let us remove goes to undeletable, where it is in nobody's
// way: neither a start nor a kernel's mount may wait for it.
func sweep(s *staging) error {
	return errors.Join(s.sweepDir("tmp"), s.sweepDir("trash"))
}

func (s *staging) sweepDir(name string) error {
	err := emptyDir(s.dir, name)
	if !isUndeletable(err) {
		return err
	}
	return s.setAside(name)
}

// isUndeletable says of the error of a removal that to try again will not help:
// chattr protects what was to be removed, it is another user's, or something is
// mounted there.
func isUndeletable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EBUSY)
}

// setAside moves everything in the directory name of staging to undeletable. A
// crash leaves the rest to the next sweep.
func (s *staging) setAside(name string) error {
	from, err := s.dir.OpenRWDir(name)
	if err != nil {
		return err
	}
	defer from.Close()
	aside, err := openMade(s.dir, undeletableDir)
	if err != nil {
		return err
	}
	defer aside.Close()
	names, err := readNames(&from.Dir)
	for _, n := range names {
		if err := moveAside(from, n.name, aside); err != nil {
			return err
		}
	}
	return err
}

// moveAside moves name to aside, under a name that is free there.
func moveAside(from *at.RWDir, name string, aside *at.RWDir) error {
	for i := 1; ; i++ {
		err := from.Rename(name, aside, name+"."+strconv.Itoa(i), at.RenameNoReplace)
		if !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
}

// retryUndeletable removes what is in undeletable, if that can be done by now, and
// warns of it if not.
func (fsys *FS) retryUndeletable(s *staging, path string) error {
	err := removeTree(s.dir, undeletableDir)
	if isUndeletable(err) {
		fsys.warn(fmt.Sprintf("work %q: in %s/%s is what was deleted, but cannot be removed from the disk, because chattr "+
			"protects a part of it, it is another user's, or something is mounted in it (%v); remove it by hand", path, stagingDir, undeletableDir, err))
		return nil
	}
	return err
}

// incompatible lists the names in work/incompat.
func incompatible(work *at.RWDir) ([]string, error) {
	inner, err := work.OpenDir(workDir)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	d, err := inner.OpenDir(incompatDir)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	raw, err := readNames(d)
	var names []string
	for _, n := range raw {
		names = append(names, n.name)
	}
	return names, err
}

// refuseIncompatible refuses what a kernel mount left that forbids others to
// go on: a volatile mount that was not ended cleanly, an index.
func refuseIncompatible(work *at.RWDir, path string, m marks) error {
	names, err := incompatible(work)
	// Root's mount left work to root, and empty unless it deleted something.
	if errors.Is(err, syscall.EACCES) && (makeReadable(work, workDir) == nil || work.Rmdir(workDir) == nil) {
		names, err = incompatible(work)
	}
	if err != nil {
		return layersError("%q in work %q cannot be looked into: %w; run as root, or name a fresh work", workDir, path, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == guardDir })
	if len(names) > 0 {
		return layersError("work %q was used by a mount with the feature %s, which overdav does not know; "+
			"if that mount is gone for good, remove %s/%s/%s", path, quoteList(names), path, workDir, incompatDir)
	}
	return refuseIndex(work, path)
}

// makeReadable lets us into a directory of mode 0, which the kernel makes.
func makeReadable(d *at.RWDir, name string) error {
	var st at.Stat
	err := d.Stat(name, &st)
	if at.IsMissing(err) {
		return nil
	}
	if err == nil && st.IsDir() && st.Mode&0o700 != 0o700 {
		err = d.Chmod(name, st.Mode&0o7777|0o700)
	}
	return err
}

// refuseIndex refuses an upper that was written with index=on: its hard links
// would break (overlayfs.rst, "Inode properties", index).
func refuseIndex(work *at.RWDir, path string) error {
	var st at.Stat
	if err := work.Stat(indexDir, &st); err != nil {
		if at.IsMissing(err) {
			return nil
		}
		return layersError("work %q: %w", path, err)
	}
	d, err := work.OpenDir(indexDir)
	if err != nil {
		return layersError("work %q: index: %w", path, err)
	}
	defer d.Close()
	names, err := readNames(d)
	if err != nil {
		return layersError("work %q: index: %w", path, err)
	}
	for _, n := range names {
		if n.name[0] != '#' {
			return layersError("work %q has an index, so its upper was mounted with index=on or nfs_export=on; "+
				"overdav would break its hard links: serve it read-only, or name a fresh upper", path)
		}
	}
	return nil
}

// refuseMetacopies refuses, unless metacopies are on, an upper with files whose
// content is still in a lower. It looks through upper only when it may have
// some: when we wrote it with metacopies on, which a note in staging tells, or
// when the kernel had it since it was ours, which the directory work tells: every
// mount makes it, and we remove it in the end.
func (fsys *FS) refuseMetacopies(path string) error {
	if fsys.metacopy {
		return nil
	}
	may, err := fsys.mayHoldMetacopies()
	if err != nil {
		return layersError("upper %q: %w", path, err)
	}
	if !may {
		return nil
	}
	found, err := fsys.findMetacopy(&fsys.root.upper.Dir, ".")
	switch {
	case err != nil:
		return layersError("upper %q cannot be looked through: %w", path, err)
	case found != "":
		return layersError("upper %q was written with metacopy=on, and the content of %q is still in a lower; "+
			"serve it with metacopy: on, or read-only, where such files cannot be read", path, found)
	}
	return nil
}

// mayHoldMetacopies says whether somebody had upper who may write metacopies.
func (fsys *FS) mayHoldMetacopies() (bool, error) {
	noted, err := hasMetacopyNote(fsys.work)
	if err != nil || noted {
		return noted, err
	}
	var st at.Stat
	if err := fsys.work.Stat(workDir, &st); at.IsMissing(err) {
		return false, nil
	}
	names, err := incompatible(fsys.work)
	return err == nil && !slices.Contains(names, guardDir), err
}

// findMetacopy returns the path of a metacopy below d; "" when there is none.
func (fsys *FS) findMetacopy(d *at.Dir, path string) (string, error) {
	names, err := readNames(d)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		name := joinPath(path, n.name)
		switch n.dtype {
		case at.DTReg:
			if meta, err := fsys.marks.has(d, n.name, fsys.marks.metacopy); err != nil || meta {
				return name, err
			}
		case at.DTDir:
			inner, err := d.OpenDir(n.name)
			if err != nil {
				return "", err
			}
			found, err := fsys.findMetacopy(inner, name)
			inner.Close()
			if err != nil || found != "" {
				return found, err
			}
		}
	}
	return "", nil
}

// sweepWork removes what kernel mounts left in work. The guard of a crashed
// server stays: the next one is set no sooner than a move that the crash cut
// short is in good hands.
func sweepWork(work *at.RWDir) error {
	if err := makeReadable(work, workDir); err != nil {
		return err
	}
	inner, err := work.OpenRWDir(workDir)
	if at.IsMissing(err) {
		return removeTree(work, workDir) // whatever else has the name
	}
	if err != nil {
		return err
	}
	defer inner.Close()
	names, err := readNames(&inner.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.name == incompatDir {
			continue // holds the guard alone: see refuseIncompatible
		}
		if err := removeTree(inner, n.name); err != nil {
			return err
		}
	}
	return nil
}

// setGuard makes kernel mounts of upper fail while it is served: a feature
// that no kernel knows (compare ovl_workdir_create).
func setGuard(work *at.RWDir) error {
	w, err := openMade(work, workDir)
	if err != nil {
		return err
	}
	defer w.Close()
	i, err := openMade(w, incompatDir)
	if err != nil {
		return err
	}
	defer i.Close()
	g, err := openMade(i, guardDir)
	if err != nil {
		return err
	}
	g.Close()
	return i.Sync()
}

// removeGuard lets kernel mounts be again. What is not ours in work stays.
func removeGuard(work *at.RWDir) error {
	w, err := work.OpenRWDir(workDir)
	if err != nil {
		return missingOK(err)
	}
	defer w.Close()
	if err := removeIncompat(w); err != nil {
		return err
	}
	return rmdirEmpty(work, workDir)
}

func removeIncompat(w *at.RWDir) error {
	i, err := w.OpenRWDir(incompatDir)
	if err != nil {
		return missingOK(err)
	}
	defer i.Close()
	if err := removeTree(i, guardDir); err != nil {
		return err
	}
	return rmdirEmpty(w, incompatDir)
}

func missingOK(err error) error {
	if at.IsMissing(err) {
		return nil
	}
	return err
}

// rmdirEmpty removes a directory unless something is in it.
func rmdirEmpty(d *at.RWDir, name string) error {
	err := d.Rmdir(name)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return err
}

// refuseInUse asks the kernel whether upper or work belongs to a live mount
// (compare ovl_inuse_trylock), in whatever mount namespace.
//
// The kernel takes its milliseconds to answer, so both are asked at once.
func refuseInUse(p *plan) error {
	paths := [2]string{p.upper, p.work}
	var answers [2]error
	var asking sync.WaitGroup
	for i, path := range paths {
		asking.Go(func() {
			answers[i] = at.ProbeOverlay(path)
			if errors.Is(answers[i], syscall.EPERM) {
				answers[i] = at.ProbeOverlayUnprivileged(path)
			}
		})
	}
	asking.Wait()
	for i, path := range paths {
		if p.inUse(path, answers[i]) {
			return fmt.Errorf("%w: %q belongs to a mounted overlay; unmount it first", ErrInUse, path)
		}
	}
	return nil
}

// probed are the mounts on which probe has found everything.
var probed sync.Map // by probedMount

// A probedMount is a mount as long as it is there, and a namespace of marks on it.
type probedMount struct {
	dev, mount uint64
	prefix     string
}

// probeOnce is probe, unless this process has tried the mount before: what a file
// system can do it goes on doing, and users' uppers are many on one. always tries it
// in any case: another mount may have the number of one that is gone.
func (fsys *FS) probeOnce(s *staging, path string, always bool) error {
	var st at.Stat
	if err := s.tmp.Stat(".", &st); err != nil {
		return err
	}
	mount := probedMount{st.Dev, st.MountID, fsys.marks.prefix}
	if _, tried := probed.Load(mount); tried && !always {
		return nil
	}
	err := fsys.probe(s, path)
	if err == nil {
		probed.Store(mount, nil)
	}
	return err
}

// probe tries what an upper needs of its file system, in staging.
// Errors: ErrUnsupported, naming what is missing.
func (fsys *FS) probe(s *staging, path string) error {
	for _, step := range []struct {
		what string
		try  func(s *staging) error
	}{
		{"whiteouts (character devices 0:0 and hard links to them)", probeWhiteout},
		{"extended attributes in " + fsys.marks.prefix + "*", fsys.probeXattr},
		{"renameat2 with RENAME_WHITEOUT", probeRenameWhiteout},
		{"renameat2 with RENAME_EXCHANGE", probeExchange},
		{"renameat2 with RENAME_NOREPLACE", probeNoReplace},
		{"file types in directory listings", probeTypes},
	} {
		err := step.try(s)
		if err == nil {
			continue
		}
		hint := "put upper and work on ext4, xfs, btrfs or tmpfs"
		if errors.Is(err, syscall.EPERM) && fsys.marks.prefix == trustedPrefix {
			hint = "run as root, or keep the marks in user.* (xattr: user)"
		}
		return fmt.Errorf("%w: the file system of %q has no %s: %w; %s", ErrUnsupported, path, step.what, err, hint)
	}
	return sweep(s)
}

func probeWhiteout(s *staging) error {
	_, err := s.whiteout()
	return err
}

func (fsys *FS) probeXattr(s *staging) error {
	if err := s.tmp.Mkdir("d", 0o700); err != nil {
		return err
	}
	if err := s.tmp.Setxattr("d", fsys.marks.opaque, opaqueYes); err != nil {
		return err
	}
	if err := s.tmp.CheckXattr("d", fsys.marks.opaque); err != nil {
		return err // it takes them, but does not give them back
	}
	return s.tmp.Removexattr("d", fsys.marks.opaque)
}

func probeRenameWhiteout(s *staging) error {
	f, err := s.tmp.Create("a", 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.tmp.Rename("a", s.tmp, "b", at.RenameWhiteout); err != nil {
		return err
	}
	var st at.Stat
	if err := s.tmp.Stat("a", &st); err != nil {
		return err
	}
	if !st.IsWhiteoutDevice() {
		return syscall.EINVAL
	}
	return nil
}

func probeExchange(s *staging) error {
	if err := s.tmp.Rename("b", s.tmp, "d", at.RenameExchange); err != nil {
		return err
	}
	var st at.Stat
	if err := s.tmp.Stat("b", &st); err != nil {
		return err
	}
	if !st.IsDir() {
		return syscall.EINVAL
	}
	return nil
}

func probeNoReplace(s *staging) error {
	err := s.tmp.Rename("d", s.tmp, "a", at.RenameNoReplace)
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err == nil {
		err = syscall.EINVAL
	}
	return err
}

func probeTypes(s *staging) error {
	names, err := readNames(&s.tmp.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.dtype == at.DTUnknown {
			return syscall.EOPNOTSUPP
		}
	}
	return nil
}
