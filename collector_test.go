package main

import (
	"runtime"
	"testing"
)

func TestCollectorPercent(t *testing.T) {
	for _, test := range []struct {
		live uint64 // MiB
		want int
	}{{0, 400}, {1, 400}, {4, 300}, {6, 150}, {8, 100}, {100, 100}} {
		if got := collectorPercent(test.live << 20); got != test.want {
			t.Errorf("%d MiB live: %d percent, want %d", test.live, got, test.want)
		}
	}
}

func TestAfterCollections(t *testing.T) {
	ran := make(chan struct{}, 1)
	afterCollections(func() {
		select {
		case ran <- struct{}{}:
		default: // the test has ended
		}
	})
	for range 3 { // it goes on
		runtime.GC()
		<-ran
	}
}
