package davfs

import (
	"compress/gzip"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"overdav/overlay"
)

// Limits of the XML bodies, in bytes. A body of a mebibyte with nothing but
// start tags is what the parser refuses by its depth and its elements.
const (
	maxPropfindBody  = 64 << 10
	maxLockBody      = 64 << 10
	maxProppatchBody = 1 << 20
)

// readXMLBody reads a body of at most limit bytes.
// Errors: *http.MaxBytesError beyond it.
func readXMLBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

// propfind answers with properties of a resource, its members, or all beneath
// it. The first members are read before the first byte of the answer, so that a
// failure has a status, unless that takes long; each entry is then written as it
// is looked at. No file is opened.
func (h *Handler) propfind(w http.ResponseWriter, rq *request) error {
	if err := mustExist(rq); err != nil {
		return err
	}
	props, err := h.queries.read(w, rq.Request)
	if err != nil {
		return err
	}
	d, noRoot, err := h.reach(rq)
	if err != nil {
		return err
	}
	var members *memberBatch
	if d != depthZero {
		if members, err = h.beginMembers(rq, props); err != nil {
			return err
		}
		defer members.close()
	}
	out, end := beginMultistatus(w, rq.Request)
	l := lister{h: h, out: out, prefix: h.hrefPrefix(rq), props: props, brief: isBrief(rq.Header), permit: rq.permit, user: rq.user}
	real, free := rq.real, h.locks.none()
	if !rq.permit.limited() && !free {
		real = h.real(rq.path, true)
	}
	if !noRoot {
		l.writeRoot(rq, real, free)
	}
	l.budget = h.opts.InfiniteDepth
	if d != depthZero {
		if isLong(rq.info) {
			out.send()
		}
		l.members(rq.path, real, members, d == depthInfinity)
	}
	if err := end(); err != nil && h.opts.Log != nil {
		h.opts.Log(rq.Request, http.StatusMultiStatus, err) // the client went away meanwhile
	}
	return nil
}

// reach is how far a PROPFIND may go below what it names, and whether it leaves
// that out.
func (h *Handler) reach(rq *request) (d depth, noRoot bool, err error) {
	d, noRoot, err = parseDepth(rq.Header, depthInfinity)
	switch {
	case err != nil:
		return d, noRoot, err
	case !rq.info.IsDir() || d == depthZero:
		return depthZero, noRoot, nil
	}
	if err := rq.permit.grants(rq.path, rq.real, demand{own: RightList}); err != nil {
		return d, noRoot, err
	}
	if d == depthInfinity && h.opts.InfiniteDepth == 0 {
		// RFC 4918, section 9.1.1
		return d, noRoot, &protocolError{status: http.StatusForbidden, condition: "propfind-finite-depth"}
	}
	return d, noRoot, nil
}

// longDirectory is the size of a directory, in bytes as its file system has it,
// of which the names alone take milliseconds: some ten thousand.
const longDirectory = 256 << 10

// isLong says whether to read the first members of a collection takes long. All
// names of its upper are read first (overlay.File.ReadInfos): a client need not
// wait for them to learn that there is an answer.
func isLong(info *overlay.Info) bool { return info.IsDir() && info.Size() >= longDirectory }

// beginMembers opens the collection that the request names, and reads its first
// members unless that takes long.
func (h *Handler) beginMembers(rq *request, props *selection) (*memberBatch, error) {
	dir, err := h.openMembers(rq)
	if err != nil {
		return nil, err
	}
	members := listMembers(dir, props)
	if !isLong(rq.info) {
		err = members.read()
	}
	if err != nil {
		members.close()
		return nil, err
	}
	return members, nil
}

// openMembers opens the collection that the request names.
func (h *Handler) openMembers(rq *request) (*overlay.File, error) {
	dir, err := h.tree.Open(rq.at().Name())
	if err != nil {
		return nil, err
	}
	if err := rq.opened(dir); err != nil {
		_ = dir.Close() // nothing was read
		return nil, err
	}
	return dir, nil
}

// writeRoot writes the entry of what the request names.
func (l *lister) writeRoot(rq *request, real Path, free bool) {
	l.member = entry{h: l.h, prefix: l.prefix, dir: rq.path, realDir: real, info: rq.info, free: free, permit: rq.permit, user: rq.user}
	if rq.held.Shown != nil {
		l.member.held = &rq.held
	}
	l.write(&l.member, false)
}

// hrefPrefix is what stands before the paths of the share in an answer.
func (h *Handler) hrefPrefix(rq *request) Path { return rq.front.prefix.join(h.share) }

// isBrief says whether the client does without being told what there is not:
// RFC 8144, section 2.1, and Microsoft's header of before.
func isBrief(h http.Header) bool {
	if strings.EqualFold(h.Get("Brief"), "t") {
		return true
	}
	for _, preference := range headerElements(h, "Prefer") {
		if strings.EqualFold(preference, "return=minimal") {
			return true
		}
	}
	return false
}

// beginMultistatus begins a 207. end ends it, with the first error of writing it.
func beginMultistatus(w http.ResponseWriter, r *http.Request) (out *multistatus, end func() error) {
	header := w.Header()
	header.Set("Content-Type", xmlContentType)
	header.Add("Vary", "Accept-Encoding, Brief, Prefer")
	push := func() error {
		err := http.NewResponseController(w).Flush()
		if errors.Is(err, http.ErrNotSupported) {
			return nil // then it is sent later
		}
		return err
	}
	if !acceptsGzip(r.Header) {
		out = newMultistatus(w)
		out.head, out.push = w, push
		return out, out.close
	}
	header.Set("Content-Encoding", "gzip")
	w.WriteHeader(http.StatusMultiStatus)
	z := gzipWriters.Get().(*gzip.Writer)
	z.Reset(w)
	out = newMultistatus(z)
	out.push = func() error { return errors.Join(z.Flush(), push()) }
	return out, func() error {
		err := out.close()
		if cerr := z.Close(); err == nil {
			err = cerr
		}
		gzipWriters.Put(z)
		return err
	}
}

// gzipWriters compress at the level where listings are a fortieth of their
// size already.
var gzipWriters = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant that exists
	}
	return z
}}

// acceptsGzip says whether the client takes gzip (RFC 9110, section 12.5.3).
func acceptsGzip(h http.Header) bool {
	for _, element := range headerElements(h, "Accept-Encoding") {
		coding, quality, _ := strings.Cut(strings.ReplaceAll(element, " ", ""), ";")
		if strings.EqualFold(coding, "gzip") {
			return !strings.HasPrefix(quality, "q=0") || strings.Trim(quality, "q=0.") != ""
		}
	}
	return false
}

// A lister writes entries into a multistatus.
type lister struct {
	h       *Handler
	out     *multistatus
	prefix  Path
	props   *selection
	brief   bool
	permit  permit // of whom it is all told
	user    string
	budget  int    // of a listing of infinite depth: how many entries it may still have
	missing []int  // scratch: indexes of the properties that an entry has not
	member  entry  // scratch: what is being written
	href    []byte // of the collection whose members are being written
}

// membersAtOnce is how many members of a collection are in memory at once.
const membersAtOnce = 256

// A memberBatch has some members of a collection that is being listed.
type memberBatch struct {
	from  *overlay.File
	infos [membersAtOnce]overlay.Info
	n     int
}

var memberBatches = sync.Pool{New: func() any { return new(memberBatch) }}

// listMembers begins to list a collection, which close closes; props is what will
// be told of its members.
func listMembers(from *overlay.File, props *selection) *memberBatch {
	b := memberBatches.Get().(*memberBatch)
	b.from, b.n = from, 0
	if props.needsDead {
		from.Want(deadPropAttr)
	}
	return b
}

func (b *memberBatch) close() {
	_ = b.from.Close() // it was only read
	b.from = nil
	memberBatches.Put(b)
}

// read reads the next members; none after the last.
func (b *memberBatch) read() (err error) {
	if b.n, err = b.from.ReadInfos(b.infos[:]); err == io.EOF {
		err = nil
	}
	return err
}

// members writes the members of a collection, and with deep what they hold;
// batch lists them, and may have the first. Symlinks are shown as what they lead
// to, but not gone into: what they lead to is elsewhere in the tree, or above.
// real is dir without symlinks.
func (l *lister) members(dir, real Path, batch *memberBatch, deep bool) (more bool) {
	outer := l.href
	l.href = appendHref(nil, l.prefix, dir, true)
	defer func() { l.href = outer }()
	free := !l.h.locks.anyWithin(real)
	for {
		if batch.n == 0 {
			if err := batch.read(); err != nil {
				l.unlisted(dir, err)
				return true
			}
		}
		if batch.n == 0 {
			return true
		}
		if !l.batch(dir, real, batch, free, deep) {
			return false
		}
		batch.n = 0
	}
}

// batch writes the members in batch. free says that nothing in dir is locked.
func (l *lister) batch(dir, real Path, batch *memberBatch, free, deep bool) (more bool) {
	for i := range batch.n {
		info := &batch.infos[i]
		if l.out.failed() {
			return false
		}
		if l.h.opts.HideSymlinks && isSymlink(info) {
			continue
		}
		e := &l.member
		*e = entry{h: l.h, prefix: l.prefix, dir: dir, name: info.Name(), realDir: real, info: info, from: batch.from, free: free, permit: l.permit, user: l.user}
		if isSymlink(info) {
			e.lead()
		}
		if l.permit.limited() && !l.permit.sees(e.path(), e.real()) {
			continue
		}
		if deep {
			if l.budget == 0 {
				l.truncated(dir)
				return false
			}
			l.budget--
		}
		if l.permit.limited() && !l.permit.rights(e.path(), e.real()).Has(RightRead) {
			l.untold(e)
		} else {
			l.write(e, true)
		}
		if deep && info.IsDir() && !l.beneath(e.path(), e.real()) {
			return false
		}
	}
	return true
}

func (l *lister) beneath(dir, real Path) (more bool) {
	if err := l.permit.grants(dir, real, demand{own: RightList}); err != nil {
		l.unlisted(dir, denied())
		return true
	}
	at := dir
	if l.permit.limited() {
		at = real
	}
	from, err := l.h.tree.Open(at.Name())
	if err != nil {
		l.unlisted(dir, err)
		return true
	}
	batch := listMembers(from, l.props)
	defer batch.close()
	if l.permit.limited() && from.Path() != real.Name() {
		l.unlisted(dir, syscall.ESTALE)
		return true
	}
	return l.members(dir, real, batch, true)
}

// unlisted says that the members of a collection, or the rest of them, cannot
// be told.
func (l *lister) unlisted(dir Path, err error) {
	l.out.startResponse(l.prefix, dir, true)
	l.out.status(Status("PROPFIND", err))
	l.out.endResponse()
}

// untold says of a member no more than its name: the user may not read it.
func (l *lister) untold(e *entry) {
	l.out.startMember(l.href, e.name, e.info.IsDir())
	l.out.status(http.StatusForbidden)
	l.out.endResponse()
}

// truncated ends a listing that would be too long: it has more than what was
// told (RFC 5323, section 2.3.1, has the form).
func (l *lister) truncated(dir Path) {
	l.out.startResponse(l.prefix, dir, true)
	l.out.status(http.StatusInsufficientStorage)
	l.out.error("number-of-matches-within-limits")
	l.out.endResponse()
}

// write writes one entry.
func (l *lister) write(e *entry, member bool) {
	if member {
		l.out.startMember(l.href, e.name, e.info.IsDir())
	} else {
		l.out.startResponse(l.prefix, e.path(), e.info.IsDir())
	}
	if l.props.kind == findNames {
		l.writeNames(e)
	} else {
		l.writeValues(e, member)
	}
	l.out.endResponse()
}

// writeValues writes the properties that the entry has, and with status 404
// those that were asked for and that it has not.
func (l *lister) writeValues(e *entry, member bool) {
	l.missing = l.missing[:0]
	l.out.startPropstat()
	for i := range l.props.props {
		p := &l.props.props[i]
		if p.long && member {
			continue
		}
		if !l.writeValue(e, p) {
			l.missing = append(l.missing, i)
		}
	}
	if l.props.dead {
		for _, p := range e.deadProps() {
			l.out.rawLang(newPropTag(p.XMLName), p.Lang, p.InnerXML)
		}
	}
	l.out.endPropstat(http.StatusOK)
	if len(l.missing) == 0 || l.brief || l.props.kind == findAll {
		return
	}
	l.out.startPropstat()
	for _, i := range l.missing {
		l.out.empty(l.props.props[i].tag)
	}
	l.out.endPropstat(http.StatusNotFound)
}

func (l *lister) writeValue(e *entry, p *selectedProp) bool {
	if p.live != nil {
		return p.live.write(l.out, p.tag, e)
	}
	if neverStored[p.name] {
		return false
	}
	dead, ok := e.deadProp(p.name)
	if ok {
		l.out.rawLang(p.tag, dead.Lang, dead.InnerXML)
	}
	return ok
}

// neverStored are names that clients ask for in every listing and nobody sets:
// looking for them would cost a call for each entry.
var neverStored = map[xml.Name]bool{
	davName("getcontentlanguage"): true, davName("source"): true, davName("checked-in"): true, davName("checked-out"): true,
	davName("quota"): true, davName("quotaused"): true, davName("getmodifiedby"): true, davName("iscollection"): true, davName("ishidden"): true,
	{Space: nsOwnCloud, Local: "permissions"}: true, {Space: nsOwnCloud, Local: "fileid"}: true,
	{Space: nsOwnCloud, Local: "id"}: true, {Space: nsOwnCloud, Local: "size"}: true,
	{Space: "http://www.apple.com/webdav_fs/props/", Local: "appledoubleheader"}: true,
}

// writeNames writes the names of the properties that the entry has.
func (l *lister) writeNames(e *entry) {
	l.out.startPropstat()
	scratch := &multistatus{w: io.Discard}
	for i := range l.props.props {
		p := &l.props.props[i]
		if p.live.write(scratch, p.tag, e) {
			l.out.empty(p.tag)
		}
		scratch.buf = scratch.buf[:0]
	}
	for _, p := range e.deadProps() {
		l.out.empty(newPropTag(p.XMLName))
	}
	l.out.endPropstat(http.StatusOK)
}
