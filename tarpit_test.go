package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Who is turned away waits a second, or less when less is asked of him or he goes,
// and not at all when too many wait.
func TestTarpit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pit := newTarpit()
		took := func(ctx context.Context, long time.Duration) time.Duration {
			began := time.Now()
			pit.hold(ctx, long)
			return time.Since(began)
		}
		gone, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for _, test := range []struct {
			ctx        context.Context
			long, want time.Duration
		}{
			{t.Context(), time.Hour, tarpitTime},
			{t.Context(), time.Millisecond, time.Millisecond},
			{gone, time.Hour, 0}, // it went while the first waited
		} {
			if got := took(test.ctx, test.long); got != test.want {
				t.Errorf("waited %v, want %v", got, test.want)
			}
		}
		for range tarpitPlaces {
			go pit.hold(t.Context(), time.Hour)
		}
		synctest.Wait()
		if got := took(t.Context(), time.Hour); got != 0 {
			t.Errorf("beside as many as may be: waited %v", got)
		}
		time.Sleep(tarpitTime) // of the bubble's clock, which goes on when all wait: those who waited have gone
		synctest.Wait()
		if got := took(t.Context(), time.Hour); got != tarpitTime {
			t.Errorf("after them: waited %v", got)
		}
	})
}
