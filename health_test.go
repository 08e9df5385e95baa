package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// A layer that hangs is told of in time, is waited for by one goroutine however
// often somebody asks, and is well when it is back.
func TestHealthOfALayerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		release := make(chan error)
		var looks atomic.Int64
		well := &probe{share: "/films", layer: "lower 1", look: func() error { return nil }, log: zerolog.New(&said)}
		hung := &probe{share: "/films", layer: "upper", look: func() error { looks.Add(1); return <-release }, log: zerolog.New(&said)}
		h := &health{[]*probe{hung, well}} // the time is gone when the second is asked
		ask := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", healthPath, nil))
			if body := w.Body.String(); strings.Contains(body, "/") {
				t.Errorf("the answer has a path in it: %q", body)
			}
			return w.Code
		}
		for range 3 {
			began := time.Now()
			if status := ask(); status != http.StatusServiceUnavailable {
				t.Errorf("while it hangs: status %d, want 503", status)
			}
			if took := time.Since(began); took != healthTimeout {
				t.Errorf("the answer took %v, want %v", took, healthTimeout)
			}
		}
		if got := looks.Load(); got != 1 {
			t.Errorf("%d looks hang, want 1", got)
		}
		if well.up() != 1 || hung.up() != 0 {
			t.Errorf("up: %v and %v, want 1 and 0", well.up(), hung.up())
		}
		release <- nil
		synctest.Wait()
		if status := ask(); status != http.StatusOK {
			t.Errorf("after it: status %d, want 200", status)
		}
		if got := looks.Load(); got != 1 {
			t.Errorf("what was just found was looked for again: %d looks", got)
		}
		time.Sleep(healthFresh)
		go func() { release <- errors.New("input/output error") }()
		if err := h.check(t.Context()); err == nil || !strings.Contains(err.Error(), "share /films: upper: input/output error") {
			t.Errorf("an error of a layer: %v", err)
		}
		for text, want := range map[string]int{"layer is ill": 2, "layer is well again": 1, "does not answer": 1} {
			if got := strings.Count(said.String(), text); got != want {
				t.Errorf("the log says %q %d times, want %d:\n%s", text, got, want, said.String())
			}
		}
	})
}

// Who asks and goes is not waited for.
func TestHealthIsAskedBySomebodyWhoGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan error)
		h := &health{[]*probe{{look: func() error { return <-release }, log: discardLog()}}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if err := h.check(ctx); err == nil || time.Since(began) != 0 {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		release <- nil
	})
}
