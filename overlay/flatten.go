package overlay

import (
	"errors"
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
	err = fsys.flattenDir(path, &copied)
	return copied, err
}

// flattenDir is flatten for one directory; it adds to copied.
func (fsys *FS) flattenDir(path string, copied *int64) error {
	for range maxRaces {
		if err := fsys.copyUp(path, false, wholeContent); err != nil {
			return err
		}
		infos, err := fsys.ReadDir(path)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := fsys.flattenMember(joinPath(path, info.name), info, copied); err != nil {
				return err
			}
		}
		if err := fsys.makeOpaque(path); err != errRaced {
			return err
		}
	}
	return errRaced
}

func (fsys *FS) flattenMember(path string, info *Info, copied *int64) error {
	var err error
	if info.IsDir() {
		err = fsys.flattenDir(path, copied)
	} else {
		var n int64
		n, err = fsys.copyUpCounted(path, false, wholeContent)
		*copied += n
	}
	if errors.Is(err, syscall.ENOENT) {
		return nil // deleted meanwhile
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
