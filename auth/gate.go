package auth

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
)

// maxQueue is how many requests wait for their password to be verified.
const maxQueue = 64

// errBusy is a full queue.
var errBusy = errors.New("too many passwords to verify")

// A gate lets few verifications run at once: a processor is left for everybody
// whose credentials are remembered.
type gate struct {
	slots   chan struct{}
	waiting atomic.Int64
	refused atomic.Int64 // who found the queue full
	hashed  atomic.Int64 // verifications so far
}

func newGate() *gate {
	return &gate{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))}
}

// enter waits for a slot. Who has entered must leave.
func (g *gate) enter(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	if g.waiting.Add(1) > maxQueue {
		g.waiting.Add(-1)
		g.refused.Add(1)
		return errBusy
	}
	defer g.waiting.Add(-1)
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) leave() { <-g.slots }

// verify takes the time of one verification, of which it keeps count. It lets
// go first who waits for the same processor: nobody else would take them from it
// before the scheduler does, 10 ms later.
func (g *gate) verify(h Hash, password string) bool {
	g.hashed.Add(1)
	runtime.Gosched()
	return h.verify(password)
}

// A flight lets many who ask the same at the same time wait for one answer:
// clients open several connections and send the same credentials on each.
type flight struct {
	mu sync.Mutex
	// +checklocks:mu
	calls map[cacheKey]*flightCall
}

type flightCall struct {
	done chan struct{} // closed when right and err are set
	ok   bool
	err  error
}

// do calls ask, or waits for somebody else's call with the same key. Who waits for
// somebody whose client has gone asks for himself.
func (f *flight) do(ctx context.Context, key cacheKey, ask func() (bool, error)) (bool, error) {
	for {
		f.mu.Lock()
		call, running := f.calls[key]
		if !running {
			call = &flightCall{done: make(chan struct{})}
			f.calls[key] = call
		}
		f.mu.Unlock()
		if !running {
			f.lead(key, call, ask)
			return call.ok, call.err
		}
		select {
		case <-call.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if !errors.Is(call.err, context.Canceled) && !errors.Is(call.err, context.DeadlineExceeded) {
			return call.ok, call.err
		}
	}
}

func (f *flight) lead(key cacheKey, call *flightCall, ask func() (bool, error)) {
	defer func() {
		f.mu.Lock()
		delete(f.calls, key)
		f.mu.Unlock()
		close(call.done)
	}()
	call.err = errBusy // should ask panic, nobody may take it for a yes
	call.ok, call.err = ask()
}
