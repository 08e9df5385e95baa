package main

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
)

// A signpost answers over plain HTTP where the server speaks TLS: it sends who
// looks for a page on to where it is. It sends no WebDAV client on, which would
// go on writing to the wrong address, with its password in the clear each time,
// and whoever configured it would not notice.
type signpost struct {
	host string // of public_url, with its port; "" is as the client calls us
	port string // where TLS is, "" for its usual one
}

// newSignpost shows the way to c's public address, or to that of served.
func newSignpost(c Config, served []net.Listener) *signpost {
	if u, err := c.publicURL(); err == nil && u != nil && u.Scheme == "https" { // Config.check has refused a bad one
		return &signpost{host: u.Host}
	}
	for _, ln := range served {
		if addr, ok := ln.Addr().(*net.TCPAddr); ok && addr.Port != 443 {
			return &signpost{port: strconv.Itoa(addr.Port)}
		}
	}
	return &signpost{}
}

// serve answers on lns until stop is called. conns is the limit of the server.
func (s *signpost) serve(lns []net.Listener, certs *tlsFiles, conns *connLimit, log zerolog.Logger) (stop func()) {
	var stops []func()
	for _, ln := range lns {
		srv := &http.Server{Handler: certs.answering(s), MaxHeaderBytes: 8 << 10}
		stops = append(stops, serveBeside(conns.listener(ln), srv, "plain HTTP", log))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

func (s *signpost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["X-Content-Type-Options"] = noSniff
	_, _, withPassword := r.BasicAuth()
	if r.Method != http.MethodGet && r.Method != http.MethodHead || withPassword || hostname(r.Host) == "" {
		http.Error(w, "this server is to be used over TLS, by an address that begins with https:", http.StatusForbidden)
		return
	}
	to := url.URL{Scheme: "https", Host: s.hostFor(r), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	http.Redirect(w, r, to.String(), http.StatusFound)
}

func (s *signpost) hostFor(r *http.Request) string {
	name := hostname(r.Host)
	switch {
	case s.host != "":
		return s.host
	case s.port != "":
		return net.JoinHostPort(name, s.port)
	case strings.Contains(name, ":"):
		return "[" + name + "]"
	}
	return name
}
