package main

import (
	"context"
	"errors"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// tellManager tells the service manager how we are (sd_notify(3)). Whoever
// started overdav without one is told nothing.
func tellManager(log zerolog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn().Err(err).Msg("service manager not told")
	}
}

// reloadingState is what a manager is told when settings are read again; it
// wants to know since when, to tell this reload from an earlier one.
func reloadingState() string { return daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec() }

// feedWatchdog tells the manager that all is well for as long as it is, until
// ctx is done; the manager restarts a service that it does not hear from
// (sd_watchdog_enabled(3)). check looks at every layer. What it finds counts for
// nothing here, only that it comes back: a full disk is not mended by a restart,
// a request that waits for a dead one can be ended by nothing else.
func feedWatchdog(ctx context.Context, check func(context.Context) error, log zerolog.Logger) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn().Err(err).Msg("watchdog not fed")
	}
	if err != nil || every == 0 {
		return
	}
	ticks := time.NewTicker(every / 3) // in time even if one look takes its time
	defer ticks.Stop()
	for {
		if err := check(ctx); !errors.Is(err, errHangs) {
			tellManager(log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}
