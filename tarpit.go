package main

import (
	"context"
	"time"
)

// A tarpit has who is turned away unheard wait for it: to try again at once then
// gains nothing, and costs the others nothing. Each in it takes a place; when all
// are taken, the answer comes at once.
type tarpit chan struct{}

const (
	tarpitPlaces = 1024
	tarpitTime   = time.Second // at most: nobody who only mistyped waits long
)

func newTarpit() tarpit { return make(tarpit, tarpitPlaces) }

// hold returns after a time, or when ctx is done.
func (t tarpit) hold(ctx context.Context, long time.Duration) {
	select {
	case t <- struct{}{}:
	default:
		return
	}
	defer func() { <-t }()
	timer := time.NewTimer(min(long, tarpitTime))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
