package main

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the peers whose word about their clients counts.
type proxies []netip.Prefix

// trust reports whether addr is one of them.
func (p proxies) trust(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// client is who sent a request: the peer, unless that is a proxy of ours, and
// then the last address in X-Forwarded-For that is not. What stands further left
// was written by others, who can write anything. Whoever connects to a Unix
// socket is a proxy: it was given the socket. An address without a port came
// from the header; the zero value is a client of a socket that nobody named.
//
// Forwarded (RFC 7239) is not looked at: proxies that set the one header pass on
// what clients write into the other.
func (p proxies) client(r *http.Request) netip.AddrPort {
	peer := peerAddr(r.RemoteAddr)
	if peer.IsValid() && !p.trust(peer.Addr()) {
		return peer
	}
	client := peer
	for _, line := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for line != "" {
			element := line[strings.LastIndexByte(line, ',')+1:]
			line = strings.TrimSuffix(line[:len(line)-len(element)], ",")
			addr, ok := forwardedAddr(strings.Trim(element, " \t"))
			if !ok {
				return client // who wrote this is the last we know
			}
			client = netip.AddrPortFrom(addr, 0)
			if !p.trust(addr) {
				return client
			}
		}
	}
	return client
}

// speak reports whether r comes from a proxy of ours.
func (p proxies) speak(r *http.Request) bool {
	peer := peerAddr(r.RemoteAddr)
	return !peer.IsValid() || p.trust(peer.Addr())
}

// peerAddr reads http.Request.RemoteAddr. A zone is dropped, an IPv4 address
// is one in whatever form.
func peerAddr(remote string) netip.AddrPort {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.AddrPort{} // a Unix socket's peer is "@" or ""
	}
	return netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
}

// forwardedAddr reads an element of X-Forwarded-For; some proxies write a port.
func forwardedAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

// network is the part of an address that one client is likely to have to
// itself: IPv6 networks are handed out in /64s.
func network(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr // only for more than 128 bits
	}
	return prefix.Addr()
}

// secure reports whether a request came over TLS, to us or to a proxy of ours.
func (p proxies) secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	if !p.speak(r) {
		return false
	}
	protos := r.Header["X-Forwarded-Proto"]
	return len(protos) == 1 && strings.EqualFold(strings.Trim(protos[0], " \t"), "https")
}
