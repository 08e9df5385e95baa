package davfs

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// A verdict is what the preconditions of a request say about its method.
type verdict int

const (
	proceed            verdict = iota
	notModified                // 304, for GET and HEAD only
	preconditionFailed         // 412
)

// A representation is what conditions are held against: the state of the
// resource that the request names. The zero value is that of an unmapped URL.
type representation struct {
	exists   bool
	etag     string    // with its quotes; "" if it has none
	modified time.Time // zero if not known
}

// checkConditions evaluates If-Match, If-None-Match, If-Modified-Since and
// If-Unmodified-Since in the order of RFC 9110, section 13.2.2. It is asked
// twice about a write: before its body is read, and at the commit, when somebody
// else may have been faster.
//
// A value that cannot be understood fails a write, since it was sent to prevent
// one, and is passed over by a read.
func checkConditions(method string, h http.Header, now time.Time, current representation) verdict {
	if !isConditional(method) {
		return proceed
	}
	read := method == http.MethodGet || method == http.MethodHead

	// Steps 1 and 2: is this still the resource that the client knows?
	if values := h.Values("If-Match"); len(values) > 0 {
		if tags, ok := parseETags(values); !ok || !tags.match(current, strongMatch) {
			return preconditionFailed
		}
	} else if changedSince(h, current) {
		return preconditionFailed
	}

	// Steps 3 and 4: does the client have it, or take it for absent?
	if values := h.Values("If-None-Match"); len(values) > 0 {
		tags, ok := parseETags(values)
		switch matched := tags.match(current, weakMatch); {
		case read && ok && matched:
			return notModified
		case !read && (!ok || matched):
			return preconditionFailed
		}
	} else if read && unmodifiedAt(h, now, current) {
		return notModified
	}
	return proceed
}

// hasConditions reports whether checkConditions has something to evaluate.
func hasConditions(h http.Header) bool {
	return h["If-Match"] != nil || h["If-None-Match"] != nil || h["If-Modified-Since"] != nil || h["If-Unmodified-Since"] != nil
}

// isConditional reports whether preconditions mean anything to the method: it
// selects a representation, or changes the resource (RFC 9110, section 13.2.1).
func isConditional(method string) bool {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "MKCOL", "COPY", "MOVE", "LOCK", "PROPPATCH":
		return true
	}
	return false
}

// changedSince evaluates If-Unmodified-Since. It says nothing about what has no
// date, or when the date sent is none (RFC 9110, section 13.1.4).
func changedSince(h http.Header, current representation) bool {
	since, ok := headerDate(h, "If-Unmodified-Since")
	if !ok || !current.exists || current.modified.IsZero() {
		return false
	}
	return current.modified.Truncate(time.Second).After(since)
}

// unmodifiedAt evaluates If-Modified-Since: whether the client's copy may be
// used. Only the very date that we sent does it. Times go backward here, when a
// client sets them or an older file is moved over a newer one, and then "not
// newer than" would serve the old content for ever. Nor is a date any use while
// its second runs: the next write may carry the same. Office opens documents
// read-only after a 304 that it had forbidden with no-cache.
func unmodifiedAt(h http.Header, now time.Time, current representation) bool {
	since, ok := headerDate(h, "If-Modified-Since")
	if !ok || !current.exists || current.modified.IsZero() || slices.Contains(headerElements(h, "Cache-Control"), "no-cache") {
		return false
	}
	modified := current.modified.Truncate(time.Second)
	return modified.Equal(since) && now.Sub(modified) >= 2*time.Second
}

// headerDate reads an HTTP date that occurs once.
func headerDate(h http.Header, name string) (time.Time, bool) {
	s, err := singleHeader(h, name)
	if err != nil || s == "" {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	return t, err == nil
}

// etags is the value of If-Match or If-None-Match: "*", or a list.
type etags struct {
	any  bool
	tags []string
}

// parseETags reads all lines of such a field. ok is false unless each of them is
// well formed.
func parseETags(values []string) (e etags, ok bool) {
	if len(values) == 1 && strings.Trim(values[0], " \t") == "*" {
		return etags{any: true}, true
	}
	for _, line := range values {
		for line = strings.TrimLeft(line, " \t,"); line != ""; line = strings.TrimLeft(line, " \t,") {
			tag, rest, ok := scanETag(line)
			if !ok {
				return etags{}, false
			}
			e.tags = append(e.tags, tag)
			line = rest
		}
	}
	return e, len(e.tags) > 0
}

// match reports whether the current representation is one of e.
func (e etags) match(current representation, equal func(a, b string) bool) bool {
	if !current.exists || e.any {
		return current.exists
	}
	return current.etag != "" && slices.ContainsFunc(e.tags, func(tag string) bool { return equal(tag, current.etag) })
}

// scanETag reads one entity tag from the front of s (RFC 9110, section 8.8.3):
//
//	entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE
func scanETag(s string) (tag, rest string, ok bool) {
	opaque := strings.TrimPrefix(s, "W/")
	start := len(s) - len(opaque)
	if !strings.HasPrefix(opaque, `"`) {
		return "", s, false
	}
	for i := 1; i < len(opaque); i++ {
		switch c := opaque[i]; {
		case c == '"':
			end := start + i + 1
			return s[:end], s[end:], true
		// RFC 4918's own examples have spaces in them.
		case c < ' ' || c == 0x7f:
			return "", s, false
		}
	}
	return "", s, false
}

// strongMatch and weakMatch compare as RFC 9110, section 8.8.3.2 says.
func strongMatch(a, b string) bool { return a == b && !strings.HasPrefix(a, "W/") }

func weakMatch(a, b string) bool {
	return strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}
