package davfs

import (
	"encoding/xml"
	"net/http"
	"slices"
	"strings"
)

// Parents serves the collections above the shares: "/" when a share is at
// "/dav". They hold the way to the shares and nothing else, and are read-only.
// Windows and Office look for a WebDAV server there; GNOME mounts the topmost
// that claims to be one, and so must be able to list it.
type Parents struct {
	site     Site
	shares   Prefixes
	writable bool
	sees     func(r *http.Request, share int) bool // nil: everybody sees all

	// Listing answers GET and HEAD, as Options.Listing does. Nil means 404.
	Listing func(w http.ResponseWriter, r *http.Request, dir string, members []Member)
}

// NewParents returns the collections above shares. writable says that there is
// one among them that can be written to; sees, whether who makes a request may
// know of the share with that number: where there is no other, there is no way to
// it either. Nil lets everybody know of all.
func NewParents(site Site, shares Prefixes, writable bool, sees func(r *http.Request, share int) bool) *Parents {
	return &Parents{site: site, shares: shares, writable: writable, sees: sees}
}

// has says whether p is above a share that who makes r may know of.
func (s *Parents) has(r *http.Request, p Path) bool {
	for i, share := range s.shares {
		if p.Contains(share) && s.shows(r, i) {
			return true
		}
	}
	return false
}

func (s *Parents) shows(r *http.Request, share int) bool { return s.sees == nil || s.sees(r, share) }

// ServeHTTP answers OPTIONS, PROPFIND, GET and HEAD of the collections above the
// shares, OPTIONS of "*", and everything else with 404 or 405.
func (s *Parents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.serve(w, r); err != nil {
		writeError(w, r, err)
	}
}

func (s *Parents) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodOptions && r.URL.Path == "*" {
		whole := Handler{opts: Options{ReadOnly: !s.writable}}
		return whole.options(w, &request{Request: r})
	}
	p, _, err := requestPath(r, namePolicy{bytes: true})
	if err != nil {
		return err
	}
	if !s.has(r, p) && !p.IsRoot() {
		return errOutsideShare
	}
	switch r.Method {
	case http.MethodOptions:
		s.options(w)
		return nil
	case "PROPFIND":
		return s.propfind(w, r, p)
	case http.MethodGet, http.MethodHead:
		if s.Listing == nil {
			return errOutsideShare
		}
		var members []Member
		for _, child := range s.children(r, p) {
			members = append(members, Member{Name: child.Base(), Collection: true})
		}
		s.Listing(w, r, p.Name(), members)
		return nil
	}
	w.Header().Set("Allow", s.allow())
	return refuse(http.StatusMethodNotAllowed, "the collections above a share are read-only")
}

// allow is what Allow says.
func (s *Parents) allow() string {
	if s.Listing == nil {
		return "OPTIONS, PROPFIND"
	}
	return "OPTIONS, GET, HEAD, PROPFIND"
}

func (s *Parents) options(w http.ResponseWriter) {
	header := w.Header()
	header.Set("DAV", davReadOnly)
	header.Set("MS-Author-Via", "DAV")
	header.Set("Allow", s.allow())
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

func (s *Parents) propfind(w http.ResponseWriter, r *http.Request, p Path) error {
	d, noRoot, err := parseDepth(r.Header, depthInfinity)
	if err != nil {
		return err
	}
	if d == depthInfinity {
		return &protocolError{status: http.StatusForbidden, condition: "propfind-finite-depth"}
	}
	body, err := readXMLBody(w, r, maxPropfindBody)
	if err != nil {
		return err
	}
	ask, err := parsePropfind(body)
	if err != nil {
		return err
	}
	front, err := s.site.front(r, namePolicy{bytes: true})
	if err != nil {
		return err
	}
	out, end := beginMultistatus(w, r)
	if !noRoot {
		writeParent(out, front.prefix, p, ask)
	}
	if d == depthOne {
		for _, child := range s.children(r, p) {
			writeParent(out, front.prefix, child, ask)
		}
	}
	_ = end() // the client is gone
	return nil
}

// children are the next names on the way to the shares that who makes r may know
// of.
func (s *Parents) children(r *http.Request, p Path) []Path {
	var children []Path
	for i, share := range s.shares {
		below, ok := share.below(p)
		if !ok || below.IsRoot() || !s.shows(r, i) {
			continue
		}
		name, _, _ := strings.Cut(below.Name(), "/")
		if child := p.child(name); !slices.Contains(children, child) {
			children = append(children, child)
		}
	}
	return children
}

// writeParent writes a collection of which nothing is known but its name.
func writeParent(out *multistatus, prefix, p Path, ask propfindBody) {
	all := []xml.Name{davName("resourcetype"), davName("displayname")}
	known := map[xml.Name]func(propTag){
		all[0]: func(tag propTag) { out.raw(tag, []byte("<D:collection/>")) },
		all[1]: func(tag propTag) { out.text(tag, p.Base()) },
	}
	out.startResponse(prefix, p, true)
	out.startPropstat()
	var missing []xml.Name
	switch ask.kind {
	case findNamed:
		for _, name := range ask.names {
			if write, ok := known[name]; ok {
				write(newPropTag(name))
			} else {
				missing = append(missing, name)
			}
		}
	case findNames:
		for _, name := range all {
			out.empty(newPropTag(name))
		}
	case findAll:
		for _, name := range all {
			known[name](newPropTag(name))
		}
	}
	out.endPropstat(http.StatusOK)
	if len(missing) > 0 {
		out.startPropstat()
		for _, name := range missing {
			out.empty(newPropTag(name))
		}
		out.endPropstat(http.StatusNotFound)
	}
	out.endResponse()
}
