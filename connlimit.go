package main

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// connLimit bounds the connections that clients hold open. One too many is
// closed at once: a client that is refused can try again, a server without
// descriptors helps nobody.
type connLimit struct {
	total, perNetwork int
	exempt            proxies // one address there speaks for many clients

	refused atomic.Uint64

	mu sync.Mutex
	// +checklocks:mu
	open int
	// +checklocks:mu
	by map[netip.Addr]int // connections by network; no zeros
}

func newConnLimit(c LimitsConfig, exempt proxies) *connLimit {
	return &connLimit{
		total: c.Connections, perNetwork: c.ConnectionsPerAddress, exempt: exempt,
		by: make(map[netip.Addr]int),
	}
}

// listener is ln with the limit, which several may share.
func (l *connLimit) listener(ln net.Listener) net.Listener { return &limitedListener{ln, l} }

type limitedListener struct {
	net.Listener
	limit *connLimit
}

// Accept returns the next connection that is within the limit.
func (ln *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := ln.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if counted, ok := ln.limit.admit(conn); ok {
			return counted, nil
		}
		_ = conn.Close() // the client is told by it, there is nobody else
	}
}

// admit counts conn until it is closed.
func (l *connLimit) admit(conn net.Conn) (net.Conn, bool) {
	addr := peerAddr(conn.RemoteAddr().String()).Addr() // none of a Unix socket
	key := network(addr)
	if addr.IsLoopback() || l.exempt.trust(addr) { // a proxy or a tunnel on this machine is no client, either
		key = netip.Addr{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.total || key.IsValid() && l.by[key] >= l.perNetwork {
		l.refused.Add(1)
		return nil, false
	}
	l.open++
	if key.IsValid() {
		l.by[key]++
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &tcpConn{TCPConn: tcp, release: release{limit: l, key: key}}, true
	}
	return &countedConn{Conn: conn, release: release{limit: l, key: key}}, true
}

// count is how many connections are open.
func (l *connLimit) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// A release takes a connection out of the count, once.
type release struct {
	limit *connLimit
	key   netip.Addr
	done  atomic.Bool
}

func (r *release) run() {
	if r.done.Swap(true) {
		return
	}
	r.limit.mu.Lock()
	defer r.limit.mu.Unlock()
	r.limit.open--
	if !r.key.IsValid() {
		return
	}
	r.limit.by[r.key]--
	if r.limit.by[r.key] == 0 {
		delete(r.limit.by, r.key)
	}
}

type countedConn struct {
	net.Conn
	release release
}

// Close is net.Conn's.
func (c *countedConn) Close() error {
	defer c.release.run()
	return c.Conn.Close()
}
