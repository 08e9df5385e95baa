package davfs

import (
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"overdav/overlay"
)

// delete removes a file, or a collection with all in it, in one step: there is
// no half-deleted collection to tell of in a multistatus (RFC 4918, section
// 9.6.1).
func (h *Handler) delete(w http.ResponseWriter, rq *request) error {
	if d, _, err := parseDepth(rq.Header, depthInfinity); err != nil {
		return err
	} else if d != depthInfinity && rq.info != nil && rq.info.IsDir() {
		return refuse(http.StatusBadRequest, "DELETE of a collection has infinite depth") // RFC 4918, section 9.6.1
	}
	err := h.settle(rq, func() error {
		if err := mustExist(rq); err != nil {
			return err
		}
		if err := h.remove(rq); err != nil {
			return err
		}
		h.note(rq, h.locks.RemoveTree(rq.real))
		return nil
	}, rq.real)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// remove removes what was seen. The root stays.
func (h *Handler) remove(rq *request) error {
	if rq.real.IsRoot() {
		return syscall.EPERM
	}
	return h.tree.RemoveSeen(rq.sight)
}

// mustExist answers ENOENT when the request names nothing, or names a file as
// a collection.
func mustExist(rq *request) error {
	if rq.info == nil || rq.slash && !rq.info.IsDir() {
		return sourceError{fs.ErrNotExist}
	}
	return nil
}

// mkcol makes a collection.
func (h *Handler) mkcol(w http.ResponseWriter, rq *request) error {
	err := h.settle(rq, func() error {
		if rq.info != nil {
			return &protocolError{status: http.StatusMethodNotAllowed, err: syscall.EEXIST} // RFC 4918, section 9.3.1
		}
		if _, err := h.room(1); err != nil {
			return err
		}
		err := h.tree.MkdirSeen(rq.sight, 0o777)
		if err == nil {
			h.setOCMtime(w, rq, rq.real)
		}
		return err
	}, rq.real)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// setOCMtime sets the modification time that the client asks for. A time that
// is none, or that cannot be set, is not accepted, and the answer says so by
// silence: what was asked for first is done.
func (h *Handler) setOCMtime(w http.ResponseWriter, rq *request, p Path) {
	mtime, ok, err := parseOCMtime(rq.Header)
	if !ok || err != nil {
		return
	}
	if link, err := h.tree.Lstat(p.Name()); err != nil || isSymlink(link) {
		return // of a link that was moved, the time is not what it leads to
	}
	if err := h.tree.Chtimes(p.Name(), time.Time{}, mtime); err != nil {
		h.note(rq, err)
		return
	}
	w.Header().Set("X-OC-Mtime", "accepted")
}

// copy copies a file or a collection. What stands at the destination is
// replaced in one step when the copy is whole.
func (h *Handler) copy(w http.ResponseWriter, rq *request) error {
	d, _, err := parseDepth(rq.Header, depthInfinity)
	if err != nil {
		return err
	}
	if d == depthOne {
		return refuse(http.StatusBadRequest, "COPY has depth 0 or infinity") // RFC 4918, section 9.8.3
	}
	return h.transfer(w, rq, func(overwrite bool) error {
		if _, err := h.room(1); err != nil {
			return err // how much a copy takes only the copy tells: blocks may be shared
		}
		return h.tree.Copy(rq.at().Name(), rq.dstAt().Name(), overlay.CopyOptions{Overwrite: overwrite, Shallow: d == depthZero})
	})
}

// move renames a file or a collection. What stands at the destination is
// replaced in the same step.
func (h *Handler) move(w http.ResponseWriter, rq *request) error {
	d, _, err := parseDepth(rq.Header, depthInfinity)
	if err != nil {
		return err
	}
	if d != depthInfinity && rq.info != nil && rq.info.IsDir() {
		return refuse(http.StatusBadRequest, "MOVE of a collection has infinite depth") // RFC 4918, section 9.9.2
	}
	return h.transfer(w, rq, func(overwrite bool) error {
		if err := h.roomToCopyUp(rq.sight.Here); err != nil {
			return err
		}
		copied, err := h.tree.MoveSeen(rq.sight, rq.dstSight, overwrite)
		h.copiedUp(rq, copied)
		return err
	})
}

// transfer is what COPY and MOVE have in common: all that can be refused is
// refused before anything is touched.
func (h *Handler) transfer(w http.ResponseWriter, rq *request, do func(overwrite bool) error) error {
	overwrite, err := parseOverwrite(rq.Header)
	if err != nil {
		return err
	}
	if err := h.readDestination(rq); err != nil {
		return err
	}
	if err := mustExist(rq); err != nil {
		return err
	}
	dst := rq.dst
	if dst == rq.path || dst.Contains(rq.path) || rq.path.Contains(dst) {
		// RFC 4918, sections 9.8.5 and 9.9.4
		return refuse(http.StatusForbidden, "source and destination are one, or one holds the other")
	}
	if rq.dstSlash && !rq.info.IsDir() && (rq.dstInfo == nil || !rq.dstInfo.IsDir()) {
		return refuse(http.StatusConflict, "the destination names a collection, the source is none")
	}
	err = h.settle(rq, func() error {
		if err := mustExist(rq); err != nil {
			return err
		}
		if rq.dstInfo != nil && !overwrite {
			return &protocolError{status: http.StatusPreconditionFailed, err: syscall.EEXIST} // RFC 4918, section 10.6
		}
		if err := do(overwrite); err != nil {
			return err
		}
		h.note(rq, h.forgetLocks(rq, rq.dstInfo))
		h.setOCMtime(w, rq, rq.dstAt())
		return nil
	}, rq.real, rq.dstReal)
	if err != nil {
		return err
	}
	writeDone(w, rq.dstInfo != nil)
	return nil
}

// readDestination reads where a COPY or MOVE leads, and looks what is there.
func (h *Handler) readDestination(rq *request) error {
	dst, slash, err := rq.front.destination(rq.Header)
	if err != nil {
		return err
	}
	inShare, ok := h.inShare(dst)
	if !ok {
		return errOutsideShare
	}
	if rq.permit.closed(inShare) {
		return denied()
	}
	if err := h.policy.checkCreate(inShare); err != nil {
		return err
	}
	if err := h.refuseJunk(inShare); err != nil {
		return err
	}
	if h.refuseLinks(inShare) != nil {
		return refuse(http.StatusForbidden, "a hidden symlink is on the way to the destination")
	}
	rq.dst, rq.dstSlash = inShare, slash
	if !rq.permit.limited() {
		return h.seeDst(rq)
	}
	if rq.dstReal, err = h.resolve(inShare, false); err != nil {
		return err
	}
	if rq.dstInfo, err = look(h.tree, rq.dstReal); err != nil {
		return err
	}
	return rq.authoriseDestination()
}
