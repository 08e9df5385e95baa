package davfs

import (
	"bytes"
	"errors"
	"net/http"
	"slices"

	"overdav/overlay"
)

// lock grants a lock, or with an empty body lengthens one.
func (h *Handler) lock(w http.ResponseWriter, rq *request) error {
	body, err := readXMLBody(w, rq.Request, maxLockBody)
	if err != nil {
		return err
	}
	timeout, _ := parseTimeout(rq.Header, h.locks.MaxTimeout()) // none: the longest
	if len(bytes.TrimSpace(body)) == 0 {
		return h.refresh(w, rq, LockRequest{Timeout: timeout})
	}
	info, err := parseLockInfo(body)
	if err != nil {
		return err
	}
	d, _, err := parseDepth(rq.Header, depthInfinity) // RFC 4918, section 9.10.3
	if err != nil {
		return err
	}
	if d == depthOne {
		return refuse(http.StatusBadRequest, "LOCK has depth 0 or infinity")
	}
	return h.grant(w, rq, LockRequest{
		Root: rq.real, Infinite: d == depthInfinity, Shared: info.shared,
		Principal: rq.user, Owner: info.owner, Timeout: timeout,
	})
}

// grant makes a lock. On a free name it makes an empty file (RFC 4918, section
// 7.3), which is the only thing that LOCK ever makes: what could not be looked
// at is not taken for free.
func (h *Handler) grant(w http.ResponseWriter, rq *request, ask LockRequest) error {
	return h.settle(rq, func() error {
		exists := rq.info != nil
		if rq.slash && (!exists || !rq.info.IsDir()) {
			return refuse(http.StatusConflict, "there is no such collection")
		}
		if exists && isSymlink(rq.info) {
			// It would be where the link leads, which is nowhere, and its root would
			// tell what is written in the link.
			return refuse(http.StatusConflict, "the symlink leads nowhere")
		}
		ask.Collection = exists && rq.info.IsDir()
		if ask.Infinite {
			w := treeWalk{h: h, rq: rq, need: demandOf("LOCK", rq.info).own}
			if err := w.members(rq.path, rq.real, rq.info); err != nil {
				return err
			}
		}
		return h.create(w, rq, ask)
	}, rq.real)
}

// create makes the lock, and the file if there is none, and answers.
// Errors: overlay.ErrChanged, having done nothing, when there is one now.
//
// Preconditions: the name is held.
func (h *Handler) create(w http.ResponseWriter, rq *request, ask LockRequest) error {
	lock, err := h.locks.Create(rq.Context(), ask)
	if err != nil {
		return h.lockConflict(w, rq, err)
	}
	status := http.StatusOK
	if rq.info == nil {
		status = http.StatusCreated
		if h.junk(rq.path) != JunkDrop {
			if err := h.tree.CreateSeen(rq.sight, newFile); err != nil {
				return errors.Join(err, h.locks.Unlock(lock.Token, rq.user, rq.real))
			}
		}
	}
	w.Header().Set("Lock-Token", "<"+lock.Token+">")
	h.answerLock(w, rq, status)
	return nil
}

// lockConflict answers a LOCK that other locks stand in the way of. Where they
// are all of members, which a lock of infinite depth would cover, the answer has
// the status of each, and says of the collection that it failed with them
// (RFC 4918, section 9.10.3).
func (h *Handler) lockConflict(w http.ResponseWriter, rq *request, err error) error {
	var locked *LockedError
	if !errors.As(err, &locked) || slices.ContainsFunc(locked.Roots, func(root Path) bool {
		return !rq.real.Contains(root) || !rq.permit.sees(root, root)
	}) {
		return h.lockedError(rq, err, "no-conflicting-lock")
	}
	out, end := beginMultistatus(w, rq.Request)
	for _, root := range locked.Roots {
		out.startResponse(h.hrefPrefix(rq), root, false)
		out.status(http.StatusLocked)
		out.endResponse()
	}
	out.startResponse(h.hrefPrefix(rq), rq.path, true)
	out.status(http.StatusFailedDependency)
	out.endResponse()
	_ = end() // the client is gone, and nothing was made
	return nil
}

// refresh starts the time of a lock anew. The guard has seen that the If header
// holds; the lock that it names is the one.
func (h *Handler) refresh(w http.ResponseWriter, rq *request, ask LockRequest) error {
	tokens := rq.ifs.tokens()
	if len(tokens) == 0 {
		return refuse(http.StatusBadRequest, "neither a lockinfo nor a token to refresh")
	}
	err := ErrNoSuchLock
	for _, token := range tokens {
		if _, err = h.locks.Refresh(token, rq.user, rq.real, ask.Timeout); err == nil {
			h.answerLock(w, rq, http.StatusOK)
			return nil
		}
	}
	if errors.Is(err, ErrNoSuchLock) {
		// RFC 4918, section 9.10.9
		return &protocolError{status: http.StatusPreconditionFailed, condition: "lock-token-matches-request-uri", err: err}
	}
	return err
}

// answerLock tells of all locks on the resource (RFC 4918, section 9.10.1).
func (h *Handler) answerLock(w http.ResponseWriter, rq *request, status int) {
	body := []byte(xmlHeader + `<D:prop xmlns:D="DAV:"><D:lockdiscovery>`)
	for _, lock := range rq.permit.told(rq.user, h.locks.Covering(rq.real)) {
		body = appendActiveLock(body, h.hrefPrefix(rq), lock)
	}
	body = append(body, "</D:lockdiscovery></D:prop>\n"...)
	w.Header().Set("Content-Type", xmlContentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone; the lock then expires
}

// unlock ends a lock.
func (h *Handler) unlock(w http.ResponseWriter, rq *request) error {
	token, err := parseLockToken(rq.Header)
	if err != nil {
		return err
	}
	err = h.endLock(rq, token)
	if errors.Is(err, ErrNoSuchLock) {
		// RFC 4918, section 9.11.1
		return &protocolError{status: http.StatusConflict, condition: "lock-token-matches-request-uri", err: err}
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// endLock ends the lock that token is of, if whoever makes the request may.
func (h *Handler) endLock(rq *request, token string) error {
	if h.opts.Unlocks == nil {
		return h.locks.Unlock(token, rq.user, rq.real)
	}
	for _, lock := range h.locks.Covering(rq.real) {
		if lock.Token != token {
			continue
		}
		own := lock.Principal == rq.user
		switch may := h.opts.Unlocks(rq.Request, lock.Root.Name(), own); {
		case own && !may:
			return denied()
		case !own && may:
			return h.locks.Break(token, rq.real)
		}
	}
	return h.locks.Unlock(token, rq.user, rq.real)
}

// lockedError is what a *LockedError means to the client: 423 with the roots of
// the locks (RFC 4918, sections 9.10.6, 11.3 and 16). Other errors are as they
// are.
func (h *Handler) lockedError(rq *request, err error, condition string) error {
	var locked *LockedError
	if !errors.As(err, &locked) {
		return err
	}
	answer := &protocolError{status: http.StatusLocked, condition: condition, err: err}
	for _, root := range locked.Roots {
		if root == rq.real {
			root = rq.path // by the name that the client knows it by
		}
		if rq.permit.sees(root, root) {
			answer.hrefs = append(answer.hrefs, string(appendHref(nil, h.hrefPrefix(rq), root, false)))
		}
	}
	if len(answer.hrefs) == 0 { // the grammar wants one
		answer.hrefs = []string{string(appendHref(nil, h.hrefPrefix(rq), rq.path, false))}
	}
	return answer
}

// touched are the resources that a request changes, and so the locks that it
// must have the tokens of (RFC 4918, section 7): itself, all beneath it that
// goes or is replaced, and the collection whose membership changes.
func touched(rq *request) []Touch {
	own, parent := Touch{Path: rq.real}, Touch{Path: rq.real.Parent()}
	switch rq.Method {
	case "PUT", "PATCH", "PROPPATCH":
		if rq.info != nil {
			return []Touch{own}
		}
		return []Touch{own, parent}
	case "MKCOL":
		return []Touch{own, parent}
	case "LOCK": // whether the locks go together is the table's to say
		if rq.info == nil && isNewLock(rq) {
			return []Touch{parent}
		}
	case "DELETE":
		return []Touch{{Path: rq.real, Tree: true}, parent}
	case "MOVE":
		return append(replaced(rq), Touch{Path: rq.real, Tree: true}, parent)
	case "COPY":
		return replaced(rq)
	}
	return nil
}

// replaced is what a COPY or MOVE touches at its destination.
func replaced(rq *request) []Touch {
	touches := []Touch{{Path: rq.dstReal, Tree: true}}
	if rq.dstInfo == nil {
		touches = append(touches, Touch{Path: rq.dstReal.Parent()})
	}
	return touches
}

// isNewLock says whether a LOCK asks for a lock, rather than for more time.
func isNewLock(rq *request) bool { return rq.ContentLength != 0 }

// writeLockDiscovery tells of the locks on a resource.
func writeLockDiscovery(m *multistatus, tag propTag, e *entry) bool {
	var locks []Lock
	if !e.free {
		locks = e.permit.told(e.user, e.h.locks.Covering(e.real()))
	}
	if len(locks) == 0 {
		m.empty(tag)
		return true
	}
	var value []byte
	for _, lock := range locks {
		value = appendActiveLock(value, e.prefix, lock)
	}
	m.raw(tag, value)
	return true
}

// forgetLocks ends the locks that a MOVE or a COPY takes the ground from. Those
// on the source of a MOVE do not travel (RFC 4918, section 7.6); those on what
// was replaced go with it (section 9.9.3). A COPY over a file changes it as a
// PUT does, and its lock stays.
func (h *Handler) forgetLocks(rq *request, replacedInfo *overlay.Info) error {
	var errs []error
	if rq.Method == "MOVE" {
		errs = append(errs, h.locks.RemoveTree(rq.real))
	}
	if replacedInfo != nil && (rq.Method == "MOVE" || replacedInfo.IsDir()) {
		errs = append(errs, h.locks.RemoveTree(rq.dstReal))
	}
	return errors.Join(errs...)
}

// pruneLocks forgets the locks on what is not there: a server that died between
// a DELETE and the end of its locks left them.
func (h *Handler) pruneLocks() error {
	return h.locks.Prune(func(lock Lock) bool {
		info, err := look(h.tree, lock.Root)
		return info != nil || err != nil
	})
}
