package davfs

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
	name, links, err := h.tree.Resolve(p.Name(), last)
	switch {
	case err != nil:
		return p, links
	case name == ".":
		return Path{}, links
	}
	return Path{"/" + name}, links
}
