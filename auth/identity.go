// Package auth says who may come in and what they may do. It knows nothing of
// files.
package auth

import "context"

// Anonymous is the name of whoever gave none.
const Anonymous = "anonymous"

// An Identity is who makes a request.
type Identity struct {
	Name   string // Anonymous when nobody said
	Groups []string
}

type identityKey struct{}

// With returns a context that carries who makes the request.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// From returns who makes the request: somebody anonymous when nothing says.
func From(ctx context.Context) Identity {
	if id, ok := ctx.Value(identityKey{}).(Identity); ok {
		return id
	}
	return Identity{Name: Anonymous}
}
