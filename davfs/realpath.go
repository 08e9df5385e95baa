package davfs

import (
	"net/http"
	"syscall"

	"overdav/overlay"
)

// real is the path without symlinks by which a resource is locked: whoever
// comes to it through a link meets the same locks. With last, a link as the
// last name is followed too, as PUT does; DELETE and MOVE mean the link itself.
// What is not there, or leads nowhere, stays as it is written.
func (h *Handler) real(p Path, last bool) Path {
	at, _ := h.followLinks(p, last)
	return at
}

// resolve is real for those whose rights depend on it: they get no path that
// could not be followed to its end.
func (h *Handler) resolve(p Path, last bool) (Path, error) {
	name, _, err := h.tree.Resolve(p.Name(), last)
	if err != nil {
		return Path{}, err
	}
	return treePath(name), nil
}

// treePath makes a Path from a merged path of the tree.
func treePath(name string) Path {
	if name == "." {
		return Path{}
	}
	return Path{"/" + name}
}

// stillLeads answers ESTALE when the request's paths lead elsewhere than when
// its user's rights were looked at. The names that they lead to are held, so
// that from here on no client can change it.
func (h *Handler) stillLeads(rq *request, twoNames bool) error {
	if !rq.permit.limited() {
		return nil
	}
	real, err := h.resolve(rq.path, rq.follows)
	if err == nil && real != rq.real {
		err = syscall.ESTALE
	}
	if err != nil || !twoNames {
		return err
	}
	if real, err = h.resolve(rq.dst, false); err == nil && real != rq.dstReal {
		err = syscall.ESTALE
	}
	return err
}

// lookFor finds what the request names: nil for nothing. Whose rights are
// limited learns of a symlink's target only where it may be read.
func (h *Handler) lookFor(rq *request) (*overlay.Info, error) {
	if !rq.permit.limited() {
		if rq.Method == http.MethodGet && !hasConditions(rq.Header) && !rq.slash {
			// Most often it is sent: then to open it is all the looking it needs.
			if f, err := h.tree.Open(rq.path.Name()); err == nil {
				rq.file = f
				return f.Opened(), nil
			}
		}
		if rq.Method == "PROPFIND" {
			var err error
			rq.held, err = h.tree.Hold(rq.path.Name(), true)
			return rq.held.Shown, err
		}
		return look(h.tree, rq.path)
	}
	info, at, err := h.tree.Locate(rq.real.Name(), false)
	switch {
	case isNothing(err) && rq.follows && rq.path != rq.real:
		return h.danglingLink(rq)
	case isNothing(err):
		return nil, nil
	case err != nil:
		return nil, err
	case at != rq.real.Name():
		return nil, syscall.ESTALE // a link has taken the place of what was resolved
	case !isSymlink(info):
		return info, nil
	}
	target, at, err := h.tree.Locate(rq.real.Name(), true)
	if real := treePath(at); err == nil && rq.permit.rights(real, real).Has(RightRead) {
		return target, nil
	}
	return info, nil
}

// danglingLink is the symlink of a request that leads nowhere, or nil where the
// last name is none.
func (h *Handler) danglingLink(rq *request) (*overlay.Info, error) {
	link, err := h.tree.Lstat(rq.path.Name())
	if isNothing(err) || err == nil && !isSymlink(link) {
		return nil, nil
	}
	return link, err
}

// leadsTo is what a symlink in a listing leads to, and where that is; the link
// itself when it leads nowhere.
func (h *Handler) leadsTo(p Path, link *overlay.Info) (*overlay.Info, Path) {
	info, at, err := h.tree.Locate(p.Name(), true)
	if err == nil {
		return info, treePath(at)
	}
	if real, err := h.resolve(p, true); err == nil {
		return link, real
	}
	return link, p
}

// opened refuses what was opened when a link has led elsewhere than to what the
// user's rights are on.
func (rq *request) opened(f *overlay.File) error {
	if !rq.permit.limited() || f.Path() == rq.real.Name() {
		return nil
	}
	return syscall.ESTALE
}

// followLinks is real, with how many symlinks there were.
func (h *Handler) followLinks(p Path, last bool) (at Path, links int) {
	name, links, err := h.tree.Resolve(p.Name(), last)
	switch {
	case err != nil:
		return p, links
	}
	return treePath(name), links
}
