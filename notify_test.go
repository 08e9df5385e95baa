package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// manager stands for systemd, which is told how we are.
func manager(t *testing.T) (said func() []string) {
	t.Helper()
	addr := &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	return func() (all []string) {
		// A datagram is there when its sender has sent it: nothing is waited for.
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1024)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return all
			}
			all = append(all, string(buf[:n]))
		}
	}
}

func TestWatchdogIsFedWhenEveryLayerAnswered(t *testing.T) {
	said := manager(t)
	t.Setenv("WATCHDOG_USEC", "3000")
	ctx, cancel := context.WithCancel(t.Context())
	found := []error{nil, errHangs, errors.New("no space left on device"), errors.Join(errors.New("x"), errHangs)}
	feedWatchdog(ctx, func(context.Context) error {
		err := found[0]
		if found = found[1:]; len(found) == 0 {
			cancel()
		}
		return err
	}, discardLog())
	if got, want := said(), []string{"WATCHDOG=1", "WATCHDOG=1"}; !slices.Equal(got, want) {
		t.Errorf("said %q, want %q: for the layers that are well and for those that answer with an error", got, want)
	}
}

func TestNoWatchdogNoLooks(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	feedWatchdog(t.Context(), func(context.Context) error {
		t.Error("looked at the layers")
		return nil
	}, discardLog())
}
