package davfs

import (
	"errors"
	"io"
	"net/http"
	"syscall"
	"time"

	"overdav/overlay"
)

// A request is an http.Request and what the guard has found out about it.
type request struct {
	*http.Request
	path  Path // in the share
	real  Path // the same without symlinks, for locks and for rights
	slash bool // the client takes it for a collection
	front front
	ifs   ifHeader
	user  string
	info  *overlay.Info // what is there; nil for nothing. hold and settle look again
	sight overlay.Sight // of real, as the change is to find it
	held  overlay.Held  // of a PROPFIND, what info tells of, if there is something
	file  *overlay.File // of a GET, what info tells of, open; nil when it was only looked at

	// bounded is the body as far as there is room for it, from hasRoom. Body
	// itself stays: the server looks at it to learn whether the client waits for
	// 100 (Continue).
	bounded io.Reader

	permit  permit // what the user may do
	follows bool   // the method follows a symlink that is the last name

	// Of COPY and MOVE, from readDestination.
	dst      Path
	dstReal  Path
	dstSlash bool
	dstInfo  *overlay.Info
	dstSight overlay.Sight
}

// at is the path by which the tree is asked: the one that the client wrote, or,
// where the user's rights have been looked at, the one without symlinks to which
// they belong.
func (rq *request) at() Path {
	if rq.permit.limited() {
		return rq.real
	}
	return rq.path
}

// dstAt is at for the destination.
func (rq *request) dstAt() Path {
	if rq.permit.limited() {
		return rq.dstReal
	}
	return rq.dst
}

// guard turns a request into one whose path is a name of the tree, and refuses
// what no method has to look at.
func (h *Handler) guard(w http.ResponseWriter, r *http.Request, m method) (*request, error) {
	p, slash, err := requestPath(r, h.policy)
	if err != nil {
		return nil, err
	}
	p, ok := h.inShare(p)
	if !ok {
		return nil, errOutsideShare
	}
	if m.changes && h.opts.ReadOnly {
		return nil, syscall.EROFS
	}
	if m.noBody && hasBody(r) {
		return nil, refuse(http.StatusUnsupportedMediaType, "the method takes no body")
	}
	rq := &request{Request: r, path: p, real: p, slash: slash || p.IsRoot(), permit: h.permit(r), follows: m.follows}
	if h.opts.User != nil {
		rq.user = h.opts.User(r)
	}
	if rq.permit.closed(p) {
		return rq, rq.authoriseClosed()
	}
	if err := h.refuseLinks(p); err != nil {
		return nil, err
	}
	switch {
	case rq.permit.limited():
		if rq.real, err = h.resolve(p, m.follows); err != nil {
			return nil, err
		}
	case m.changes:
		if err = h.see(rq); err != nil {
			return nil, err
		}
	}
	if rq.front, err = h.opts.Site.front(r, h.policy); err != nil {
		return nil, err
	}
	if rq.ifs, err = parseIf(r.Header); err != nil {
		return nil, err
	}
	if rq.permit.limited() || !m.changes {
		if rq.info, err = h.lookFor(rq); err != nil {
			return nil, err
		}
	}
	if err := h.admit(w, rq); err != nil {
		rq.done()
		return nil, err
	}
	return rq, nil
}

// admit refuses what rights, names, preconditions or locks forbid of what was
// found.
func (h *Handler) admit(w http.ResponseWriter, rq *request) error {
	if err := rq.authorise(); err != nil {
		return err
	}
	if err := h.mayMake(rq); err != nil {
		return err
	}
	if err := h.preconditions(rq); err != nil {
		return h.explain(w, rq, err)
	}
	if rq.Method == "PUT" || rq.Method == "PATCH" {
		return h.tokens(rq) // before the body is read; the others look once, in hold
	}
	return nil
}

// done lets go of what the guard opened.
func (rq *request) done() {
	rq.held.Close()
	if rq.file != nil {
		_ = rq.file.Close() // it was only read
	}
}

// refuseLinks answers 404 to a path through a symlink, if they are hidden.
func (h *Handler) refuseLinks(p Path) error {
	if !h.opts.HideSymlinks {
		return nil
	}
	if _, links := h.followLinks(p, true); links > 0 {
		return refuse(http.StatusNotFound, "a hidden symlink is on the way")
	}
	return nil
}

// hasBody says whether a request has a body, of whatever length and form.
func hasBody(r *http.Request) bool {
	if r.ContentLength != 0 {
		if r.ContentLength > 0 {
			return true
		}
		var one [1]byte
		n, _ := io.ReadFull(r.Body, one[:]) // chunked: an empty body is none
		return n > 0
	}
	return false
}

// mayMake refuses to make what the share's rules for names forbid.
func (h *Handler) mayMake(rq *request) error {
	if rq.info != nil {
		return nil
	}
	switch rq.Method {
	case "PUT", "MKCOL", "LOCK":
		if err := h.policy.checkCreate(rq.path); err != nil {
			return err
		}
		return h.refuseJunk(rq.path)
	}
	return nil
}

// preconditions holds the conditional headers (RFC 9110, section 13) and the
// If header (RFC 4918, section 10.4) against what is there now.
func (h *Handler) preconditions(rq *request) error {
	if len(rq.ifs.lists) == 0 && !hasConditions(rq.Header) {
		return nil
	}
	switch checkConditions(rq.Method, rq.Header, time.Now(), rq.representation()) {
	case notModified:
		return &protocolError{status: http.StatusNotModified}
	case preconditionFailed:
		return refuse(http.StatusPreconditionFailed, "a conditional header does not hold")
	}
	if !rq.ifs.given() {
		return nil
	}
	holds, err := rq.ifs.holds(rq.path, h.resolveTag(rq), h.stateOf(rq))
	if err != nil {
		return err
	}
	if !holds {
		return refuse(http.StatusPreconditionFailed, "the If header does not hold")
	}
	return nil
}

// representation is what is there. What GET answers for a collection tells of its
// members, too, whose changes its date does not.
func (rq *request) representation() representation {
	switch info := rq.info; {
	case info == nil:
		return representation{}
	case info.IsDir() && (rq.Method == http.MethodGet || rq.Method == http.MethodHead):
		return representation{exists: true}
	default:
		return representation{exists: true, etag: entityTag(info), modified: lastModified(info.ModTime())}
	}
}

// explain adds to a 304 what the client refreshes its copy with (RFC 9110,
// section 15.4.5): what a 200 would have.
func (h *Handler) explain(w http.ResponseWriter, rq *request, err error) error {
	if Status(rq.Method, err) != http.StatusNotModified {
		return err
	}
	w.Header()["Cache-Control"] = noCache
	if rq.info.Mode().IsRegular() {
		w.Header().Set("ETag", entityTag(rq.info))
		w.Header().Set("Last-Modified", lastModified(rq.info.ModTime()).UTC().Format(http.TimeFormat))
	}
	return err
}

// resolveTag gives the path in the share that the tag of an If list names.
func (h *Handler) resolveTag(rq *request) func(string) (Path, error) {
	return func(tag string) (Path, error) {
		p, _, err := rq.front.resolve(tag)
		if err != nil {
			return Path{}, err
		}
		p, ok := h.inShare(p)
		if !ok {
			return Path{}, errOutsideShare
		}
		return p, nil
	}
}

// stateOf is what an If list is held against. Of what the user may not read
// there is no entity tag, as if nothing were there.
func (h *Handler) stateOf(rq *request) func(Path) (ifState, error) {
	return func(p Path) (ifState, error) {
		if p == rq.path && rq.follows {
			return h.ownState(rq), nil
		}
		real := h.real(p, true)
		state := h.locksOn(real)
		if p != rq.path && !rq.permit.rights(p, real).Has(RightRead) {
			return state, nil
		}
		if rq.permit.limited() {
			p = real
		}
		info, err := look(h.tree, p)
		if err != nil {
			return ifState{}, err
		}
		if info != nil {
			state.etag = entityTag(info)
		}
		return state, nil
	}
}

// ownState is stateOf for what the request names, which was looked at.
func (h *Handler) ownState(rq *request) ifState {
	state := h.locksOn(rq.real)
	if rq.info != nil {
		state.etag = entityTag(rq.info)
	}
	return state
}

// locksOn is the part of an ifState that the locks make.
func (h *Handler) locksOn(real Path) (state ifState) {
	for _, lock := range h.locks.Covering(real) {
		state.tokens = append(state.tokens, lock.Token)
	}
	return state
}

// hold takes the names that a change concerns and looks again at everything
// that may have changed since the guard looked: what is there, preconditions,
// locks. Nothing that would change them happens until release. The paths are
// without symlinks.
func (h *Handler) hold(rq *request, paths ...Path) (release func(), err error) {
	unlock := h.lockNames(paths)
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err = h.seeAgain(rq, len(paths) > 1); err != nil {
		return nil, err
	}
	if err = h.allowed(rq); err != nil {
		return nil, err
	}
	return unlock, nil
}

func (h *Handler) lockNames(paths []Path) (unlock func()) {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.Name()
	}
	return h.fs.names.lock(names...)
}

// allowed holds preconditions and locks against what rq has seen.
func (h *Handler) allowed(rq *request) error {
	if err := h.preconditions(rq); err != nil {
		return err
	}
	return h.tokens(rq)
}

// maxLooks bounds how often somebody who changes the tree without us may come
// between a look and the change that depends on it.
const maxLooks = 16

// settle is hold for a change that the tree itself makes on condition that what
// the request saw is still there: then nobody need look again. Where it is not,
// change answers overlay.ErrChanged, having done nothing; then settle looks,
// and decides anew.
func (h *Handler) settle(rq *request, change func() error, paths ...Path) error {
	defer h.lockNames(paths)()
	// Rights are to more than what was seen. COPY makes no such condition, nor
	// does LOCK, unless it makes a file.
	look := rq.permit.limited() || rq.Method == "COPY" || rq.Method == "LOCK" && rq.info != nil
	for range maxLooks {
		if look {
			if err := h.seeAgain(rq, len(paths) > 1); err != nil {
				return err
			}
		}
		if err := h.allowed(rq); err != nil {
			return err
		}
		if err := change(); !errors.Is(err, overlay.ErrChanged) {
			return err
		}
		look = true
	}
	return syscall.ESTALE
}

// see looks at what the request names, and where it is: once for the locks, for
// the preconditions and for the change.
func (h *Handler) see(rq *request) (err error) {
	if rq.sight, err = h.tree.Look(rq.path.Name(), rq.follows); err == nil {
		rq.real, rq.info = treePath(rq.sight.Path), rq.sight.Shown
	}
	return err
}

// seeDst is see for the destination.
func (h *Handler) seeDst(rq *request) (err error) {
	if rq.dstSight, err = h.tree.Look(rq.dst.Name(), false); err == nil {
		rq.dstReal, rq.dstInfo = treePath(rq.dstSight.Path), rq.dstSight.Shown
	}
	return err
}

// seeAgain looks again at what the request names, and at where it leads.
// Errors: ESTALE when that is elsewhere than what is held.
//
// Preconditions: the names are held.
func (h *Handler) seeAgain(rq *request, twoNames bool) error {
	real, dstReal := rq.real, rq.dstReal
	if rq.permit.limited() {
		if err := h.lookAgain(rq, twoNames); err != nil {
			return err
		}
		return h.seeHeld(rq, twoNames)
	}
	if err := h.see(rq); err != nil {
		return err
	}
	if twoNames {
		if err := h.seeDst(rq); err != nil {
			return err
		}
	}
	if rq.real != real || rq.dstReal != dstReal {
		return syscall.ESTALE
	}
	return nil
}

// seeHeld looks at the paths that are held, for whom they were told by
// lookAgain: what the change replaces is then what the rights were looked at.
func (h *Handler) seeHeld(rq *request, twoNames bool) (err error) {
	if rq.sight, err = h.seeAt(rq.real, &rq.info); err == nil && twoNames {
		rq.dstSight, err = h.seeAt(rq.dstReal, &rq.dstInfo)
	}
	return err
}

// seeAt looks at a path without symlinks, at which info was found.
func (h *Handler) seeAt(real Path, info **overlay.Info) (overlay.Sight, error) {
	sight, err := h.tree.Look(real.Name(), false)
	switch {
	case err != nil:
		return sight, err
	case sight.Path != real.Name(), sight.Here == nil && *info != nil && !isSymlink(*info):
		return sight, syscall.ESTALE
	case sight.Here != nil && !isSymlink(sight.Here):
		*info = sight.Here
	}
	return sight, nil
}

// lookAgain looks what is there and what the user may do to it, whose rights are
// limited.
//
// Preconditions: the names are held.
func (h *Handler) lookAgain(rq *request, twoNames bool) (err error) {
	if err = h.stillLeads(rq, twoNames); err != nil {
		return err
	}
	if rq.info, err = h.lookFor(rq); err != nil {
		return err
	}
	if err = rq.authorise(); err != nil {
		return err
	}
	if !twoNames {
		return h.authoriseMembers(rq)
	}
	if rq.dstInfo, err = look(h.tree, rq.dstAt()); err != nil {
		return err
	}
	if err = rq.authoriseDestination(); err != nil {
		return err
	}
	return h.authoriseMembers(rq)
}

// tokens refuses a change of what is locked unless the client has submitted a
// token of each lock in question.
func (h *Handler) tokens(rq *request) error {
	err := h.locks.Check(rq.user, rq.ifs.tokens(), touched(rq)...)
	return h.lockedError(rq, err, "lock-token-submitted")
}
