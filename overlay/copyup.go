package overlay

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// CopyUp copies what name shows to upper, its ancestors first, unless it is
// there: what a change would do first. Nobody sees a difference; a file of a
// lower that has several hard links becomes one of its own, as in the kernel
// without "index" (overlayfs.rst, "Non-standard behavior").
//
// Errors: those of reading the lower and of writing upper; EPERM for what
// chattr(1) protects.
func (fsys *FS) CopyUp(name string) error {
	return pathError("copy up", name, fsys.copyUp(name, true, wholeContent))
}

// An amount says how much of a file a copy-up copies.
type amount int

const (
	wholeContent amount = iota
	noContent           // because what follows cuts the file off
	anyContent          // none needs to be there: a metacopy will do, where it may be
)

// copyUp sees to it that name is in upper. One goroutine copies a name at a
// time; the others wait and find it done. No other lock is held while content
// is copied.
func (fsys *FS) copyUp(name string, follow bool, want amount) error {
	_, err := fsys.copyUpCounted(name, follow, want)
	return err
}

// copyUpCounted is copyUp, and says how many bytes of content that has copied.
func (fsys *FS) copyUpCounted(name string, follow bool, want amount) (copied int64, err error) {
	if up, err := fsys.isUp(name, follow, want); err != nil || up {
		return 0, err
	}
	return fsys.copyUpLower(name, follow, want)
}

// copyUpLower is copyUpCounted of what is in a lower, as far as anybody knows.
func (fsys *FS) copyUpLower(name string, follow bool, want amount) (copied int64, err error) {
	defer fsys.copying.lock(name)()
	for range maxRaces {
		done, copied, err := fsys.tryCopyUp(name, follow, want)
		if done || err != nil {
			return copied, err
		}
	}
	return 0, errRaced
}

// isUp says whether name is in upper, with the content that is wanted: the
// common case, before any lock.
func (fsys *FS) isUp(name string, follow bool, want amount) (bool, error) {
	t, err := fsys.change()
	if err != nil {
		return false, err
	}
	p, err := t.walk(name, follow)
	if err != nil {
		return false, t.end(err)
	}
	f, err := fsys.find(p.dir, p.name)
	up := f.layer == 0
	if err == nil && up && want != anyContent {
		var meta bool
		meta, err = fsys.isMetacopy(f.at, p.name, &f.st)
		up = !meta
	}
	return up, t.end(err)
}

// maxRaces bounds how often an operation begins again because the tree changed
// under it, by other clients or underneath.
const maxRaces = 16

// errRaced is what remains when it changed every time.
var errRaced = fmt.Errorf("changed again and again meanwhile: %w", syscall.EAGAIN)

// tryCopyUp copies name up once; done is false when somebody changed it
// meanwhile.
func (fsys *FS) tryCopyUp(name string, follow bool, want amount) (done bool, copied int64, err error) {
	src, err := fsys.openLower(name, follow, want, nil)
	if err != nil {
		return false, 0, err
	}
	if src == nil {
		copied, err = fsys.complete(name, follow, want)
		return true, copied, err
	}
	defer src.close()
	if src.isDir {
		done, err = fsys.raiseDir(src.path)
		return done, 0, err
	}
	began := time.Now()
	temp, err := fsys.stageCopy(src, want)
	if err != nil {
		return false, 0, err
	}
	defer temp.close()
	done, err = fsys.installCopy(src, temp)
	if !done || err != nil || src.metacopy {
		return done, 0, err
	}
	fsys.copiedUp(src.path, src.st.Size, began)
	if src.file != nil {
		copied = src.st.Size
	}
	return true, copied, nil
}

// copiedUp raises the event.
func (fsys *FS) copiedUp(path string, size int64, began time.Time) {
	if fsys.events.CopiedUp != nil {
		fsys.events.CopiedUp(path, size, time.Since(began))
	}
}

// A lowerObject is what a copy-up copies: an object of a lower layer, held
// open so that it stays the same.
type lowerObject struct {
	path  string // merged
	isDir bool
	layer *lowerLayer
	dir   *dir    // the merged directory it is in
	at    *at.Dir // that directory in its layer
	name  string
	st    at.Stat
	file  *at.File        // open, when it is a regular file
	user  *sync.WaitGroup // counts it among those that need staging

	truncated bool // its content is not wanted
	metacopy  bool // nor copied, but read where it is
}

func (o *lowerObject) close() {
	if o.file != nil {
		_ = o.file.Close() // only read
	}
	o.dir.close()
	if o.user != nil {
		o.user.Done()
	}
}

// openLower opens the object of a lower that name shows; nil when upper shows it.
// Errors: ErrChanged when it is not what was seen, if seen is not nil.
func (fsys *FS) openLower(name string, follow bool, want amount, seen *Sight) (*lowerObject, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, err
	}
	var p place
	if seen != nil {
		p, err = t.walkTo(seen)
	} else {
		p, err = t.walk(name, follow)
	}
	if err != nil {
		return nil, t.end(err)
	}
	e, here, err := t.lookupSeen(p, seen)
	if err != nil {
		return nil, t.end(err)
	}
	switch here {
	case absent, whitedOut:
		return nil, t.end(syscall.ENOENT)
	case pureUpper, covering, merged:
		return nil, t.end(nil)
	case lowerOnly:
	}
	if err := fsys.refuseProtected(e); err != nil {
		return nil, t.end(err)
	}
	if e.isDir() {
		return &lowerObject{path: p.path(), isDir: true}, t.end(nil)
	}
	src := &lowerObject{path: p.path(), layer: e.from.layer, dir: p.dir, at: e.from.Dir, name: e.name, st: e.lower}
	if e.lower.IsRegular() {
		src.metacopy = fsys.metacopy && want == anyContent
		if src.file, err = fsys.openSource(src, want); err != nil {
			return nil, t.end(&layerError{src.layer, err})
		}
	}
	t.release(p.dir)
	src.user = &fsys.staging.users
	src.user.Add(1)
	return src, t.end(nil)
}

// openSource opens the file whose content a copy-up copies.
func (fsys *FS) openSource(src *lowerObject, want amount) (*at.File, error) {
	if want == wholeContent {
		meta, err := fsys.isMetacopy(src.at, src.name, &src.st)
		if err != nil {
			return nil, err
		}
		if meta {
			return fsys.openContent(src.dir, src.name, &src.st)
		}
	}
	return src.at.OpenFile(src.name)
}

// refuseProtected refuses to change what chattr(1) protects. Upper objects
// that carry the flags themselves are protected by their own file system.
func (fsys *FS) refuseProtected(e *entry) error {
	var p protection
	switch {
	case !e.exists():
	case !e.inUpper:
		p = e.layer().protection(&e.lower)
	case e.isDir():
		p = e.dir.marks.protected
	default:
		return nil
	}
	if p.any() {
		return errProtected
	}
	return nil
}

var errProtected = fmt.Errorf("protected by chattr +i or +a: %w", syscall.EPERM)

// raiseDir copies the directory at path up.
func (fsys *FS) raiseDir(path string) (bool, error) {
	t, err := fsys.change()
	if err != nil {
		return false, err
	}
	_, err = t.copyUpDirs(path)
	return true, t.end(err)
}

// copyUpDirs copies every directory on the way to path up, the topmost first,
// and path itself (compare ovl_copy_up_flags). Nobody sees a difference at any
// step. path has no symlinks.
func (t *txn) copyUpDirs(path string) (*dir, error) {
	components, err := splitName(path)
	if err != nil {
		return nil, err
	}
	d := t.fsys.root
	for _, name := range components {
		e, err := t.fsys.lookup(d, name, true)
		if err != nil {
			return nil, err
		}
		if e.isDir() && !e.inUpper {
			if err := e.dir.lowers[0].Stat(".", &e.lower); err != nil {
				return nil, &layerError{e.dir.lowers[0].layer, err}
			}
			e, err = t.copyUpDir(d, e)
			if err != nil {
				return nil, fmt.Errorf("copy up %s: %w", d.join(name), err)
			}
		}
		t.keep(e.dir)
		if !e.isDir() {
			return nil, syscall.ENOENT // replaced since the walk
		}
		d = e.dir
	}
	return d, nil
}

// copyUpDir copies the directory e in parent, which is in upper, and returns it
// as it is then. What is in it stays below.
//
//  1. parent is marked impure. Before and after: nobody sees it.
//  2. A copy is made in staging. A crash leaves it there, for the sweep.
//  3. It is renamed into place. Before: only below; after: merged with what is below.
//  4. parent's times are put back: copying up is no change of its content.
func (t *txn) copyUpDir(parent *dir, e *entry) (*entry, error) {
	fsys := t.fsys
	l := e.dir.lowers[0]
	defer e.dir.close()
	temp := fsys.staging.reserve()
	defer temp.close()
	if err := temp.dir.Mkdir(temp.name, 0o700); err != nil {
		return nil, err
	}
	src := &lowerObject{layer: l.layer, at: l.Dir, name: ".", st: e.lower}
	if err := fsys.copyAttributes(src, temp); err != nil {
		return nil, err
	}
	if !t.exclusive {
		defer fsys.names.lock(parent.path)()
	}
	if err := fsys.install(parent, temp, e.name); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, err // EEXIST: somebody else was first
	}
	t.changed(parent.upper)
	e, err := fsys.lookup(parent, e.name, true)
	if err == nil && (!e.isDir() || !e.inUpper) {
		e.dir.close()
		err = errRaced // removed again, underneath
	}
	return e, err
}

// install puts a copy of a lower object into parent, whose times do not show
// it, and marks parent as holding something with an origin.
func (fsys *FS) install(parent *dir, temp *temp, name string) error {
	if err := fsys.markImpure(parent); err != nil {
		return err
	}
	var before at.Stat
	if err := parent.upper.Stat(".", &before); err != nil {
		return err
	}
	if err := temp.place(parent.upper, name); err != nil {
		return err
	}
	_ = parent.upper.SetTimes(".", before.Atime, before.Mtime) // as in the kernel, best effort
	return nil
}

// markImpure marks a directory of upper as holding something with an origin.
// It comes before that something.
func (fsys *FS) markImpure(d *dir) error {
	if d.marks.impure || d.shared && fsys.rootImpure.Load() {
		return nil
	}
	if err := fsys.setOwnXattr(d.upper, ".", fsys.marks.impure, opaqueYes); err != nil {
		return err
	}
	switch {
	case d.shared:
		fsys.rootImpure.Store(true)
	case d.cache == nil: // one in the cache is others' too
		d.marks.impure = true
	}
	return nil
}

// setOwnXattr sets a mark on an object of upper, also on one that its mode
// does not let an ordinary user write to.
func (fsys *FS) setOwnXattr(d *at.RWDir, name, attr string, value []byte) error {
	return writable(target{d, name}, func() error { return d.Setxattr(name, attr, value) })
}

// stageCopy makes a copy of a lower object that is not a directory.
func (fsys *FS) stageCopy(src *lowerObject, want amount) (*temp, error) {
	if src.file == nil {
		return fsys.stageSpecial(src)
	}
	if src.truncated = want == noContent; src.truncated {
		// It shows as soon as it is in place: a change of content.
		src.st.Size, src.st.Mtime = 0, time.Now()
	}
	// Nobody finds a file without a name: it can have the permissions at once.
	temp, err := fsys.staging.newFile(fsys.staging.tmp, src.st.Mode&0o777|0o600)
	if err != nil {
		return nil, err
	}
	if src.metacopy {
		err = fsys.makeMetacopy(temp.file, src.st.Size)
	} else {
		err = fsys.copyWhole(temp.file, src.file, &src.st)
	}
	if err == nil {
		err = fsys.copyAttributes(src, temp)
	}
	if err != nil {
		temp.close()
		return nil, err
	}
	return temp, nil
}

// smallFile is read and written at once: that takes fewer calls than a reflink
// or copy_file_range, and less time.
const smallFile = 64 << 10

var smallFiles = sync.Pool{New: func() any { b := make([]byte, smallFile); return &b }}

// copyWhole makes a staged file the copy of one of which st tells, if there is
// room for it.
func (fsys *FS) copyWhole(to *at.RWFile, from *at.File, st *at.Stat) error {
	if st.Size == 0 {
		return nil
	}
	if st.Size > smallFile || st.Blocks*512 < st.Size { // large, or with holes
		return fsys.copyContent(to, from, st.Size)
	}
	if err := fsys.hasRoom(st.Size); err != nil {
		return err
	}
	buf := smallFiles.Get().(*[]byte)
	defer smallFiles.Put(buf)
	if _, err := from.ReadAt((*buf)[:st.Size], 0); err == io.EOF {
		return errShorter
	} else if err != nil {
		return err
	}
	_, err := to.Write((*buf)[:st.Size])
	return err
}

// copyContent makes a staged file the copy of one of size bytes, if there is
// room for it.
func (fsys *FS) copyContent(to *at.RWFile, from *at.File, size int64) error {
	copied, err := to.CopyFrom(from, size, fsys.hasRoom)
	if err == nil && copied != size {
		err = errShorter
	}
	return err
}

var errShorter = fmt.Errorf("the file became shorter while it was copied: %w", syscall.EIO)

// stageSpecial makes a copy of a symlink, a FIFO, a socket or a device.
func (fsys *FS) stageSpecial(src *lowerObject) (*temp, error) {
	temp := fsys.staging.reserve()
	var err error
	if src.st.IsSymlink() {
		var target string
		if target, err = src.at.Readlink(src.name); err == nil {
			err = temp.dir.Symlink(target, temp.name)
		}
	} else {
		err = temp.dir.Mknod(temp.name, src.st.Type()|0o600, src.st.Rdev)
	}
	if err == nil {
		err = fsys.copyAttributes(src, temp)
	}
	if err != nil {
		temp.close()
		return nil, err
	}
	return temp, nil
}

// installCopy puts a copy into its place unless what was copied is no longer
// what the name shows.
//
//  1. The parent directories are copied up, the parent is marked impure.
//  2. The copy gets the name in upper, which must be free. Before: the lower
//     shows through; after: its copy hides it. A crash leaves one or the other.
//  3. The parent's times are put back.
func (fsys *FS) installCopy(src *lowerObject, temp *temp) (done bool, err error) {
	t, err := fsys.change()
	if err != nil {
		return false, err
	}
	p, err := t.walk(src.path, false)
	if err == nil {
		err = t.raise(&p)
	}
	if err != nil {
		return false, t.end(err)
	}
	e, here, err := t.lookup(p)
	if err != nil || here != lowerOnly || !e.lower.Same(&src.st) {
		return false, t.end(err)
	}
	err = fsys.install(p.dir, temp, p.name)
	if errors.Is(err, syscall.EEXIST) {
		return false, t.end(nil)
	}
	if err == nil && temp.file != nil && !src.truncated {
		fsys.keepTag(derivedTag(&e.lower), &p.dir.upper.Dir, p.name)
	}
	t.changed(p.dir.upper)
	return err == nil, t.end(err)
}
