package davfs

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/webdav"
)

// A LockSystem shows Locks to a bare webdav.Handler. All that comes through it
// is done in the name of one principal, since the interface knows none, and what
// the interface does not tell stays unguarded: x/net v0.62.0 hands over the
// resource of a tagged If list in place of the request's own, tells nobody of
// DELETE, and answers the timeout that was asked for, not the one granted.
// davfs's own Handler uses Locks directly.
type LockSystem struct {
	locks     *Locks
	principal string
	state     func(Path) (etag string, exists bool, err error)
}

var _ webdav.LockSystem = (*LockSystem)(nil)

// LockSystem returns a webdav.LockSystem over l. state says whether a resource
// exists, and its entity tag with the quotes, for conditions that name one.
func (l *Locks) LockSystem(principal string, state func(Path) (etag string, exists bool, err error)) *LockSystem {
	return &LockSystem{l, principal, state}
}

// cleanPath makes a Path of a name that webdav.Handler took from a URL without
// looking at it.
func cleanPath(name string) (Path, error) {
	clean := strings.TrimSuffix(path.Clean("/"+name), "/")
	if p, ok := pathFromName(clean); ok {
		return p, nil
	}
	return Path{}, errBadPath
}

// Create implements webdav.LockSystem. now is not used: locks expire by the
// clock.
func (s *LockSystem) Create(_ time.Time, d webdav.LockDetails) (string, error) {
	root, err := cleanPath(d.Root)
	if err != nil {
		return "", err
	}
	touched, err := s.touch(nil, root)
	if err != nil {
		return "", err
	}
	// A new member needs the token of its collection, which nobody has given.
	for _, t := range touched {
		if t.Path != root {
			if err := s.locks.Check(s.principal, nil, t); err != nil {
				return "", webdav.ErrLocked
			}
		}
	}
	// The Handler makes a lock for each request without an If header, and expects
	// an answer at once.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	lock, err := s.locks.Create(ctx, LockRequest{
		Root: root, Infinite: !d.ZeroDepth, Principal: s.principal, Owner: d.OwnerXML, Timeout: d.Duration,
	})
	if errors.As(err, new(*LockedError)) || errors.Is(err, context.Canceled) {
		return "", webdav.ErrLocked
	}
	return lock.Token, err
}

// Refresh implements webdav.LockSystem.
func (s *LockSystem) Refresh(_ time.Time, token string, duration time.Duration) (webdav.LockDetails, error) {
	root, err := s.root(token)
	if err != nil {
		return webdav.LockDetails{}, err
	}
	lock, err := s.locks.Refresh(token, s.principal, root, duration)
	if err != nil {
		return webdav.LockDetails{}, lockSystemError(err)
	}
	return webdav.LockDetails{Root: lock.Root.String(), Duration: lock.Timeout, OwnerXML: lock.Owner, ZeroDepth: !lock.Infinite}, nil
}

// Unlock implements webdav.LockSystem.
func (s *LockSystem) Unlock(_ time.Time, token string) error {
	root, err := s.root(token)
	if err != nil {
		return err
	}
	return lockSystemError(s.locks.Unlock(token, s.principal, root))
}

// root finds the resource that the interface does not name.
func (s *LockSystem) root(token string) (Path, error) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	if lock := s.locks.byToken[token]; lock != nil {
		return lock.Root, nil
	}
	return Path{}, webdav.ErrNoSuchLock
}

func lockSystemError(err error) error {
	switch {
	case errors.Is(err, ErrNoSuchLock):
		return webdav.ErrNoSuchLock
	case errors.Is(err, ErrNotLockOwner):
		return webdav.ErrForbidden
	}
	return err
}

// Confirm implements webdav.LockSystem: all conditions are true of the named
// resources, and their tokens are enough to change both.
func (s *LockSystem) Confirm(_ time.Time, name0, name1 string, conditions ...webdav.Condition) (release func(), err error) {
	var touched []Touch
	var named []Path
	for _, name := range []string{name0, name1} {
		if name == "" {
			continue
		}
		p, err := cleanPath(name)
		if err != nil {
			return nil, err
		}
		named = append(named, p)
		if touched, err = s.touch(touched, p); err != nil {
			return nil, err
		}
	}
	var tokens []string
	for _, c := range conditions {
		holds, err := s.holds(c, named)
		if err != nil {
			return nil, err
		}
		if !holds {
			return nil, webdav.ErrConfirmationFailed
		}
		if c.Token != "" {
			tokens = append(tokens, c.Token)
		}
	}
	release, err = s.locks.Hold(s.principal, tokens, touched...)
	if err != nil {
		return nil, webdav.ErrConfirmationFailed
	}
	return release, nil
}

// touch adds what a write to p changes, as far as one can tell without knowing
// the method: all of it, and the collection that it would become a member of.
func (s *LockSystem) touch(touched []Touch, p Path) ([]Touch, error) {
	touched = append(touched, Touch{Path: p, Tree: true})
	_, exists, err := s.state(p)
	if err == nil && !exists {
		touched = append(touched, Touch{Path: p.Parent()})
	}
	return touched, err
}

// holds evaluates one condition: a token may be that of any of the resources, an
// entity tag must be the first one's.
func (s *LockSystem) holds(c webdav.Condition, named []Path) (bool, error) {
	condition := ifCondition{not: c.Not, token: c.Token, etag: c.ETag}
	var state ifState
	for i, p := range named {
		if c.ETag != "" && i == 0 {
			etag, _, err := s.state(p)
			if err != nil {
				return false, err
			}
			state.etag = etag
		}
		for _, lock := range s.locks.Covering(p) {
			if !slices.Contains(state.tokens, lock.Token) {
				state.tokens = append(state.tokens, lock.Token)
			}
		}
	}
	return condition.holds(state), nil
}
