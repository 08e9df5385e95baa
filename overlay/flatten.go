package overlay

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"overdav/overlay/internal/at"
)

// flatten makes the merged directory at path, and every one below it, pure
// upper, so that it can be renamed where redirects are not written: members
// first, each by a copy-up that nobody sees. copied is of how many bytes of
// content, also when it fails.
func (fsys *FS) flatten(path string) (copied int64, err error) {
	if fsys.events.Warning != nil {
		fsys.flattened.Do(func() {
			fsys.events.Warning("directories of a lower are copied when they are renamed, because redirects are off")
		})
	}
	f := flattening{fsys: fsys}
	err = f.dir(path)
	return f.copied.Load(), err
}

// A flattening is what flatten does.
type flattening struct {
	fsys   *FS
	copied atomic.Int64 // bytes
}

// dir is flatten for one directory.
func (f *flattening) dir(path string) error {
	for range maxRaces {
		if err := f.fsys.copyUp(path, false, wholeContent); err != nil {
			return err
		}
		infos, err := f.fsys.ReadDir(path)
		if err != nil {
			return err
		}
		if err := f.members(path, infos); err != nil {
			return err
		}
		if err := f.fsys.makeOpaque(path); err != errRaced {
			return err
		}
	}
	return errRaced
}

// members flattens the members of a directory: files first, several at a time where
// there are many, and then the directories, one after the other.
func (f *flattening) members(path string, infos []*Info) error {
	dirs := slices.DeleteFunc(slices.Clone(infos), func(info *Info) bool { return !info.IsDir() })
	files := slices.DeleteFunc(infos, (*Info).IsDir)
	var next atomic.Int64
	var failed atomic.Bool
	var copiers sync.WaitGroup
	errs := make([]error, min(maxCopiers, 1+len(files)/filesForOther))
	for i := range errs {
		copiers.Go(func() {
			for n := next.Add(1) - 1; n < int64(len(files)) && !failed.Load(); n = next.Add(1) - 1 {
				if errs[i] = f.file(path, files[n]); errs[i] != nil {
					failed.Store(true)
					return
				}
			}
		})
	}
	copiers.Wait()
	err := errors.Join(errs...)
	for i := 0; i < len(dirs) && err == nil; i++ {
		err = unlessDeleted(f.dir(joinPath(path, dirs[i].name)))
	}
	return err
}

// filesForOther are so many that another copier is worth its while.
const filesForOther = 32

// file copies a member of the directory path up that is no directory.
func (f *flattening) file(path string, info *Info) error {
	copyUp := f.fsys.copyUpCounted
	if info.Layer() != 0 {
		copyUp = f.fsys.copyUpLower
	}
	n, err := copyUp(joinPath(path, info.name), false, wholeContent)
	f.copied.Add(n)
	return unlessDeleted(err)
}

// unlessDeleted is nil for what was deleted meanwhile.
func unlessDeleted(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// makeOpaque cuts a directory, all of whose members are in upper, off from its
// lowers:
//
//  1. It is marked opaque: nothing below showed through any more.
//  2. Its redirect, which nobody reads on an opaque directory, is removed.
//  3. So are its whiteouts, which hide nothing now.
//  4. Its times are put back: nobody saw a change.
//
// A crash between any two leaves the tree as it is.
// Errors: errRaced when a member is not in upper.
func (fsys *FS) makeOpaque(path string) error {
	t, err := fsys.change()
	if err != nil {
		return err
	}
	p, err := t.walk(path, false)
	if err != nil {
		return t.end(err)
	}
	t.lock(p.path())
	e, here, err := t.lookup(p)
	if err != nil {
		return t.end(err)
	}
	if here != merged {
		return t.end(nil) // it is cut off, or no longer there
	}
	if err := fsys.allInUpper(e.dir); err != nil {
		return t.end(err)
	}
	if err := fsys.setOwnXattr(e.dir.upper, ".", fsys.marks.opaque, opaqueYes); err != nil {
		return t.end(err)
	}
	if e.dir.marks.redirect != "" {
		if err := e.dir.upper.Removexattr(".", fsys.marks.redirect); err != nil {
			return t.end(err)
		}
	}
	t.changed(e.dir.upper)
	err = removeWhiteouts(e.dir.upper)
	if err == nil {
		err = e.dir.upper.SetTimes(".", e.upper.Atime, e.upper.Mtime)
	}
	return t.end(err)
}

// allInUpper answers errRaced unless every member of d is whole in upper.
func (fsys *FS) allInUpper(d *dir) error {
	return d.eachName(func(name string) error {
		e, err := fsys.lookup(d, name, false)
		if err != nil {
			return err
		}
		here := fsys.presence(d, e)
		e.dir.close()
		if here == lowerOnly || here == merged {
			return errRaced
		}
		if !e.inUpper {
			return nil
		}
		meta, err := fsys.isMetacopy(&d.upper.Dir, name, &e.upper)
		if meta {
			return errRaced
		}
		return err
	})
}

// removeWhiteouts removes the whiteouts in a directory of upper.
func removeWhiteouts(d *at.RWDir) error {
	names, err := readNames(&d.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		var st at.Stat
		if n.dtype != at.DTChr && n.dtype != at.DTUnknown {
			continue
		}
		if err := d.Stat(n.name, &st); err != nil {
			return err
		}
		if st.IsWhiteoutDevice() {
			if err := d.Unlink(n.name); err != nil {
				return err
			}
		}
	}
	return nil
}
