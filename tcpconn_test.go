package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// An answer and its head are one write(2), whatever their sizes and however the
// handler writes, and arrive as they were written.
func TestAnswersArriveWhole(t *testing.T) {
	for _, size := range []int{0, 1, 2047, 2048, 3071, 3072, 3073, 4096, 32 << 10, mostHeld, mostHeld + 1, 300_000} {
		body := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		for name, handler := range map[string]http.HandlerFunc{
			"with a length": func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				_, _ = w.Write(body)
			},
			"in chunks": func(w http.ResponseWriter, r *http.Request) {
				for _, part := range [][]byte{body[:size/3], body[size/3:]} {
					_, _ = w.Write(part)
				}
			},
			"of a reader": func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				_, _ = io.CopyN(w, bytes.NewReader(body), int64(size))
			},
		} {
			t.Run(fmt.Sprintf("%d bytes %s", size, name), func(t *testing.T) {
				conn := dialServer(t, handler)
				answers := bufio.NewReader(conn)
				for range 2 { // the second on the same connection
					if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					resp, err := http.ReadResponse(answers, nil)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					if err != nil || !bytes.Equal(got, body) {
						t.Fatalf("%d bytes, %v", len(got), err)
					}
				}
			})
		}
	}
}

// Head and body of a small answer are one write(2).
func TestHeldBackAnswerIsOneWrite(t *testing.T) {
	client, server := tcpPair(t)
	c := &tcpConn{TCPConn: server}
	c.hold()
	for _, part := range []string{"head ", "body"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := c.send(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := client.Read(buf); string(buf[:n]) != "head body" || err != nil {
		t.Errorf("the first that arrives is %q, %v", buf[:n], err)
	}
}

// An answer that broke off ends its connection: what came after it would be
// taken for its rest.
func TestAnswerThatBreaksOffEndsTheConnection(t *testing.T) {
	client, server := tcpPair(t)
	client.Close()
	closed := 0
	c := &tcpConn{TCPConn: server, release: release{limit: newConnLimit(defaultConfig().Limits, nil)}}
	c.release.limit.open = 1
	for range 100 { // until the client's end has told ours
		c.hold()
		_, _ = c.Write([]byte(strings.Repeat("x", 1000)))
		if c.send() != nil {
			closed++
			break
		}
	}
	if closed == 0 || c.release.limit.count() != 0 {
		t.Error("the connection is still open")
	}
}

// dialServer is a connection to a server with h.
func dialServer(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(h, discardLog(), defaultConfig())
	ended := make(chan error, 1)
	go func() { ended <- s.accept(ln, false) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.http.Close()
		<-ended
	})
	return conn
}

// tcpPair is the two ends of a connection.
func tcpPair(t *testing.T) (client net.Conn, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); conn.Close() })
	return client, conn.(*net.TCPConn)
}
