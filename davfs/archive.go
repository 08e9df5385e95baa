package davfs

import (
	"archive/zip"
	"bufio"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"overdav/overlay"
)

// Archives are the bounds of collections that are sent as one archive (GET with
// the query "zip"). Handlers that have the same count together.
//
// Safe for use by many goroutines once it is given to a Handler.
type Archives struct {
	// PerUser is how many one user is sent at once; 0 offers none to anybody.
	PerUser int
	// Bytes is how many bytes the files in one may have; 0 is no limit.
	Bytes int64
	// Entries is how many files and collections may be in one: each is in memory
	// until the archive ends, with its name and some 500 bytes. 0 is no limit.
	Entries int
	// Of says who counts as one user. Nil means that all are one.
	Of func(*http.Request) string

	mu sync.Mutex
	// running has who is being sent how many; no zeros.
	// +checklocks:mu
	running map[string]int
}

// begin takes a place for one archive, until end is called.
// Errors: 429 when the user has no place left.
func (a *Archives) begin(r *http.Request) (end func(), err error) {
	user := ""
	if a.Of != nil {
		user = a.Of(r)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[user] >= a.PerUser {
		return nil, &protocolError{status: http.StatusTooManyRequests, say: "another download of this kind is under way; try again when it has ended", err: errTooManyArchives}
	}
	if a.running == nil {
		a.running = make(map[string]int)
	}
	a.running[user]++
	return func() { a.end(user) }, nil
}

func (a *Archives) end(user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[user]--
	if a.running[user] == 0 {
		delete(a.running, user)
	}
}

var (
	errTooManyArchives = errors.New("the user is being sent as many archives as may be")
	errArchiveTooLarge = errors.New("the collection is too large for one archive")
)

// wantsArchive says whether the collection is asked for as an archive.
func wantsArchive(r *http.Request) bool { return r.URL.RawQuery != "" && r.URL.Query().Has("zip") }

// getArchive answers GET and HEAD of a collection with all that the user could
// GET in it, as a ZIP file. It is made as it is sent: nothing is put on a disk.
//
// What it will be is added up before the first byte, so that one that is too
// large is refused with a status. What fails later breaks the connection: an
// archive without its directory, which comes last, opens nowhere, and none looks
// whole that is not.
func (h *Handler) getArchive(w http.ResponseWriter, rq *request) error {
	limits := h.opts.Archives
	if limits == nil || limits.PerUser == 0 {
		return refuse(http.StatusForbidden, "archives are not offered")
	}
	if rq.Method == http.MethodHead {
		setArchiveHeaders(w.Header(), h.archiveFile(rq))
		w.WriteHeader(http.StatusOK)
		return nil
	}
	end, err := limits.begin(rq.Request)
	if err != nil {
		return err
	}
	defer end()
	sum := archiveSum{limits: limits}
	if err := h.walkArchive(rq, func(m *archiveMember) error { return sum.add(m.name, m.size()) }); err != nil {
		return err
	}
	setArchiveHeaders(w.Header(), h.archiveFile(rq))
	w.WriteHeader(http.StatusOK)
	switch err := h.sendArchive(w, rq, limits); {
	case err == http.ErrAbortHandler:
		panic(err)
	case err != nil:
		if h.opts.Log != nil {
			h.opts.Log(rq.Request, Status(rq.Method, err), err)
		}
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sendArchive sends the body.
// Errors: http.ErrAbortHandler when the client is gone, of which nobody need be
// told.
func (h *Handler) sendArchive(w io.Writer, rq *request, limits *Archives) error {
	out := newArchiveWriter(w)
	sum := archiveSum{limits: limits}
	err := h.walkArchive(rq, func(m *archiveMember) error {
		if m.info.IsDir() {
			return errors.Join(sum.add(m.name, 0), out.addDir(m))
		}
		return h.addFile(out, &sum, m)
	})
	if err == nil {
		err = out.close()
	}
	if err != nil && (out.client.err != nil || rq.Context().Err() != nil) {
		return http.ErrAbortHandler
	}
	return err
}

// addFile adds a file as it is when it is opened.
func (h *Handler) addFile(out *archiveWriter, sum *archiveSum, m *archiveMember) error {
	file, err := h.openAt(m.real)
	if err != nil {
		return err
	}
	defer file.Close() // it was only read
	if m.info = file.Opened(); !m.info.Mode().IsRegular() {
		return errMoved
	}
	if err := sum.add(m.name, m.size()); err != nil {
		return err
	}
	return out.addFile(m, file)
}

// openAt opens what is at a path without symlinks.
// Errors: ESTALE when it is elsewhere by now.
func (h *Handler) openAt(real Path) (*overlay.File, error) {
	f, err := h.tree.Open(real.Name())
	if err == nil && f.Path() != real.Name() {
		_ = f.Close() // nothing was read
		return nil, errMoved
	}
	return f, err
}

// archiveFile is what the archive is to be called: after the collection, or for
// the root after the share.
func (h *Handler) archiveFile(rq *request) string {
	name := rq.path.Base()
	if name == "" {
		name = h.share.Base()
	}
	if name == "" {
		name = "files"
	}
	return name + ".zip"
}

// setArchiveHeaders are the headers of an archive: it is to be stored, not shown,
// and no part of it can be asked for.
func setArchiveHeaders(header http.Header, file string) {
	setContentHeaders(header, file)
	header["Accept-Ranges"] = []string{"none"}
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Disposition", attachment(file))
}

// archiveSum adds up what is in an archive.
type archiveSum struct {
	limits  *Archives
	bytes   int64
	entries int
}

// add adds a member of that size.
// Errors: 403 beyond the limits.
func (s *archiveSum) add(name string, size int64) error {
	s.bytes += size
	s.entries++
	switch {
	case s.limits.Bytes > 0 && s.bytes > s.limits.Bytes,
		s.limits.Entries > 0 && s.entries > s.limits.Entries,
		len(name) > math.MaxUint16: // APPNOTE.TXT, section 4.4.10
		return &protocolError{status: http.StatusForbidden, say: "the collection is too large for one download; fetch what is in it one by one", err: errArchiveTooLarge}
	}
	return nil
}

// An archiveWriter writes a ZIP file (PKWARE's APPNOTE.TXT).
//
// Every file is deflated, what is compressed already without trying to: that
// costs five bytes for each 64 KiB. "Stored" files, of which the size and the
// checksum come behind the content, are for readers of streams without an end
// (APPNOTE.TXT, section 4.4.4, bit 3).
type archiveWriter struct {
	client errWriter
	zip    *zip.Writer
	pack   *flate.Writer // of the file that is being added: fast or plain
	fast   *flate.Writer
	plain  *flate.Writer
	buf    []byte
}

func newArchiveWriter(w io.Writer) *archiveWriter {
	a := &archiveWriter{client: errWriter{w: w}, buf: make([]byte, 64<<10)}
	// package zip takes a buffer that it is given for its own.
	a.zip = zip.NewWriter(bufio.NewWriterSize(&a.client, 64<<10))
	a.fast, a.plain = newFlate(flate.BestSpeed), newFlate(flate.NoCompression)
	a.zip.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		a.pack.Reset(out)
		return a.pack, nil
	})
	return a
}

func newFlate(level int) *flate.Writer {
	z, err := flate.NewWriter(io.Discard, level)
	if err != nil {
		panic(err) // the levels are constants that exist
	}
	return z
}

// errWriter remembers that the client could not be written to.
type errWriter struct {
	w   io.Writer
	err error
}

// Write is io.Writer's.
func (e *errWriter) Write(p []byte) (n int, err error) {
	if n, err = e.w.Write(p); err != nil {
		e.err = err
	}
	return n, err
}

// header is that of a member: with its time, and with what the execute bits say,
// but nothing else of the mode, which is about the users of another machine.
func (a *archiveWriter) header(m *archiveMember) *zip.FileHeader {
	fh := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
	if m.told {
		fh.Modified = archiveTime(m.info.ModTime())
	}
	mode := fs.FileMode(0o644)
	if m.info.IsDir() || m.info.Mode().Perm()&0o111 != 0 {
		mode = 0o755
	}
	fh.SetMode(mode | m.info.Mode()&fs.ModeDir)
	return fh
}

func (a *archiveWriter) addDir(m *archiveMember) error {
	_, err := a.zip.CreateHeader(a.header(m))
	return err
}

// addFile adds as much of content as the member is long.
// Errors: io.ErrUnexpectedEOF when there is less.
func (a *archiveWriter) addFile(m *archiveMember, content io.Reader) error {
	a.pack = a.fast
	if !isCompressible(m.name) {
		a.pack = a.plain
	}
	w, err := a.zip.CreateHeader(a.header(m))
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(content, m.size()), a.buf)
	if err == nil && n < m.size() {
		err = fmt.Errorf("%s has become shorter while it was read: %w", m.real, io.ErrUnexpectedEOF)
	}
	return err
}

// close writes the directory, without which there is no archive.
func (a *archiveWriter) close() error { return a.zip.Close() }

// isCompressible says whether it is worth the processor's time to compress a
// file with that name: text is, of pictures, films, archives and what nobody
// knows little is to be had.
func isCompressible(name string) bool {
	kind, _, _ := strings.Cut(contentType(name), ";")
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+xml") || compressible[kind]
}

// compressible are the other media types that are text, or as empty.
var compressible = map[string]bool{
	"application/json": true, "application/jsonl": true, "application/yaml": true, "application/toml": true,
	"application/rtf": true, "application/postscript": true, "application/x-tar": true, "application/vnd.sqlite3": true,
	"application/wasm": true, "application/msword": true, "application/vnd.ms-excel": true, "application/vnd.ms-powerpoint": true,
	"message/rfc822": true, "image/bmp": true, "image/tiff": true, "audio/vnd.wave": true, "font/ttf": true, "font/otf": true,
}

// archiveTime is a time as far as a ZIP file can hold it: from 1980 (APPNOTE.TXT,
// section 4.4.6) to where 32 bits of seconds since 1970 end.
func archiveTime(t time.Time) time.Time {
	first, last := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(math.MaxUint32, 0)
	switch {
	case t.Before(first):
		t = first
	case t.After(last):
		t = last
	}
	return t.UTC()
}
