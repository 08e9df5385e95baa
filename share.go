package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"syscall"

	"github.com/rs/zerolog"

	"overdav/auth"
	"overdav/davfs"
	"overdav/overlay"
)

// A share is what is served at one path of the server: one tree for all, or,
// with {user} in the name of its upper, one for each user.
type share struct {
	layers *layers
	config Config
	others []string // paths of the server that belong to something else
	log    zerolog.Logger
	gate   *gate // what uses the layers' disks goes through it
	trees  *pool
	// clearer deletes what was discarded.
	clearer *clearer
	// archives are counted in all shares together.
	archives *davfs.Archives
	quota    atomic.Int64 // of each upper
	ttl      atomic.Int64 // a time.Duration

	metrics    *metrics      // nil: nothing is counted
	processors *processors   // nil: nobody chooses how many are used
	errors     atomic.Uint64 // requests that failed by our fault
}

func newShare(l *layers, c Config, log zerolog.Logger) *share {
	s := &share{layers: l, config: c, log: log, others: othersThan(l.Path, c), gate: newGate(c.Limits), clearer: newClearer()}
	s.trees = newPool(s.openTree, 0, 0, log)
	s.trees.onOpen = func(t *tree) { s.limit(t) } // one that was opened without a quota stays so
	s.configure(l.ShareConfig)
	return s
}

// configure puts in force what can change while the share is served.
func (s *share) configure(c ShareConfig) {
	if s.layers.perUser() {
		s.trees.configure(c.Idle, c.MaxOpen)
	}
	s.ttl.Store(int64(c.TTL))
	s.quota.Store(int64(c.Quota))
	for _, t := range s.trees.all() { // those that are being opened get it in the end
		if !s.limit(t) && c.Quota > 0 && !s.layers.readOnly() {
			s.log.Warn().Str(keyPath, s.layers.Path).Msg("an upper that is open without a quota gets it when it is opened again")
		}
	}
}

// limit gives t the quota that is in force, and says whether it could.
func (s *share) limit(t *tree) bool {
	limit := s.quota.Load()
	if limit == 0 {
		limit = math.MaxInt64
	}
	return t.fsys.SetQuota(limit)
}

// ServeHTTP answers a request for a path of the share.
//
// The tree is taken before the gate is entered: who waits for one holds no
// place. How many open at once is bounded by the pool.
func (s *share) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	slot, err := s.trees.acquire(r.Context(), s.treeOf(auth.From(r.Context())))
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	defer s.trees.release(slot)
	s.gate.serve(w, r, slot.tree.handler)
}

// treeOf is the name in the pool of the tree that id sees.
func (s *share) treeOf(id auth.Identity) string {
	if s.layers.perUser() {
		return id.Name
	}
	return ""
}

func (s *share) openTree(user string) (*tree, error) {
	shared, err := s.layers.of(user)
	if err != nil {
		return nil, err
	}
	l := *shared
	l.Quota = ByteSize(s.quota.Load())
	t, err := openTree(&l, s)
	if err == nil && !l.readOnly() && l.isDiscarded() {
		s.clearLater(user) // what a server before this one left
	}
	return t, err
}

// refuse answers a request whose tree cannot be had.
func (s *share) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, context.Canceled):
		return // the client is gone
	case errors.Is(err, errUserName):
		status = http.StatusForbidden
	case errors.Is(err, errInUse), errors.Is(err, errStopped), errors.Is(err, overlay.ErrInUse):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "2")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		status = http.StatusInsufficientStorage
	}
	s.log.Error().Err(s.named(err)).Str(keyMethod, r.Method).Str(keyPath, r.URL.Path).Int(keyStatus, status).Msg("upper not opened")
	http.Error(w, http.StatusText(status), status)
}

// open opens the tree that all users share; of one for each user it looks
// whether the lowers can be read and whether there is a place for uppers.
func (s *share) open() error {
	if s.layers.perUser() {
		err := s.layers.tryLowers()
		if err == nil && !s.layers.readOnly() {
			s.clearer.running.Go(s.clearLeft)
		}
		return s.named(err)
	}
	slot, err := s.trees.acquire(context.Background(), "")
	if err == nil {
		s.trees.release(slot)
	}
	return s.named(err)
}

// close closes all trees. What is being deleted stays as far as it is: a later
// start deletes the rest.
func (s *share) close() error {
	s.clearer.stop()
	err := s.trees.stop()
	s.clearer.running.Wait()
	return s.named(err)
}

// named says whose error err is.
func (s *share) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("share %s: %w", s.layers.Path, err)
}

// shares are all that the server has, in the order of the configuration.
type shares []*share

// newShares looks for the layers of every share, and touches nothing. home is
// the state directory.
func newShares(c Config, home string, log zerolog.Logger) (shares, error) {
	var all shares
	var errs []error
	archives := c.Limits.archives()
	for _, config := range c.Shares {
		l, err := newLayers(config, home)
		if err != nil {
			errs = append(errs, (&share{layers: &layers{ShareConfig: config}}).named(err))
			continue
		}
		s := newShare(l, c, log)
		s.archives = archives
		for _, other := range all {
			errs = append(errs, s.named(l.checkApart(other.layers)))
		}
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

// othersThan are the paths of everything but the share at path.
func othersThan(path string, c Config) []string {
	others := []string{ownPath}
	for _, other := range c.Shares {
		if other.Path != path {
			others = append(others, other.Path)
		}
	}
	return others
}

// open opens every share, or none.
func (all shares) open() error {
	for i, s := range all {
		if err := s.open(); err != nil {
			return errors.Join(err, all[:i+1].close())
		}
	}
	return nil
}

func (all shares) close() (err error) {
	for _, s := range all {
		err = errors.Join(err, s.close())
	}
	return err
}

// reload puts in force what can change of the shares.
func (all shares) reload(c Config) (apply func(), err error) {
	return func() {
		for i, s := range all {
			s.configure(c.Shares[i])
		}
	}, nil
}

// countLocks is how many locks clients have in what is open.
func (s *share) countLocks() (n int) {
	for _, t := range s.trees.openTrees() {
		n += t.locks.Count()
	}
	return n
}

// used is what changes take in what is open, as the quota counts it.
func (s *share) used() (used int64) {
	for _, t := range s.trees.openTrees() {
		n, _ := t.fsys.Used() // one that is being measured counts when it has been
		used += n
	}
	return used
}

// space is the size of the file system that upper is on and what is left of it;
// zeros when nobody can say. Of users' uppers it is that of the directory they are in.
func (s *share) space() (total, available float64) {
	if s.layers.perUser() {
		return spaceAt(s.layers.usersDir())
	}
	for _, t := range s.trees.openTrees() {
		if space, err := t.fsys.Space(); err == nil {
			return float64(space.Total), float64(space.Available)
		}
	}
	return 0, 0
}
