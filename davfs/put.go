package davfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"overdav/overlay"
)

// put replaces or makes a file in one step. Everything that can be refused is
// refused before the body is read, so that a client that waits for 100
// (Continue) sends nothing in vain, and looked at again before the file is put
// in place.
func (h *Handler) put(w http.ResponseWriter, rq *request) error {
	if err := h.canWrite(rq); err != nil {
		return err
	}
	if err := h.hasRoom(rq); err != nil {
		return err
	}
	if h.junk(rq.path) == JunkDrop {
		return dropUpload(w, rq)
	}
	span, partial, err := parseContentRange(rq.Header)
	if err != nil {
		return err
	}
	if partial {
		return h.putRange(w, rq, span)
	}
	sums, err := newSummer(rq.Header)
	if err != nil {
		return err
	}
	return h.upload(w, rq, func(u *upload) error {
		u.sums = sums
		_, err := u.readFrom(rq.bounded, rq.ContentLength)
		return err
	})
}

// canWrite refuses an upload by what its headers and its target are.
func (h *Handler) canWrite(rq *request) error {
	switch {
	case rq.info != nil && rq.info.IsDir():
		return &protocolError{status: http.StatusMethodNotAllowed, err: syscall.EISDIR}
	case rq.slash:
		return refuse(http.StatusConflict, "a file has no slash at its end")
	case rq.info != nil && !rq.info.Mode().IsRegular() && !isSymlink(rq.info):
		return refuse(http.StatusForbidden, "a special file cannot be written")
	}
	if encoding := rq.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		// To store it would be to forget it (RFC 9110, section 8.4).
		return refuse(http.StatusUnsupportedMediaType, "encoded content")
	}
	if !rq.ProtoAtLeast(1, 1) && rq.Header.Get("Content-Length") == "" {
		return refuse(http.StatusLengthRequired, "HTTP/1.0 without a length: the end cannot be told from a cut")
	}
	return nil
}

// upload stages a file, lets fill write it, and puts it in place.
func (h *Handler) upload(w http.ResponseWriter, rq *request, fill func(*upload) error) error {
	u, err := h.stage(rq)
	if err != nil {
		return err
	}
	defer u.abort()
	if err := fill(u); err != nil {
		return bodyError(err)
	}
	if err := u.sums.verify(); err != nil {
		return err
	}
	mtime, setMtime, err := parseOCMtime(rq.Header)
	if setMtime = setMtime && err == nil; setMtime {
		u.staged.SetModTime(mtime)
	}
	u.keepSums()
	if u.staged.Path() != rq.real.Name() {
		return syscall.ESTALE // it was staged where a link led meanwhile
	}
	err = h.settle(rq, func() error {
		if err := h.canWrite(rq); err != nil {
			return err
		}
		if u.replaces != nil && !u.replaces(rq.info) {
			return syscall.ESTALE // somebody was faster: what was copied is not what is there
		}
		return u.commitOver(rq.sight)
	}, rq.real)
	if err != nil {
		return err
	}
	answerUpload(w, u, rq.info != nil, setMtime)
	return nil
}

// stage begins an upload to what the request names.
func (h *Handler) stage(rq *request) (*upload, error) {
	if rq.permit.limited() {
		return h.fs.newUpload(rq.real.Name(), newFile)
	}
	staged, err := h.tree.StageSeen(rq.sight, newFile)
	if err != nil {
		return nil, err
	}
	return &upload{fs: h.fs, name: rq.real.Name(), staged: staged}, nil
}

// newFile are the permissions of new files, from which the system takes those
// of umask(2).
const newFile = 0o666

// bodyError tells a client that broke off, or sent what is no message, from a
// disk that refused.
func bodyError(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != syscall.ECONNRESET && errno != syscall.EPIPE {
		return err
	}
	var tooLarge *http.MaxBytesError
	var decided *protocolError
	if errors.As(err, &tooLarge) || errors.As(err, &decided) || errors.Is(err, errUploadTooLarge) ||
		errors.Is(err, context.DeadlineExceeded) { // of a request that gave way to others, and could not come back
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &protocolError{status: http.StatusRequestTimeout, err: err} // RFC 9110, section 15.5.9
	}
	return &protocolError{status: http.StatusBadRequest, err: fmt.Errorf("the body broke off: %w", err)}
}

// answerUpload tells of the file: 201 or 204 without a body (RFC 9110, section
// 9.3.4). Clients take the validators from here instead of asking for them.
func answerUpload(w http.ResponseWriter, u *upload, existed, setMtime bool) {
	header := w.Header()
	header.Set("ETag", entityTag(u.committed))
	header.Set("Last-Modified", lastModified(u.committed.ModTime()).UTC().Format(http.TimeFormat))
	if setMtime {
		header.Set("X-OC-Mtime", "accepted")
	}
	writeDone(w, existed)
}

// writeDone answers 204 for what was replaced and 201 for what was made,
// without a body: rclone drops connections whose answers it has to read.
func writeDone(w http.ResponseWriter, existed bool) {
	if existed {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// putRange writes a part of a file, in one step: a reader sees all of the
// change or none. The rest is kept; a size in the header cuts it, as the size
// of a whole does. A hole that nobody wrote is refused.
func (h *Handler) putRange(w http.ResponseWriter, rq *request, span contentRange) error {
	if rq.ContentLength >= 0 && rq.ContentLength != span.length() {
		return fmt.Errorf("%w: Content-Range of %d bytes, body of %d", errBadHeader, span.length(), rq.ContentLength)
	}
	old := int64(0)
	if rq.info != nil {
		old = rq.info.Size()
	}
	if span.first > old {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(old, 10))
		return errRangeNotSatisfiable
	}
	if span.size >= 0 {
		old = min(old, span.size)
	}
	return h.update(w, rq, old, span.first, span.length())
}

// patch is sabre/dav's partial update: the media type says so, and
// X-Update-Range where.
func (h *Handler) patch(w http.ResponseWriter, rq *request) error {
	if kind, _, _ := strings.Cut(rq.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), patchType) {
		w.Header().Set("Accept-Patch", patchType) // RFC 5789, section 3.1
		return refuse(http.StatusUnsupportedMediaType, "no such patch format")
	}
	if rq.info == nil {
		return sourceError{syscall.ENOENT}
	}
	if err := h.canWrite(rq); err != nil {
		return err
	}
	if err := h.hasRoom(rq); err != nil {
		return err
	}
	if rq.ContentLength < 0 {
		return refuse(http.StatusLengthRequired, "a partial update needs a length")
	}
	where, err := parseUpdateRange(rq.Header)
	if err != nil {
		return err
	}
	old := rq.info.Size()
	offset, length, err := where.resolve(old)
	if err != nil {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(old, 10))
		return err
	}
	if length >= 0 && length != rq.ContentLength {
		return fmt.Errorf("%w: X-Update-Range of %d bytes, body of %d", errBadHeader, length, rq.ContentLength)
	}
	return h.update(w, rq, old, offset, rq.ContentLength)
}

const patchType = "application/x-sabredav-partialupdate"

// update writes the body of length bytes at offset into a copy of the first
// keep bytes of the file and puts it in place, if the file is still the one
// that was copied.
func (h *Handler) update(w http.ResponseWriter, rq *request, keep, offset, length int64) error {
	base := rq.info
	return h.upload(w, rq, func(u *upload) error {
		u.replaces = func(now *overlay.Info) bool { return sameContent(base, now) }
		if base != nil {
			if err := u.copyFrom(rq.at().Name(), base, keep); err != nil {
				return err
			}
		}
		return u.writeRange(rq.bounded, offset, length)
	})
}

// sameContent says whether two looks at a name saw one content; nil is nothing.
func sameContent(a, b *overlay.Info) bool {
	if a == nil || b == nil {
		return a == b
	}
	return entityTag(a) == entityTag(b)
}

// dropUpload takes a body and forgets it, as the share's rule for junk says.
func dropUpload(w http.ResponseWriter, rq *request) error {
	if _, err := io.Copy(io.Discard, rq.Body); err != nil {
		return bodyError(err)
	}
	// Without validators Finder would look for what is not there.
	now := time.Now().UTC()
	w.Header().Set("ETag", `"`+strconv.FormatInt(now.UnixNano(), 36)+`"`)
	w.Header().Set("Last-Modified", now.Format(http.TimeFormat))
	writeDone(w, false)
	return nil
}
