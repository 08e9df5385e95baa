package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// healthPath is where the server says whether it is well.
const healthPath = ownPath + "/healthz"

// How long a look at a layer may take, and how long what it found counts.
const (
	healthTimeout = 5 * time.Second
	healthFresh   = time.Second
)

// health says whether every layer answers and every upper can be written to.
type health struct{ probes []*probe }

// check looks at everything, and waits for no more than healthTimeout.
func (h *health) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var waits []func(context.Context) error
	for _, p := range h.probes {
		waits = append(waits, p.start())
	}
	var errs []error
	for _, wait := range waits {
		errs = append(errs, wait(ctx))
	}
	return errors.Join(errs...)
}

// ServeHTTP answers who asks whether the server is well: 200 or 503. What is
// wrong is for the log, and for those who may read that.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, text := http.StatusOK, "ok\n"
	switch err := h.check(r.Context()); {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		status, text = http.StatusMethodNotAllowed, "method not allowed\n"
	case err != nil:
		status, text = http.StatusServiceUnavailable, "unavailable\n"
	default:
		recordOf(r.Context()).quiet = true
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(text)) // the client may be gone
	}
}

// A probe looks at one thing that may hang. However often it is asked, one
// goroutine looks at a time: one that hangs is waited for by all who come later,
// for as long as they have time.
type probe struct {
	share string // its path
	layer string // "upper", or "lower" and its number
	look  func() error
	log   zerolog.Logger

	mu sync.Mutex
	// +checklocks:mu
	looking chan struct{} // closed when the look that is going on ends; nil: none is
	// +checklocks:mu
	at time.Time // when the last ended
	// +checklocks:mu
	err error // what it found
	// +checklocks:mu
	ill bool // what the log was last told
}

// errHangs is a layer that does not answer in time.
var errHangs = errors.New("does not answer")

// start looks, unless somebody does already or has just done so. The result is
// wait's.
func (p *probe) start() (wait func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.looking == nil && time.Since(p.at) >= healthFresh {
		p.looking = make(chan struct{})
		go p.run(p.looking)
	}
	return p.wait(p.looking)
}

func (p *probe) run(done chan struct{}) {
	err := p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looking, p.at, p.err = nil, time.Now(), err
	close(done)
}

// wait returns what waits for a look; nil is one that has ended.
func (p *probe) wait(looking chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		if looking != nil {
			select {
			case <-looking:
			case <-ctx.Done():
				if !isClosed(looking) { // all time may have gone into waiting for another
					return p.tell(errHangs)
				}
			}
		}
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		return p.tell(err)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// up is 1 for a layer that was well when it was last asked, else 0.
func (p *probe) up() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ill {
		return 0
	}
	return 1
}

// tell tells the log what changed, once.
func (p *probe) tell(err error) error {
	p.mu.Lock()
	changed := p.ill != (err != nil)
	p.ill = err != nil
	p.mu.Unlock()
	switch {
	case changed && err != nil:
		p.log.Error().Str(keyShare, p.share).Str(keyLayer, p.layer).Err(err).Msg("layer is ill")
	case changed:
		p.log.Info().Str(keyShare, p.share).Str(keyLayer, p.layer).Msg("layer is well again")
	}
	if err != nil {
		return fmt.Errorf("share %s: %s: %w", p.share, p.layer, err)
	}
	return nil
}

// newHealth looks at the layers of all shares.
func newHealth(all shares, log zerolog.Logger) *health {
	h := new(health)
	for _, s := range all {
		add := func(layer string, look func() error) {
			h.probes = append(h.probes, &probe{share: s.layers.Path, layer: layer, look: look, log: log})
		}
		for i, dir := range s.layers.Lower {
			add(layerName(i+1), func() error { return readDir(dir) })
		}
		switch {
		case s.layers.Upper == "" || s.layers.perUser():
		case s.layers.ReadOnly:
			add("upper", func() error { return readDir(s.layers.Upper) })
		default:
			add("upper", s.tryWrite)
		}
	}
	return h
}

// tryWrite stages a file in the tree that all users share, and forgets it.
func (s *share) tryWrite() error {
	slot, err := s.trees.acquire(context.Background(), "")
	if err != nil {
		return err
	}
	defer s.trees.release(slot)
	staged, err := slot.tree.fsys.Stage(".overdav-health", 0o600)
	if err != nil {
		return err
	}
	defer staged.Abort()
	_, err = staged.Write([]byte("overdav"))
	return err
}
