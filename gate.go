package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A gate bounds how many requests use the disks of a share at once. A disk that
// hangs holds a thread for each call, whether or not its client is still there;
// without a bound the runtime would end the program at ten thousand. Those who
// find no place wait, and are then told to come again: other shares have gates
// of their own and notice nothing.
type gate struct {
	places  chan struct{} // a value in it is a place taken
	wait    time.Duration
	refused atomic.Uint64 // who waited in vain
}

func newGate(c LimitsConfig) *gate {
	return &gate{places: make(chan struct{}, c.Operations), wait: c.OperationWait}
}

// errBusy is the answer to who waited in vain: 503 (davfs.Status).
var errBusy = fmt.Errorf("as many requests as may are waiting for the disks of the share: %w", context.DeadlineExceeded)

// enter takes a place, at once or as soon as there is one.
func (g *gate) enter(ctx context.Context) error {
	select {
	case g.places <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		g.refused.Add(1)
		return errBusy
	}
}

func (g *gate) leave() { <-g.places }

// serve lets a request through to next.
func (g *gate) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if err := g.enter(r.Context()); err != nil {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(g.wait/time.Second))))
		http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
		return
	}
	x := exchangeOf(r.Context())
	if x == nil { // its reads and writes do not tell when they wait
		defer g.leave()
		next.ServeHTTP(w, r)
		return
	}
	x.take(g)
	defer x.give()
	next.ServeHTTP(w, r)
	if x.torn {
		panic(http.ErrAbortHandler)
	}
}

// A place is that of a request at a gate. It is free while the request waits
// for its client, so that slow clients keep nobody from the disks.
type place struct {
	mu sync.Mutex
	// +checklocks:mu
	gate *gate // nil: the request passed none
	// +checklocks:mu
	held bool
	// +checklocks:mu
	away int // goroutines of the request that wait for the network
	torn bool
}

// take makes the place that was entered at g the request's.
func (p *place) take(g *gate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate, p.held, p.away = g, true, 0
}

// give ends the request's passage.
func (p *place) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.gate.leave()
	}
	p.gate, p.held = nil, false
}

// leave is called before a wait for the network, back after it.
func (p *place) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away++
	if p.away == 1 && p.held {
		p.gate.leave()
		p.held = false
	}
}

func (p *place) back(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away--
	if p.away > 0 || p.gate == nil {
		return nil
	}
	err := p.gate.enter(ctx)
	p.held = err == nil
	return err
}
