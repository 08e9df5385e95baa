package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSignpostSendsPagesOnAndNobodyElse(t *testing.T) {
	at := func(port int) []net.Listener { return []net.Listener{addrListener{&net.TCPAddr{Port: port}}} }
	unix := []net.Listener{addrListener{&net.UnixAddr{Name: "/s"}}}
	const refused = ""
	for _, c := range []struct {
		public string
		served []net.Listener
		method string
		target string
		host   string
		want   string
	}{
		{"", at(443), "GET", "/a%2fb%20c?d=e", "files.example.org", "https://files.example.org/a%2fb%20c?d=e"},
		{"", at(443), "HEAD", "/", "files.example.org:80", "https://files.example.org/"},
		{"", at(8443), "GET", "/", "files.example.org:8080", "https://files.example.org:8443/"},
		{"", at(443), "GET", "/", "[2001:db8::1]", "https://[2001:db8::1]/"},
		{"", at(8443), "GET", "/", "[2001:db8::1]:80", "https://[2001:db8::1]:8443/"},
		{"", unix, "GET", "//other.example/", "files.example.org", "https://files.example.org//other.example/"},
		{"https://public.example:444/dav", at(8443), "GET", "/dav/a", "files.example.org", "https://public.example:444/dav/a"},
		{"http://public.example/", at(443), "GET", "/a", "files.example.org", "https://files.example.org/a"},
		{"", at(443), "GET", "/", "", refused},
		{"", at(443), "PROPFIND", "/", "files.example.org", refused},
		{"", at(443), "PUT", "/a", "files.example.org", refused},
		{"", at(443), "OPTIONS", "/", "files.example.org", refused},
	} {
		for _, password := range []bool{false, true} {
			config := defaultConfig()
			config.PublicURL = c.public
			r := httptest.NewRequest(c.method, c.target, nil)
			r.Host = c.host
			want := c.want
			if password {
				r.SetBasicAuth("alice", "secret")
				want = refused
			}
			w := httptest.NewRecorder()
			newSignpost(config, c.served).ServeHTTP(w, r)
			wantCode := http.StatusFound
			if want == refused {
				wantCode = http.StatusForbidden
			}
			if got := w.Header().Get("Location"); w.Code != wantCode || got != want {
				t.Errorf("%s %s of %q, password %t: %d %q, want %d %q", c.method, c.target, c.host, password, w.Code, got, wantCode, want)
			}
		}
	}
}

// addrListener has nothing but an address.
type addrListener struct{ addr net.Addr }

func (l addrListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (l addrListener) Close() error              { return nil }
func (l addrListener) Addr() net.Addr            { return l.addr }

func TestHTTPListenMistakes(t *testing.T) {
	for want, c := range map[string]TLSConfig{
		`tls.http_listen: "80" is not an address`: {Cert: "c", Key: "k", HTTPListen: "80"},
		"tls.http_listen: there is no TLS":        {HTTPListen: ":80"},
	} {
		c.ACME = defaultACME()
		if said := mistakes(c.check); len(said) != 1 || !strings.HasPrefix(said[0], want) {
			t.Errorf("%+v: said %q, want %q", c, said, want)
		}
	}
}
