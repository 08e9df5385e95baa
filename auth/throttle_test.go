package auth

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailuresSlowDownMoreAndMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, addr := newThrottle(), netip.MustParseAddr("192.0.2.1")
		for i := range freeFailures - 1 {
			th.failed(addr, "alice")
			if wait := th.wait(addr, "alice"); wait != 0 {
				t.Fatalf("after %d failures: wait %v", i+1, wait)
			}
		}
		total := time.Duration(0)
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
			th.failed(addr, "alice")
			if wait := th.wait(addr, "alice"); wait != want*time.Second {
				t.Errorf("wait %v, want %v", wait, want*time.Second)
			}
			time.Sleep(want * time.Second)
			total += want * time.Second
			if wait := th.wait(addr, "alice"); wait != 0 {
				t.Errorf("the pause of %v is over, and still to wait %v", want*time.Second, wait)
			}
		}
		time.Sleep(forgetAfter + time.Second)
		th.failed(addr, "alice")
		if wait := th.wait(addr, "alice"); wait != 0 {
			t.Errorf("after a long peace one failure costs %v", wait)
		}
	})
}

func TestFailuresFarApartCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, addr := newThrottle(), netip.MustParseAddr("192.0.2.1")
		for range 100 {
			th.failed(addr, "alice")
			if wait := th.wait(addr, "alice"); wait != 0 {
				t.Fatalf("wait %v", wait)
			}
			time.Sleep(freeWindow / (freeFailures - 2))
		}
	})
}

func TestWhoIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addr := netip.MustParseAddr
		fail := func(th *throttle, at, name string) {
			for range freeFailures {
				th.failed(addr(at), name)
			}
		}
		tests := []struct {
			at, name string // after failures of alice at 192.0.2.1
			slow     bool
		}{
			{"192.0.2.1", "alice", true},
			{"192.0.2.1", "bob", true},
			{"192.0.2.2", "alice", true},
			{"::ffff:192.0.2.1", "bob", true},
			{"192.0.2.2", "bob", false},
		}
		th := newThrottle()
		fail(th, "192.0.2.1", "alice")
		for _, test := range tests {
			if got := th.wait(addr(test.at), test.name) > 0; got != test.slow {
				t.Errorf("%s at %s is slowed down: %t", test.name, test.at, got)
			}
		}

		th = newThrottle()
		fail(th, "2001:db8::1", "alice")
		for at, want := range map[string]bool{"2001:db8::2": true, "2001:db8::ffff:1:2%eth0": true, "2001:db8:0:1::1": false} {
			if got := th.wait(addr(at), "bob") > 0; got != want {
				t.Errorf("%s is slowed down: %t", at, got)
			}
		}

		// Nobody knows where those behind a Unix socket are, nor does a name that
		// cannot be one stand for somebody.
		th = newThrottle()
		for range freeFailures {
			th.failed(netip.Addr{}, "")
		}
		if wait := th.wait(netip.Addr{}, "bob"); wait != 0 {
			t.Errorf("without an address: wait %v", wait)
		}
	})
}

func TestWhoseNameIsAttackedCanComeInWhereHeDidBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, home, away := newThrottle(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
		th.succeeded(home, "alice")
		for range 2 * freeFailures {
			th.failed(away, "alice")
		}
		if wait := th.wait(home, "alice"); wait != 0 {
			t.Errorf("at home: wait %v", wait)
		}
		if wait := th.wait(netip.MustParseAddr("203.0.113.1"), "alice"); wait == 0 {
			t.Error("elsewhere the attack goes on")
		}
		for range freeFailures {
			th.failed(home, "bob")
		}
		if wait := th.wait(home, "alice"); wait == 0 {
			t.Error("an address that fails often is not slowed down because somebody is at home there")
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	th, worst := newThrottle(), netip.MustParseAddr("192.0.2.1")
	for range 2 * freeFailures {
		th.failed(worst, "")
	}
	base := netip.MustParseAddr("10.0.0.0").As4()
	for i := range maxOffenders + 1000 {
		base[1], base[2], base[3] = byte(i>>16), byte(i>>8), byte(i)
		addr := netip.AddrFrom4(base)
		th.failed(addr, fmt.Sprintf("u%d", i))
		th.succeeded(addr, "alice")
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	if n := len(th.offenders); n > maxOffenders {
		t.Errorf("%d offenders are remembered", n)
	}
	if n := len(th.homes); n > maxHomes {
		t.Errorf("%d homes are remembered", n)
	}
	if th.offenders[offender{net: network(worst)}] == nil {
		t.Error("the worst was forgotten first")
	}
}
