package auth

import (
	"net/netip"
	"sync"
	"time"
)

// How failures slow down: freeFailures in freeWindow cost nothing, the next has to
// wait firstPause, and each after that twice as long as the one before, up to
// maxPause. Who has not failed for forgetAfter begins anew.
const (
	freeFailures = 10
	freeWindow   = time.Minute
	firstPause   = time.Second
	maxPause     = 15 * time.Minute
	forgetAfter  = 2 * maxPause
)

// maxOffenders bounds how many addresses and names are remembered, and maxHomes
// where how many came in.
const (
	maxOffenders = 10_000
	maxHomes     = 10_000
)

// A throttle slows down who fails often, by address and by name. Both count for
// themselves: a name that is attacked from many places is slowed down as well as
// one place that tries many names.
//
// Somebody who attacks a name must not keep its owner out, though. Where a name
// came in before, it is at home, and what was done with it elsewhere does not
// count there.
type throttle struct {
	mu sync.Mutex
	// +checklocks:mu
	offenders map[offender]*offences
	// +checklocks:mu
	homes map[offender]struct{} // both its fields are set
}

// An offender is an address or a name; or, as a home, a name at an address.
type offender struct {
	net  netip.Prefix
	name string
}

type offences struct {
	failures int       // in the window
	window   time.Time // when it began
	pause    time.Duration
	until    time.Time // nothing is verified before
	last     time.Time // the latest failure
}

func newThrottle() *throttle {
	return &throttle{offenders: make(map[offender]*offences), homes: make(map[offender]struct{})}
}

// network returns what stands for addr: of IPv6 the /64, which is the least that
// a customer is given. It is the zero Prefix for who has no address, as on a Unix
// socket.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	length := addr.BitLen()
	if addr.Is6() {
		length = 64
	}
	prefix, _ := addr.Prefix(length)
	return prefix
}

// wait returns for how long nothing will be verified for name at addr.
func (t *throttle) wait(addr netip.Addr, name string) time.Duration {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := time.Duration(0)
	if o := t.offenders[offender{net: network(addr)}]; o != nil {
		wait = o.until.Sub(now)
	}
	if _, home := t.homes[offender{network(addr), name}]; home {
		return max(wait, 0)
	}
	if o := t.offenders[offender{name: name}]; o != nil {
		wait = max(wait, o.until.Sub(now))
	}
	return max(wait, 0)
}

// succeeded notes that name came in at addr. It makes up for no failure: who has
// an account could else go on guessing for another.
func (t *throttle) succeeded(addr netip.Addr, name string) {
	home := offender{network(addr), name}
	if !home.net.IsValid() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.homes) >= maxHomes {
		for any := range t.homes { // as the map shuffles them
			delete(t.homes, any)
			break
		}
	}
	t.homes[home] = struct{}{}
}

// failed notes a failure of name at addr.
func (t *throttle) failed(addr netip.Addr, name string) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, who := range []offender{{net: network(addr)}, {name: name}} {
		if who == (offender{}) {
			continue
		}
		o := t.offenders[who]
		if o == nil {
			if len(t.offenders) >= maxOffenders {
				t.evictLocked()
			}
			o = new(offences)
			t.offenders[who] = o
		}
		o.add(now)
	}
}

// add notes a failure at now.
func (o *offences) add(now time.Time) {
	if now.Sub(o.last) > forgetAfter {
		o.pause = 0
	}
	if o.pause == 0 && now.Sub(o.window) > freeWindow {
		o.failures, o.window = 0, now
	}
	o.last = now
	if o.failures++; o.failures < freeFailures {
		return
	}
	o.pause = min(max(2*o.pause, firstPause), maxPause)
	o.until = now.Add(o.pause)
}

// evictLocked makes room: of a few, as the map shuffles them, the one that has to
// wait least goes.
//
// Preconditions: t.mu is locked, and there is somebody.
func (t *throttle) evictLocked() {
	var victim offender
	var least *offences
	looked := 0
	for who, o := range t.offenders {
		if least == nil || o.until.Before(least.until) || o.until.Equal(least.until) && o.last.Before(least.last) {
			victim, least = who, o
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(t.offenders, victim)
}
