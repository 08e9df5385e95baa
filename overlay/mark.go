package overlay

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// marks knows the few bytes by which an object in a layer says more than
// itself. No other file knows their form (docs/on-disk-format.md;
// compare fs/overlayfs/overlayfs.h, enum ovl_xattr).
type marks struct {
	prefix   string // "trusted.overlay." or "user.overlay."
	opaque   string // on a directory: "y", no lower belongs to it
	redirect string // on a directory: where its lowers are; on a metacopy: where its content is
	whiteout string // on an empty regular file: the name is deleted
	metacopy string // on a regular file: its content is in a lower
	origin   string // on what was copied up: the handle of the lower object
	impure   string // on a directory: "y", something in it has an origin
	uuid     string // on the root of upper
	protattr string // "i", "a": chattr flags that the upper object does not carry
}

// The two namespaces of marks (overlayfs.rst, "User xattr").
const (
	trustedPrefix = "trusted.overlay."
	userPrefix    = "user.overlay."
)

func newMarks(prefix string) marks {
	return marks{
		prefix: prefix,
		opaque: prefix + "opaque", redirect: prefix + "redirect", whiteout: prefix + "whiteout",
		metacopy: prefix + "metacopy", origin: prefix + "origin", impure: prefix + "impure",
		uuid: prefix + "uuid", protattr: prefix + "protattr",
	}
}

// opaqueYes is the one value of the opaque mark that hides the lowers; the
// same value says impure.
var opaqueYes = []byte("y")

// maxRedirect is the longest absolute redirect that is written, its first
// slash included (compare OVL_REDIRECT_MAX). Longer ones are followed.
const maxRedirect = 256

// dirMarks are the marks of one directory.
type dirMarks struct {
	opaque    bool
	redirect  string // "" none
	impure    bool
	origin    bool
	protected protection
}

// A protection is what chattr(1) forbids on an object: to change it at all, or
// all but adding to it.
type protection struct{ immutable, appendOnly bool }

func (p protection) any() bool { return p.immutable || p.appendOnly }

// readDir reads the marks of the directory d. A mark that is there and cannot
// be read is an error: guessing would show what it hides.
func (m *marks) readDir(d *at.Dir) (dm dirMarks, err error) {
	var buf [512]byte
	names, err := d.XattrNames(buf[:0])
	if err != nil {
		if err == syscall.EOPNOTSUPP {
			return dm, nil // no attributes, so no marks
		}
		return dm, err
	}
	for len(names) > 0 {
		var attr []byte
		attr, names, _ = bytes.Cut(names, []byte{0})
		name := ""
		switch string(attr) {
		case m.origin:
			dm.origin = true
		case m.impure:
			dm.impure = true
		case m.opaque:
			name = m.opaque
		case m.redirect:
			name = m.redirect
		case m.protattr:
			name = m.protattr
		}
		if name == "" {
			continue
		}
		value, err := d.Getxattr(".", name)
		if err == syscall.ENODATA {
			continue // gone since the listing
		}
		if err != nil {
			return dm, err
		}
		switch name {
		case m.opaque:
			dm.opaque = string(value) == "y"
		case m.protattr:
			dm.protected = parseProtection(value)
		case m.redirect:
			if dm.redirect, err = parseRedirect(value); err != nil {
				return dm, err
			}
		}
	}
	return dm, nil
}

// fileMarks are the marks of one regular file that say where its content is.
type fileMarks struct {
	metacopy bool
	redirect string // "" none; means nothing unless metacopy
}

// readFile reads those marks of the regular file name in d.
// Errors: ErrCorruptMark, EIO for a metacopy mark of a length that none has
// (compare ovl_check_metacopy_xattr), and parseRedirect's.
func (m *marks) readFile(d *at.Dir, name string) (fm fileMarks, err error) {
	value, err := d.Getxattr(name, m.metacopy)
	if err == syscall.ENODATA || err == syscall.EOPNOTSUPP {
		return fm, nil
	}
	if err == nil {
		err = checkMetacopy(value)
	}
	if err != nil {
		return fm, err
	}
	fm.metacopy = true
	value, err = d.Getxattr(name, m.redirect)
	if err == syscall.ENODATA {
		return fm, nil
	}
	if err == nil {
		fm.redirect, err = parseRedirect(value)
	}
	return fm, err
}

// minMetacopy is the length of a metacopy mark that is not empty: its header,
// before a digest (compare struct ovl_metacopy).
const minMetacopy = 4

func checkMetacopy(value []byte) error {
	if n := len(value); n > 0 && n < minMetacopy {
		return &markError{"metacopy", string(value), syscall.EIO}
	}
	return nil
}

// parseProtection reads a protattr value; letters it does not know are later
// kernels' and do not forbid anything here.
func parseProtection(value []byte) (p protection) {
	for _, c := range value {
		switch c {
		case 'i':
			p.immutable = true
		case 'a':
			p.appendOnly = true
		}
	}
	return p
}

// formatProtection is the value of protattr for p.
func formatProtection(p protection) []byte {
	var value []byte
	if p.appendOnly {
		value = append(value, 'a')
	}
	if p.immutable {
		value = append(value, 'i')
	}
	return value
}

// A markError is a mark whose value cannot be.
type markError struct {
	mark, value string
	errno       syscall.Errno
}

func (e *markError) Error() string {
	return "corrupt " + e.mark + " mark " + strconv.Quote(e.value) + ": " + e.errno.Error()
}

func (e *markError) Unwrap() []error { return []error{ErrCorruptMark, e.errno} }

// parseRedirect reads the value of a redirect: a single name, or a path from
// the layers' roots. It ends at the first NUL.
// Errors: EINVAL or, where a component would step out, EACCES, as the kernel's
// (compare ovl_check_redirect and the lookup of "..").
func parseRedirect(value []byte) (string, error) {
	r, _, _ := strings.Cut(string(value), "\x00")
	bad := func(errno syscall.Errno) (string, error) {
		return "", &markError{"redirect", r, errno}
	}
	components := []string{r}
	if path, ok := strings.CutPrefix(r, "/"); ok {
		components = strings.Split(path, "/")
	} else if strings.Contains(r, "/") {
		return bad(syscall.EINVAL)
	}
	for _, c := range components {
		switch c {
		case "":
			return bad(syscall.EINVAL)
		case ".", "..":
			return bad(syscall.EACCES)
		}
	}
	return r, nil
}

// isWhiteout says whether the object name in d, of which st tells, deletes its
// name: a device 0:0, or an empty regular file with the whiteout mark.
func (m *marks) isWhiteout(d *at.Dir, name string, st *at.Stat) (bool, error) {
	if st.IsWhiteoutDevice() {
		return true, nil
	}
	if !st.IsRegular() || st.Size != 0 {
		return false, nil
	}
	return m.has(d, name, m.whiteout)
}

// has says whether name in d carries a mark.
func (m *marks) has(d *at.Dir, name, mark string) (bool, error) {
	err := d.CheckXattr(name, mark)
	switch err {
	case nil:
		return true, nil
	case syscall.ENODATA, syscall.EOPNOTSUPP, syscall.ENOENT:
		return false, nil
	case syscall.EACCES:
		// An attribute user.* of a file that may not be read; its name may.
		names, err := d.Listxattr(name)
		return slices.Contains(names, mark), err
	}
	return false, err
}

// private says whether an attribute is one of the marks: never shown, never
// copied. What an overlay mounted on this one wrote is escaped and is not
// (overlayfs.rst, "Nesting").
func (m *marks) private(attr string) bool {
	rest, ok := strings.CutPrefix(attr, m.prefix)
	return ok && !strings.HasPrefix(rest, escape)
}

// escape stands between the prefix and the name of a mark that belongs to an
// overlay nested in this one.
const escape = "overlay."

// maxXattrName is the longest name of an attribute (xattr(7)).
const maxXattrName = 255

// stored is the name under which the attribute that a client calls attr is
// kept.
// Errors: EOPNOTSUPP when it becomes too long.
func (m *marks) stored(attr string) (string, error) {
	rest, ok := strings.CutPrefix(attr, m.prefix)
	if !ok {
		return attr, nil
	}
	if attr = m.prefix + escape + rest; len(attr) > maxXattrName {
		return "", syscall.EOPNOTSUPP
	}
	return attr, nil
}

// shown is the name by which a client knows the stored attribute attr; false
// for what is private.
func (m *marks) shown(attr string) (string, bool) {
	rest, ok := strings.CutPrefix(attr, m.prefix)
	if !ok {
		return attr, true
	}
	inner, ok := strings.CutPrefix(rest, escape)
	return m.prefix + inner, ok
}
