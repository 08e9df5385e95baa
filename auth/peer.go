package auth

import (
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the peers whose headers are believed. Peers on a Unix socket
// always are: whoever may write to it was given the socket.
type Proxies []netip.Prefix

// maxHops is how many addresses of X-Forwarded-For are looked at.
const maxHops = 32

// Trusts says whether the peer at remoteAddr, as in http.Request, is a proxy
// whose word counts.
func (p Proxies) Trusts(remoteAddr string) bool {
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil { // a Unix socket's peer is "@" or ""
		return remoteAddr == "" || strings.HasPrefix(remoteAddr, "@")
	}
	return p.has(peer.Addr())
}

func (p Proxies) has(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// Client returns the address of who makes the request: that of the connection,
// or, if it is a trusted proxy's, the rightmost in X-Forwarded-For that is none
// of a trusted proxy. What stands left of it is the client's own word. The zero
// Addr is of nobody knows whom, behind a Unix socket.
func (p Proxies) Client(r *http.Request) netip.Addr {
	var addr netip.Addr
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = peer.Addr().Unmap().WithZone("")
	}
	if !p.Trusts(r.RemoteAddr) {
		return addr
	}
	rest := strings.Join(r.Header["X-Forwarded-For"], ",")
	for range maxHops {
		i := strings.LastIndexByte(rest, ',')
		hop, ok := parseHop(strings.Trim(rest[i+1:], " \t"))
		if !ok {
			return addr // of the last one who is known to be what he says
		}
		addr = hop
		if i < 0 || !p.has(hop) {
			return addr
		}
		rest = rest[:i]
	}
	return addr
}

// parseHop reads an address, with or without a port.
func parseHop(text string) (netip.Addr, bool) {
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
