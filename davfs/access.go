package davfs

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"syscall"

	"overdav/overlay"
)

// A Right is a set of what somebody may do to one resource.
type Right uint8

// The rights. Those to a collection are to it alone; each member has its own.
const (
	RightRead      Right = 1 << iota // content and properties
	RightList                        // the names of a collection's members
	RightCreate                      // to make it, and to make members of a collection
	RightOverwrite                   // content and properties of what is there
	RightDelete
	RightProps // properties and locks, with RightOverwrite

	allRights = RightRead | RightList | RightCreate | RightOverwrite | RightDelete | RightProps
	changing  = allRights &^ (RightRead | RightList)
)

// Has says whether r holds all of want.
func (r Right) Has(want Right) bool { return r&want == want }

// Access is what one user may do in the tree. It decides by names alone, of
// what is there and of what is not: an answer that tells the two apart would
// tell of what the user may not see.
type Access interface {
	// Rights are those on a name of the tree: "." is the root, "docs/a".
	Rights(name string) Right
	// Uniform says that the rights on everything beneath name are those on
	// name, so that nobody need look at each member.
	Uniform(name string) bool
}

// A permit is what the user of one request may do. It is asked twice about each
// resource, for the path that the client writes and for the one without
// symlinks to which it leads, and grants what both do. The zero value grants
// everything and costs nothing.
type permit struct{ access Access }

// limited says whether there is anything that is not granted.
func (a permit) limited() bool { return a.access != nil }

// rights are those on p, which leads to real.
func (a permit) rights(p, real Path) Right {
	if a.access == nil {
		return allRights
	}
	r := a.access.Rights(p.Name())
	if p != real {
		r &= a.access.Rights(real.Name())
	}
	return r
}

// sees says whether a member p of a listing appears.
func (a permit) sees(p, real Path) bool { return a.access == nil || a.rights(p, real) != 0 }

// told leaves of locks those that the user may be told of: the user's own, and
// those whose root the user sees (RFC 4918, section 15.8 leaves it to us).
func (a permit) told(user string, locks []Lock) []Lock {
	if a.access == nil {
		return locks
	}
	return slices.DeleteFunc(locks, func(l Lock) bool { return l.Principal != user && !a.sees(l.Root, l.Root) })
}

// uniform says whether the rights on p are those on everything beneath it.
func (a permit) uniform(p, real Path) bool {
	return a.access == nil || a.access.Uniform(p.Name()) && (p == real || a.access.Uniform(real.Name()))
}

// readOnly says whether the user may change nothing anywhere.
func (a permit) readOnly() bool {
	return a.access != nil && a.access.Uniform(".") && a.access.Rights(".")&changing == 0
}

// errDenied is what the user has not the right to.
var errDenied = errors.New("no right to that")

// denied refuses with 403 who may know that there is something, or could be.
func denied() error { return &protocolError{status: http.StatusForbidden, err: errDenied} }

// refused refuses p: with 403 who may list its collection, else with 404, as if
// nothing were there. Both are said of names that are free, too. The root is no
// secret.
func (a permit) refused(p Path) error {
	if p.IsRoot() || a.access.Rights(p.Parent().Name()).Has(RightList) {
		return denied()
	}
	return errHidden
}

// errHidden is for what the user is not to know of.
var errHidden = &protocolError{status: http.StatusNotFound, err: errDenied}

// A demand is the rights that a method needs of the resource that it names.
type demand struct {
	own    Right
	create bool // and to make it
}

// demandOf is the table of RFC 4918's methods and our rights; docs/protocol.md
// has it for people. What COPY and MOVE need of the destination, and of the
// members of a collection, is asked for with the names held.
func demandOf(method string, info *overlay.Info) demand {
	isNew := info == nil || isSymlink(info) // one that leads nowhere: what it leads to is made
	switch method {
	case "GET", "HEAD":
		if info != nil && info.IsDir() {
			return demand{own: RightList}
		}
		return demand{own: RightRead}
	case "PROPFIND", "COPY": // with Depth, PROPFIND needs more
		return demand{own: RightRead}
	case "PUT":
		if isNew {
			return demand{create: true}
		}
		return demand{own: RightOverwrite}
	case "PATCH":
		return demand{own: RightOverwrite}
	case "MKCOL":
		return demand{create: true}
	case "DELETE":
		return demand{own: RightDelete}
	case "MOVE":
		return demand{own: RightRead | RightDelete}
	case "PROPPATCH":
		return demand{own: RightProps | RightOverwrite}
	case "LOCK":
		if info == nil {
			return demand{own: RightProps, create: true}
		}
		return demand{own: RightProps | RightOverwrite}
	}
	return demand{} // OPTIONS tells by Allow; UNLOCK is for who has the token
}

// permit is what whoever makes r may do.
func (h *Handler) permit(r *http.Request) permit {
	if h.opts.Access == nil {
		return permit{}
	}
	return permit{h.opts.Access(r)}
}

// challenge turns the refusal of somebody who could say who they are into 401
// (RFC 9110, section 15.5.2).
func (h *Handler) challenge(header http.Header, r *http.Request, err error) error {
	if h.opts.Challenge == nil || !errors.Is(err, errDenied) || !h.opts.Challenge(header, r) {
		return err
	}
	return &protocolError{status: http.StatusUnauthorized, err: err}
}

// authorise refuses what the user has not the right to do to the resource that
// the request names.
func (rq *request) authorise() error {
	return rq.permit.grants(rq.path, rq.real, demandOf(rq.Method, rq.info))
}

// closed says that the user has no right on a name at all. Then nobody looks
// what is there: what failed would tell of it, too.
func (a permit) closed(p Path) bool { return a.access != nil && a.access.Rights(p.Name()) == 0 }

// authoriseClosed refuses a closed name, but to OPTIONS, which answers that
// nothing is allowed, and to UNLOCK, which asks for the token.
func (rq *request) authoriseClosed() error {
	if rq.Method == http.MethodOptions || rq.Method == "UNLOCK" {
		return nil
	}
	return rq.permit.refused(rq.path)
}

// grants refuses a demand that is not met, by the path as it is written or by
// where it leads. Of a symlink to what is closed to the user nothing is known.
func (a permit) grants(p, real Path, d demand) error {
	switch {
	case a.access == nil:
		return nil
	case !a.meets(p, d):
		return a.refused(p)
	case p != real && !a.meets(real, d):
		return errHidden
	}
	return nil
}

// meets says whether the rights on one path are enough. What is made needs the
// right to create of its collection, and of itself: that a name is free does
// not open it to those for whom it is closed.
func (a permit) meets(p Path, d demand) bool {
	if !d.create {
		return a.access.Rights(p.Name()).Has(d.own)
	}
	return a.access.Rights(p.Name()).Has(d.own|RightCreate) && a.access.Rights(p.Parent().Name()).Has(RightCreate)
}

// authoriseDestination refuses what a COPY or a MOVE would do where it leads:
// always with 403, since the client has said the name, and 404 would be of the
// source.
func (rq *request) authoriseDestination() error {
	if !rq.permit.limited() {
		return nil
	}
	d := demand{own: RightOverwrite}
	switch {
	case rq.dstInfo == nil:
		d = demand{create: true}
	case rq.dstInfo.IsDir():
		d.own |= RightDelete
	}
	if rq.permit.grants(rq.dst, rq.dstReal, d) != nil {
		return denied()
	}
	return nil
}

// authoriseMembers refuses what the request would do to members of collections
// on which the user has not the right: nothing is then done to any.
//
// Preconditions: the names are held.
func (h *Handler) authoriseMembers(rq *request) error {
	if !rq.permit.limited() {
		return nil
	}
	w := treeWalk{h: h, rq: rq, need: demandOf(rq.Method, rq.info).own}
	switch rq.Method {
	case "DELETE":
		return w.members(rq.path, rq.real, rq.info)
	case "COPY", "MOVE":
		replaced := treeWalk{h: h, rq: rq, need: RightDelete}
		if err := replaced.members(rq.dst, rq.dstReal, rq.dstInfo); err != nil {
			return err
		}
		if d, _, err := parseDepth(rq.Header, depthInfinity); err == nil && d == depthZero {
			return nil // a collection without its members
		}
		w.transfer = true
		return w.members(rq.path, rq.real, rq.info)
	}
	return nil
}

// A treeWalk looks whether the user has a right on each member of a collection.
type treeWalk struct {
	h    *Handler
	rq   *request
	need Right
	// transfer: and may make each at the destination of the request.
	transfer bool
}

// members looks at everything beneath p, which info tells of.
func (w *treeWalk) members(p, real Path, info *overlay.Info) error {
	if info == nil || !info.IsDir() || w.uniform(p, real) {
		return nil
	}
	dir, err := w.h.tree.Open(real.Name())
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENOENT) {
		return nil // the change will tell
	}
	if err != nil {
		return err
	}
	defer dir.Close() // it was only read
	return eachInfo(w.rq, dir, func(info *overlay.Info) error {
		return w.member(p.child(info.Name()), real.child(info.Name()), info)
	})
}

// eachInfo calls fn with each member of a directory; a few are in memory at once.
// Errors: the first of fn, and the context's when the client is gone.
func eachInfo(rq *request, dir *overlay.File, fn func(*overlay.Info) error) error {
	for {
		infos, err := dir.Infos(membersAtOnce)
		if err != nil && err != io.EOF {
			return err
		}
		if len(infos) == 0 {
			return rq.Context().Err()
		}
		for _, info := range infos {
			if err := fn(info); err != nil {
				return err
			}
		}
	}
}

func (w *treeWalk) member(p, real Path, info *overlay.Info) error {
	if !w.rq.permit.rights(p, real).Has(w.need) {
		return denied()
	}
	if w.transfer && !w.rq.permit.rights(w.target(p)).Has(RightCreate) {
		return denied()
	}
	return w.members(p, real, info)
}

// target is where a member of the source goes.
func (w *treeWalk) target(p Path) (dst, dstReal Path) {
	below, _ := p.below(w.rq.path)
	return w.rq.dst.join(below), w.rq.dstReal.join(below)
}

// uniform says that what was found out about p is true of all beneath it.
func (w *treeWalk) uniform(p, real Path) bool {
	a := w.rq.permit
	if !a.uniform(p, real) {
		return false
	}
	if !w.transfer {
		return true
	}
	dst, dstReal := w.target(p)
	return a.uniform(dst, dstReal) && a.rights(dst, dstReal).Has(RightCreate)
}
