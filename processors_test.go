package main

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// tendedProcessors are set for as long as the test runs; all tells whether all
// of them are used.
func tendedProcessors(t *testing.T) (p *processors, all *atomic.Bool) {
	t.Helper()
	all = new(atomic.Bool)
	p = makeProcessors(func() { all.Store(true) }, func() { all.Store(false) })
	stop := p.start()
	t.Cleanup(func() {
		stop()
		if !all.Load() {
			t.Error("one processor is left to what comes after the server")
		}
	})
	return p, all
}

// One processor is used as long as one thing happens at a time, all as soon as
// it may be two.
func TestProcessors(t *testing.T) {
	one, two := new(connection), new(connection)
	request := func(p *processors, c *connection) {
		p.enter(c)
		p.leave()
	}
	for name, test := range map[string]struct {
		does  func(p *processors)
		after time.Duration // what is done
		all   bool
	}{
		"start":                        {func(*processors) {}, 0, true},
		"nothing":                      {func(*processors) {}, quiet, false},
		"a client":                     {func(p *processors) { request(p, one) }, 2 * quiet, false},
		"a second client":              {func(p *processors) { request(p, two) }, 0, true},
		"a second client, a while ago": {func(p *processors) { request(p, two) }, quiet, false},
		"two requests of one client": {func(p *processors) {
			p.enter(one)
			request(p, one)
			p.leave()
		}, 0, true},
		"one that lasts":       {func(p *processors) { p.enter(one) }, shortRequest, true},
		"one that still lasts": {func(p *processors) { p.enter(one) }, 10 * quiet, true},
		"a short one":          {func(p *processors) { p.enter(one); time.Sleep(shortRequest - 1); p.leave() }, quiet, false},
		"a job":                {func(p *processors) { p.job(true) }, 10 * quiet, true},
		"a job that ended":     {func(p *processors) { p.job(true); p.job(false) }, quiet, false},
		"the second of jobs":   {func(p *processors) { p.job(true); p.job(true); p.job(false) }, 10 * quiet, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, all := tendedProcessors(t)
				if name != "start" {
					request(p, one)
					time.Sleep(2 * quiet)
					for range 3 { // as a client does
						request(p, one)
					}
					synctest.Wait()
					if all.Load() {
						t.Fatal("all processors are used for one client")
					}
				}
				test.does(p)
				synctest.Wait()
				time.Sleep(test.after)
				synctest.Wait()
				if all.Load() != test.all {
					t.Errorf("all are used: %v, want %v", all.Load(), test.all)
				}
			})
		})
	}
}

// Nobody is overlooked who wants all of them while they are being taken away.
func TestProcessorsAreWantedAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *processors
		all, taken := true, 0
		p = makeProcessors(func() { all = true }, func() {
			if taken++; taken == 1 {
				p.want()
			}
			all = false
		})
		defer p.start()()
		time.Sleep(quiet)
		synctest.Wait()
		if !all || taken != 1 {
			t.Errorf("all are used: %v, after they were taken away %d times", all, taken)
		}
	})
}

// A server tells of its requests.
func TestProcessorsOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, all := tendedProcessors(t)
		s := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			time.Sleep(2 * shortRequest)
			synctest.Wait()
			if !all.Load() {
				t.Error("one processor is used for a request that takes long")
			}
		}), discardLog(), defaultConfig())
		s.processors = p
		time.Sleep(2 * quiet)
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://localhost/", nil))
		time.Sleep(2 * quiet)
		synctest.Wait()
		if all.Load() {
			t.Error("all processors are used for what has ended")
		}
	})
}

// Who sets GOMAXPROCS knows better.
func TestProcessorsOfTheEnvironment(t *testing.T) {
	p := newProcessors(getenv("GOMAXPROCS", "2"))
	if p != nil {
		t.Error("GOMAXPROCS was overruled")
	}
	p.start()() // none is as good as any
	p.enter(nil)
	p.job(true)
	p.job(false)
	p.leave()
}
