package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func mustUsers(t testing.TB, list ...User) *Users {
	t.Helper()
	users, err := NewUsers(list)
	if err != nil {
		t.Fatal(err)
	}
	return users
}

// request is one from addr, with headers as pairs.
func request(addr string, headers ...string) *http.Request {
	r := &http.Request{RemoteAddr: addr, Header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// login is a request from addr with name and password.
func login(addr, name, password string) *http.Request {
	return request(addr, "Authorization", basic(name, password))
}

// peer takes 127.0.0.1 and those on Unix sockets for proxies.
func peer(r *http.Request) (netip.Addr, bool) {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	return addr.Addr(), err != nil || addr.Addr().IsLoopback()
}

const here = "192.0.2.1:4711"

// said is the result of Authenticate in a word.
func said(id Identity, err error) string {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return fmt.Sprintf("%d %s", refusal.Status, refusal.Reason)
	case err != nil:
		return err.Error()
	case id.Scope != nil:
		return id.Name + " by token"
	}
	return id.Name
}

func TestWhoComesIn(t *testing.T) {
	tokens := newTokens(t)
	aliceToken, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	goneToken, _ := mustCreate(t, tokens, Token{User: "gone", Label: "x"})
	outToken, _ := mustCreate(t, tokens, Token{User: "out", Label: "x"})
	o := Options{
		Users: mustUsers(t,
			User{Name: "alice", Password: quick(t, "right: é"), Groups: []string{"staff"}},
			User{Name: "out", Password: quick(t, "p"), Disabled: true},
			User{Name: "none"},
			User{Name: "long", Password: quick(t, strings.Repeat("x", 72))}),
		Tokens: tokens, Client: peer, UserHeader: "X-Remote-User",
	}
	noHeader := o
	noHeader.UserHeader = ""
	noTokens := o
	noTokens.Tokens = nil
	const bad, malformed, badProxy = "401 bad-credentials", "401 malformed", "401 bad-proxy-user"
	const proxy = "127.0.0.1:1"
	tests := []struct {
		name string
		r    *http.Request
		o    Options
		want string
	}{
		{"nobody", request(here), o, "no credentials"},
		{"empty Basic", login(here, "", ""), o, "no credentials"},
		{"right", login(here, "alice", "right: é"), o, "alice"},
		{"right, with capitals", login(here, "ALICE", "right: é"), o, "alice"},
		{"without padding", request(here, "Authorization", strings.TrimRight(basic("alice", "right: é"), "=")), o, "alice"},
		{"scheme in capitals", request(here, "Authorization", strings.Replace(basic("alice", "right: é"), "Basic", "BASIC ", 1)), o, "alice"},
		{"wrong", login(here, "alice", "wrong"), o, bad},
		{"Latin-1", login(here, "alice", "right: \xe9"), o, malformed},
		{"unknown", login(here, "bob", "right: é"), o, bad},
		{"anonymous", login(here, "anonymous", "x"), o, bad},
		{"a name that is none", login(here, "a/b", "x"), o, bad},
		{"disabled", login(here, "out", "p"), o, bad},
		{"no password", login(here, "none", "x"), o, bad},
		{"empty password", login(here, "none", ""), o, malformed},
		{"empty password of a known", login(here, "alice", ""), o, malformed},
		{"empty name", login(here, "", "x"), o, malformed},
		{"72 bytes", login(here, "long", strings.Repeat("x", 72)), o, "long"},
		{"73 bytes", login(here, "long", strings.Repeat("x", 73)), o, bad},
		{"a long password", login(here, "alice", strings.Repeat("x", maxPassword+1)), o, malformed},
		{"a control character", login(here, "alice", "a\x00"), o, malformed},
		{"no colon", request(here, "Authorization", "Basic YWxpY2U="), o, malformed},
		{"no base64", request(here, "Authorization", "Basic !"), o, malformed},
		{"another scheme", request(here, "Authorization", `Digest username="alice"`), o, malformed},
		{"two headers", request(here, "Authorization", basic("alice", "right: é"), "Authorization", basic("out", "p")), o, malformed},
		{"a huge header", request(here, "Authorization", "Basic "+strings.Repeat("A", 2000)), o, malformed},

		{"token", login(here, "alice", aliceToken), o, "alice by token"},
		{"token as bearer", request(here, "Authorization", "Bearer "+aliceToken), o, "alice by token"},
		{"token of another", login(here, "long", aliceToken), o, bad},
		{"token of nobody", login(here, "", aliceToken), o, malformed},
		{"no token", login(here, "alice", "odt_wrong"), o, bad},
		{"no token as bearer", request(here, "Authorization", "Bearer odt_wrong"), o, bad},
		{"password as bearer", request(here, "Authorization", "Bearer right: é"), o, bad},
		{"empty bearer", request(here, "Authorization", "Bearer "), o, malformed},
		{"token of a disabled user", login(here, "out", outToken), o, bad},
		{"token of who is gone", login(here, "gone", goneToken), noHeader, bad},
		{"token of who comes through the proxy", login(here, "gone", goneToken), o, "gone by token"},
		{"token, without tokens", login(here, "alice", aliceToken), noTokens, bad},
		{"bearer, without tokens", request(here, "Authorization", "Bearer "+aliceToken), noTokens, bad},

		{"proxy", request(proxy, "X-Remote-User", "Bob"), o, "bob"},
		{"a proxy on a Unix socket", request("@", "X-Remote-User", "bob"), o, "bob"},
		{"proxy, disabled", request(proxy, "X-Remote-User", "out"), o, badProxy},
		{"proxy, no name", request(proxy, "X-Remote-User", ""), o, badProxy},
		{"proxy, anonymous", request(proxy, "X-Remote-User", "anonymous"), o, badProxy},
		{"proxy, two names", request(proxy, "X-Remote-User", "bob", "X-Remote-User", "alice"), o, badProxy},
		{"proxy, without the header", login(proxy, "alice", "right: é"), o, "alice"},
		{"proxy that passes on what it checked", request(proxy, "X-Remote-User", "bob", "Authorization", basic("bob", "x")), o, "bob"},
		{"proxy that passes on another's", request(proxy, "X-Remote-User", "bob", "Authorization", basic("alice", "right: é")), o, badProxy},
		{"proxy and a bearer", request(proxy, "X-Remote-User", "alice", "Authorization", "Bearer "+aliceToken), o, badProxy},
		{"not the proxy", request(here, "X-Remote-User", "bob"), o, "no credentials"},
		{"not the proxy, but right", request(here, "X-Remote-User", "bob", "Authorization", basic("alice", "right: é")), o, "alice"},
		{"the proxy, but no header is believed", request(proxy, "X-Remote-User", "bob"), noHeader, "no credentials"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := NewAuthenticator(test.o, DefaultKeep)
			test.r = test.r.WithContext(t.Context())
			id, err := a.Authenticate(test.r)
			if got := said(id, err); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if err != nil && (id.Name != "" || id.Groups != nil) {
				t.Errorf("an error and an identity: %+v", id)
			}
			if id.Name == "alice" && fmt.Sprint(id.Groups) != "[staff]" {
				t.Errorf("groups %v", id.Groups)
			}
			if test.r.RemoteAddr == here && test.o.UserHeader != "" && test.r.Header["X-Remote-User"] != nil {
				t.Error("the header of who is no proxy is passed on")
			}
		})
	}
}

func newTestAuthenticator(t testing.TB) *Authenticator {
	return NewAuthenticator(Options{Users: mustUsers(t, User{Name: "alice", Password: quick(t, "right")}, User{Name: "bob", Password: quick(t, "bob's")}), Client: peer}, DefaultKeep)
}

func try(t testing.TB, a *Authenticator, addr, name, password string) string {
	t.Helper()
	return said(a.Authenticate(login(addr, name, password).WithContext(t.Context())))
}

func TestRightCredentialsAreVerifiedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAuthenticator(t)
		expect := func(want string, hashes int64, name, password string) {
			t.Helper()
			before := a.Hashed()
			if got := try(t, a, here, name, password); got != want || a.Hashed()-before != hashes {
				t.Errorf("%s: got %s and %d hashes, want %s and %d", name, got, a.Hashed()-before, want, hashes)
			}
		}
		expect("alice", 1, "alice", "right")
		expect("alice", 0, "alice", "right")
		expect("alice", 0, "Alice", "right")
		expect("401 bad-credentials", 1, "bob", "right") // the same password, another user
		expect("401 bad-credentials", 1, "alice", "wrong")
		expect("401 bad-credentials", 1, "alice", "wrong") // what is wrong is not remembered

		for range 5 { // in use it stays
			time.Sleep(DefaultKeep - time.Second)
			expect("alice", 0, "alice", "right")
		}
		time.Sleep(DefaultKeep + time.Second)
		expect("alice", 1, "alice", "right")
	})
}

func TestWhatIsRememberedDependsOnTheConfiguration(t *testing.T) {
	a := newTestAuthenticator(t)
	right := quick(t, "right")
	try(t, a, here, "alice", "right")
	set := func(users ...User) { a.Set(Options{Users: mustUsers(t, users...), Client: peer}) }

	set(User{Name: "alice", Password: a.options.Load().Users.byName["alice"].Password, Groups: []string{"new"}})
	before := a.Hashed()
	id, err := a.Authenticate(login(here, "alice", "right"))
	if err != nil || fmt.Sprint(id.Groups) != "[new]" || a.Hashed() != before {
		t.Errorf("the same password: %+v, %v, %d hashes", id, err, a.Hashed()-before)
	}
	set(User{Name: "alice", Password: quick(t, "other")}, User{Name: "bob", Password: right})
	if got := try(t, a, here, "alice", "right"); got != "401 bad-credentials" {
		t.Errorf("the password was changed: %s", got)
	}
	set(User{Name: "alice", Password: right})
	if got := try(t, a, here, "alice", "right"); got != "alice" || a.Hashed() != before+2 {
		t.Errorf("another hash of the same password: %s, %d hashes", got, a.Hashed()-before)
	}
	set(User{Name: "alice", Password: right, Disabled: true}, User{Name: "bob", Password: right})
	if got := try(t, a, here, "alice", "right"); got != "401 bad-credentials" {
		t.Errorf("disabled: %s", got)
	}
	set(User{Name: "bob", Password: right})
	if got := try(t, a, here, "alice", "right"); got != "401 bad-credentials" {
		t.Errorf("removed: %s", got)
	}
}

// An attack on a name, from everywhere, and on an address: who is in stays in,
// nothing is hashed any more, and nobody is locked out for ever.
func TestSlowDownNeverHitsWhoIsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAuthenticator(t)
		try(t, a, here, "alice", "right")
		for i := range 3 * freeFailures {
			try(t, a, fmt.Sprintf("198.51.100.%d:1", i), "alice", "wrong")
			try(t, a, here, "bob", "wrong")
		}
		before := a.Hashed()
		for _, name := range []string{"alice", "bob", "unknown"} { // here, nobody new comes in
			if got := try(t, a, here, name, "x"); got != "429 too-many-failed" {
				t.Errorf("%s here: %s", name, got)
			}
		}
		if got := try(t, a, "203.0.113.1:1", "bob", "bob's"); got != "429 too-many-failed" {
			t.Errorf("bob elsewhere: %s", got)
		}
		if got := try(t, a, here, "alice", "right"); got != "alice" {
			t.Errorf("alice here: %s", got)
		}
		if n := a.Hashed() - before; n != 0 {
			t.Errorf("%d hashes for who is slowed down", n)
		}
		_, err := a.Authenticate(login(here, "bob", "bob's"))
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.RetryAfter <= 0 {
			t.Fatalf("got %v", err)
		}
		time.Sleep(refusal.RetryAfter)
		if got := try(t, a, "203.0.113.1:1", "bob", "bob's"); got != "bob" {
			t.Errorf("after %v: %s", refusal.RetryAfter, got)
		}
	})
}

func TestUnknownNamesCountLikeKnownOnes(t *testing.T) {
	for _, name := range []string{"alice", "unknown"} {
		a := newTestAuthenticator(t)
		for i := range freeFailures {
			if got := try(t, a, fmt.Sprintf("198.51.100.%d:1", i), name, "wrong"); got != "401 bad-credentials" {
				t.Errorf("%s: %s", name, got)
			}
		}
		if got := try(t, a, here, name, "wrong"); got != "429 too-many-failed" || a.Hashed() != freeFailures {
			t.Errorf("%s: %s, after %d hashes", name, got, a.Hashed())
		}
	}
}

// Who is asked for that does not exist costs what somebody costs who does.
func TestUnknownNamesBurnAHash(t *testing.T) {
	dear, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost+1)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHash(string(dear))
	if err != nil {
		t.Fatal(err)
	}
	users := mustUsers(t, User{Name: "cheap", Password: quick(t, "x")}, User{Name: "dear", Password: h}, User{Name: "none"}, User{Name: "out", Password: h, Disabled: true})
	seen := make(map[string]int)
	for i := range 100 {
		name := fmt.Sprintf("nobody%d", i)
		first, counts := users.hashOf(name)
		again, _ := users.hashOf(name)
		if counts || first.isZero() || first.text != again.text {
			t.Fatalf("%s: counts %t, zero %t, the same each time %t", name, counts, first.isZero(), first.text == again.text)
		}
		seen[first.text]++
	}
	if len(seen) != 2 { // "out" has the same as "dear"
		t.Errorf("the costs of %d users are imitated, of 2", len(seen))
	}
	for _, name := range []string{"none", "out", ""} {
		if h, counts := users.hashOf(name); counts || h.isZero() {
			t.Errorf("%q: counts %t, zero %t", name, counts, h.isZero())
		}
	}
	if h, counts := mustUsers(t).hashOf("x"); counts || !h.isZero() {
		t.Error("without users there is something to verify")
	}
}

func TestFewAreHashedAtOnceAndFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAuthenticator(t)
		for range cap(a.gate.slots) { // somebody else is at it
			if err := a.gate.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		answers := make(chan string, 2*maxQueue)
		ask := func(i int) {
			go func() { answers <- try(t, a, fmt.Sprintf("10.0.0.%d:1", i), fmt.Sprintf("u%d", i), "x") }()
		}
		for i := range maxQueue {
			ask(i)
		}
		synctest.Wait()
		if a.Waiting() != maxQueue || a.Hashed() != 0 || a.Hashing() != cap(a.gate.slots) || a.Unhashed() != 0 {
			t.Errorf("%d wait, %d are hashed, %d were, %d were refused", a.Waiting(), a.Hashing(), a.Hashed(), a.Unhashed())
		}
		ask(maxQueue)
		if got := <-answers; got != "503 busy" {
			t.Errorf("one too many: %s", got)
		}
		if a.Waiting() != maxQueue || a.Unhashed() != 1 {
			t.Errorf("after one too many %d wait, %d were refused", a.Waiting(), a.Unhashed())
		}
		for range cap(a.gate.slots) {
			a.gate.leave()
		}
		for range maxQueue {
			if got := <-answers; got != "401 bad-credentials" {
				t.Errorf("one who waited: %s", got)
			}
		}
		if a.Hashing() != 0 || a.Waiting() != 0 || a.Unhashed() != 1 {
			t.Error("the gate is not empty")
		}
	})
}

// All come at once, before the first has failed.
func TestAFloodFromOneAddressIsHashedNoMoreThanTenTimes(t *testing.T) {
	a := newTestAuthenticator(t)
	var wg sync.WaitGroup
	for i := range maxQueue {
		wg.Go(func() { try(t, a, here, fmt.Sprintf("u%d", i), "x") })
	}
	wg.Wait()
	if n, most := a.Hashed(), int64(freeFailures+cap(a.gate.slots)-1); n > most {
		t.Errorf("%d hashes, at most %d", n, most)
	}
}

func TestManyConnectionsOfOneClientAreVerifiedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAuthenticator(t)
		for range cap(a.gate.slots) {
			_ = a.gate.enter(t.Context()) // it is empty
		}
		leader, cancel := context.WithCancel(t.Context())
		answers := make(chan string, 8)
		go func() { answers <- said(a.Authenticate(login(here, "alice", "right").WithContext(leader))) }()
		synctest.Wait()
		for range 7 {
			go func() { answers <- try(t, a, here, "alice", "right") }()
		}
		synctest.Wait()
		if n := a.gate.waiting.Load(); n != 1 {
			t.Errorf("%d wait for one answer", n)
		}
		cancel() // who asked goes; the others still want to know
		if got := <-answers; got != context.Canceled.Error() {
			t.Errorf("who went got %s", got)
		}
		synctest.Wait()
		for range cap(a.gate.slots) {
			a.gate.leave()
		}
		for range 7 {
			if got := <-answers; got != "alice" {
				t.Errorf("got %s", got)
			}
		}
		if a.Hashed() != 1 {
			t.Errorf("%d hashes", a.Hashed())
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(DefaultKeep)
	for i := range maxCached + 100 {
		c.add(c.key("u", fmt.Sprint(i)), "stored")
	}
	c.mu.RLock()
	n := len(c.entries)
	c.mu.RUnlock()
	if n != maxCached {
		t.Errorf("%d entries", n)
	}
	if c.key("ab", "c") == c.key("a", "bc") || newCache(DefaultKeep).key("a", "b") == c.key("a", "b") {
		t.Error("two keys are the same")
	}
	none := newCache(0)
	none.add(none.key("a", "b"), "stored")
	if none.has(none.key("a", "b"), "stored") {
		t.Error("a cache that keeps nothing does")
	}
}

func TestTokensThatCannotBeReadAreNobodysFault(t *testing.T) {
	tokens := newTokens(t)
	secret, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	a := NewAuthenticator(Options{Users: mustUsers(t, User{Name: "alice", Password: quick(t, "right")}), Tokens: tokens, Client: peer}, DefaultKeep)
	if err := os.WriteFile(tokens.file, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := try(t, a, here, "alice", secret); got != "503 unavailable" {
		t.Errorf("token: %s", got)
	}
	if got := try(t, a, here, "alice", "right"); got != "alice" {
		t.Errorf("password: %s", got)
	}
}

func TestIdentityInContext(t *testing.T) {
	if id := From(t.Context()); !id.IsAnonymous() {
		t.Errorf("nobody is %+v", id)
	}
	ctx := With(t.Context(), Identity{Name: "alice", Groups: []string{"g"}})
	if id := From(ctx); id.Name != "alice" || len(id.Groups) != 1 || id.IsAnonymous() {
		t.Errorf("got %+v", id)
	}
}

func FuzzAuthorization(f *testing.F) {
	f.Add(basic("alice", "right"))
	f.Add("Bearer odt_x")
	f.Add("Basic Og==")
	f.Add("basic  YTpi")
	f.Fuzz(func(t *testing.T, value string) {
		c, err := parseAuthorization(http.Header{"Authorization": {value}})
		if err != nil {
			return
		}
		if c.secret == "" || len(c.secret) > maxAuthorization || len(c.name) > maxName || c.bearer && c.name != "" {
			t.Errorf("%q gives %q, %q", value, c.name, c.secret)
		}
		r := &http.Request{Header: http.Header{"Authorization": {value}}}
		if name, password, ok := r.BasicAuth(); ok && !c.bearer && password != c.secret {
			t.Errorf("%q: net/http reads %q and %q, we %q", value, name, password, c.secret)
		}
	})
}

// What each request costs whose credentials are remembered, among 1,000 users.
func BenchmarkRemembered(b *testing.B) {
	var list []User
	h := quick(b, "password")
	for i := range 1000 {
		list = append(list, User{Name: fmt.Sprintf("user%d", i), Password: h})
	}
	a := NewAuthenticator(Options{Users: mustUsers(b, list...), Client: peer}, DefaultKeep)
	var requests []*http.Request
	for i := range list {
		r := login(here, list[i].Name, "password").WithContext(b.Context())
		if _, err := a.Authenticate(r); err != nil {
			b.Fatal(err)
		}
		requests = append(requests, r)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := a.Authenticate(requests[i%len(requests)]); err != nil {
			b.Fatal(err)
		}
	}
}

// The time of a failure for a name that exists and for one that does not.
func BenchmarkRefused(b *testing.B) {
	text, err := bcrypt.GenerateFromPassword([]byte("right"), 10)
	if err != nil {
		b.Fatal(err)
	}
	h, err := ParseHash(string(text))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"known", "unknown", "disabled", "nopassword"} {
		b.Run(name, func(b *testing.B) {
			a := NewAuthenticator(Options{Users: mustUsers(b, User{Name: "known", Password: h}, User{Name: "disabled", Password: h, Disabled: true}, User{Name: "nopassword"}), Client: peer}, DefaultKeep)
			addr := netip.MustParseAddr("10.0.0.0").As4()
			r := login(here, name, "wrong").WithContext(b.Context())
			for i := range b.N {
				addr[1], addr[2], addr[3] = byte(i>>16), byte(i>>8), byte(i)
				r.RemoteAddr = netip.AddrFrom4(addr).String() + ":1"
				a.throttle = newThrottle()
				if _, err := a.Authenticate(r); err == nil {
					b.Fatal("came in")
				}
			}
		})
	}
}

// The hash that is verified for want of one is somebody's: their password must not
// let in anybody else.
func TestADecoysPasswordLetsNobodyElseIn(t *testing.T) {
	a := NewAuthenticator(Options{Users: mustUsers(t, User{Name: "alice", Password: quick(t, "right")}, User{Name: "none"}, User{Name: "out", Disabled: true}), Client: peer}, DefaultKeep)
	for _, name := range []string{"none", "out", "unknown", "a/b"} {
		for range 2 { // nor be remembered
			if got := try(t, a, here, name, "right"); got != "401 bad-credentials" {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
}
