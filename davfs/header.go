package davfs

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Sentinels of the header parsers, by the answer they ask for.
var (
	// errBadHeader is a request field whose value cannot be understood: 400.
	errBadHeader = errors.New("malformed header")
	// errHeaderTooLarge is a field that exceeds a limit of ours: 431
	// (RFC 6585, section 5).
	errHeaderTooLarge = errors.New("header too large")
	// errRangeNotSatisfiable is a range that lies outside the file: 416.
	errRangeNotSatisfiable = errors.New("range not satisfiable")
)

const (
	maxTokenLength   = 1 << 10 // bytes of one lock token
	maxTimeoutValues = 16      // elements of a Timeout header that are looked at
)

// singleHeader returns the value of a field that may occur once, without the
// white space around it; "" when it is absent. The same value sent twice is one
// value, and two different ones are an error, since the proxy in front may have
// believed the other one (RFC 9110, section 5.3).
func singleHeader(h http.Header, name string) (string, error) {
	values := h.Values(name)
	if len(values) == 0 {
		return "", nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return "", fmt.Errorf("%w: %s given twice", errBadHeader, name)
		}
	}
	return strings.Trim(values[0], " \t"), nil
}

// depth is how far below the named resource a request reaches
// (RFC 4918, section 10.2).
type depth int

const (
	depthZero depth = iota
	depthOne
	depthInfinity
)

// parseDepth reads the Depth header; without one, the depth is absent, which
// each method defines for itself. noRoot is Microsoft's "1,noroot": the members
// without the collection itself.
func parseDepth(h http.Header, absent depth) (d depth, noRoot bool, err error) {
	s, err := singleHeader(h, "Depth")
	if err != nil || s == "" {
		return absent, false, err
	}
	value, suffix, noRoot := strings.Cut(strings.ToLower(s), ",")
	if noRoot && strings.Trim(suffix, " \t") != "noroot" {
		return absent, false, fmt.Errorf("%w: Depth %q", errBadHeader, s)
	}
	switch strings.TrimRight(value, " \t") {
	case "0":
		d = depthZero
	case "1":
		d = depthOne
	case "infinity":
		d = depthInfinity
	default:
		return absent, false, fmt.Errorf("%w: Depth %q", errBadHeader, s)
	}
	return d, noRoot, nil
}

// parseTimeout reads the Timeout header: the first element that it understands,
// and at most limit, which is also what Infinite means here. Elements it does
// not understand are passed over, Second-0 among them: a lock that has expired
// before its answer arrives is of no use to anybody. ok is false when nothing
// is left, and the caller decides.
//
// The server may grant any time it likes (RFC 4918, section 10.7), so that this
// parser has no errors.
func parseTimeout(h http.Header, limit time.Duration) (timeout time.Duration, ok bool) {
	looked := 0
	for _, line := range h.Values("Timeout") {
		for element := range strings.SplitSeq(line, ",") {
			if looked++; looked > maxTimeoutValues {
				return 0, false
			}
			if d, ok := parseTimeType(strings.Trim(element, " \t"), limit); ok {
				return d, true
			}
		}
	}
	return 0, false
}

// parseTimeType reads one element: "Infinite" or "Second-n", in any case.
func parseTimeType(s string, limit time.Duration) (time.Duration, bool) {
	if strings.EqualFold(s, "infinite") {
		return limit, true
	}
	const second = "second-"
	if len(s) <= len(second) || !strings.EqualFold(s[:len(second)], second) {
		return 0, false
	}
	n, ok := parseDigits(s[len(second):])
	if !ok || n == 0 {
		return 0, false
	}
	if n >= int64(limit/time.Second) {
		return limit, true
	}
	return time.Duration(n) * time.Second, true
}

// parseOverwrite reads the Overwrite header, which is T when absent
// (RFC 4918, section 10.6).
func parseOverwrite(h http.Header) (bool, error) {
	s, err := singleHeader(h, "Overwrite")
	if err != nil {
		return false, err
	}
	switch s {
	case "", "T", "t":
		return true, nil
	case "F", "f":
		return false, nil
	}
	return false, fmt.Errorf("%w: Overwrite %q", errBadHeader, s)
}

// parseLockToken reads the Lock-Token header: a URI in angle brackets
// (RFC 4918, section 10.5), or without them, as the npm client sends it.
func parseLockToken(h http.Header) (string, error) {
	s, err := singleHeader(h, "Lock-Token")
	if err != nil {
		return "", err
	}
	token := s
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		token = s[1 : len(s)-1]
	}
	if len(token) > maxTokenLength {
		return "", fmt.Errorf("%w: Lock-Token", errHeaderTooLarge)
	}
	if !isURIText(token) {
		return "", fmt.Errorf("%w: Lock-Token is no URI", errBadHeader)
	}
	return token, nil
}

// isURIText reports whether s can be a URI as far as its characters go: visible
// ASCII without brackets and quotes, not empty.
func isURIText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '"' {
			return false
		}
	}
	return s != ""
}

// A contentRange is where the body of a partial PUT goes, both ends included.
// INVARIANT: 0 <= first <= last, and last < size unless size is -1.
type contentRange struct {
	first, last int64
	size        int64 // of the whole file after the write; -1 when not said
}

// parseContentRange reads the Content-Range header of a PUT: "bytes a-b/size"
// or "bytes a-b/*" (RFC 9110, section 14.4). ok is false when there is none.
// Any other form is an error, because to ignore the header is to store a
// fragment as the whole file (RFC 9110, section 14.5).
func parseContentRange(h http.Header) (r contentRange, ok bool, err error) {
	if len(h.Values("Content-Range")) == 0 {
		return contentRange{}, false, nil
	}
	s, err := singleHeader(h, "Content-Range")
	if err != nil {
		return contentRange{}, true, err
	}
	bad := fmt.Errorf("%w: Content-Range %q", errBadHeader, s)
	unit, rest, found := strings.Cut(s, " ")
	if !found || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, true, bad
	}
	span, size, found := strings.Cut(strings.TrimLeft(rest, " "), "/")
	first, last, found2 := strings.Cut(span, "-")
	if !found || !found2 {
		return contentRange{}, true, bad
	}
	var ok1, ok2, ok3 bool
	r.first, ok1 = parseDigits(first)
	r.last, ok2 = parseDigits(last)
	if r.size, ok3 = parseDigits(size); size == "*" {
		r.size, ok3 = -1, true
	}
	if !ok1 || !ok2 || !ok3 || r.first > r.last || (r.size >= 0 && r.last >= r.size) || r.last == math.MaxInt64 {
		return contentRange{}, true, bad
	}
	return r, true, nil
}

// length is how many bytes the body must have.
func (r contentRange) length() int64 { return r.last - r.first + 1 }

// An updateRange is where the body of a PATCH goes: sabre/dav's partial update.
type updateRange struct {
	kind  updateKind
	first int64 // offset of the first byte; from the end for updateSuffix
	last  int64 // of the last byte, for updateSpan
}

type updateKind int

const (
	updateAppend updateKind = iota // "append"
	updateFrom                     // "bytes=a-"
	updateSpan                     // "bytes=a-b"
	updateSuffix                   // "bytes=-n": from n bytes before the end
)

// parseUpdateRange reads the X-Update-Range header.
func parseUpdateRange(h http.Header) (updateRange, error) {
	s, err := singleHeader(h, "X-Update-Range")
	if err != nil {
		return updateRange{}, err
	}
	if strings.EqualFold(s, "append") {
		return updateRange{kind: updateAppend}, nil
	}
	bad := fmt.Errorf("%w: X-Update-Range %q", errBadHeader, s)
	unit, span, found := strings.Cut(s, "=")
	left, right, found2 := strings.Cut(span, "-")
	if !found || !found2 || !strings.EqualFold(unit, "bytes") {
		return updateRange{}, bad
	}
	first, ok1 := parseDigits(left)
	last, ok2 := parseDigits(right)
	switch {
	case ok1 && ok2 && first <= last && last < math.MaxInt64:
		return updateRange{kind: updateSpan, first: first, last: last}, nil
	case ok1 && right == "":
		return updateRange{kind: updateFrom, first: first}, nil
	case left == "" && ok2:
		return updateRange{kind: updateSuffix, first: last}, nil
	}
	return updateRange{}, bad
}

// resolve says at which offset in a file of the given size the body is written,
// and how long it must be; -1 when its own length decides. A start beyond the
// end would leave a hole that nobody wrote, and is refused.
func (u updateRange) resolve(size int64) (offset, length int64, err error) {
	switch u.kind {
	case updateAppend:
		offset, length = size, -1
	case updateFrom:
		offset, length = u.first, -1
	case updateSpan:
		offset, length = u.first, u.last-u.first+1
	case updateSuffix:
		offset, length = size-u.first, -1
	}
	if offset < 0 || offset > size {
		return 0, 0, fmt.Errorf("%w: offset %d of %d bytes", errRangeNotSatisfiable, offset, size)
	}
	return offset, length, nil
}

// parseOCMtime reads the X-OC-Mtime header: Unix seconds, maybe with a fraction,
// as ownCloud's clients and rclone send it. ok is false when there is none.
// Zero and less are refused, since clients send them when they know no time,
// and so is what lies after the year 9999, which no HTTP date can say.
func parseOCMtime(h http.Header) (t time.Time, ok bool, err error) {
	if len(h.Values("X-OC-Mtime")) == 0 {
		return time.Time{}, false, nil
	}
	s, err := singleHeader(h, "X-OC-Mtime")
	if err != nil {
		return time.Time{}, true, err
	}
	const endOfDates = 253402300800 // 10000-01-01
	whole, fraction, dotted := strings.Cut(s, ".")
	sec, ok1 := parseDigits(whole)
	nsec, ok2 := parseFraction(fraction)
	if !ok1 || (dotted && !ok2) || sec >= endOfDates || (sec == 0 && nsec == 0) {
		return time.Time{}, true, fmt.Errorf("%w: X-OC-Mtime %q", errBadHeader, s)
	}
	return time.Unix(sec, nsec), true, nil
}

// parseFraction reads the digits after a decimal point as nanoseconds; what is
// finer is cut off.
func parseFraction(s string) (int64, bool) {
	if s == "" || len(s) > 32 {
		return 0, false
	}
	nsec, scale := int64(0), int64(100_000_000)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		nsec += int64(s[i]-'0') * scale
		scale /= 10
	}
	return nsec, true
}

// parseDigits reads a number of ASCII digits only: no sign, no space. One that
// does not fit is the largest that does.
func parseDigits(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil { // all digits, so it can only be out of range
		return math.MaxInt64, true
	}
	return n, true
}
