// Package davfs serves a merged tree as WebDAV.
//
// FileSystem and File are golang.org/x/net/webdav's interfaces over an
// *overlay.FS and work under that package's Handler. Handler here is what
// overdav serves with: it shares their code but owns every method, because
// x/net (v0.62.0) removes the destination of a COPY or MOVE before it knows
// whether there is a source, looks at no precondition but GET's, checks locks
// against what a client names instead of what it changes, and opens each file
// that it lists. docs/decisions/ says what was weighed.
//
// A request passes through one guard (guard.go): its path becomes a name of
// the tree, once; the user's rights to it are looked at (access.go), its body is
// bounded; its preconditions, its If header and the locks on all that it would
// touch are looked at. Then its method does one
// operation of the engine, each of which is atomic, with the names concerned
// held (namelocks.go) and rights and preconditions looked at again. Errors become
// statuses in one table (status.go).
//
// Names are bytes, slash-separated, without a leading slash; "." is the root.
// What a response says is made from them; host paths never reach one.
//
// Lock order: nameLocks of the names in order, then what the engine locks.
// No lock is held while a client is read from or written to.
//
// A way to change a tree or a resource without the permission, the lock token
// or the precondition that RFC 4918 demands, to reach a name outside the
// share, or to end or hang the process by a request, is a vulnerability.
// That somebody who may write can fill the disk is not.
package davfs
