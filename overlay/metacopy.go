package overlay

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A metacopy is a file of upper that has attributes and no content: that is
// still in a lower, under the same name or where the metacopy's redirect says
// (overlayfs.rst, "Metadata only copy up"). It costs the same whatever the
// file's size. It is a regular file of the full size without data, with the
// mark metacopy.
//
// Whoever can write to a layer can have it show, by a forged metacopy, any file
// of the lowers beneath it; hence Options.Metacopy.

// errMetacopy is met where a file's content was left in a lower layer, which
// only a mount with metacopy=on may read.
var errMetacopy = fmt.Errorf("the content is in a lower layer (metacopy), and metacopy is off: %w", syscall.EPERM)

// checkMetacopy refuses metacopies where the kernel refuses them.
func (o *Options) checkMetacopy(prefix string) error {
	switch {
	case !o.Metacopy:
		return nil
	case prefix != trustedPrefix:
		return layersError("metacopy needs marks in %s*, and those here are in %s*, where the kernel reads none; "+
			"run as root with xattr: trusted, or leave metacopy off", trustedPrefix, prefix)
	case o.NoRedirect:
		return layersError("metacopy needs redirects, by which a renamed file finds its content; leave redirect_dir on, or metacopy off")
	}
	return nil
}

// isMetacopy says whether the object name in d is a metacopy; while they are
// off nothing is.
func (fsys *FS) isMetacopy(d *at.Dir, name string, st *at.Stat) (bool, error) {
	if !fsys.metacopy || !st.IsRegular() {
		return false, nil
	}
	return fsys.marks.has(d, name, fsys.marks.metacopy)
}

// refusesMetacopy says whether the object name in d is a metacopy while they
// are off. One of size zero is what it seems.
func (fsys *FS) refusesMetacopy(d *at.Dir, name string, st *at.Stat) (bool, error) {
	if fsys.metacopy || !st.IsRegular() || st.Size == 0 {
		return false, nil
	}
	return fsys.marks.has(d, name, fsys.marks.metacopy)
}

// metacopyMarks are the marks of the object name in d, if it is a metacopy.
func (fsys *FS) metacopyMarks(d *at.Dir, name string, st *at.Stat) (fileMarks, error) {
	if !fsys.metacopy || !st.IsRegular() {
		return fileMarks{}, nil
	}
	return fsys.marks.readFile(d, name)
}

// refuseMetacopy refuses an open file that is one.
// Errors: errMetacopy.
func (fsys *FS) refuseMetacopy(file *at.File) error {
	_, err := file.Getxattr(fsys.marks.metacopy)
	switch err {
	case nil:
		return errMetacopy
	case syscall.ENODATA, syscall.EOPNOTSUPP:
		return nil
	}
	return err
}

// makeMetacopy makes a staged file a metacopy of one of that size.
func (fsys *FS) makeMetacopy(file *at.RWFile, size int64) error {
	if err := file.Setxattr(fsys.marks.metacopy, nil); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	return file.Truncate(size)
}

// openContent opens the content of the metacopy name in parent, of which top
// tells (compare ovl_lookup and ovl_lookup_single, d.metacopy).
// Errors: errRaced when name is another object by now; EIO when there is no
// content, or less than top's size.
func (fsys *FS) openContent(parent *dir, name string, top *at.Stat) (*at.File, error) {
	s, err := fsys.searchContent(parent, name)
	if err != nil {
		return nil, err
	}
	var st at.Stat
	switch {
	case !s.top.Same(top):
		err = errRaced
	case s.file == nil:
		return nil, fmt.Errorf("no lower has the content of this metacopy: %w", syscall.EIO)
	default:
		err = s.file.Stat(&st)
	}
	if err == nil && st.Size < top.Size {
		err = fmt.Errorf("a lower has %d of the %d bytes of this metacopy's content: %w", st.Size, top.Size, syscall.EIO)
	}
	if err != nil && s.file != nil {
		_ = s.file.Close() // only read
	}
	if err != nil {
		return nil, err
	}
	return s.file, nil
}

// searchContent looks for the content of the file name in parent.
func (fsys *FS) searchContent(parent *dir, name string) (*search, error) {
	s := &search{name: name, content: true}
	e := entry{name: name}
	var none dir
	err := fsys.lookupUpper(parent, s, &e, &none)
	if err == nil {
		err = fsys.lookupLowers(parent, s, &e, &none)
	}
	return s, raced(err)
}

// seekContent ends the search at a regular file that has its content, and leads
// it on where that is a metacopy too. What is no file ends it.
func (fsys *FS) seekContent(base *at.Dir, name string, s *search, st *at.Stat, prefix int) (bool, error) {
	s.stop = true
	if !st.IsRegular() {
		return false, nil
	}
	switch s.files++; s.files {
	case 1:
		s.top = *st
	case 2:
		s.second = *st
	}
	fm, err := fsys.marks.readFile(base, name)
	if err != nil {
		return false, err
	}
	if fm.metacopy {
		s.stop = false
		if !s.last {
			s.follow(&dirMarks{redirect: fm.redirect}, prefix, "")
		}
		return true, nil
	}
	s.file, err = base.OpenFile(name)
	return err == nil, err
}

// openBelow opens the content of a metacopy for reading. What the file tells of
// itself is what was found: others may bring the content up and change it.
func (f *File) openBelow(p place, found *found) (err error) {
	if f.read, err = f.fsys.openContent(p.dir, p.name, &found.st); err != nil {
		return err
	}
	var st at.Stat
	if err = f.read.Stat(&st); err != nil {
		_ = f.read.Close() // only read
		return err
	}
	if st.Size > found.st.Size {
		f.limit = found.st.Size
	}
	f.below = true // info has the tag of this content for good
	return nil
}

// within is the part of p that may be read into at the offset of a file with a
// limit.
func (f *File) within(p []byte) ([]byte, error) {
	if f.limit == 0 {
		return p, nil
	}
	off, err := f.read.Seek(0, io.SeekCurrent)
	if err == nil && off >= f.limit && len(p) > 0 {
		err = io.EOF
	}
	return p[:min(int64(len(p)), max(f.limit-off, 0))], err
}

// redirectMetacopy gives the file of upper at p, of which st tells, the redirect
// that leads to its content when it gets another name, beside or in another
// directory; at its own name it leads there anyway. Whatever is no metacopy
// needs none. Beside, a name will do, unless what it is a copy of has several
// (compare ovl_need_absolute_redirect).
// Errors: errContentFar when it would be too long.
func (fsys *FS) redirectMetacopy(p place, st *at.Stat, beside bool) error {
	fm, err := fsys.metacopyMarks(&p.dir.upper.Dir, p.name, st)
	if err != nil || !fm.metacopy || strings.HasPrefix(fm.redirect, "/") {
		return err
	}
	if beside {
		if beside, err = fsys.isCopyOfOneName(p); err != nil {
			return err
		}
	}
	redirect := p.name
	switch {
	case beside && fm.redirect != "":
		return nil
	case !beside:
		redirect = redirectTo(p.dir, p.name, fm.redirect)
	}
	if len(redirect) > maxRedirect {
		return errContentFar
	}
	if err := fsys.setOwnXattr(p.dir.upper, p.name, fsys.marks.redirect, []byte(redirect)); err != nil {
		return err
	}
	if fsys.durability == DurabilityNone {
		return nil
	}
	return fsys.syncName(p.dir.upper, p.name) // without it the new name would be one without content
}

// isCopyOfOneName says whether the lower file that the metacopy at p is a copy
// of has no other name.
func (fsys *FS) isCopyOfOneName(p place) (bool, error) {
	s, err := fsys.searchContent(p.dir, p.name)
	if err != nil {
		return false, err
	}
	if s.file != nil {
		_ = s.file.Close() // only read
	}
	return s.files < 2 || s.second.Nlink <= 1, nil
}

// An incomplete is a metacopy of upper that is to get its content.
type incomplete struct {
	fsys    *FS
	path    string // merged
	file    *at.RWFile
	content *at.File // of a lower; nil when none is wanted
	copied  int64    // bytes of it, by complete
}

func (m *incomplete) close() {
	if m.content != nil {
		_ = m.content.Close() // only read
	}
	_ = m.file.Close() // it was synced where that was asked for
	m.fsys.staging.users.Done()
}

// complete brings what is wanted of its content to the file name of upper if
// that is a metacopy.
func (fsys *FS) complete(name string, follow bool, want amount) (copied int64, err error) {
	if !fsys.metacopy || want == anyContent {
		return 0, nil
	}
	m, err := fsys.openIncomplete(name, follow, want)
	if err != nil || m == nil {
		return 0, err
	}
	defer m.close()
	err = m.complete()
	return m.copied, err
}

// openIncomplete opens the file name of upper; nil when it is no metacopy.
func (fsys *FS) openIncomplete(name string, follow bool, want amount) (*incomplete, error) {
	t, err := fsys.change()
	if err != nil {
		return nil, err
	}
	p, err := t.walk(name, follow)
	if err != nil {
		return nil, t.end(err)
	}
	f, err := fsys.find(p.dir, p.name)
	if err != nil || f.layer != 0 {
		return nil, t.end(errorOr(err, errRaced))
	}
	meta, err := fsys.isMetacopy(f.at, p.name, &f.st)
	if err == nil && meta {
		err = fsys.refuseMarked(f.at, p.name)
	}
	if err != nil || !meta {
		return nil, t.end(err)
	}
	m := &incomplete{fsys: fsys, path: p.path()}
	if m.file, err = p.dir.upper.OpenWrite(p.name); err != nil {
		return nil, t.end(raced(err))
	}
	if want != noContent {
		if m.content, err = fsys.openContent(p.dir, p.name, &f.st); err != nil {
			_ = m.file.Close() // nothing was written
			return nil, t.end(err)
		}
	}
	fsys.staging.users.Add(1)
	return m, t.end(nil)
}

// complete makes a metacopy a file like others, in its place, because it may
// have several names (compare ovl_copy_up_meta_inode_data):
//
//  1. The content is written, or the file cut off. It is still a metacopy, so
//     that nobody reads it; a failure is undone.
//  2. Capabilities and times, which writing has taken, are put back.
//  3. It is synced, unless durability is none.
//  4. The mark is removed. Before: the lower's content; after: the same, here.
//     The redirect stays, which means nothing now.
//
// A crash after 1 leaves a metacopy that has the modification time of the crash
// and no capabilities, as the kernel's does.
func (m *incomplete) complete() error {
	fsys := m.fsys
	var st at.Stat
	if err := m.file.Stat(&st); err != nil {
		return err
	}
	defer fsys.filling.lock(fillKey(&st))()
	if err := fsys.refuseMetacopy(&m.file.File); err != errMetacopy {
		return err // somebody was here first
	}
	if err := m.file.Stat(&st); err != nil {
		return err
	}
	began := time.Now()
	if m.content == nil {
		return m.cutOff()
	}
	tag := fsys.tags.pin(&st)
	defer fsys.tags.unpin(&st)
	defer m.keepTag(tag)
	capabilities, err := m.file.Getxattr(capability)
	if err != nil && err != syscall.ENODATA && err != syscall.EOPNOTSUPP {
		return err
	}
	if err = fsys.copyContent(m.file, m.content, st.Size); err == nil {
		err = m.restore(&st, capabilities)
	}
	if err == nil {
		err = m.finish()
	}
	if err != nil {
		return errors.Join(err, m.undo(&st, capabilities))
	}
	m.copied = st.Size
	fsys.copiedUp(m.path, st.Size, began)
	return nil
}

// cutOff is complete for a file whose content is not wanted.
func (m *incomplete) cutOff() error {
	if err := m.file.Truncate(0); err != nil {
		return err
	}
	return m.finish()
}

func (m *incomplete) finish() error {
	if m.fsys.durability != DurabilityNone {
		if err := m.file.Sync(); err != nil {
			return err
		}
	}
	return m.file.Removexattr(m.fsys.marks.metacopy)
}

// restore puts back what writing takes from a file.
func (m *incomplete) restore(st *at.Stat, capabilities []byte) error {
	if capabilities != nil {
		if err := m.file.Setxattr(capability, capabilities); err != nil {
			return err
		}
	}
	return m.file.SetTimes(st.Atime, st.Mtime)
}

// undo leaves the metacopy as it was.
func (m *incomplete) undo(st *at.Stat, capabilities []byte) error {
	err := m.file.Truncate(0)
	if err == nil {
		err = m.file.Truncate(st.Size)
	}
	return errors.Join(err, m.restore(st, capabilities))
}

// keepTag writes down that the file has the tag that it had.
func (m *incomplete) keepTag(tag tag) {
	var st at.Stat
	if m.file.Stat(&st) == nil {
		m.fsys.tags.keep(tag, &st)
	}
}

// fillKey names a file of upper to FS.filling, whatever its names.
func fillKey(st *at.Stat) string { return strconv.FormatUint(st.Ino, 36) }

// lockIncomplete keeps anybody from bringing content to the file of which st
// tells while the transaction changes its attributes, which would be undone. If
// somebody is at it, the transaction must end, and wait waits.
func (t *txn) lockIncomplete(st *at.Stat) (wait func()) {
	fsys := t.fsys
	if !fsys.metacopy || !st.IsRegular() {
		return nil
	}
	key := fillKey(st)
	unlock, ok := fsys.filling.tryLock(key)
	if !ok {
		return func() { fsys.filling.lock(key)() }
	}
	t.unlocks = append(t.unlocks, unlock)
	return nil
}

// metacopyNote is a file in <workdir>/overdav that says that upper may hold
// metacopies, for a start without them to look for: the kernel leaves no such
// sign. It outlasts the process that made it.
const metacopyNote = "metacopies"

func hasMetacopyNote(work *at.RWDir) (bool, error) {
	dir, err := work.OpenDir(stagingDir)
	if err != nil {
		return false, missingOK(err)
	}
	defer dir.Close()
	var st at.Stat
	err = dir.Stat(metacopyNote, &st)
	return err == nil, missingOK(err)
}

// noteMetacopies makes the note, before the first metacopy is made, or removes
// it, which no metacopy needs any more.
func (s *staging) noteMetacopies(on bool) error {
	var st at.Stat
	err := s.dir.Stat(metacopyNote, &st)
	noted := err == nil
	switch {
	case missingOK(err) != nil:
		return err
	case on == noted:
		return nil
	case !on:
		return s.dir.Unlink(metacopyNote)
	}
	file, err := s.dir.Create(metacopyNote, 0o600)
	if err == nil {
		err = errors.Join(file.Close(), s.dir.Sync())
	}
	return err
}
