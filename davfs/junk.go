package davfs

import (
	"net/http"
	"strings"
)

// Junk says what becomes of the files that desktops leave in every directory
// they show: AppleDouble files ("._name"), .DS_Store, Thumbs.db, desktop.ini.
type Junk int

// The rules for junk.
const (
	JunkStore  Junk = iota // as any other file
	JunkDrop               // accepted and forgotten: to refuse it makes Finder abort whole copies
	JunkRefuse             // 403
)

// isJunk says whether name is one that only a desktop makes.
func isJunk(name string) bool {
	switch strings.ToLower(name) {
	case ".ds_store", "thumbs.db", "desktop.ini":
		return true
	}
	return strings.HasPrefix(name, "._") && len(name) > 2
}

// junk is the share's rule for p; JunkStore when p is none.
func (h *Handler) junk(p Path) Junk {
	if !isJunk(p.Base()) {
		return JunkStore
	}
	return h.opts.Junk
}

// refuseJunk refuses to make p where the share's rule says so.
func (h *Handler) refuseJunk(p Path) error {
	if h.junk(p) == JunkRefuse {
		return refuse(http.StatusForbidden, "the share takes no such files")
	}
	return nil
}
