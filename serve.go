package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// serve serves until it is told to stop.
//
// The umask is the user's: it shapes the modes of what clients create, as it
// would if they worked on the machine. The limit of open files needs no call;
// package os raises it to the hard limit (since Go 1.19).
func serve(e env, args []string) error {
	read := func(help io.Writer) (Config, error) { return configure("serve", args, e.getenv, help) }
	c, err := read(e.stdout)
	if err != nil {
		return err
	}
	log := newLog(c.Log, e.stderr)
	c.Limits.allowThreads(len(c.Shares))
	all, err := newShares(c, stateHome(e.getenv, os.Geteuid()), log)
	if err != nil {
		return err
	}

	audit, err := newAudit(c, log)
	if err != nil {
		return err
	}
	defer audit.close()

	door, err := newDoor(c, log)
	if err != nil {
		return err
	}

	// The first signal asks to finish; stopListening puts the default back, so
	// that the second one ends the process.
	ctx, stopListening := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stopListening()
	reload := newReloads(c, func() (Config, error) { return read(io.Discard) }, log)
	reload.add(audit.reload)
	reload.add(door.reload)
	defer reload.start()()

	// Listening comes first, so that an address in use leaves the disk alone.
	ln, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() // the server has closed it already, as a rule
	if err := all.open(); err != nil {
		return err
	}
	reload.add(all.reload)
	h, err := newRouter(c, all, door)
	if err == nil {
		announce(e.stdout, ln.Addr(), all)
		if c.Anonymous {
			log.Warn().Msg("everybody who can reach the address may read and write")
		}
		srv := newServer(h, log, c)
		srv.audit = audit
		err = srv.run(ctx, stopListening, ln)
	}
	return errors.Join(err, all.close())
}

// listen opens the listener. addr has passed Config.check.
func listen(addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if !isUnix {
		ln, err := net.Listen("tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, &hintError{err, "another program listens there; choose another --listen"}
		}
		return ln, err
	}
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	// A name is left behind when a server dies. It is in the way only while
	// somebody answers at it.
	conn, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		_ = conn.Close() // it told us what we wanted to know
		return nil, &hintError{err, "another server listens there; choose another --listen"}
	}
	info, statErr := os.Lstat(path)
	if !errors.Is(dialErr, syscall.ECONNREFUSED) || statErr != nil || info.Mode().Type() != fs.ModeSocket {
		return nil, &hintError{err, "something else has that name; choose another --listen"}
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// announce tells the person who typed the command what is going on: the log
// is for the operator and names no directory.
func announce(w io.Writer, addr net.Addr, all shares) {
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		announceShare(w, addr, s.layers)
	}
}

func announceShare(w io.Writer, addr net.Addr, l *layers) {
	if addr.Network() == "unix" {
		fmt.Fprintf(w, "serving  unix:%s %s\n", addr, strings.TrimSuffix(l.Path, "/"))
	} else {
		fmt.Fprintf(w, "serving  http://%s%s/\n", addr, strings.TrimSuffix(l.Path, "/"))
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
