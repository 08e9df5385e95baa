package davfs

import (
	"net/http"
	"strings"

	"overdav/overlay"
)

// options answers OPTIONS: of a resource, of a name that is free, and of "*".
// The answer is 200 and not 204, which old Windows clients take for a failure.
func (h *Handler) options(w http.ResponseWriter, rq *request) error {
	header := w.Header()
	header.Set("DAV", h.davClasses())
	if !h.opts.ReadOnly {
		header.Add("DAV", executableClass)
	}
	header.Set("MS-Author-Via", "DAV") // without it Office opens documents read-only
	header.Set("Allow", h.allow(rq.info, rq.URL.Path != "*"))
	if !h.opts.ReadOnly {
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

// davClasses are the compliance classes of RFC 4918, section 18. A read-only
// share has no locks, and says so: clients then mount it as what it is.
func (h *Handler) davClasses() string {
	if h.opts.ReadOnly {
		return davReadOnly
	}
	return "1, 2, 3, sabredav-partialupdate"
}

// allow lists the methods that can succeed on what is there: nil is a free
// name when named, and the server as a whole when not.
func (h *Handler) allow(info *overlay.Info, named bool) string {
	reading, writing := "OPTIONS, GET, HEAD, PROPFIND", ""
	switch {
	case info != nil && info.IsDir():
		writing = "DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	case info != nil:
		writing = "PUT, PATCH, DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	case named:
		reading, writing = "OPTIONS", "PUT, MKCOL, LOCK"
	default:
		writing = "PUT, PATCH, DELETE, MKCOL, COPY, MOVE, PROPPATCH, LOCK, UNLOCK"
	}
	if h.opts.ReadOnly {
		return reading
	}
	return strings.Join([]string{reading, writing}, ", ")
}

// allowAt is allow for what a request names.
func (h *Handler) allowAt(r *http.Request) string {
	p, _, err := requestPath(r, h.policy)
	if err != nil {
		return h.allow(nil, false)
	}
	p, ok := h.inShare(p)
	if !ok {
		return h.allow(nil, false)
	}
	info, err := look(h.tree, p)
	return h.allow(info, err == nil)
}
