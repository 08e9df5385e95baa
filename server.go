package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// killTimeout is how long handlers whose connection is gone may take to end,
// after StopTimeout.
const killTimeout = 10 * time.Second

// server is the HTTP side of serve.
type server struct {
	http        http.Server
	log         zerolog.Logger
	stopTimeout time.Duration
	lines       *logBuffer     // of log; nil: nothing waits there
	audit       *audit         // nil: nothing is audited
	metrics     *metrics       // nil: nothing is counted
	health      *health        // nil: nobody is told
	processors  *processors    // nil: nobody chooses how many are used
	next        http.Handler   // what answers
	stall       time.Duration  // how long a body may stand still
	proxies     proxies        // whose word about their clients counts
	conns       *connLimit     // of all listeners
	running     sync.WaitGroup // the requests in a handler
}

func newServer(h http.Handler, log zerolog.Logger, c Config) *server {
	s := &server{log: log, stopTimeout: c.StopTimeout, stall: c.Limits.StallTimeout}
	if site, err := c.site(); err == nil { // Config.check has refused any other
		s.proxies = site.TrustedProxies
	}
	s.conns = newConnLimit(c.Limits, s.proxies)
	public, err := c.publicURL()
	if err != nil || public == nil {
		public = new(url.URL) // Config.check has refused it, or there is none
	}
	// No browser reaches a socket by itself, and what it sends elsewhere without
	// having asked its user for a password lets nobody in.
	if !c.Anonymous && !c.authenticates() {
		h = ownHostOnly(public.Hostname(), h)
	}
	// Pages of other sites may not make a visitor's browser change anything. Our
	// own are where clients say they are, whatever Host a proxy makes of it.
	protection := http.NewCrossOriginProtection()
	if public.Host != "" {
		_ = protection.AddTrustedOrigin(strings.ToLower(public.Scheme + "://" + public.Host)) // fails only on what check refuses
	}
	c.CORS.trust(protection)
	h = c.CORS.handler(protection.Handler(h))
	if c.TLS.on() && c.TLS.HSTS > 0 {
		h = strictTransport(c.TLS.HSTS, h)
	}
	s.next = h
	s.http = http.Server{
		Handler:           s,
		ReadHeaderTimeout: c.Limits.HeaderTimeout,
		IdleTimeout:       c.Limits.IdleTimeout,
		MaxHeaderBytes:    c.Limits.maxHeaderBytes(),
		ErrorLog:          stdLogger(log),
		ConnContext:       withConnection,
		// OPTIONS * is a question for WebDAV too.
		DisableGeneralOptionsHandler: true,
	}
	return s
}

// run serves until ctx is done, calls stopping, and returns when what still
// runs has finished or has had stopTimeout to.
func (s *server) run(ctx context.Context, stopping func(), lns ...net.Listener) error {
	ended := make(chan error, len(lns))
	overTLS := s.http.TLSConfig != nil // asked now: Serve makes one for itself
	for _, ln := range lns {
		go func() { ended <- s.accept(ln, overTLS) }()
		s.log.Info().Str(keyAddr, ln.Addr().String()).Msg("serving")
	}
	select {
	case err := <-ended:
		return err // the listener broke
	case <-ctx.Done():
	}

	stopping()
	tellManager(s.log, daemon.SdNotifyStopping)
	s.log.Info().Dur(keyTimeout, s.stopTimeout).Msg("stopping: finishing what runs")
	ctx, cancel := context.WithTimeout(context.Background(), s.stopTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn().Msg("stopping: requests took too long and are cut off")
		_ = s.http.Close() // its errors are those of connections we give up
		err = s.awaitHandlers()
	}
	s.log.Info().Msg("stopped")
	return err
}

// accept serves what comes to ln. Without TLS HTTP/2 is not spoken: no client
// asks for it, and proxies must not.
func (s *server) accept(ln net.Listener, overTLS bool) error {
	if overTLS {
		return s.http.ServeTLS(s.conns.listener(ln), "", "")
	}
	return s.http.Serve(s.conns.listener(ln))
}

// ServeHTTP is what happens to every request, whatever it is: it is counted,
// as http.Server.Close does not wait for handlers; a mistake ends the program;
// its bytes pass through an exchange; and in the end the log says what became of
// it.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.running.Add(1)
	defer s.running.Done()
	defer endOnPanic(s.lines)
	s.processors.enter(connectionOf(r))
	defer s.processors.leave()
	if r.URL.Path == "" { // a target in absolute form with nothing behind the host
		r.URL.Path = "/" // RFC 9110, section 4.2.3
	}
	x := &exchange{record: newRecord(r, s.proxies), stall: s.stall}
	r = x.begin(w, r)
	w.Header()["X-Content-Type-Options"] = noSniff
	aborted := true
	defer func() {
		x.end()
		x.started()
		s.audit.note(&x.record, r, w.Header())
		s.metrics.note(&x.record)
		x.access(&s.log, aborted)
	}()
	if r.URL.Path == healthPath && s.health != nil {
		s.health.ServeHTTP(x, r) // for everybody, by whatever name they call the server
	} else {
		s.next.ServeHTTP(x, r)
	}
	aborted = false
}

// serveBeside serves what is no WebDAV, and short, on ln until stop is called,
// which waits for nobody.
func serveBeside(ln net.Listener, srv *http.Server, what string, log zerolog.Logger) (stop func()) {
	srv.ErrorLog, srv.ReadTimeout, srv.WriteTimeout = stdLogger(log), 10*time.Second, time.Minute
	go func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("not serving " + what + " any more")
		}
	}()
	log.Info().Str(keyAddr, ln.Addr().String()).Msg("serving " + what)
	return func() { _ = srv.Close() } // its errors are those of connections we give up
}

// noSniff is in every answer: what it is called is what it is. Nothing may
// append to the slice.
var noSniff = []string{"nosniff"}

// endOnPanic ends the program when a handler panics, where net/http would go
// on. A panic is a mistake of ours, and may have left the locks of the tree
// held: a program that ended leaves a sound tree and is started again, one that
// goes on answers nobody.
func endOnPanic(lines *logBuffer) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p) // not a mistake: it closes the connection
	}
	lines.flush() // what led to it
	fmt.Fprintf(os.Stderr, "overdav: a mistake of overdav's, please report it: %v\n%s", p, debug.Stack())
	os.Exit(exitPanic)
}

// exitPanic is the exit status after a panic, as the Go runtime's.
const exitPanic = 2

// awaitHandlers waits for handlers whose connections were closed: the engine
// must not be closed under them.
func (s *server) awaitHandlers() error {
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("requests still run %v after their connections were closed; is a layer's disk stuck?", killTimeout)
	}
}

// ownHostOnly answers requests that were meant for this machine's loopback
// address, or for the public name, if there is one. A page that a browser
// loaded from elsewhere can make its host name resolve to 127.0.0.1 and would
// then be of our origin; what it cannot do is send another Host, or none as
// HTTP/1.0 allows, show our certificate under its name, or connect to a Unix socket.
func ownHostOnly(public string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := hostname(r.Host)
		own := isLoopback(name) || r.Host == "" && !r.ProtoAtLeast(1, 1) || public != "" && strings.EqualFold(name, public)
		if !own && r.TLS == nil && !overUnixSocket(r) {
			// RFC 9110, section 15.5.20
			http.Error(w, "overdav serves this address only under a loopback name or that of public_url; start it with --anonymous to allow others", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func overUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// hostname returns the name in a Host header.
func hostname(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
