package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeTrees counts what a pool opens. Its trees have no engine: a pool knows
// nothing of what is in one.
type fakeTrees struct {
	opened atomic.Int64
	err    error         // of the next open
	gate   chan struct{} // non-nil: open waits for a value
}

func (f *fakeTrees) open(string) (*tree, error) {
	if f.gate != nil {
		<-f.gate
	}
	f.opened.Add(1)
	if err := f.err; err != nil {
		f.err = nil
		return nil, err
	}
	return new(tree), nil
}

func mustAcquire(t *testing.T, p *pool, user string) *slot {
	t.Helper()
	s, err := p.acquire(t.Context(), user)
	if err != nil {
		t.Fatalf("acquire %s: %v", user, err)
	}
	return s
}

// isOpen says whether the pool has user's tree.
func isOpen(p *pool, user string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots[user] != nil
}

func TestFirstRequestsOfAUserShareOneTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTrees{gate: make(chan struct{})}
		p := newPool(f.open, time.Minute, 10, discardLog())
		slots := make([]*slot, 8)
		var wg sync.WaitGroup
		for i := range slots {
			wg.Go(func() { slots[i] = mustAcquire(t, p, "alice") })
		}
		synctest.Wait()
		f.gate <- struct{}{}
		wg.Wait()
		for _, s := range slots {
			if s != slots[0] || s.tree == nil {
				t.Error("two requests of one user have different trees")
			}
			p.release(s)
		}
		if n := f.opened.Load(); n != 1 {
			t.Errorf("opened %d times", n)
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestAFailedOpenIsTriedAgainByTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		f := &fakeTrees{gate: make(chan struct{}), err: broken}
		p := newPool(f.open, time.Minute, 1, discardLog())
		var failed sync.WaitGroup
		for range 3 {
			failed.Go(func() {
				if _, err := p.acquire(t.Context(), "alice"); !errors.Is(err, broken) {
					t.Errorf("got %v, want why it could not be opened", err)
				}
			})
		}
		synctest.Wait()
		f.gate <- struct{}{}
		failed.Wait()
		close(f.gate)
		p.release(mustAcquire(t, p, "alice"))
		p.release(mustAcquire(t, p, "bob")) // and its place in the bound is free again
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestUnusedTreesAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool((&fakeTrees{}).open, time.Minute, 10, discardLog())
		busy := mustAcquire(t, p, "busy")
		p.release(mustAcquire(t, p, "idle"))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if !isOpen(p, "idle") {
			t.Error("closed before its time")
		}
		p.release(mustAcquire(t, p, "idle"))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if !isOpen(p, "idle") {
			t.Error("closed though it was used meanwhile")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if isOpen(p, "idle") {
			t.Error("not closed though nobody has used it")
		}
		if !isOpen(p, "busy") {
			t.Error("closed under a request")
		}
		p.release(busy)
		if err := p.stop(); err != nil {
			t.Error(err)
		}
		if _, err := p.acquire(t.Context(), "late"); !errors.Is(err, errStopped) {
			t.Errorf("after stop: %v", err)
		}
	})
}

func TestTheLeastRecentlyUsedTreeMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool((&fakeTrees{}).open, time.Hour, 2, discardLog())
		p.release(mustAcquire(t, p, "a"))
		p.release(mustAcquire(t, p, "b"))
		p.release(mustAcquire(t, p, "a"))
		c := mustAcquire(t, p, "c")
		if isOpen(p, "b") || !isOpen(p, "a") {
			t.Error("not the least recently used one was closed")
		}
		a := mustAcquire(t, p, "a")

		// Both are in use: the next one waits until one is not.
		got := make(chan error)
		go func() {
			s, err := p.acquire(t.Context(), "d")
			if err == nil {
				p.release(s)
			}
			got <- err
		}()
		synctest.Wait()
		if isOpen(p, "d") {
			t.Error("more trees are open than may be")
		}
		p.release(c)
		if err := <-got; err != nil {
			t.Errorf("when one was free: %v", err)
		}
		b := mustAcquire(t, p, "b")
		if _, err := p.acquire(t.Context(), "e"); !errors.Is(err, errInUse) {
			t.Errorf("after %v: %v, want errInUse", busyTimeout, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.acquire(ctx, "e"); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that is gone: %v", err)
		}
		p.release(a)
		p.release(b)
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhileClosedNobodyHasTheTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool((&fakeTrees{}).open, time.Minute, 10, discardLog())
		running := mustAcquire(t, p, "alice")
		inside, done := make(chan bool), make(chan error)
		go func() {
			done <- p.whileClosed(t.Context(), "alice", func() error { inside <- true; <-inside; return nil })
		}()
		synctest.Wait()
		select {
		case <-inside:
			t.Fatal("closed under a request")
		default:
		}
		next := make(chan *slot)
		go func() { next <- mustAcquire(t, p, "alice") }()
		synctest.Wait()
		p.release(running)
		<-inside
		select {
		case <-next:
			t.Fatal("a request has the tree meanwhile")
		default:
		}
		close(inside)
		if err := <-done; err != nil {
			t.Error(err)
		}
		s := <-next
		if s == running {
			t.Error("the next request has the old tree")
		}

		// Requests that do not end leave everything as it was.
		if err := p.whileClosed(t.Context(), "alice", func() error { t.Error("called"); return nil }); !errors.Is(err, errInUse) {
			t.Errorf("got %v, want errInUse", err)
		}
		again := mustAcquire(t, p, "alice")
		if again != s {
			t.Error("the tree was closed after all")
		}
		p.release(again)
		p.release(s)
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
}

// Under the race detector: whatever happens at once, a tree is never closed
// while somebody has it, and never more are open than may be.
func TestPoolUnderLoad(t *testing.T) {
	var opened atomic.Int64
	p := newPool(func(string) (*tree, error) {
		if opened.Add(1)%7 == 0 {
			return nil, errors.New("now and then")
		}
		return new(tree), nil
	}, time.Microsecond, 3, discardLog())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 300 {
				user := fmt.Sprint((i + n) % 5)
				if n%50 == 0 {
					_ = p.whileClosed(t.Context(), user, func() error { return nil }) // that it comes back is what counts
					continue
				}
				s, err := p.acquire(t.Context(), user)
				if err != nil {
					continue
				}
				p.mu.Lock()
				if p.slots[user] != s || s.users < 1 {
					t.Error("a tree that somebody has is not in the pool")
				}
				p.mu.Unlock()
				p.release(s)
			}
		})
	}
	wg.Wait()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if len(p.slots) > 0 || p.unused.Len() > 0 {
		t.Errorf("after stop %d slots, %d unused", len(p.slots), p.unused.Len())
	}
}
