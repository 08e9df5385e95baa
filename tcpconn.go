package main

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// A tcpConn is a client's connection without TLS. It keeps all of a
// *net.TCPConn, sendfile(2) above all, and can hold back what is written to it:
// net/http writes the head of an answer apart from a body that does not fit in
// its buffer, and each write(2) costs more than all else that is done for a
// small request. Only the goroutine that serves the connection writes.
type tcpConn struct {
	*net.TCPConn
	release release
	held    *[]byte // what waits for send; nil: nothing is held back
}

// heldBuffers are for the head of an answer and a piece of its body.
var heldBuffers = sync.Pool{New: func() any { b := make([]byte, 0, mostHeld+(8<<10)); return &b }}

// mostHeld is up to where a copy in memory costs less than a call.
const mostHeld = 64 << 10

// Close is net.Conn's.
func (c *tcpConn) Close() error {
	defer c.release.run()
	return c.TCPConn.Close()
}

// hold lets what is written from here on wait for send.
func (c *tcpConn) hold() { c.held = heldBuffers.Get().(*[]byte) }

// Write is net.Conn's.
func (c *tcpConn) Write(p []byte) (int, error) {
	if c.held == nil {
		return c.TCPConn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// send writes what was held back, in one piece. When that fails nobody can tell
// where the answer broke off, and net/http has been told that it did not: the
// connection is closed.
func (c *tcpConn) send() error {
	held := c.held
	c.held = nil
	var err error
	if len(*held) > 0 {
		_, err = c.TCPConn.Write(*held)
	}
	if cap(*held) <= 2*mostHeld {
		*held = (*held)[:0]
		heldBuffers.Put(held)
	}
	if err != nil {
		_ = c.Close() // err says more
	}
	return err
}

// A connection is what the requests that come over it have in common.
type connection struct {
	tcp *tcpConn // nil: over TLS or a Unix socket
}

// connectionKey finds the connection in the context of its requests.
type connectionKey struct{}

// connectionOf is the connection of a request; nil in tests.
func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// withConnection is for http.Server.ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	c := new(connection)
	c.tcp, _ = conn.(*tcpConn)
	return context.WithValue(ctx, connectionKey{}, c)
}
