package davfs

import (
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// An upload is a file that is being written to replace or make name. Nobody
// sees it before commit. webdav.Handler gets it from OpenFile and ends it with
// Close, which cannot be told whether the copy went well: so the upload
// remembers any error of its reader and of its writes, and Close then leaves
// what was there.
type upload struct {
	fs     *FileSystem
	name   string
	staged *overlay.Staged

	source    *File                        // what it is a copy of, with its attributes; nil for content of a client
	sums      *summer                      // of what is written; nil when nobody asks
	replaces  func(now *overlay.Info) bool // asked before commit by who cares what is replaced
	failed    error                        // the first error of a write or of the source
	patches   []webdav.Proppatch           // dead properties to set at commit
	committed *overlay.Info                // nil until commit
	done      bool
}

var (
	_ webdav.File            = (*upload)(nil)
	_ webdav.DeadPropsHolder = (*upload)(nil)
	_ io.ReaderFrom          = (*upload)(nil)
)

func (s *FileSystem) newUpload(name string, perm fs.FileMode) (*upload, error) {
	staged, err := s.tree.Stage(name, perm)
	if err != nil {
		return nil, err
	}
	return &upload{fs: s, name: name, staged: staged}, nil
}

// Write appends p.
func (u *upload) Write(p []byte) (int, error) {
	n, err := u.staged.Write(p)
	if err != nil && u.failed == nil {
		u.failed = err
	}
	return n, flatten("write", u.name, err)
}

// ReadFrom appends all of r. An error of r, a body that was cut short for
// instance, is an error of the upload. A File of the same tree is copied with
// its time and its attributes, by reflink where the file system can: so
// webdav.Handler's COPY gets here.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	if src, ok := r.(*File); ok && src.fs == u.fs && u.source == nil {
		return u.copyFile(src)
	}
	return u.readFrom(r, -1)
}

// readFrom is ReadFrom for a client's content of size bytes; -1 is not known.
func (u *upload) readFrom(r io.Reader, size int64) (int64, error) {
	var w io.Writer = u.staged
	if u.sums != nil {
		w = io.MultiWriter(u.staged, u.sums)
	}
	n, err := copyBuffered(w, r, size)
	if err != nil && u.failed == nil {
		u.failed = err
	}
	return n, err
}

// copyFile makes the upload a copy of src.
func (u *upload) copyFile(src *File) (int64, error) {
	err := src.open()
	if err == nil {
		err = u.staged.CopyContent(src.content)
	}
	if err != nil {
		u.failed = err
		return 0, flatten("copy", u.name, err)
	}
	u.staged.SetModTime(src.info.ModTime())
	u.source = src
	return src.info.Size(), nil
}

// copyAttributes gives the committed upload the attributes of its source.
func (u *upload) copyAttributes() error {
	attrs, err := u.fs.tree.Listxattr(u.source.name)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		value, err := u.fs.tree.Getxattr(u.source.name, attr)
		if err == nil && strings.HasPrefix(attr, "user.") {
			err = u.fs.tree.Setxattr(u.name, attr, value)
		}
		if err != nil && !hasNoAttribute(err) {
			return err
		}
	}
	return nil
}

// bodyBuffers are for bodies of up to as many bytes as they have, the last for all
// that are longer. A large one takes few calls and makes large folios in the page
// cache: an upload of 1 GiB takes a quarter less processor time with 1 MiB than with
// 256 KiB, and more again with 4 MiB, which no cache holds. Small bodies, of
// which many come at once, get small ones.
var bodyBuffers = [...]*buffers{newBuffers(32 << 10), newBuffers(256 << 10), newBuffers(1 << 20)}

// buffers are those of one size.
type buffers struct {
	size int64
	pool sync.Pool
}

func newBuffers(size int64) *buffers {
	return &buffers{size, sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

// buffersFor are the buffers for a body of size bytes; -1 is not known.
func buffersFor(size int64) *buffers {
	for _, b := range bodyBuffers {
		if size >= 0 && size <= b.size {
			return b
		}
	}
	return bodyBuffers[len(bodyBuffers)-1]
}

// copyBuffered is io.Copy of size bytes, or of as many as there are where that is
// negative, with a buffer that is full before it is written: bodies come in
// pieces.
func copyBuffered(w io.Writer, r io.Reader, size int64) (total int64, err error) {
	from := buffersFor(size)
	buf := from.pool.Get().(*[]byte)
	defer from.pool.Put(buf)
	return copyWith(*buf, w, r)
}

func copyWith(buf []byte, w io.Writer, r io.Reader) (total int64, err error) {
	for err == nil {
		var n int
		n, err = readFull(r, buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
	}
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// readFull fills buf. Unlike io.ReadFull it answers r's own error: a body that
// breaks off ends with io.ErrUnexpectedEOF, one that is over with io.EOF.
func readFull(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// copyFrom begins the upload with the first keep bytes of a file, which must
// still be the one that was looked at: ESTALE otherwise.
func (u *upload) copyFrom(name string, seen *overlay.Info, keep int64) error {
	f, err := u.fs.tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if info, ok := now.(*overlay.Info); !ok || entityTag(info) != entityTag(seen) {
		return syscall.ESTALE
	}
	if err := u.staged.CopyContent(f); err != nil {
		return err
	}
	return u.staged.Truncate(keep)
}

// writeRange writes r, which must have length bytes, at offset.
func (u *upload) writeRange(r io.Reader, offset, length int64) error {
	n, err := copyBuffered(io.NewOffsetWriter(u.staged, offset), io.LimitReader(r, length+1), length)
	if err == nil && n != length {
		return refuse(http.StatusBadRequest, "the body is not as long as its range")
	}
	return err
}

// Stat tells of the upload under its final name. The entity tag is that of the
// committed file and can be asked for after Close.
func (u *upload) Stat() (fs.FileInfo, error) {
	info, err := u.staged.Stat()
	if err != nil {
		return nil, flatten("stat", u.name, err)
	}
	lazily := newInfo(u.name, info)
	lazily.etag = func() (string, error) {
		if u.committed == nil {
			return "", webdav.ErrNotImplemented
		}
		return entityTag(u.committed), nil
	}
	return lazily, nil
}

// Close commits the upload, unless it failed, which it then answers again.
func (u *upload) Close() error {
	if u.done {
		return flatten("close", u.name, fs.ErrClosed)
	}
	if u.failed != nil {
		u.abort()
		return flatten("close", u.name, u.failed)
	}
	defer u.fs.names.lock(u.name)()
	return flatten("close", u.name, u.commit())
}

// commit makes the upload the file name, in one step.
//
// Preconditions: u.name is locked.
func (u *upload) commit() error { return u.committedBy(u.staged.Commit()) }

// commitOver is commit over what was seen.
// Errors: overlay.ErrChanged when something else is there; then it can be
// called again.
//
// Preconditions: u.name is locked.
func (u *upload) commitOver(seen overlay.Sight) error {
	info, err := u.staged.CommitOver(seen)
	if errors.Is(err, overlay.ErrChanged) {
		return err
	}
	return u.committedBy(info, err)
}

// committedBy does what is left to do after the commit that answered so.
func (u *upload) committedBy(info *overlay.Info, err error) error {
	u.done = true
	if err != nil {
		return err
	}
	u.committed = info
	if u.source != nil {
		if err := u.copyAttributes(); err != nil {
			return err
		}
	}
	if len(u.patches) == 0 {
		return nil
	}
	return patchDeadProps(u.fs.tree, u.name, u.patches)
}

// abort forgets the upload. After commit it does nothing.
func (u *upload) abort() {
	if !u.done {
		u.done = true
		u.staged.Abort()
	}
}

// DeadProps returns the dead properties of the file that is being replaced.
func (u *upload) DeadProps() (map[xml.Name]webdav.Property, error) {
	props, err := (&File{fs: u.fs, name: u.name}).DeadProps()
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	return props, err
}

// Patch sets dead properties when the upload is committed.
func (u *upload) Patch(patches []webdav.Proppatch) ([]webdav.Propstat, error) {
	u.patches = append(u.patches, withoutDAV(patches)...)
	return []webdav.Propstat{allPatched(patches)}, nil
}

// Read answers EBADF: an upload is only written.
func (u *upload) Read([]byte) (int, error) { return 0, flatten("read", u.name, syscall.EBADF) }

// Seek answers ESPIPE: an upload is written from its beginning to its end.
func (u *upload) Seek(int64, int) (int64, error) { return 0, flatten("seek", u.name, syscall.ESPIPE) }

// Readdir answers ENOTDIR.
func (u *upload) Readdir(int) ([]fs.FileInfo, error) {
	return nil, flatten("readdir", u.name, syscall.ENOTDIR)
}
