package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// Challenge is the value of WWW-Authenticate with every 401 (RFC 7617, section
// 2). It says nothing of what was wrong, or where.
const Challenge = `Basic realm="overdav", charset="UTF-8"`

// DefaultKeep is for how long right credentials are remembered after their last
// use.
const DefaultKeep = 5 * time.Minute

// Options say who may come in.
type Options struct {
	Users  *Users
	Tokens *Tokens // nil: there are none

	// UserHeader is the header in which a trusted proxy says who makes a request,
	// in canonical form; "" is none. Who it names need not be in Users.
	UserHeader string

	// Client tells the address of who makes a request, the zero Addr if nobody
	// knows, and whether it comes from a trusted proxy.
	Client func(*http.Request) (addr netip.Addr, proxied bool)
}

// An Authenticator finds out who makes a request.
type Authenticator struct {
	options  atomic.Pointer[Options]
	cache    *cache
	gate     *gate
	flight   flight
	throttle *throttle
}

// NewAuthenticator returns an Authenticator that remembers right credentials for
// keep.
func NewAuthenticator(o Options, keep time.Duration) *Authenticator {
	a := &Authenticator{
		cache:    newCache(keep),
		gate:     newGate(),
		flight:   flight{calls: make(map[cacheKey]*flightCall)},
		throttle: newThrottle(),
	}
	a.options.Store(&o)
	return a
}

// Set puts other options in force. What is remembered of credentials counts as
// long as the stored password is the same; failures are not forgotten.
func (a *Authenticator) Set(o Options) { a.options.Store(&o) }

// Hashed is how many passwords have been verified against a hash, right ones and
// wrong.
func (a *Authenticator) Hashed() int64 { return a.gate.hashed.Load() }

// Waiting is how many passwords wait to be verified.
func (a *Authenticator) Waiting() int64 { return a.gate.waiting.Load() }

// Hashing is how many passwords are being verified.
func (a *Authenticator) Hashing() int { return len(a.gate.slots) }

// Unhashed is how many passwords were not verified, because as many as may were
// waiting.
func (a *Authenticator) Unhashed() int64 { return a.gate.refused.Load() }

// A Reason says in one word, for a log, why a request was refused.
type Reason string

// The reasons.
const (
	BadCredentials Reason = "bad-credentials" // a wrong name, password or token; nobody is told which
	Malformed      Reason = "malformed"       // an Authorization header that cannot be right
	BadProxyUser   Reason = "bad-proxy-user"  // a trusted proxy's header that cannot be right
	TooManyFailed  Reason = "too-many-failed" // nothing was verified
	Busy           Reason = "busy"            // the same; it is nobody's fault
	Unavailable    Reason = "unavailable"     // the file of tokens cannot be read
)

// A Refusal is an answer to credentials that let nobody in.
type Refusal struct {
	Status     int           // 401, 429 or 503
	RetryAfter time.Duration // with 429 and 503
	Reason     Reason
	Name       string // who they claim to be, folded; "" if it cannot be a user's
	Err        error  // the cause, for the log, of Unavailable
}

func (e *Refusal) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	}
	return string(e.Reason)
}

func (e *Refusal) Unwrap() error { return e.Err }

func refuse(reason Reason, name string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Reason: reason, Name: name}
}

// Authenticate finds out who makes r. Its error is ErrNoCredentials, a *Refusal,
// or that of r's context. It takes the header of a proxy out of r if it is not from
// one that is trusted.
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	o := a.options.Load()
	if o.UserHeader != "" {
		if _, proxied := o.Client(r); !proxied {
			delete(r.Header, o.UserHeader)
		} else if values := r.Header[o.UserHeader]; len(values) > 0 {
			return o.fromProxy(r, values)
		}
	}
	c, err := parseAuthorization(r.Header)
	switch {
	case errors.Is(err, ErrNoCredentials):
		return Identity{}, ErrNoCredentials
	case err != nil:
		return Identity{}, refuse(Malformed, "")
	case c.bearer:
		return o.fromToken(c)
	}
	if o.Tokens != nil && isToken(c.secret) {
		return o.fromToken(c)
	}
	return a.fromPassword(r, o, c)
}

// fromProxy is for what a trusted proxy says. It says one name or none, and what
// the client says besides must not be of somebody else: nginx passes on the
// credentials that it has checked, and one that passes on what it has not would
// have two answers to who makes the request.
func (o *Options) fromProxy(r *http.Request, values []string) (Identity, error) {
	name, ok := FoldName(values[0])
	if len(values) != 1 || !ok {
		return Identity{}, refuse(BadProxyUser, "")
	}
	if c, err := parseAuthorization(r.Header); !errors.Is(err, ErrNoCredentials) && (err != nil || c.name != name) {
		return Identity{}, refuse(BadProxyUser, name)
	}
	user, known := o.Users.byName[name]
	if !known {
		return Identity{Name: name}, nil
	}
	if user.Disabled {
		return Identity{}, refuse(BadProxyUser, name)
	}
	return user.identity(), nil
}

func (u *User) identity() Identity { return Identity{Name: u.Name, Groups: u.Groups} }

// fromToken is for a token, alone or as the password of its owner. Failures do not
// slow down anybody: nobody guesses one, and programs go on with one that has
// expired.
func (o *Options) fromToken(c credentials) (Identity, error) {
	if o.Tokens == nil {
		return Identity{}, refuse(BadCredentials, c.name)
	}
	token, ok, err := o.Tokens.Lookup(c.secret)
	if err != nil {
		return Identity{}, &Refusal{Status: http.StatusServiceUnavailable, RetryAfter: busyRetry, Reason: Unavailable, Name: c.name, Err: err}
	}
	if !ok || !c.bearer && c.name != token.User {
		return Identity{}, refuse(BadCredentials, c.name)
	}
	id := Identity{Name: token.User, Scope: &token.Scope}
	switch user, known := o.Users.byName[token.User]; {
	case known && !user.Disabled:
		id.Groups = user.Groups
	case known || o.UserHeader == "": // the owner has gone
		return Identity{}, refuse(BadCredentials, token.User)
	}
	return id, nil
}

// busyRetry is when to try again what nobody had the time for.
const busyRetry = 5 * time.Second

// fromPassword is for a name and a password. Credentials that are remembered are
// all right whatever others do with the name or from the address.
func (a *Authenticator) fromPassword(r *http.Request, o *Options, c credentials) (Identity, error) {
	key := a.cache.key(c.name, c.secret)
	user, known := o.Users.Lookup(c.name)
	if known && a.cache.has(key, user.Password.text) {
		return user.identity(), nil
	}
	addr, _ := o.Client(r)
	right, err := a.flight.do(r.Context(), key, func() (bool, error) { return a.verify(r.Context(), o, c, key, addr) })
	var slowed *slowedError
	switch {
	case errors.As(err, &slowed):
		return Identity{}, &Refusal{Status: http.StatusTooManyRequests, RetryAfter: slowed.wait, Reason: TooManyFailed, Name: c.name}
	case errors.Is(err, errBusy):
		return Identity{}, &Refusal{Status: http.StatusServiceUnavailable, RetryAfter: busyRetry, Reason: Busy, Name: c.name}
	case err != nil:
		return Identity{}, err
	case !right || !known:
		return Identity{}, refuse(BadCredentials, c.name)
	}
	return user.identity(), nil
}

// slowedError is for who has to wait.
type slowedError struct{ wait time.Duration }

func (e *slowedError) Error() string { return "too many failures" }

// verify verifies a password, unless its turn never comes. Who waited is asked
// once more whether he has to wait longer: what stood before him in the queue may
// all have been his own.
func (a *Authenticator) verify(ctx context.Context, o *Options, c credentials, key cacheKey, addr netip.Addr) (bool, error) {
	if wait := a.throttle.wait(addr, c.name); wait > 0 {
		return false, &slowedError{wait}
	}
	if err := a.gate.enter(ctx); err != nil {
		return false, err
	}
	defer a.gate.leave()
	if wait := a.throttle.wait(addr, c.name); wait > 0 {
		return false, &slowedError{wait}
	}
	h, counts := o.Users.hashOf(c.name)
	if right := a.gate.verify(h, c.secret); !right || !counts {
		a.throttle.failed(addr, c.name)
		return false, nil
	}
	a.throttle.succeeded(addr, c.name)
	a.cache.add(key, h.text)
	return true, nil
}
