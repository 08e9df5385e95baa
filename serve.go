package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/term"
)

// serve serves until it is told to stop.
//
// The umask is the user's: it shapes the modes of what clients create, as it
// would if they worked on the machine. The limit of open files needs no call;
// package os raises it to the hard limit (since Go 1.19).
func serve(e env, args []string) (err error) {
	c, o, err := configureWhole(e, "serve", args)
	if err != nil {
		return everyMistake(e, c, o, err)
	}
	lines := newLogBuffer(e.stderr)
	defer lines.flush()
	log := newLog(c.Log, lines)
	c.Limits.allowThreads(len(c.Shares))
	limitMemory(e.getenv, os.DirFS("/"), log)
	tuneCollector(e.getenv)
	all, err := newShares(c, stateHome(e.getenv, os.Geteuid()), log)
	if err != nil {
		return everyMistake(e, c, o, err)
	}

	counts, processors := newMetrics(c.Metrics), newProcessors(e.getenv)
	for _, s := range all {
		s.metrics, s.processors = counts, processors
	}
	audit, err := newAudit(c, log)
	if err != nil {
		return everyMistake(e, c, o, err)
	}
	defer audit.close()

	door, err := newDoor(c, log)
	if err != nil {
		return everyMistake(e, c, o, err)
	}

	all.warnOfSecrets(c.secrets(configFileOf("serve", args, e.getenv)), log)
	all.warnOfOverlaps(log)

	// A log that nobody reads any more (serve | tee, and Ctrl-C ends both) is no
	// reason to die in the middle of an upload: writing it fails, that is all.
	signal.Ignore(syscall.SIGPIPE)

	// The first signal asks to finish; stopListening puts the default back, so
	// that the second one ends the process.
	file := configFileOf("serve", args, e.getenv)
	// From a terminal and without a file to be read again SIGHUP says that the
	// terminal was closed, unless nohup(1) has it ignored.
	hangUp := file == "" && term.IsTerminal(int(os.Stdin.Fd()))
	ctx, stopListening := notifyOfStop(hangUp && !signal.Ignored(syscall.SIGHUP))
	defer stopListening()
	reload := newReloads(c, func() (Config, error) { return configure("serve", args, e.getenv, io.Discard) }, log)
	reload.add(audit.reload)
	reload.add(door.reload)
	if !hangUp {
		defer reload.start()()
	}

	// Listening comes first, so that an address in use leaves the disk alone.
	socks, err := listen(c)
	if err != nil {
		return err
	}
	defer socks.close()
	certs, err := newTLSFiles(c.TLS, log)
	if err != nil {
		return everyMistake(e, c, o, err)
	}
	reload.add(certs.reload)
	if err := all.open(); err != nil {
		return everyMistake(e, c, o, err)
	}
	defer func() { err = errors.Join(err, all.close()) }()
	reload.add(all.reload)
	defer all.expireNowAndThen()()
	h, err := newRouter(c, all, door)
	if err != nil {
		return err
	}
	if c.Anonymous {
		log.Warn().Msg("everybody who can reach the address may come in")
	}
	srv := newServer(h, log, c)
	srv.http.TLSConfig = certs.config()
	srv.lines = lines
	srv.audit, srv.metrics, srv.processors, srv.health = audit, counts, processors, newHealth(all, log)
	defer processors.start()()
	stop, err := counts.start(c.Metrics, srv, h, log)
	if err != nil {
		return err
	}
	defer stop()
	if err := newSandbox(c, file, all).enter(c, log); err != nil {
		return err
	}
	defer newSignpost(c, socks.served).serve(socks.plain, certs, srv.conns, log)()
	announce(e.stdout, c, socks.served, all)
	tellManager(log, daemon.SdNotifyReady)
	go feedWatchdog(ctx, srv.health.check, log)
	return srv.run(ctx, stopListening, socks.served...)
}

// notifyOfStop returns a context that a signal to stop ends; after stopListening
// the next one ends the process. SIGHUP is one if hangUp says so, and often comes
// twice, from the kernel and from the shell.
func notifyOfStop(hangUp bool) (ctx context.Context, stopListening func()) {
	if !hangUp {
		return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return ctx, func() {
		signal.Ignore(syscall.SIGHUP)
		stop()
	}
}

// announce tells the person who typed the command what is going on: the log
// is for the operator and names no directory.
func announce(w io.Writer, c Config, lns []net.Listener, all shares) {
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		announceShare(w, c, lns, s.layers)
	}
}

func announceShare(w io.Writer, c Config, lns []net.Listener, l *layers) {
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
