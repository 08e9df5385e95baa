package davfs

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

var (
	// errBadPath is a URL path that is not canonical, or cannot be a name here: 400.
	errBadPath = errors.New("malformed path")
	// errPathTooLong is a path or a name beyond what Linux can hold: 414.
	errPathTooLong = errors.New("path too long")
)

const (
	maxSegment = 255  // bytes of one name (NAME_MAX)
	maxPath    = 4096 // bytes of a whole path (PATH_MAX)
)

// A Path names one resource of a share: the names from the share's root down to
// it, decoded. It is the only form in which a URL gets past the guard, and
// parsePath the only function that makes one from what a client sent, be it a
// request target, a Destination or the tag of an If header. Two Paths are equal
// if and only if they name the same resource. The zero value is the root.
//
// INVARIANT: name is "" or consists of segments "/x", where x is not empty,
// not "." or "..", has neither '/' nor NUL, and at most 255 bytes.
type Path struct{ name string }

// String returns the path with a slash in front: "/", "/a/b".
func (p Path) String() string {
	if p.name == "" {
		return "/"
	}
	return p.name
}

// Name returns the path as package io/fs names files: ".", "a/b".
func (p Path) Name() string {
	if p.name == "" {
		return "."
	}
	return p.name[1:]
}

// IsRoot reports whether p is the root of its share.
func (p Path) IsRoot() bool { return p.name == "" }

// Base returns the last name of p, and "" for the root.
func (p Path) Base() string { return p.name[strings.LastIndexByte(p.name, '/')+1:] }

// Parent returns the collection that p is a member of; the root is its own.
func (p Path) Parent() Path {
	if p.name == "" {
		return p
	}
	return Path{p.name[:strings.LastIndexByte(p.name, '/')]}
}

// Contains reports whether q lies below p; p does not contain itself. Only
// whole names count: /a does not contain /ab.
func (p Path) Contains(q Path) bool {
	return len(q.name) > len(p.name) && q.name[len(p.name)] == '/' && q.name[:len(p.name)] == p.name
}

// child returns the member called name, which comes from a listing and is a
// single name already.
func (p Path) child(name string) Path { return Path{p.name + "/" + name} }

// join returns the path that q, which starts at p, has from where p starts.
func (p Path) join(q Path) Path { return Path{p.name + q.name} }

// below returns p as seen from prefix, and whether p is prefix or lies below it.
func (p Path) below(prefix Path) (Path, bool) {
	if p == prefix {
		return Path{}, true
	}
	if !prefix.Contains(p) {
		return Path{}, false
	}
	return Path{p.name[len(prefix.name):]}, true
}

// A namePolicy says which names clients may make; the zero value is strict about
// UTF-8 and control characters and nothing else.
type namePolicy struct {
	bytes    bool // names need not be UTF-8
	portable bool // and must be possible on Windows, too
}

// cmpPath orders paths so that what lies below a path follows it directly.
func cmpPath(p, q Path) int {
	return slices.Compare(strings.Split(p.name, "/"), strings.Split(q.name, "/"))
}

// pathFromName makes a Path from String's result, or from "", if it is one.
func pathFromName(name string) (p Path, ok bool) {
	if name == "" || name == "/" {
		return Path{}, true
	}
	rest, ok := strings.CutPrefix(name, "/")
	if !ok || len(name) > maxPath {
		return Path{}, false
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if (namePolicy{bytes: true}).checkName(segment) != nil {
			return Path{}, false
		}
	}
	return Path{name}, true
}

// parsePath makes a Path from the escaped path of a URL, which begins with a
// slash. Each segment is decoded once. slash tells that the path ended in "/":
// the client takes the resource for a collection.
//
// What could be read in two ways is refused rather than cleaned: empty
// segments, "." and "..", a slash or NUL inside a segment, however encoded, and
// half escapes. Somebody in front of us may have checked another path than the
// one that cleaning would give.
func parsePath(escaped string, policy namePolicy) (p Path, slash bool, err error) {
	if !strings.HasPrefix(escaped, "/") {
		return Path{}, false, fmt.Errorf("%w: no slash in front", errBadPath)
	}
	if escaped == "/" {
		return Path{}, true, nil
	}
	if len(escaped) > 3*maxPath {
		return Path{}, false, errPathTooLong
	}
	escaped, slash = strings.CutSuffix(escaped, "/")
	if strings.IndexByte(escaped, '%') < 0 { // it is its own name
		for segment := range strings.SplitSeq(escaped[1:], "/") {
			if err := policy.checkName(segment); err != nil {
				return Path{}, false, err
			}
		}
		if len(escaped) > maxPath {
			return Path{}, false, errPathTooLong
		}
		return Path{escaped}, slash, nil
	}
	var b strings.Builder
	for segment := range strings.SplitSeq(escaped[1:], "/") {
		name, err := unescapeSegment(segment)
		if err == nil {
			err = policy.checkName(name)
		}
		if err != nil {
			return Path{}, false, err
		}
		b.WriteByte('/')
		b.WriteString(name)
	}
	if b.Len() > maxPath {
		return Path{}, false, errPathTooLong
	}
	return Path{b.String()}, slash, nil
}

// unescapeSegment decodes "%41" to "A", once.
func unescapeSegment(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("%w: half an escape in %q", errBadPath, s)
		}
		hi, ok1 := unhex(s[i+1])
		lo, ok2 := unhex(s[i+2])
		if !ok1 || !ok2 {
			return "", fmt.Errorf("%w: bad escape in %q", errBadPath, s)
		}
		b = append(b, hi<<4|lo)
		i += 2
	}
	return string(b), nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// checkName refuses what cannot be one name of the tree.
func (policy namePolicy) checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("%w: segment %q", errBadPath, name)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: slash or NUL in %q", errBadPath, name)
	case len(name) > maxSegment:
		return errPathTooLong
	}
	return nil
}

// checkCreate refuses a name that a client may read, move away and delete if it
// is there, but must not bring about: one with control characters, which no
// terminal, log or Windows client takes well, and under the portable policy one
// that Windows cannot hold.
func (policy namePolicy) checkCreate(p Path) error {
	name := p.Base()
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return forbiddenName("%w: control character in %q", errBadPath, name)
		}
	}
	if !policy.bytes && !utf8.ValidString(name) {
		return fmt.Errorf("%w: %q is not UTF-8", errBadPath, name)
	}
	if policy.portable && !isPortable(name) {
		return forbiddenName("%w: %q is not possible on every system", errBadPath, name)
	}
	return nil
}

// forbiddenName refuses what is a name, but not for this share.
func forbiddenName(format string, args ...any) error {
	return &protocolError{status: http.StatusForbidden, err: fmt.Errorf(format, args...)}
}

// isPortable reports whether Windows can hold name (Microsoft, "Naming Files,
// Paths, and Namespaces").
func isPortable(name string) bool {
	if strings.ContainsAny(name, `<>:"\|?*`) || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return false
	}
	stem, _, _ := strings.Cut(name, ".")
	stem = strings.ToUpper(strings.TrimRight(stem, " "))
	switch stem {
	case "CON", "PRN", "AUX", "NUL":
		return false
	}
	if len(stem) == 4 && stem[3] >= '0' && stem[3] <= '9' {
		return stem[:3] != "COM" && stem[:3] != "LPT"
	}
	return true
}

// appendHref appends the URL path of p below prefix. Everything that is not in
// A-Za-z0-9-._~!$'()*+,;=:@ or a slash is percent-encoded, byte by byte, so that
// the result needs no XML escaping and any name survives, UTF-8 or not.
func appendHref(dst []byte, prefix, p Path, slash bool) []byte {
	dst = appendEscaped(dst, prefix.name)
	dst = appendEscaped(dst, p.name)
	if slash || prefix.name+p.name == "" {
		dst = append(dst, '/')
	}
	return dst
}

func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; hrefPlain[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// hrefPlain tells which bytes stand for themselves in an href. "&" could by
// RFC 3986, but macOS decodes its entity wrongly.
var hrefPlain = func() (plain [256]bool) {
	const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$'()*+,;=:@/"
	for i := range len(set) {
		plain[set[i]] = true
	}
	return plain
}()
