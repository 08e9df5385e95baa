package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// processors has Go use one processor as long as there is one thing to do at a
// time: one client that sends one request after another. For each request the
// runtime would wake a second thread, to wait with it for the client to go away,
// which costs more than a small request does; see decision 26. As soon as there
// may be two things to do at a time, all processors are used, and until there
// was no such sign for a while.
type processors struct {
	all, one func() // sets how many are used

	last    atomic.Pointer[connection] // of the request before
	running atomic.Int32               // requests
	entered atomic.Int64               // when the last one came: a time since began
	jobs    atomic.Int32               // that take long, and are no request
	wanted  atomic.Int64               // when all were wanted last, likewise
	using   atomic.Bool                // all, now
	wake    chan struct{}
	timer   *time.Timer // set while there is one processor and a request
	began   time.Time
}

const (
	// quiet is for how long nothing may want all processors before there is one.
	quiet = 50 * time.Millisecond
	// shortRequest is up to when a request does not want all processors.
	shortRequest = 5 * time.Millisecond
)

// newProcessors is nil where there is nothing to choose: with one processor, or
// where GOMAXPROCS is set, by somebody who knows better.
func newProcessors(getenv func(string) string) *processors {
	if getenv("GOMAXPROCS") != "" || runtime.GOMAXPROCS(0) == 1 {
		return nil
	}
	// The default follows the control group's limit, as long as it is asked for.
	return makeProcessors(runtime.SetDefaultGOMAXPROCS, func() { runtime.GOMAXPROCS(1) })
}

func makeProcessors(all, one func()) *processors {
	p := &processors{all: all, one: one, wake: make(chan struct{}, 1), began: time.Now()}
	p.timer = time.AfterFunc(quiet, p.lookAtRequests)
	return p
}

// start sets how many processors are used until stop is called. Then all are.
func (p *processors) start() (stop func()) {
	if p == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tending sync.WaitGroup
	tending.Go(func() { p.tend(ctx) })
	return func() {
		cancel()
		tending.Wait()
	}
}

// tend sets how many processors are used until ctx is done.
func (p *processors) tend(ctx context.Context) {
	defer p.all()
	for ctx.Err() == nil {
		p.using.Store(true)
		p.all()
		if p.awaitQuiet(ctx) != nil {
			return
		}
		p.using.Store(false)
		if p.left() > 0 {
			continue // wanted by somebody who saw that all are used
		}
		p.one()
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
	}
}

// awaitQuiet waits until nothing has wanted all processors for a while.
func (p *processors) awaitQuiet(ctx context.Context) error {
	for left := quiet; left > 0; left = p.left() {
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// left is for how long all processors are used still, if nothing happens.
func (p *processors) left() time.Duration {
	if p.jobs.Load() > 0 || p.isLasting() {
		return quiet
	}
	return time.Duration(p.wanted.Load()) + quiet - time.Since(p.began)
}

// isLasting says whether there is a request that takes long.
func (p *processors) isLasting() bool {
	return p.running.Load() > 0 && time.Since(p.began)-time.Duration(p.entered.Load()) >= shortRequest
}

// lookAtRequests has all processors used if there is a request that takes long.
func (p *processors) lookAtRequests() {
	if p.isLasting() {
		p.want()
	}
}

// want has all processors used.
func (p *processors) want() {
	p.wanted.Store(int64(time.Since(p.began)))
	if p.using.Load() {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default: // tend has been told
	}
}

// enter is called when a request comes over c, leave when it has been answered.
func (p *processors) enter(c *connection) {
	if p == nil {
		return
	}
	p.entered.Store(int64(time.Since(p.began)))
	if p.running.Add(1) > 1 || p.last.Load() != c {
		p.last.Store(c)
		p.want()
	} else if !p.using.Load() {
		p.timer.Reset(shortRequest)
	}
}

func (p *processors) leave() {
	if p == nil {
		return
	}
	if p.running.Add(-1) == 0 && !p.using.Load() {
		p.timer.Stop()
	}
}

// job has all processors used from its beginning to its end.
func (p *processors) job(begins bool) {
	switch {
	case p == nil:
	case begins:
		p.jobs.Add(1)
		p.want()
	default:
		p.jobs.Add(-1)
	}
}
