package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"
)

// A share is what is served at one path of the server.
type share struct {
	layers *layers
	config Config
	others []string // paths of the server that belong to something else
	log    zerolog.Logger
	gate   *gate // what uses the layers' disks goes through it
	tree   *tree // nil until open
}

// ServeHTTP answers a request for a path of the share.
func (s *share) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.gate.serve(w, r, s.tree.handler)
}

func (s *share) open() (err error) {
	s.tree, err = openTree(s.layers, s.config, s.others, s.log)
	return s.named(err)
}

func (s *share) close() error {
	if s.tree == nil {
		return nil
	}
	return s.named(s.tree.close())
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
	for _, config := range c.Shares {
		s := &share{config: c, log: log, others: othersThan(config.Path, c), gate: newGate(c.Limits)}
		l, err := newLayers(config, home)
		if err != nil {
			s.layers = &layers{ShareConfig: config}
			errs = append(errs, s.named(err))
			continue
		}
		s.layers = l
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
			return errors.Join(err, all[:i].close())
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
