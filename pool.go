package main

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// errInUse says that as many uppers as may be open are all in use.
var errInUse = errors.New("too many uppers are in use")

// errStopped says that the server has stopped.
var errStopped = errors.New("the server is stopping")

// busyTimeout is how long a request waits for another upper to be closed, or
// for what else is being done to its own.
const busyTimeout = 10 * time.Second

// A pool keeps the trees of a share open while they are used, each under the
// name of its user: opened by the first request, closed when no request has
// come for a while, or when another one needs the room, the least recently used
// first. The tree of a share that all users have in common has the name "".
//
// No lock is held while a tree is opened or closed.
type pool struct {
	open   func(user string) (*tree, error)
	onOpen func(*tree) // nil, or called with p.mu held before anybody has what was opened
	log    zerolog.Logger
	// closing has room for those that are closed at once: each waits for its
	// disk in a thread.
	closing chan struct{}

	mu sync.Mutex
	// +checklocks:mu
	idle time.Duration // 0 keeps trees open
	// +checklocks:mu
	most int // trees, 0 is no bound
	// +checklocks:mu
	slots map[string]*slot
	// unused are the open slots without users, the least recently used first.
	// +checklocks:mu
	unused list.List
	// freed is closed, and made anew, when a slot has become unused or is gone.
	// +checklocks:mu
	freed chan struct{}
	// +checklocks:mu
	stopped bool
}

// A slot is a user's tree, or its coming and going. Fields are guarded by
// pool.mu, but for tree and err, which nobody changes once ready is closed.
type slot struct {
	user  string
	ready chan struct{} // closed when tree or err is there
	tree  *tree
	err   error

	users  int           // requests that have it or wait for it
	closed chan struct{} // made when nobody may have it any more, closed when it is gone
	place  *list.Element // in pool.unused
	expiry *time.Timer   // nil while it has users
}

func newPool(open func(user string) (*tree, error), idle time.Duration, most int, log zerolog.Logger) *pool {
	return &pool{open: open, log: log, closing: make(chan struct{}, 8), idle: idle, most: most, slots: make(map[string]*slot), freed: make(chan struct{})}
}

// acquire returns the slot with the tree of user, opened if it is not. It is
// not closed before release.
// Errors: what opening it meets; errInUse, errStopped, ctx's.
func (p *pool) acquire(ctx context.Context, user string) (*slot, error) {
	s, opens, wait, err := p.tryTake(user)
	if err != nil {
		return nil, err
	}
	if s == nil || !opens && !s.isReady() {
		return p.await(ctx, user, s, wait)
	}
	if opens {
		p.fill(s)
	}
	return p.opened(s)
}

// await is acquire when there is something to wait for: s to be ready, or,
// without s, wait.
func (p *pool) await(ctx context.Context, user string, s *slot, wait <-chan struct{}) (_ *slot, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, busyTimeout, errInUse)
	defer cancel()
	opens := false
	for s == nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if s, opens, wait, err = p.tryTake(user); err != nil {
			return nil, err
		}
	}
	if opens {
		p.fill(s)
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		p.release(s)
		return nil, context.Cause(ctx)
	}
	return p.opened(s)
}

// openTrees are those that are open.
func (p *pool) openTrees() (all []*tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if s.closed == nil && s.isReady() && s.err == nil {
			all = append(all, s.tree)
		}
	}
	return all
}

// opened returns s, or why it could not be opened.
func (p *pool) opened(s *slot) (*slot, error) {
	if s.err != nil {
		p.release(s)
		return nil, s.err
	}
	return s, nil
}

func (s *slot) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// tryTake returns the slot of user, and whether the caller has to fill it; or
// what to wait for before it is tried again.
func (p *pool) tryTake(user string) (s *slot, opens bool, wait <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, false, nil, errStopped
	}
	if s := p.slots[user]; s != nil {
		if s.closed != nil {
			return nil, false, s.closed, nil
		}
		p.useLocked(s)
		return s, false, nil, nil
	}
	if p.most > 0 && len(p.slots) >= p.most {
		if oldest := p.unused.Front(); oldest != nil {
			return nil, false, p.closeLocked(oldest.Value.(*slot)), nil
		}
		return nil, false, p.freed, nil
	}
	s = &slot{user: user, ready: make(chan struct{}), users: 1}
	p.slots[user] = s
	return s, true, nil, nil
}

// useLocked counts one more user of s.
func (p *pool) useLocked(s *slot) {
	s.users++
	if s.place != nil {
		p.unused.Remove(s.place)
		s.place = nil
	}
	if s.expiry != nil {
		s.expiry.Stop() // one that has fired finds that s has users
		s.expiry = nil
	}
}

// fill opens the tree of s. When that fails, s is nobody's any more, and the
// next request tries anew.
func (p *pool) fill(s *slot) {
	began := time.Now()
	s.tree, s.err = p.open(s.user)
	if s.err == nil && s.user != "" {
		p.log.Debug().Str(keyUser, s.user).Dur(keyDur, time.Since(began)).Msg("upper opened")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.err != nil {
		p.goneLocked(s)
	} else if p.onOpen != nil {
		p.onOpen(s.tree)
	}
	close(s.ready)
}

// goneLocked makes room for another slot of the same user, or of anybody.
func (p *pool) goneLocked(s *slot) {
	delete(p.slots, s.user)
	if s.closed != nil {
		close(s.closed)
	}
	p.wakeLocked()
}

func (p *pool) wakeLocked() {
	close(p.freed)
	p.freed = make(chan struct{})
}

// release ends a use of s.
func (p *pool) release(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(s)
}

func (p *pool) releaseLocked(s *slot) {
	if s.users--; s.users > 0 || p.slots[s.user] != s {
		return
	}
	p.wakeLocked()
	if s.closed != nil {
		return // whoever closes it waits for this
	}
	s.place = p.unused.PushBack(s)
	if p.idle > 0 {
		s.expiry = time.AfterFunc(p.idle, func() { p.expire(s) })
	}
}

// expire closes s unless somebody has come meanwhile.
func (p *pool) expire(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.users == 0 && s.closed == nil {
		p.closeLocked(s)
	}
}

// closeLocked begins to close s, which has no users; gone is closed when it is.
func (p *pool) closeLocked(s *slot) (gone <-chan struct{}) {
	p.useLocked(s) // by who closes it
	s.closed = make(chan struct{})
	go p.shut(s)
	return s.closed
}

// shut closes the tree of s.
func (p *pool) shut(s *slot) {
	p.closing <- struct{}{}
	err := s.tree.close()
	<-p.closing
	if err != nil {
		p.log.Error().Err(err).Str(keyUser, s.user).Msg("upper not closed cleanly")
	} else if s.user != "" {
		p.log.Debug().Str(keyUser, s.user).Msg("upper closed")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	s.err = err
	p.goneLocked(s)
}

// whileClosed closes the tree of user, if it is open, as soon as the requests
// that have it have ended, and calls fn while nobody can have it.
// Errors: errInUse when requests go on for too long; ctx's, fn's.
func (p *pool) whileClosed(ctx context.Context, user string, fn func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, busyTimeout, errInUse)
	defer cancel()
	s, err := p.reserve(ctx, user)
	if err != nil {
		return err
	}
	if s.tree != nil {
		err = s.tree.close()
	}
	if err == nil {
		err = fn()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goneLocked(s)
	return err
}

// reserve returns a slot of user that is closed for requests, and has none.
func (p *pool) reserve(ctx context.Context, user string) (*slot, error) {
	var mine *slot // closed by us, with requests that have not ended
	for {
		s, wait, err := p.tryReserve(user, &mine)
		if err != nil || s != nil {
			return s, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			p.reopen(mine)
			return nil, context.Cause(ctx)
		}
	}
}

// tryReserve is reserve, or returns what to wait for.
func (p *pool) tryReserve(user string, mine **slot) (*slot, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[user]
	switch {
	case p.stopped:
		return nil, nil, errStopped
	case *mine != nil && s == *mine: // since the last time
	case s == nil: // the bound counts what is open
		s = &slot{user: user, closed: make(chan struct{})}
		p.slots[user] = s
		return s, nil, nil
	case s.closed != nil:
		return nil, s.closed, nil
	default:
		p.useLocked(s)
		s.users--
		s.closed = make(chan struct{})
		*mine = s
	}
	if s.users > 0 {
		return nil, p.freed, nil
	}
	return s, nil, nil
}

// reopen lets requests have s again.
func (p *pool) reopen(s *slot) {
	if s == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[s.user] != s {
		return // it could not be opened
	}
	close(s.closed) // who waits looks again
	s.closed = nil
	s.users++
	p.releaseLocked(s) // to where unused ones are, if it is
}

// configure changes the bounds; what is unused already waits as before.
func (p *pool) configure(idle time.Duration, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle, p.most = idle, most
}

// all are the trees that are open.
func (p *pool) all() (trees []*tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if s.ready != nil && s.isReady() && s.tree != nil {
			trees = append(trees, s.tree)
		}
	}
	return trees
}

// users are those whose trees are open or coming.
func (p *pool) users() (users []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for user, s := range p.slots {
		if s.closed == nil {
			users = append(users, user)
		}
	}
	return users
}

// stop closes all trees. What still comes is refused.
// Errors: what closing meets; a tree that is in use is not closed.
func (p *pool) stop() error {
	p.mu.Lock()
	p.stopped = true
	closing := make(map[*slot]<-chan struct{})
	var errs []error
	for _, s := range p.slots {
		switch {
		case s.closed != nil:
			closing[s] = s.closed
		case s.users > 0:
			errs = append(errs, errors.New("requests still run and keep an upper open"))
		default:
			closing[s] = p.closeLocked(s)
		}
	}
	p.mu.Unlock()
	for s, closed := range closing {
		<-closed
		errs = append(errs, s.err)
	}
	return errors.Join(errs...)
}
