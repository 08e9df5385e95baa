package davfs

import "strings"

// maxLinks is how many symlinks are followed on the way to one resource, as
// the engine does (path_resolution(7)).
const maxLinks = 40

// real is the path without symlinks by which a resource is locked: whoever
// comes to it through a link meets the same locks. With last, a link as the
// last name is followed too, as PUT does; DELETE and MOVE mean the link itself.
// What is not there, or leads nowhere, stays as it is written.
func (h *Handler) real(p Path, last bool) Path {
	at, _ := h.followLinks(p, last)
	return at
}

// followLinks is real, with how many symlinks there were.
func (h *Handler) followLinks(p Path, last bool) (at Path, links int) {
	for rest := p.names(); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at.Parent()
			continue
		}
		at = at.child(name)
		if len(rest) == 0 && !last || links == maxLinks {
			continue
		}
		if target, ok := h.linkAt(at); ok {
			links++
			if at = at.Parent(); strings.HasPrefix(target, "/") {
				at = Path{} // absolute targets count from the root of the tree
			}
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
	return at, links
}

func (h *Handler) linkAt(p Path) (target string, ok bool) {
	info, err := h.tree.Lstat(p.Name())
	if err != nil || !isSymlink(info) {
		return "", false
	}
	target, err = h.tree.Readlink(p.Name())
	return target, err == nil
}

// names are the names of a path from the root down.
func (p Path) names() []string {
	if p.IsRoot() {
		return nil
	}
	return strings.Split(p.Name(), "/")
}
