package davfs

import (
	"fmt"
	"net/http"
	"strings"
)

// Prefixes are the paths in the server at which something stands, each as in
// Options.Prefix.
type Prefixes []Path

// NewPrefixes reads prefixes, percent-encoded.
// Errors: one that is no canonical path.
func NewPrefixes(prefixes ...string) (Prefixes, error) {
	var all Prefixes
	for _, prefix := range prefixes {
		p, err := parseShare(prefix)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Find returns the index of what the target of r belongs to: the longest
// prefix of whole names. It is -1 when there is none, and when the target is no
// path of the server.
func (s Prefixes) Find(r *http.Request) int {
	p, _, err := requestPath(r, namePolicy{bytes: true})
	if err != nil {
		return -1
	}
	return s.longest(p)
}

// longest returns the index of the longest prefix of p, -1 when there is none.
func (s Prefixes) longest(p Path) int {
	best := -1
	for i, prefix := range s {
		if (p == prefix || prefix.Contains(p)) && (best < 0 || s[best].Contains(prefix)) {
			best = i
		}
	}
	return best
}

// parseShare reads a prefix.
func parseShare(prefix string) (Path, error) {
	p, _, err := parsePath(strings.TrimSuffix(prefix, "/")+"/", namePolicy{bytes: true})
	if err != nil {
		return Path{}, fmt.Errorf("prefix %q: %w", prefix, err)
	}
	return p, nil
}
