package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"

	"overdav/overlay"
)

// serve serves until it is told to stop.
//
// The umask is the user's: it shapes the modes of what clients create, as it
// would if they worked on the machine. The limit of open files needs no call;
// package os raises it to the hard limit (since Go 1.19).
func serve(e env, args []string) error {
	c, err := configure("serve", args, e.getenv, e.stdout)
	if err != nil {
		return err
	}
	log := newLog(c.Log, e.stderr)
	l, err := newLayers(c.Shares[0], stateHome(e.getenv, os.Geteuid()))
	if err != nil {
		return err
	}
	c.Shares[0] = l.ShareConfig

	// The first signal asks to finish; stopListening puts the default back, so
	// that the second one ends the process.
	ctx, stopListening := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stopListening()

	// Listening comes first, so that an address in use leaves the disk alone.
	lns, err := listen(c)
	if err != nil {
		return err
	}
	defer closeAll(lns)
	certs, err := tlsOf(c, log)
	if err != nil {
		return err
	}
	fsys, err := openLayers(l, engineEvents(log))
	if err != nil {
		return err
	}
	return errors.Join(serveTree(fsys, c, log, func(h http.Handler) error {
		announce(e.stdout, c, lns, l)
		if c.Anonymous {
			log.Warn().Msg("everybody who can reach the address may read and write")
		}
		s := newServer(h, log, c)
		s.http.TLSConfig = certs
		return s.run(ctx, stopListening, lns...)
	}), fsys.Close())
}

// serveTree calls run with what answers requests for fsys.
func serveTree(fsys *overlay.FS, c Config, log zerolog.Logger, run func(http.Handler) error) error {
	locks, err := openLocks(c.Shares[0], log)
	if err != nil {
		return err
	}
	h, err := newHandler(fsys, c, locks, log)
	if err == nil {
		err = run(h)
	}
	return errors.Join(err, locks.Close())
}

// openLayers opens the engine, and leaves no directory behind when that fails.
func openLayers(l *layers, events overlay.Events) (*overlay.FS, error) {
	err := l.prepare()
	if err != nil {
		l.undo()
		return nil, err
	}
	o := l.engineOptions()
	o.Events = events
	fsys, err := overlay.Open(o)
	if err != nil {
		l.undo()
		return nil, err
	}
	return fsys, nil
}

// announce tells the person who typed the command what is going on: the log
// is for the operator and names no directory.
func announce(w io.Writer, c Config, lns []net.Listener, l *layers) {
	for _, ln := range lns {
		fmt.Fprintf(w, "serving  %s\n", c.urlAt(ln.Addr(), l.Path))
	}
	for _, dir := range l.Lower {
		fmt.Fprintf(w, "lower    %s\n", dir)
	}
	switch {
	case l.Upper == "":
		fmt.Fprintf(w, "changes  are refused\n")
	case l.ReadOnly:
		fmt.Fprintf(w, "upper    %s\nchanges  are refused\n", l.Upper)
	default:
		fmt.Fprintf(w, "changes  %s\nwork     %s\n", l.Upper, l.Work)
	}
}
