package main

import (
	"crypto/tls"
	"net/http"
	"testing"
)

func TestClientAddress(t *testing.T) {
	var trusted proxies
	for _, text := range []string{"10.0.0.0/8", "2001:db8:1::/48"} {
		p, err := parseProxy(text)
		if err != nil {
			t.Fatal(err)
		}
		trusted = append(trusted, p)
	}
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"a direct one", "192.0.2.7:4711", nil, "192.0.2.7:4711"},
		{"a direct one that lies", "192.0.2.7:4711", []string{"198.51.100.1"}, "192.0.2.7:4711"},
		{"IPv4 in IPv6's form", "[::ffff:192.0.2.7]:4711", nil, "192.0.2.7:4711"},
		{"with a zone", "[fe80::1%eth0]:4711", nil, "[fe80::1]:4711"},
		{"behind a proxy", "10.0.0.1:1", []string{"192.0.2.7"}, "192.0.2.7:0"},
		{"behind a proxy in IPv6", "[2001:db8:1::1]:1", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		{"with brackets", "10.0.0.1:1", []string{"[2001:db8::7]"}, "[2001:db8::7]:0"},
		{"with a port", "10.0.0.1:1", []string{"192.0.2.7:99"}, "192.0.2.7:0"},
		{"a liar behind a proxy", "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.7"}, "192.0.2.7:0"},
		{"a liar in a line of its own", "10.0.0.1:1", []string{"198.51.100.1", "192.0.2.7"}, "192.0.2.7:0"},
		{"two proxies", "10.0.0.1:1", []string{"192.0.2.7, 10.0.0.2"}, "192.0.2.7:0"},
		{"two proxies in two lines", "10.0.0.1:1", []string{"198.51.100.1,192.0.2.7", " 10.0.0.2 "}, "192.0.2.7:0"},
		{"a client in the proxies' own network", "10.0.0.1:1", []string{"10.0.0.9"}, "10.0.0.9:0"},
		{"a proxy that adds nothing", "10.0.0.1:1", nil, "10.0.0.1:1"},
		{"no address", "10.0.0.1:1", []string{"unknown"}, "10.0.0.1:1"},
		{"no address behind one", "10.0.0.1:1", []string{"192.0.2.7, evil\" ip=1.2.3.4, 10.0.0.2"}, "10.0.0.2:0"},
		{"empty elements", "10.0.0.1:1", []string{"192.0.2.7,,"}, "10.0.0.1:1"},
		{"a Unix socket", "@", []string{"198.51.100.1, 192.0.2.7"}, "192.0.2.7:0"},
		{"a Unix socket that says nothing", "@", nil, "invalid AddrPort"},
	}
	for _, test := range tests {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{}}
		if test.forwarded != nil {
			r.Header["X-Forwarded-For"] = test.forwarded
		}
		if got := trusted.client(r).String(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestSecureRequests(t *testing.T) {
	proxy, err := parseProxy("10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		peer   string
		tls    bool
		protos []string
		want   bool
	}{
		{"192.0.2.7:1", false, nil, false},
		{"192.0.2.7:1", true, nil, true},
		{"192.0.2.7:1", false, []string{"https"}, false},
		{"10.0.0.1:1", false, []string{"https"}, true},
		{"10.0.0.1:1", false, []string{"HTTPS "}, true},
		{"10.0.0.1:1", false, []string{"http"}, false},
		{"10.0.0.1:1", false, []string{"https", "http"}, false},
		{"10.0.0.1:1", false, nil, false},
		{"@", false, []string{"https"}, true},
	}
	for _, test := range tests {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{"X-Forwarded-Proto": test.protos}}
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if got := (proxies{proxy}).secure(r); got != test.want {
			t.Errorf("%+v: got %t", test, got)
		}
	}
}
