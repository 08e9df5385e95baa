package auth

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestClientIsTheLastWhoIsNotTrusted(t *testing.T) {
	proxies := Proxies{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string // "" is nobody knows who
	}{
		{"direct", "192.0.2.1:5", nil, "192.0.2.1"},
		{"direct, and lying", "192.0.2.1:5", []string{"203.0.113.9"}, "192.0.2.1"},
		{"one proxy", "127.0.0.1:5", []string{"192.0.2.1"}, "192.0.2.1"},
		{"one proxy, as IPv6", "[::1]:5", []string{"2001:db8::7"}, "2001:db8::7"},
		{"mapped", "[::ffff:10.1.2.3]:5", []string{"192.0.2.1"}, "192.0.2.1"},
		{"a client that lies", "127.0.0.1:5", []string{"203.0.113.9, 192.0.2.1"}, "192.0.2.1"},
		{"two headers", "127.0.0.1:5", []string{"203.0.113.9", "192.0.2.1, 10.0.0.9"}, "192.0.2.1"},
		{"two proxies", "127.0.0.1:5", []string{"203.0.113.9,192.0.2.1 , 10.0.0.9"}, "192.0.2.1"},
		{"all are proxies", "127.0.0.1:5", []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1"},
		{"with a port", "127.0.0.1:5", []string{"192.0.2.1:4711"}, "192.0.2.1"},
		{"with brackets", "127.0.0.1:5", []string{"[2001:db8::7]:80"}, "2001:db8::7"},
		{"with a zone", "[fe80::1%eth0]:5", []string{"192.0.2.1"}, "fe80::1"},
		{"nothing from the proxy", "127.0.0.1:5", nil, "127.0.0.1"},
		{"garbage", "127.0.0.1:5", []string{"unknown"}, "127.0.0.1"},
		{"garbage behind a proxy", "127.0.0.1:5", []string{"evil, 10.0.0.9"}, "10.0.0.9"},
		{"a Unix socket", "@", []string{"192.0.2.1"}, "192.0.2.1"},
		{"a Unix socket, and nothing", "", nil, ""},
		{"a peer that is none", "x", []string{"192.0.2.1"}, ""},
	}
	for _, test := range tests {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{}}
		r.Header["X-Forwarded-For"] = test.forwarded
		want, _ := netip.ParseAddr(test.want) // "" is the zero Addr
		if got := proxies.Client(r); got != want {
			t.Errorf("%s: got %v, want %v", test.name, got, want)
		}
	}
}
