package davfs

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

// The limits of names on Linux (limits.h: NAME_MAX, PATH_MAX).
const (
	maxSegment = 255
	maxPath    = 4096
)

var (
	// errNotCanonical is a path that can be read in two ways, or that no name
	// can come of.
	errNotCanonical = errors.New("the path is not in canonical form")
	// errOutsidePrefix is a path that is not of this share.
	errOutsidePrefix = errors.New("the path is outside the share")
)

// A prefix is where in the server's paths a share lies: "/dav", or "" for all
// of it. It ends without a slash and is escaped as appendEscaped does.
type prefix string

// name turns the path of a URL, percent-encoded, into a name of the tree. Each
// segment is decoded once. slash says that the path ended in one, which means
// a collection.
//
// Errors: errNotCanonical, for which there is no second try with a cleaned
// path: what was authorised and what is opened are one value.
// errOutsidePrefix.
func (p prefix) name(path string) (name string, slash bool, err error) {
	segments, slash, err := splitPath(path)
	if err != nil {
		return "", false, err
	}
	root, _, err := splitPath(string(p) + "/")
	if err != nil {
		return "", false, err
	}
	if len(segments) < len(root) {
		return "", false, errOutsidePrefix
	}
	for i, segment := range root {
		if segments[i] != segment {
			return "", false, errOutsidePrefix
		}
	}
	segments = segments[len(root):]
	if len(segments) == 0 {
		return ".", true, nil
	}
	return strings.Join(segments, "/"), slash, nil
}

// above says whether path is that of a collection on the way to the share.
func (p prefix) above(path string) bool {
	segments, _, err := splitPath(path)
	root, _, perr := splitPath(string(p) + "/")
	if err != nil || perr != nil || len(segments) >= len(root) {
		return false
	}
	for i, segment := range segments {
		if root[i] != segment {
			return false
		}
	}
	return true
}

// splitPath decodes the segments of an absolute path. Its grammar is that of
// RFC 3986, section 3.3, without empty segments, "." and "..", a slash or NUL
// within a segment, or segments that no file system has.
func splitPath(path string) (segments []string, slash bool, err error) {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok || len(path) > 3*maxPath {
		return nil, false, errNotCanonical
	}
	if rest == "" {
		return nil, true, nil
	}
	rest, slash = strings.CutSuffix(rest, "/")
	length := 0
	for raw := range strings.SplitSeq(rest, "/") {
		segment, err := url.PathUnescape(raw)
		length += len(segment) + 1
		if err != nil || !isSegment(segment) || length > maxPath {
			return nil, false, errNotCanonical
		}
		segments = append(segments, segment)
	}
	return segments, slash, nil
}

func isSegment(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxSegment && !strings.ContainsAny(s, "/\x00")
}

// isCreatable says whether a new name may be made of these bytes: UTF-8
// without control characters. What a lower layer holds may be anything.
func isCreatable(name string) bool {
	if !utf8.ValidString(name) {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) < 0
}

// appendHref appends the path of name in the server, collections with a slash
// at the end (RFC 4918, section 5.2).
func (p prefix) appendHref(b []byte, name string, collection bool) []byte {
	b = append(b, p...)
	b = append(b, '/')
	if name == "." {
		return b
	}
	b = appendEscaped(b, name)
	if collection {
		b = append(b, '/')
	}
	return b
}

func (p prefix) href(name string, collection bool) string {
	return string(p.appendHref(nil, name, collection))
}

// appendEscaped appends path, percent-encoded so that neither XML nor HTML
// need escape it again: macOS patches entities in hrefs by hand.
func appendEscaped(b []byte, path string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(path) {
		if c := path[i]; plainInHref[c] {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// plainInHref has the pchars of RFC 3986, section 3.3, but '&' and "'", and
// the slash.
var plainInHref = func() (plain [256]bool) {
	for c := '0'; c <= '9'; c++ {
		plain[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		plain[c], plain[c-'a'+'A'] = true, true
	}
	for _, c := range "-._~!$()*+,;=:@/" {
		plain[c] = true
	}
	return plain
}()
