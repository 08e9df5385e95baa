package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections have no network and no buffer, for
// tests in which time is synctest's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { close(l.done); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns a client's end of a new connection.
func (l *pipes) dial() net.Conn {
	client, conn := net.Pipe()
	l.conns <- conn
	return client
}

// servePipes serves h in a bubble of synctest until the bubble's test ends.
func servePipes(t *testing.T, c Config, h http.Handler) *pipes {
	s, ln := newServer(h, discardLog(), c), newPipes()
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(ln) }()
	t.Cleanup(func() {
		s.http.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln
}

// headerOf is the header of a request of exactly size bytes.
func headerOf(size int) string {
	const first, last = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ", "\r\n\r\n"
	return first + strings.Repeat("x", size-len(first)-len(last)) + last
}

func TestLimitOfHeaderBytes(t *testing.T) {
	c := defaultConfig()
	base, stop := start(t, c, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	for size, want := range map[int]int{int(c.Limits.HeaderBytes): 200, int(c.Limits.HeaderBytes) + 1: 431} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, headerOf(size)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("a header of %d bytes: status %d, want %d", size, resp.StatusCode, want)
		}
		conn.Close()
	}
}

// closedAfter says how long the server leaves a connection open from now on.
func closedAfter(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

func TestLimitsOfSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := defaultConfig()
		ln := servePipes(t, c, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		silent := ln.dial()
		if got := closedAfter(t, silent); got != c.Limits.HeaderTimeout {
			t.Errorf("a silent connection was closed after %v, want %v", got, c.Limits.HeaderTimeout)
		}
		half := ln.dial()
		fmt.Fprint(half, "GET / HTTP/1.1\r\nHost: loc")
		if got := closedAfter(t, half); got != c.Limits.HeaderTimeout {
			t.Errorf("a connection with half a header was closed after %v, want %v", got, c.Limits.HeaderTimeout)
		}
		idle := ln.dial()
		answers := bufio.NewReader(idle)
		for range 2 {
			go func() { fmt.Fprint(idle, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") }()
			if _, err := http.ReadResponse(answers, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.Limits.IdleTimeout - time.Second) // not yet
		}
		if got := closedAfter(t, idle); got != time.Second {
			t.Errorf("an idle connection was closed after %v more, want 1s", got)
		}
	})
}

// A client that takes its download slowly gets it, one that takes none is cut
// off.
func TestAStalledDownloadIsCutAndASlowOneIsNot(t *testing.T) {
	const size = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		c := defaultConfig()
		result := make(chan error, 1)
		ln := servePipes(t, c, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, size))
			result <- err
		}))
		get := func() net.Conn {
			conn := ln.dial()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			return conn
		}
		slow := get()
		resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(c.Limits.StallTimeout - time.Second)
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			t.Errorf("a slow client got %d bytes, %v", n, err)
		}
		if err := <-result; err != nil {
			t.Errorf("writing to a slow client: %v", err)
		}
		began := time.Now()
		stalled := get()
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("writing to a client that takes nothing: %v, want a timeout", err)
		}
		if got := time.Since(began); got != c.Limits.StallTimeout {
			t.Errorf("it was cut off after %v, want %v", got, c.Limits.StallTimeout)
		}
		stalled.Close()
		slow.Close()
	})
}

// addrConn is a connection from an address.
type addrConn struct {
	net.Conn
	from   net.Addr
	closed bool
}

func (c *addrConn) RemoteAddr() net.Addr { return c.from }
func (c *addrConn) Close() error         { c.closed = true; return nil }

func TestLimitOfConnections(t *testing.T) {
	c := LimitsConfig{Connections: 5, ConnectionsPerAddress: 2}
	tests := []struct {
		name  string
		from  []string // what is open; the last is one more
		admit bool
	}{
		{"one address at its limit", []string{"192.0.2.1", "192.0.2.1"}, true},
		{"one beyond", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1"}, false},
		{"the same address in IPv6's form", []string{"192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"}, false},
		{"another address", []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"}, true},
		{"one network of IPv6", []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"}, false},
		{"another network of IPv6", []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"}, true},
		{"all at the limit", []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"}, true},
		{"all beyond", []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.4"}, false},
		{"a proxy beyond one address's limit", []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1"}, true},
		{"a proxy beyond the limit of all", []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1"}, false},
		{"this machine", []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "::1"}, true},
		{"this machine beyond the limit of all", []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "::1", "::1"}, false},
		{"a Unix socket", []string{"", "", "", "", ""}, true},
		{"a Unix socket beyond the limit of all", []string{"", "", "", "", "", ""}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			proxy, err := parseProxy("10.0.0.0/8")
			if err != nil {
				t.Fatal(err)
			}
			limit := newConnLimit(c, proxies{proxy})
			inner := newPipes()
			ln := limit.listener(inner)
			var open []net.Conn
			accept := func(from string) *addrConn {
				conn := &addrConn{from: &net.UnixAddr{Name: "@", Net: "unix"}}
				if ip := net.ParseIP(from); ip != nil {
					conn.from = &net.TCPAddr{IP: ip, Port: 4711}
				}
				go func() { inner.conns <- conn }()
				return conn
			}
			for _, from := range test.from[:len(test.from)-1] {
				accept(from)
				conn, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, conn)
			}
			last := accept(test.from[len(test.from)-1])
			accepted := make(chan net.Conn)
			go func() {
				conn, err := ln.Accept()
				if err == nil {
					accepted <- conn
				}
				close(accepted)
			}()
			if !test.admit {
				// Who was refused is gone at once; who comes when there is room again
				// is let in. Closing twice makes room once.
				for limit.refused.Load() == 0 {
					runtime.Gosched()
				}
				open[0].Close()
				open[0].Close()
				accept(test.from[0])
			}
			conn, ok := <-accepted
			if !ok {
				t.Fatal("nobody was admitted")
			}
			if last.closed == test.admit {
				t.Errorf("closed %t, want admitted %t", last.closed, test.admit)
			}
			if got := limit.count(); got != min(len(test.from), c.Connections, len(open)+1) && test.admit {
				t.Errorf("%d connections are counted", got)
			}
			conn.Close()
			for _, conn := range open {
				conn.Close()
			}
			limit.mu.Lock()
			defer limit.mu.Unlock()
			if limit.open != 0 || len(limit.by) != 0 {
				t.Errorf("all are closed, but %d are counted, and %v", limit.open, limit.by)
			}
		})
	}
}

// Through the limit a connection is still one that sendfile(2) can write to.
func TestLimitedConnectionsKeepReadFrom(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := newConnLimit(defaultLimits(), nil).listener(ln).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(io.ReaderFrom); !ok {
		t.Errorf("%T has no ReadFrom", conn)
	}
}

// The page that operators read has every limit, and what it is without them.
func TestOperationsPageHasTheLimits(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	def := reflect.ValueOf(defaultLimits())
	for i := range def.NumField() {
		key, value := def.Type().Field(i).Tag.Get("yaml"), fmt.Sprint(def.Field(i))
		if d, ok := def.Field(i).Interface().(time.Duration); ok {
			value = strings.TrimSuffix(d.String(), "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(d.String(), "m0s")]
		}
		if def.Field(i).IsZero() {
			value = "0"
		}
		if row := fmt.Sprintf("| `%s` | `%s`", key, value); !strings.Contains(string(page), row) {
			t.Errorf("docs/operations.md has no row %s", row)
		}
	}
}

// Limits at which nothing would work are refused by their key.
func TestLimitsThatAreNone(t *testing.T) {
	for key, set := range map[string]func(*LimitsConfig){
		"zip_entries":   func(l *LimitsConfig) { l.ZipEntries = 0 },
		"zips_per_user": func(l *LimitsConfig) { l.ZipsPerUser = -1 },
		"free_inodes":   func(l *LimitsConfig) { l.FreeInodes = -1 },
		"operations":    func(l *LimitsConfig) { l.Operations = 1_000_001 },
		"stall_timeout": func(l *LimitsConfig) { l.StallTimeout = 0 },
		"header_bytes":  func(l *LimitsConfig) { l.HeaderBytes = 1 },
		"":              func(l *LimitsConfig) { l.ZipsPerUser, l.Zip, l.FreeInodes = 0, 0, 0 },
	} {
		l := defaultLimits()
		set(&l)
		var got []string
		l.check("limits.", func(key, _ string, _ ...any) { got = append(got, key) })
		if want := "limits." + key; strings.Join(got, " ") != strings.TrimSuffix(want, "limits.") {
			t.Errorf("%s: refused are %v", key, got)
		}
	}
}
