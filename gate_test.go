package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// behind is next behind a gate.
func behind(c LimitsConfig, next http.Handler) http.Handler {
	g := newGate(c)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, next) })
}

// hanging is a handler that hangs in a disk until it is let go.
type hanging struct{ entered, release chan bool }

func newHanging() hanging { return hanging{make(chan bool), make(chan bool)} }

func (h hanging) ServeHTTP(http.ResponseWriter, *http.Request) {
	h.entered <- true
	<-h.release
}

// One request beyond the limit waits, and is told to come again; another share
// does not notice; and when the disk is back all is as before.
func TestLimitOfOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := defaultLimits()
		c.Operations = 2
		disk := newHanging()
		hung := behind(c, disk)
		ask := func(h http.Handler) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			return w
		}
		for range c.Operations {
			go ask(hung)
			<-disk.entered
		}
		began := time.Now()
		w := ask(hung)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one beyond the limit: status %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		if got := time.Since(began); got != c.OperationWait {
			t.Errorf("it waited %v, want %v", got, c.OperationWait)
		}
		began = time.Now()
		other := behind(c, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		if w := ask(other); w.Code != http.StatusOK || time.Since(began) != 0 {
			t.Errorf("another share: status %d after %v", w.Code, time.Since(began))
		}

		waited := make(chan int)
		go func() { waited <- ask(hung).Code }()
		synctest.Wait() // it waits for a place
		disk.release <- true
		<-disk.entered // it has got it
		disk.release <- true
		disk.release <- true
		if got := <-waited; got != http.StatusOK {
			t.Errorf("who waited for less than the limit: status %d", got)
		}
	})
}

// Who waits for a client leaves the disk to others, and goes on when it has a
// place again.
func TestSlowClientsHoldNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := defaultConfig()
		c.Limits.Operations = 1
		got := make(chan string, 1)
		disk := newHanging()
		ln := servePipes(t, c, behind(c.Limits, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/upload":
				body, err := io.ReadAll(r.Body)
				got <- fmt.Sprint(string(body), " ", err)
			case "/download":
				n, err := w.Write(make([]byte, 1<<20))
				got <- fmt.Sprint(n, " ", err)
			case "/hang":
				disk.ServeHTTP(w, r)
			}
		})))
		ask := func(conn net.Conn, path string) int {
			go func() { fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path) }()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		up, down, other := ln.dial(), ln.dial(), ln.dial()
		fmt.Fprint(up, "PUT /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
		fmt.Fprint(down, "GET /download HTTP/1.1\r\nHost: localhost\r\n\r\n")
		synctest.Wait() // both wait for their clients
		if status := ask(other, "/"); status != http.StatusOK {
			t.Errorf("beside two slow clients: status %d", status)
		}
		fmt.Fprint(up, "cd")
		if got := <-got; got != "abcd <nil>" {
			t.Errorf("the slow upload: %s", got)
		}
		for _, conn := range []io.Reader{up, down} { // both names get others below
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
		if got := <-got; got != fmt.Sprint(1<<20, " <nil>") {
			t.Errorf("the slow download: %s", got)
		}

		// When there is no place to come back to, the upload is refused and the
		// download is cut: it must not look complete.
		hang := ln.dial()
		up, down = ln.dial(), ln.dial()
		fmt.Fprint(up, "PUT /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
		fmt.Fprint(down, "GET /download HTTP/1.1\r\nHost: localhost\r\n\r\n")
		synctest.Wait() // both wait for their clients
		go func() { fmt.Fprint(hang, "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n") }()
		<-disk.entered
		fmt.Fprint(up, "cd")
		if got := <-got; !strings.HasPrefix(got, "ab") || !strings.Contains(got, errBusy.Error()) {
			t.Errorf("an upload that found no place again: %s", got)
		}
		resp, err := http.ReadResponse(bufio.NewReader(down), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("a download that found no place again looks complete: %d bytes", n)
		}
		<-got
		disk.release <- true
		for _, conn := range []net.Conn{up, down, other, hang} {
			conn.Close()
		}
	})
}
