package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Lines of information wait, but not for long; warnings wait for nothing and let
// nothing wait.
func TestLogLinesWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := newLogBuffer(&out)
		log := newLog(LogConfig{Level: "info", Format: "json"}, b)
		lines := func() int {
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			return strings.Count(out.String(), "\n")
		}
		log.Info().Msg("one")
		log.Info().Msg("two")
		if n := lines(); n != 0 {
			t.Fatalf("%d lines are written before anybody waited", n)
		}
		time.Sleep(logDelay) // of the bubble
		if n := lines(); n != 2 {
			t.Fatalf("%d lines after the time that they may wait, want 2", n)
		}
		log.Info().Msg("three")
		log.Warn().Msg("four")
		if n := lines(); n != 4 {
			t.Fatalf("%d lines after a warning, want 4", n)
		}
		log.Info().Str("long", strings.Repeat("x", logBufferSize)).Msg("five")
		if n := lines(); n != 5 {
			t.Fatalf("%d lines after one that fills the buffer, want 5", n)
		}
		log.Info().Msg("six")
		b.flush()
		if n := lines(); n != 6 {
			t.Errorf("%d lines at the end, want 6", n)
		}
	})
}
