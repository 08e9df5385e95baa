package davfs

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"overdav/overlay"
)

// maxRanges is how many ranges of one file a request may ask for; beyond, the
// whole file answers (RFC 9110, section 14.2: a server may ignore Range).
const maxRanges = 16

// get answers GET and HEAD. What is sent is the file as it is opened: its entity
// tag is of the open file, and a replacement meanwhile does not touch it.
func (h *Handler) get(w http.ResponseWriter, rq *request) error {
	switch {
	case rq.info == nil:
		return fs.ErrNotExist
	case rq.info.IsDir() && wantsArchive(rq.Request):
		return h.getArchive(w, rq)
	case rq.info.IsDir():
		return h.getCollection(w, rq)
	case rq.slash:
		return fs.ErrNotExist // the file is no collection
	case !rq.info.Mode().IsRegular():
		return refuse(http.StatusForbidden, "a special file has no content")
	}
	if err := h.openFor(w, rq); err != nil {
		return err
	}
	header := w.Header()
	header.Set("ETag", entityTag(rq.info))
	setContentHeaders(header, rq.path.Base())
	if rq.Header["Range"] == nil || rq.Method != http.MethodGet { // RFC 9110, section 14.2
		return sendWhole(w, rq)
	}
	// ServeContent keeps to RFC 9110, sections 13 and 14, and sends by
	// sendfile(2) as long as nothing is wrapped around w.
	content := &content{File: rq.file, size: rq.info.Size()}
	http.ServeContent(w, forServeContent(rq, rq.info.ModTime()), "", lastModified(rq.info.ModTime()), content)
	return nil
}

// openFor opens the file of the request, unless the guard has done so.
func (h *Handler) openFor(w http.ResponseWriter, rq *request) (err error) {
	if rq.file != nil {
		return nil
	}
	if rq.file, err = h.tree.Open(rq.at().Name()); err != nil {
		return err
	}
	if err := rq.opened(rq.file); err != nil {
		return err
	}
	if info := rq.file.Opened(); !sameContent(info, rq.info) { // replaced since the guard looked
		rq.info = info
		if err := h.preconditions(rq); err != nil {
			return h.explain(w, rq, err)
		}
	}
	return nil
}

// sendWhole sends the file from its beginning to its end, by sendfile(2) as long
// as nothing is wrapped around w.
func sendWhole(w http.ResponseWriter, rq *request) error {
	header := w.Header()
	if modified := rq.info.ModTime(); !modified.IsZero() {
		header.Set("Last-Modified", lastModified(modified).UTC().Format(http.TimeFormat))
	}
	header.Set("Content-Length", strconv.FormatInt(rq.info.Size(), 10))
	w.WriteHeader(http.StatusOK)
	if rq.Method == http.MethodHead {
		return nil
	}
	_, err := io.CopyN(w, rq.file, rq.info.Size())
	_ = err // the client is gone, or sees that it gets less than was said
	return nil
}

// content is a file of which ServeContent wants to know the size, and from where
// it then reads: seeking is put off until something is read.
type content struct {
	*overlay.File
	size, at int64
	moved    bool
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	c.moved = c.moved || offset != c.at
	c.at = offset
	return offset, nil
}

func (c *content) settle() error {
	if !c.moved {
		return nil
	}
	c.moved = false
	_, err := c.File.Seek(c.at, io.SeekStart)
	return err
}

// Read reads from where Seek went.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.File.ReadAt(p, c.at)
	c.moved = c.moved || n > 0
	c.at += int64(n)
	if n > 0 {
		err = nil // if the file ends here the next Read says so
	}
	return n, err
}

// SyscallConn gives the descriptor, at the offset to which Seek went.
func (c *content) SyscallConn() (syscall.RawConn, error) {
	if err := c.settle(); err != nil {
		return nil, err
	}
	return c.File.SyscallConn()
}

// What every file is sent with. Content and pages share an origin, and nobody
// knows what clients store: a browser may show it, but not run what is in it,
// let it reach the server, send its address along, or show it to other sites
// (docs/decisions/0022).
// PDFs are no exception, though older browsers showed none under a sandbox:
// Chromium 156 and Firefox 153 do, at their full size and with their viewer's
// tools, as pictures of both showed in November 2026.
//
// And a copy is not used without asking whether it is still the file. Unasked a
// browser takes a tenth of a file's age for the time in which it will not change
// (RFC 9111, section 4.2.2), and shows for days what has long been replaced.
//
// The slices are shared by all answers: nothing may append to them.
var (
	noSniff       = []string{"nosniff"}
	acceptsRanges = []string{"bytes"}
	sandbox       = []string{"sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"}
	noReferrer    = []string{"no-referrer"}
	sameOrigin    = []string{"same-origin"}
	noCache       = []string{"no-cache"}
)

// setContentHeaders says what a file is, so that no browser guesses, and takes
// the origin of the pages from what could run in it.
func setContentHeaders(header http.Header, name string) {
	kind := contentType(name)
	header.Set("Content-Type", kind)
	header["X-Content-Type-Options"] = noSniff
	header["Accept-Ranges"] = acceptsRanges
	header["Referrer-Policy"] = noReferrer
	header["Cross-Origin-Resource-Policy"] = sameOrigin
	header["Content-Security-Policy"] = sandbox
	header["Cache-Control"] = noCache
}

// hot is how long after a change its date does not tell it from another one
// (RFC 9110, section 8.8.2.2).
const hot = 2 * time.Second

// forServeContent leaves to ServeContent the ranges alone. The conditions were
// held against the file by the guard, and a date in If-Range by the same rule:
// only the very date of the file proves anything, since times go back when a
// client sets them, and not within the second of a change.
func forServeContent(rq *request, modTime time.Time) *http.Request {
	header := maps.Clone(rq.Header)
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		delete(header, name)
	}
	if ifRange := header.Get("If-Range"); ifRange != "" && !strings.HasPrefix(ifRange, `"`) {
		t, err := http.ParseTime(ifRange)
		if err != nil || !t.Equal(lastModified(modTime)) || time.Since(modTime) < hot {
			header.Del("Range")
		}
	}
	if ranges := rangesOf(header.Get("Range"), rq.info.Size()); ranges != "" {
		header.Set("Range", ranges)
	} else {
		header.Del("Range")
	}
	r := *rq.Request
	r.Header = header
	return &r
}

// rangesOf is a Range header of a file of size bytes as ServeContent answers it
// right; "" has the whole file sent. Units are compared without regard to case,
// and others than bytes passed over (RFC 9110, sections 14.1 and 14.2). No
// Content-Range could tell what is sent of an empty file.
func rangesOf(value string, size int64) string {
	unit, set, _ := strings.Cut(value, "=")
	if !strings.EqualFold(unit, "bytes") || size == 0 {
		return ""
	}
	specs := strings.Split(set, ",")
	if len(specs) > maxRanges {
		return ""
	}
	for i, spec := range specs {
		specs[i] = rangeWithin(strings.TrimSpace(spec), size)
	}
	return "bytes=" + strings.Join(specs, ",")
}

// rangeWithin is one range whose numbers are not beyond the file's size, where
// they mean the same, however long they are (RFC 9110, section 14.1.1). The last
// 0 bytes cannot be sent (section 14.1.3), as what begins at the end cannot. What
// is no range stays as it is.
func rangeWithin(spec string, size int64) string {
	first, last, ok := strings.Cut(spec, "-")
	from, hasFirst := parseDigits(first)
	to, hasLast := parseDigits(last)
	if !ok || !hasFirst && first != "" || !hasLast && last != "" {
		return spec
	}
	end := strconv.FormatInt(size, 10)
	switch {
	case hasFirst && from > size, !hasFirst && hasLast && to == 0:
		return end + "-"
	case hasLast && to > size:
		return first + "-" + end
	}
	return spec
}

// lastModified is what the server says of a time: never later than now
// (RFC 9110, section 8.8.2.1), never before the year 1, for which a date has no
// words (section 5.6.7), to the second.
func lastModified(t time.Time) time.Time {
	if now := time.Now(); t.After(now) {
		t = now
	}
	if t.Before(time.Time{}) {
		t = time.Time{}
	}
	return t.Truncate(time.Second)
}

// A Member is what a listing may tell of a member of a collection.
type Member struct {
	Name       string
	Collection bool
	// Info tells of the member, or of what it leads to if it is a symlink that
	// leads anywhere; nil where the name alone may be told.
	Info *overlay.Info
}

// membersFor are the members of a collection that the user sees.
func (h *Handler) membersFor(rq *request) ([]Member, error) {
	dir, err := h.openMembers(rq)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // it was only read
	infos, err := dir.Infos(-1)
	if err != nil {
		return nil, err
	}
	members := make([]Member, 0, len(infos))
	for _, info := range infos {
		if h.opts.HideSymlinks && isSymlink(info) {
			continue
		}
		if m, ok := h.member(rq, info); ok {
			members = append(members, m)
		}
	}
	return members, nil
}

// member is what the user may be told of one member; not ok for nothing.
func (h *Handler) member(rq *request, info *overlay.Info) (m Member, ok bool) {
	name := info.Name()
	if !rq.permit.limited() {
		info = followed(h.tree, rq.path.Name(), info)
		return Member{name, info.IsDir(), info}, true
	}
	p, real := rq.path.child(name), rq.real.child(name)
	if isSymlink(info) {
		info, real = h.leadsTo(real, info)
	}
	m = Member{name, info.IsDir(), info}
	if !rq.permit.rights(p, real).Has(RightRead) {
		m.Info = nil
	}
	return m, rq.permit.sees(p, real)
}

// getCollection answers with the members: who lists them decides on HTML or
// JSON by Accept.
func (h *Handler) getCollection(w http.ResponseWriter, rq *request) error {
	if h.opts.Listing != nil {
		members, err := h.membersFor(rq)
		if err != nil {
			return err
		}
		h.opts.Listing(w, rq.Request, rq.path.Name(), members)
		return nil
	}
	page := []byte("<!DOCTYPE html>\n<title>WebDAV collection</title>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(http.StatusOK)
	if rq.Method == http.MethodGet {
		_, err := io.Copy(w, bytes.NewReader(page))
		_ = err // the client is gone
	}
	return nil
}
