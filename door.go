package main

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"

	"github.com/rs/zerolog"

	"overdav/auth"
	"overdav/davfs"
)

// A door stands before the shares. It finds out who makes a request, turns away
// whom it does not know, and hands on what the others may do.
type door struct {
	authenticator *auth.Authenticator
	tokens        *auth.Tokens // nil: there are none
	proxies       proxies
	tarpit        tarpit
	log           zerolog.Logger
	policy        atomic.Pointer[policy]
}

// A policy is what a reload can change.
type policy struct {
	asks      bool         // requests have to say who makes them
	anonymous bool         // or may leave it open, everywhere
	rules     []shareRules // by the share's place in the configuration
	options   auth.Options // of the authenticator
	weak      []string     // to be said in the log
	admins    map[string]bool
}

// shareRules are those of one share.
type shareRules struct {
	path      string
	rules     *auth.Rules // nil: everybody may do everything
	anonymous bool        // who gives no name may come in
	root      bool        // it is at "/"
}

func newDoor(c Config, log zerolog.Logger) (*door, error) {
	d := &door{log: log, tarpit: newTarpit()}
	site, err := c.site()
	if err != nil {
		return nil, err
	}
	d.proxies = site.TrustedProxies
	if d.tokens, err = openTokens(c); err != nil {
		return nil, err
	}
	p, err := d.newPolicy(c)
	if err != nil {
		return nil, err
	}
	d.authenticator = auth.NewAuthenticator(p.options, c.Auth.Cache)
	d.set(p)
	if c.plaintext() && c.Auth.AllowPlaintext {
		log.Warn().Msg("passwords cross the network in the clear")
	}
	return d, nil
}

func (d *door) newPolicy(c Config) (*policy, error) {
	users, weak, err := loadUsers(c)
	if err != nil {
		return nil, err
	}
	p := &policy{asks: c.authenticates(), anonymous: c.Anonymous || !c.authenticates(), weak: weak, admins: make(map[string]bool)}
	for _, name := range c.Auth.Admins {
		folded, _ := auth.FoldName(name) // Config.check has refused what is none
		p.admins[folded] = true
	}
	p.options = auth.Options{Users: users, Tokens: d.tokens, UserHeader: http.CanonicalHeaderKey(c.Auth.UserHeader), Client: d.client}
	for i := range c.Shares {
		rules, err := c.Shares[i].rules()
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, shareRules{
			path: c.Shares[i].Path, rules: rules, anonymous: p.anonymous || rules.NameAnonymous(), root: samePath(c.Shares[i].Path, "/"),
		})
	}
	return p, nil
}

// isAdmin says whether id is an admin's, and not that of one of their tokens.
func (p *policy) isAdmin(id auth.Identity) bool {
	return id.Scope == nil && !id.IsAnonymous() && p.admins[id.Name]
}

// client is auth.Options.Client.
func (d *door) client(r *http.Request) (addr netip.Addr, proxied bool) {
	return recordOf(r.Context()).client.Addr(), d.proxies.speak(r)
}

func (d *door) set(p *policy) {
	d.authenticator.Set(p.options)
	d.policy.Store(p)
	for _, text := range p.weak {
		d.log.Warn().Str("password", text).Msg("stored weakly")
	}
}

// reload is the door's reloader. Whether anybody has to say who they are decides
// for which names of the host the server answers, which is fixed at its start.
func (d *door) reload(c Config) (apply func(), err error) {
	p, err := d.newPolicy(c)
	if err != nil {
		return nil, err
	}
	if p.asks != d.policy.Load().asks {
		return nil, errors.New("users: the first and the last need a restart")
	}
	return func() { d.set(p) }, nil
}

// aboveShares and ownPlace are where a request can go that goes to no share.
const (
	aboveShares = -1
	ownPlace    = -2
)

// admit finds out who makes r, which goes to the share of that number, and
// returns r as it is to be handled; nil when it has been answered.
func (d *door) admit(w http.ResponseWriter, r *http.Request, place int) *http.Request {
	p := d.policy.Load()
	id := auth.Nobody
	if p.asks {
		var err error
		id, err = d.authenticator.Authenticate(r)
		switch {
		case errors.Is(err, auth.ErrNoCredentials) && p.open(place):
			id = auth.Nobody
		case errors.Is(err, auth.ErrNoCredentials):
			d.challenge(w, r)
			return nil
		case err != nil:
			d.refuse(w, r, err)
			return nil
		}
		if !id.IsAnonymous() {
			recordOf(r.Context()).user = id.Name
		}
	}
	v := &visit{asks: p.asks, admin: p.isAdmin(id)}
	if place >= 0 {
		if s := &p.rules[place]; s.rules != nil || id.Scope != nil {
			v.view = s.rules.For(id, s.path)
		}
	}
	if !p.asks && v.view == nil {
		return r // everybody is nobody and may do everything, which is how a request is without us
	}
	return r.WithContext(context.WithValue(auth.With(r.Context(), id), visitKey{}, v))
}

// sees says whether who makes r has any right to anything in the share of that
// number, and so may know of it.
func (d *door) sees(r *http.Request, place int) bool {
	p, id := d.policy.Load(), auth.From(r.Context())
	s := &p.rules[place]
	if p.asks && id.IsAnonymous() && !s.anonymous {
		return false
	}
	return s.rules.For(id, s.path).SeesAnything()
}

// hides says whether the share of that number, to which r goes, is not there for
// who makes it. Who could give a name is refused with 401 there, and not told that
// there is nothing; and that there is a share at the root is no secret.
func (d *door) hides(r *http.Request, place int) bool {
	v := visitOf(r)
	switch {
	case v.view == nil, d.policy.Load().rules[place].root:
		return false
	case v.asks && auth.From(r.Context()).IsAnonymous():
		return false
	}
	return !v.view.SeesAnything()
}

// open says whether who gives no name may come in. Above the shares that is so
// when one of them is open: the way to it must be found. What is our own asks
// for itself.
func (p *policy) open(place int) bool {
	if place >= 0 {
		return p.rules[place].anonymous
	}
	for i := range p.rules {
		if p.rules[i].anonymous {
			return true
		}
	}
	return place == ownPlace
}

// A visit is what the door has decided about a request.
type visit struct {
	asks  bool       // who has no name could give one
	admin bool       // may reset what is not their own, and end others' locks
	view  *auth.View // nil: everything is allowed
}

type visitKey struct{}

func visitOf(r *http.Request) *visit {
	if v, ok := r.Context().Value(visitKey{}).(*visit); ok {
		return v
	}
	return new(visit)
}

// userOf is davfs.Options.User: "" is who gave no name.
func userOf(r *http.Request) string {
	if id := auth.From(r.Context()); !id.IsAnonymous() {
		return id.Name
	}
	return ""
}

// mayUnlock is davfs.Options.Unlocks. Whoever has lost the right to lock may still
// end their locks, but no token ends one that it could not have made.
func mayUnlock(r *http.Request, root string, own bool) bool {
	v := visitOf(r)
	if !own {
		return v.admin
	}
	return v.view == nil || v.view.Leaves(root)&auth.RightProps != 0
}

// accessOf is davfs.Options.Access.
func accessOf(r *http.Request) davfs.Access {
	if v := visitOf(r).view; v != nil {
		return access{v}
	}
	return nil
}

// An access is an auth.View in davfs' words. The rights have the same bits
// (TestRightsAreThoseOfDavfs).
type access struct{ *auth.View }

// Rights is davfs.Access's.
func (a access) Rights(name string) davfs.Right { return davfs.Right(a.View.Rights(name)) }

// refuse answers credentials that let nobody in.
func (d *door) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var refusal *auth.Refusal
	if !errors.As(err, &refusal) {
		return // the client has gone; nobody reads an answer
	}
	if refusal.Err != nil {
		d.log.Error().Err(refusal.Err).Msg("tokens not read")
	}
	switch refusal.Status {
	case http.StatusUnauthorized:
		recordOf(r.Context()).authFailed(&d.log, refusal.Name, string(refusal.Reason))
		d.challenge(w, r)
		return
	case http.StatusTooManyRequests:
		recordOf(r.Context()).authFailed(&d.log, refusal.Name, string(refusal.Reason))
	}
	d.tarpit.hold(r.Context(), refusal.RetryAfter)
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(refusal.RetryAfter.Seconds()))))
	http.Error(w, http.StatusText(refusal.Status), refusal.Status)
}

// challenge asks who makes a request. It is the same whatever was wrong.
func (d *door) challenge(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("WWW-Authenticate", auth.Challenge)
	http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
}

// mayIdentify is davfs.Options.Challenge: who was refused something and has not
// said who they are is asked.
func mayIdentify(h http.Header, r *http.Request) bool {
	if !visitOf(r).asks || !auth.From(r.Context()).IsAnonymous() {
		return false
	}
	h.Set("WWW-Authenticate", auth.Challenge)
	return true
}
