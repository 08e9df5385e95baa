package davfs

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"

	"overdav/overlay"
)

// Options say how a Handler serves.
type Options struct {
	// Prefix is the path of the share in the server, "/dav" or "" for its root,
	// percent-encoded.
	Prefix string
	// Others are paths of the server where something else stands, such as other
	// shares. What the tree has at those beneath Prefix cannot be reached.
	Others []string
	// Site says how clients address the server.
	Site Site
	// Locks holds the locks of the share. Nil means locks in memory.
	Locks *Locks
	// User says who makes a request; locks are bound to it. Nil means that
	// all are one.
	User func(*http.Request) string
	// ReadOnly refuses every method that changes something. A tree that cannot
	// be changed is read-only in any case.
	ReadOnly bool
	// Access says what whoever makes a request may do. Nil, or a nil Access,
	// means everything.
	Access func(*http.Request) Access
	// Challenge is asked when somebody is refused for want of a right: where a
	// name and a password could help, it sets WWW-Authenticate and answers
	// true, and the refusal is 401. Nil means that they never do.
	Challenge func(http.Header, *http.Request) bool
	// Unlocks says whether whoever makes a request may end a lock whose root is
	// that name of the tree, one of their own or another's. Nil means one of their
	// own alone.
	Unlocks func(r *http.Request, root string, own bool) bool
	// InfiniteDepth is how many resources a PROPFIND of infinite depth may
	// answer with; 0 refuses it.
	InfiniteDepth int
	// MaxUpload is how many bytes one upload may have; 0 is no limit.
	MaxUpload int64
	// Reserve is what uploads, copies and copy-ups leave free.
	Reserve Reserve
	// Junk says what becomes of the files that desktops scatter.
	Junk Junk
	// ByteNames lets clients make names that are not UTF-8; PortableNames
	// refuses to make names that Windows cannot hold.
	ByteNames, PortableNames bool
	// HideSymlinks shows no symlink and nothing through one; else they are
	// resolved inside the tree.
	HideSymlinks bool
	// Listing answers GET and HEAD of collections; dir is a name of the tree,
	// members what whoever asks may know of. Nil means an empty page.
	Listing func(w http.ResponseWriter, r *http.Request, dir string, members []Member)
	// Archives bounds the collections that are sent as one archive. Nil means that
	// none are.
	Archives *Archives
	// State says how a name in the upper layer differs from the lower ones:
	// "added", "modified", "attributes" or "renamed". Nil means that nobody
	// knows.
	State func(name string) string
	// Layer is told, of a GET, HEAD or PROPFIND that is answered, in which layer
	// what it names is: 0 is the upper one. Nil means that nobody is.
	Layer func(r *http.Request, layer int)
	// CopiedUp is told how many bytes of files of lower layers a request had
	// copied to the upper one, if it had. Nil means that nobody is.
	CopiedUp func(r *http.Request, bytes int64)
	// Log is told of each request that failed, with the cause that the client
	// is not told. Nil means that nobody is.
	Log func(r *http.Request, status int, err error)
}

// Handler serves a tree as WebDAV. It is an http.Handler, to be mounted
// without a http.ServeMux in front, which redirects paths.
type Handler struct {
	fs      *FileSystem
	tree    *overlay.FS
	opts    Options
	share   Path
	others  Prefixes
	policy  namePolicy
	locks   *Locks
	ample   atomic.Pointer[ample] // of the room, nil where it is not
	queries queries
	// parents answers above the share.
	parents *Parents
}

// NewHandler returns a Handler of fs.
// Errors: a Prefix or a public URL that is no canonical path.
func NewHandler(fs *FileSystem, o Options) (*Handler, error) {
	policy := namePolicy{bytes: o.ByteNames, portable: o.PortableNames}
	share, err := parseShare(o.Prefix)
	if err != nil {
		return nil, err
	}
	others, err := NewPrefixes(o.Others...)
	if err != nil {
		return nil, err
	}
	o.ReadOnly = o.ReadOnly || fs.tree.ReadOnly() // whatever is said, it cannot be changed
	others = slices.DeleteFunc(others, func(p Path) bool { return !share.Contains(p) })
	h := &Handler{fs: fs, tree: fs.tree, opts: o, share: share, others: others, policy: policy, locks: o.Locks}
	if h.locks == nil {
		h.locks = NewLocks(LockOptions{})
	}
	if _, err := o.Site.front(&http.Request{}, policy); err != nil {
		return nil, err // of the public URL; nothing else is in that request
	}
	fs.tree.SetRoom(h.leavesReserve)
	h.parents = &Parents{site: o.Site, shares: Prefixes{share}}
	return h, h.pruneLocks()
}

// inShare returns p, which starts at the server's root, as seen from the
// share's, and whether it is the share's at all.
func (h *Handler) inShare(p Path) (Path, bool) {
	if h.others.longest(p) >= 0 {
		return Path{}, false
	}
	return p.below(h.share)
}

// A method is what a Handler does for one HTTP method.
type method struct {
	serve   func(*Handler, http.ResponseWriter, *request) error
	changes bool // refused by a read-only share
	noBody  bool // a body has no meaning: it is refused with 415 (RFC 4918, section 8.4)
	follows bool // a symlink as the last name is followed
	tells   bool // the answer is of what the path names
}

// methods are those that the share knows. OPTIONS, PROPFIND, LOCK and the rest
// are RFC 4918's; PATCH is sabre/dav's partial update.
var methods map[string]method

func init() {
	methods = map[string]method{
		"OPTIONS":   {serve: (*Handler).options, follows: true},
		"GET":       {serve: (*Handler).get, follows: true, tells: true},
		"HEAD":      {serve: (*Handler).get, follows: true, tells: true},
		"PUT":       {serve: (*Handler).put, changes: true, follows: true},
		"PATCH":     {serve: (*Handler).patch, changes: true, follows: true},
		"DELETE":    {serve: (*Handler).delete, changes: true, noBody: true},
		"MKCOL":     {serve: (*Handler).mkcol, changes: true, noBody: true},
		"COPY":      {serve: (*Handler).copy, changes: true, noBody: true, follows: true},
		"MOVE":      {serve: (*Handler).move, changes: true, noBody: true},
		"LOCK":      {serve: (*Handler).lock, changes: true, follows: true},
		"UNLOCK":    {serve: (*Handler).unlock, changes: true, noBody: true, follows: true},
		"PROPFIND":  {serve: (*Handler).propfind, follows: true, tells: true},
		"PROPPATCH": {serve: (*Handler).proppatch, changes: true, follows: true},
	}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	m, ok := methods[r.Method]
	if !ok {
		return refuse(http.StatusMethodNotAllowed, "no such method here")
	}
	if r.Method == http.MethodOptions && r.URL.Path == "*" {
		return h.options(w, &request{Request: r, permit: h.permit(r)})
	}
	rq, err := h.guard(w, r, m)
	if err == errOutsideShare {
		if p, _, err := requestPath(r, h.policy); err == nil && h.parents.has(r, p) {
			return h.parents.serve(w, r)
		}
	}
	if err != nil {
		return err
	}
	defer rq.done()
	err = m.serve(h, w, rq)
	if err == nil && h.opts.Layer != nil && m.tells && rq.info != nil {
		h.opts.Layer(r, rq.info.Layer())
	}
	return err
}

// copiedUp tells that a request had content copied up.
func (h *Handler) copiedUp(rq *request, bytes int64) {
	if bytes > 0 && h.opts.CopiedUp != nil {
		h.opts.CopiedUp(rq.Request, bytes)
	}
}

// fail answers with an error that a handler returned before it wrote anything.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	err = h.challenge(w.Header(), r, err)
	status := Status(r.Method, err)
	if h.opts.Log != nil && status != http.StatusNotModified {
		h.opts.Log(r, status, err)
	}
	if errors.Is(err, context.Canceled) {
		return // the client is gone
	}
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", h.allowAt(r)) // RFC 9110, section 15.5.6
	}
	writeError(w, r, err)
}

// note tells the log of what went wrong after the change that the client asked
// for was made. Locks whose end could not be written down have ended all the
// same, and the next change of any lock writes it.
func (h *Handler) note(rq *request, err error) {
	if err != nil && h.opts.Log != nil {
		h.opts.Log(rq.Request, http.StatusInternalServerError, err)
	}
}
