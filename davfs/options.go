package davfs

import (
	"net/http"
	"slices"
	"strings"
)

// options answers OPTIONS: of a resource, of a name that is free, and of "*".
// The answer is 200 and not 204, which old Windows clients take for a failure.
func (h *Handler) options(w http.ResponseWriter, rq *request) error {
	readOnly := h.opts.ReadOnly || rq.permit.readOnly()
	header := w.Header()
	header.Set("DAV", davClasses(readOnly))
	if !readOnly {
		header.Add("DAV", executableClass)
	}
	header.Set("MS-Author-Via", "DAV") // without it Office opens documents read-only
	header.Set("Allow", h.allow(rq, rq.URL.Path != "*"))
	if !readOnly {
		header.Set("Accept-Patch", patchType) // RFC 5789, section 3.1
	}
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// executableClass says that the property "executable" can be set, to those who
// ask before they do, like cadaver. It has a line of its own, as from Apache, so
// that no client meets a line unlike those it knows.
const executableClass = "<http://apache.org/dav/propset/fs/1>"

const davReadOnly = "1, 3"

// davClasses are the compliance classes of RFC 4918, section 18. Who may change
// nothing has no locks, and is told so: clients then mount the share as what it
// is.
func davClasses(readOnly bool) string {
	if readOnly {
		return davReadOnly
	}
	return "1, 2, 3, sabredav-partialupdate"
}

// allow lists the methods that can succeed on what is there, and that the user
// has the right to: no info is a free name when named, and the server as a
// whole when not.
func (h *Handler) allow(rq *request, named bool) string {
	reading, writing := "OPTIONS, GET, HEAD, PROPFIND", ""
	switch info := rq.info; {
	case info != nil && info.IsDir():
		writing = "DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	case info != nil:
		writing = "PUT, PATCH, DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	case named:
		reading, writing = "OPTIONS", "PUT, MKCOL, LOCK"
	default:
		writing = "PUT, PATCH, DELETE, MKCOL, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	}
	methods := strings.Join([]string{reading, writing}, ", ")
	if h.opts.ReadOnly || rq.permit.readOnly() {
		methods = reading
	}
	if !named || !rq.permit.limited() {
		return methods
	}
	return strings.Join(slices.DeleteFunc(strings.Split(methods, ", "), func(method string) bool {
		if method == "UNLOCK" {
			method = "LOCK"
		}
		return rq.permit.grants(rq.path, rq.real, demandOf(method, rq.info)) != nil
	}), ", ")
}

// allowAt is allow for what a request names that got no further.
func (h *Handler) allowAt(r *http.Request) string {
	rq := &request{Request: r, permit: h.permit(r), follows: true}
	p, _, err := requestPath(r, h.policy)
	if err != nil {
		return h.allow(rq, false)
	}
	p, ok := h.inShare(p)
	if !ok {
		return h.allow(rq, false)
	}
	rq.path, rq.real = p, p
	if rq.permit.closed(p) {
		return h.allow(rq, true)
	}
	if rq.permit.limited() {
		rq.real, err = h.resolve(p, true)
	}
	if err == nil {
		rq.info, err = h.lookFor(rq)
	}
	return h.allow(rq, err == nil)
}
