package auth

import (
	"context"
	"strings"
)

// Anonymous is the name of who gave none. No user can have it.
const Anonymous = "anonymous"

// An Identity is who makes a request.
type Identity struct {
	Name   string // as FoldName makes it, or Anonymous
	Groups []string

	// Scope is what a token leaves of the user's rights. Nil means all: the
	// user gave a password, or a proxy vouches for them.
	Scope *Scope
}

// Nobody is who gave no name.
var Nobody = Identity{Name: Anonymous}

// IsAnonymous says whether nobody said who makes the request.
func (id Identity) IsAnonymous() bool { return id.Name == Anonymous }

type identityKey struct{}

// With returns a context in which From finds id.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, &id)
}

// From returns who makes the request that ctx belongs to; Nobody if nobody
// has found out.
func From(ctx context.Context) Identity {
	if id, ok := ctx.Value(identityKey{}).(*Identity); ok {
		return *id
	}
	return Nobody
}

// maxName is the longest name of a user or group.
const maxName = 32

// FoldName returns the one spelling of a user's or group's name, and whether it
// is one: 1 to 32 of a-z, 0-9, dot, underscore and hyphen, after capitals have
// been made small. Two names that differ for us never are the same to a file
// system or a log.
func FoldName(name string) (string, bool) {
	if name == "" || len(name) > maxName {
		return "", false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return "", false
		}
	}
	name = strings.ToLower(name)
	return name, name != "." && name != ".." && name != Anonymous
}
