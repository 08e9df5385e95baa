package main

import (
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
