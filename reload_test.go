package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// twoShares is a configuration to be changed.
func twoShares() Config {
	c := defaultConfig()
	films, music := defaultShare(), defaultShare()
	films.Path, films.Lower, films.Upper = "/films", []string{"/f"}, "/u/f"
	music.Path, music.Lower, music.Upper = "/music", []string{"/m"}, "/u/m"
	c.Shares = []ShareConfig{films, music}
	return c
}

func TestAReloadSaysWhatNeedsARestart(t *testing.T) {
	running, next := twoShares(), twoShares()
	next.StopTimeout = time.Second
	next.Log.Level = "debug"
	next.Shares[0], next.Shares[1] = next.Shares[1], next.Shares[0] // the order means nothing
	next.Shares[0].Path = "/m%75sic"
	next.Shares[0].Locks.Total = 7
	next.Shares = append(next.Shares, defaultShare())
	_, fixed := mergeConfig(running, next)
	if want := []string{"stop_timeout", "log.level", "shares[1].locks.total", "shares"}; !slices.Equal(fixed, want) {
		t.Errorf("needs a restart: %q, want %q", fixed, want)
	}
	next.Shares = next.Shares[:1]
	if _, fixed = mergeConfig(running, next); !slices.Contains(fixed, "shares[0]") {
		t.Errorf("a share that is gone is not in %q", fixed)
	}
}

// applied is what a reload put in force, and what it said.
func applied(rl *reloads, log *bytes.Buffer) (messages string) {
	log.Reset()
	rl.reload()
	return log.String()
}

func TestAReloadIsAllOrNothing(t *testing.T) {
	var log bytes.Buffer
	c := twoShares()
	var readErr, refusal error
	inForce := 0
	rl := newReloads(c, func() (Config, error) { return c, readErr }, zerolog.New(&log))
	for _, refuses := range []bool{false, true} {
		rl.add(func(Config) (func(), error) {
			if refuses && refusal != nil {
				return nil, refusal
			}
			return func() { inForce++ }, nil
		})
	}

	readErr = errors.Join(&ConfigError{"f:1:1", "a", "first"}, &ConfigError{"f:2:1", "b", "second"})
	if said := applied(rl, &log); inForce != 0 || !strings.Contains(said, "f:1:1: a: first") || !strings.Contains(said, "f:2:1: b: second") || !strings.Contains(said, "old settings stay") {
		t.Errorf("a broken file: %d in force, said %s", inForce, said)
	}
	readErr, refusal = nil, errors.New("not with me")
	if said := applied(rl, &log); inForce != 0 || !strings.Contains(said, "not with me") {
		t.Errorf("one refuses: %d in force, said %s", inForce, said)
	}
	refusal = nil
	if said := applied(rl, &log); inForce != 2 || !strings.Contains(said, "configuration reloaded") {
		t.Errorf("all agree: %d in force, said %s", inForce, said)
	}
}

// The file is sound, what runs is sound, both together would be open to all.
func TestAReloadRefusesWhatIsUnsoundWithTheOldSettings(t *testing.T) {
	var log bytes.Buffer
	running := twoShares()
	running.Listen = "0.0.0.0:80" // as if something else had made this sound at the start
	rl := newReloads(running, func() (Config, error) { return twoShares(), nil }, zerolog.New(&log))
	if said := applied(rl, &log); !strings.Contains(said, "only a restart can change (listen)") || !strings.Contains(said, "nobody there would have to say who they are") {
		t.Errorf("said %s", said)
	}
}
