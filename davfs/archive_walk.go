package davfs

import (
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"overdav/overlay"
)

// An archiveMember is something that is to be in an archive.
type archiveMember struct {
	name string // in the archive; a collection's ends in a slash
	real Path   // without symlinks
	info *overlay.Info
	told bool // the user may know its properties
}

// size is how many bytes of content it has.
func (m *archiveMember) size() int64 {
	if m.info.IsDir() {
		return 0
	}
	return m.info.Size()
}

// walkArchive visits what is to be in the archive of the collection that the
// request names, each collection before what is in it: the regular files and
// collections of the merged view that the user could GET. Symlinks are what they
// lead to in the tree, as everywhere, but to a collection they are left out: what
// that holds is elsewhere in the tree, or above, where it would never end.
//
// What was listed and cannot be opened is an error, also where somebody has moved
// or deleted it meanwhile: nobody knows then what else is missing.
func (h *Handler) walkArchive(rq *request, visit func(*archiveMember) error) error {
	dir, err := h.openMembers(rq)
	if err != nil {
		return err
	}
	defer dir.Close() // it was only read
	w := archiveWalk{h: h, rq: rq, visit: visit}
	return w.members("", rq.path, treePath(dir.Path()), dir)
}

type archiveWalk struct {
	h     *Handler
	rq    *request
	visit func(*archiveMember) error
}

// members visits what is in the collection p, which is at real, is open as dir,
// and is called prefix in the archive.
func (w *archiveWalk) members(prefix string, p, real Path, dir *overlay.File) error {
	return eachInfo(w.rq, dir, func(info *overlay.Info) error {
		return w.member(prefix, p.child(info.Name()), real.child(info.Name()), info)
	})
}

func (w *archiveWalk) member(prefix string, p, real Path, info *overlay.Info) error {
	if isSymlink(info) {
		if w.h.opts.HideSymlinks {
			return nil
		}
		if info, real = w.h.leadsTo(real, info); info.IsDir() {
			return nil
		}
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil // a FIFO, a device, a link that leads nowhere
	}
	rights := w.rq.permit.rights(p, real)
	if !rights.Has(demandOf("GET", info).own) {
		return nil
	}
	if _, ok := w.h.inShare(w.h.share.join(p)); !ok {
		return nil // something else stands at that address
	}
	m := &archiveMember{name: prefix + archiveName(p.Base()), real: real, info: info, told: rights.Has(RightRead)}
	if !info.IsDir() {
		return w.visit(m)
	}
	m.name += "/"
	if err := w.visit(m); err != nil {
		return err
	}
	return w.beneath(m.name, p, real)
}

func (w *archiveWalk) beneath(prefix string, p, real Path) error {
	if err := w.rq.Context().Err(); err != nil {
		return err
	}
	dir, err := w.h.openAt(real)
	if err != nil {
		return err
	}
	defer dir.Close() // it was only read
	return w.members(prefix, p, real, dir)
}

// errMoved is of something that is not where it was listed.
var errMoved = fmt.Errorf("moved meanwhile: %w", syscall.ESTALE)

// archiveName is a name as it is written in an archive: as it is, but for what
// some reader takes for more than a name. On Windows a backslash separates names,
// "C:" is a drive, and dots and spaces at the end of a name are dropped, so that
// "... " is the directory above; and where names are not UTF-8 every reader
// guesses. Such bytes are written as in a URL, "%5C". So is a "%" that could be
// taken for the beginning of that: two names never become one.
func archiveName(name string) string {
	drive := len(name) > 1 && name[1] == ':'
	dots := strings.Trim(name, ". ") == ""
	if !drive && !dots && !strings.ContainsAny(name, `\%`) && utf8.ValidString(name) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1, r == '\\', r == '.' && dots, r == ':' && drive && i == 1, r == '%' && isEscape(name[i:]):
			fmt.Fprintf(&b, "%%%02X", name[i])
		default:
			b.WriteString(name[i : i+n])
		}
		i += n
	}
	return b.String()
}

// isEscape says whether s begins as archiveName writes a byte.
func isEscape(s string) bool {
	if len(s) < 3 || s[0] != '%' {
		return false
	}
	hi, ok1 := unhex(s[1])
	lo, ok2 := unhex(s[2])
	c := hi<<4 | lo
	return ok1 && ok2 && (c >= utf8.RuneSelf || strings.IndexByte(`\.:%`, c) >= 0)
}

// attachment is a Content-Disposition that has a browser store the content under
// that name (RFC 6266; for names that are not ASCII, RFC 8187). What cannot be
// seen in a name, or turns what follows it around, is not in it.
func attachment(file string) string {
	file = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(file, "_"))
	plain := strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf || strings.ContainsRune(`"\%`, r) { // RFC 6266, appendix D
			return '_'
		}
		return r
	}, file)
	value := `attachment; filename="` + plain + `"`
	if plain != file {
		value += "; filename*=UTF-8''" + strings.ReplaceAll(url.QueryEscape(file), "+", "%20")
	}
	return value
}
