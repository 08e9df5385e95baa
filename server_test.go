package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// start runs a server around h until the test ends, or until the returned
// function asks it to stop and it has.
func start(t *testing.T, c Config, h http.Handler) (base string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + ln.Addr().String(), runServer(t, newServer(h, discardLog(), c), ln)
}

func runServer(t *testing.T, s *server, ln net.Listener) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, func() {}, ln) }()
	return func() error { cancel(); return <-ended }
}

func TestStopWaitsForWhatRuns(t *testing.T) {
	entered, finish := make(chan bool), make(chan bool)
	base, stop := start(t, defaultConfig(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-finish
		_, _ = io.WriteString(w, "done") // the client reports what is missing
	}))
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get(base)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(body), err)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// The listener goes first; then only the running request keeps the server.
	for {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case err := <-stopped:
		t.Fatalf("the server stopped (%v) under a running request", err)
	default:
	}
	close(finish)
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if got := <-answer; got != "done<nil>" {
		t.Errorf("the request got %q", got)
	}
}

func TestStopCutsOffWhatTakesTooLong(t *testing.T) {
	c := defaultConfig()
	c.StopTimeout = time.Millisecond
	entered, left := make(chan bool), make(chan bool)
	base, stop := start(t, c, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		defer close(left)
		close(entered)
		_, _ = io.Copy(io.Discard, r.Body) // ends with an error when the connection is closed
	}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
	<-entered
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case <-left:
	default:
		t.Error("run returned while a handler was running")
	}
}

func TestOnlyLoopbackHostsUnlessAnonymous(t *testing.T) {
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for host, own := range map[string]bool{
		"127.0.0.1:8080": true, "127.0.0.1": true, "localhost": true, "LOCALHOST.:80": true, "dav.localhost:80": true,
		"[::1]:8080": true, "[::1]": true,
		"evil.example": false, "evil.example:8080": false, "127.0.0.1.evil.example": false, "192.0.2.1": false, "localhost.example": false,
	} {
		for _, anonymous := range []bool{false, true} {
			c := defaultConfig()
			c.Anonymous = anonymous
			r := httptest.NewRequest("GET", "/", nil)
			r.Host = host
			w := httptest.NewRecorder()
			newServer(ok, discardLog(), c).http.Handler.ServeHTTP(w, r)
			want := http.StatusMisdirectedRequest
			if own || anonymous {
				want = http.StatusOK
			}
			if w.Code != want {
				t.Errorf("Host %s, anonymous %t: status %d, want %d", host, anonymous, w.Code, want)
			}
		}
	}
}

func TestTargetWithoutPath(t *testing.T) {
	asked := ""
	h := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = r.URL.Path }), discardLog(), defaultConfig()).http.Handler
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("PROPFIND http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if asked != "/" {
		t.Errorf("asked for %q, want the root", asked)
	}
}

// HTTP/1.0 has no Host, and health checks send none; no page can.
func TestHTTP10WithoutHost(t *testing.T) {
	h := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), discardLog(), defaultConfig()).http.Handler
	for minor, want := range []int{http.StatusOK, http.StatusMisdirectedRequest} {
		r := httptest.NewRequest("OPTIONS", "/", nil)
		r.Host, r.ProtoMinor = "", minor
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("HTTP/1.%d without Host: status %d, want %d", minor, w.Code, want)
		}
	}
}

// Behind a proxy that passes on either its own name or ours, pages of the public
// address are our own.
func TestPublicURLIsOurOwn(t *testing.T) {
	c := defaultConfig()
	c.PublicURL = "https://Files.example.org/dav"
	h := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), discardLog(), c).http.Handler
	tests := []struct {
		host, origin string
		want         int
	}{
		{"files.example.org", "", 200},
		{"FILES.example.org:443", "", 200},
		{"127.0.0.1:8080", "https://files.example.org", 200},
		{"files.example.org", "https://files.example.org", 200},
		{"evil.example", "", http.StatusMisdirectedRequest},
		{"files.example.org.evil.example", "", http.StatusMisdirectedRequest},
		{"127.0.0.1:8080", "https://evil.example", http.StatusForbidden},
		{"files.example.org", "https://evil.example", http.StatusForbidden},
	}
	for _, test := range tests {
		r := httptest.NewRequest("PUT", "/f", nil)
		r.Host = test.host
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("Host %s, Origin %q: status %d, want %d", test.host, test.origin, w.Code, test.want)
		}
	}
}

func TestOtherSitesCannotWrite(t *testing.T) {
	h := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), discardLog(), defaultConfig()).http.Handler
	for _, method := range []string{"PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPPATCH", "LOCK", "POST"} {
		r := httptest.NewRequest(method, "http://127.0.0.1/f", nil)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden {
			t.Errorf("%s from a page of another site: status %d, want 403", method, w.Code)
		}
	}
}

func TestListenTakesOverADeadSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listen := func() (net.Listener, error) { return listenUnix(path, "") }
	ln, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening beside a living server: %v, want EADDRINUSE", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as after a crash
	ln.Close()
	ln, err = listen()
	if err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	ln.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(); err == nil {
		t.Error("a file was taken for a socket")
	}
	if got, err := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file now holds %q, %v", got, err)
	}
}

func TestAccessLogIsOneTrueLinePerRequest(t *testing.T) {
	var buf bytes.Buffer
	h := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = w.Write([]byte("12345"))
		_, _ = io.Copy(w, strings.NewReader("678"))
		r.URL.Path = "/stripped"
		recordOf(r.Context()).user = "al\"ice"
	}), zerolog.New(&buf), defaultConfig())
	srv := httptest.NewServer(h)
	resp, err := http.Get(srv.URL + "/a%0Ab")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	srv.Close() // waits for the handler
	if n := strings.Count(buf.String(), "\n"); n != 1 {
		t.Fatalf("%d lines: %s", n, buf.String())
	}
	// People read it, too: what was asked comes first, then what came of it.
	at := 0
	for _, key := range []string{keyMethod, keyPath, keyStatus, keyBytes, keyDur, keyUser, keyRemote, keyID} {
		next := strings.Index(buf.String(), `"`+key+`":`)
		if next < at {
			t.Errorf("%s is missing or too early in %s", key, buf.String())
		}
		at = next
	}
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"level": "info", keyMethod: "GET", keyPath: "/a\nb", keyStatus: 507.0, keyBytes: 8.0, keyUser: `al"ice`, "message": "request",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

// A wrapper that hid the server's ReadFrom would cost every download its
// sendfile(2).
func TestDownloadsStillReachTheServersReadFrom(t *testing.T) {
	const size = 3<<20 + 5
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	}), discardLog(), defaultConfig())
	for rng, want := range map[string]int64{"": size, "bytes=5-1500004": 1_500_000} {
		rec := &readFromRecorder{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", "http://127.0.0.1/f", nil)
		r.Header.Set("Range", rng)
		h.ServeHTTP(rec, r)
		if rec.fromFile != want {
			t.Errorf("Range %q: %d bytes came from a file one LimitedReader deep, want %d", rng, rec.fromFile, want)
		}
		if got := rec.Body.Len(); int64(got) != want {
			t.Errorf("Range %q: %d bytes arrived, want %d", rng, got, want)
		}
	}
}

// readFromRecorder counts what it could have given to sendfile(2).
type readFromRecorder struct {
	*httptest.ResponseRecorder
	fromFile int64
}

func (w *readFromRecorder) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(struct{ io.Writer }{w.ResponseRecorder}, src)
	if lr, ok := src.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			w.fromFile += n
		}
	}
	return n, err
}

func (w *readFromRecorder) SetWriteDeadline(time.Time) error { return nil }

func TestAStalledUploadIsCutAndASlowOneIsNot(t *testing.T) {
	stall := defaultLimits().StallTimeout
	synctest.Test(t, func(t *testing.T) {
		result := make(chan string, 1)
		client, conn := net.Pipe()
		ln := &oneConn{conns: make(chan net.Conn, 1)}
		ln.conns <- conn
		srv := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if r.Method == "COPY" { // long work after the body must not look like a lost client
				time.Sleep(5 * stall)
				err = r.Context().Err()
			}
			result <- fmt.Sprint(string(body), " ", err)
		}), discardLog(), defaultConfig())
		go func() { _ = srv.http.Serve(ln) }() // ends with http.ErrServerClosed
		answers := bufio.NewReader(client)

		fmt.Fprint(client, "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n")
		for _, b := range "abc" {
			time.Sleep(stall - time.Second)
			fmt.Fprintf(client, "%c", b)
		}
		if got := <-result; got != "abc <nil>" {
			t.Errorf("a slow upload: %s", got)
		}
		if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("after a slow upload: %v, %v", resp, err)
		}

		time.Sleep(stall + time.Second) // the connection may rest longer than a body
		fmt.Fprint(client, "COPY / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
		if line, err := answers.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("asked whether to go on: %q, %v", line, err)
		}
		if _, err := answers.Discard(len("\r\n")); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(client, "x")
		if got := <-result; got != "x <nil>" {
			t.Errorf("long work: %s", got)
		}
		if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("after long work: %v, %v", resp, err)
		}

		fmt.Fprint(client, "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na")
		go func() { _, _ = io.Copy(io.Discard, answers) }() // net.Pipe does not buffer
		if got := <-result; !strings.Contains(got, "timeout") {
			t.Errorf("a stalled upload: %s, want a timeout", got)
		}
		client.Close()
		srv.http.Close()
	})
}

// oneConn is a listener with one connection.
type oneConn struct{ conns chan net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (l *oneConn) Close() error   { close(l.conns); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// A handler that panics may hold locks that nobody will release: the program
// must end, not go on without answering.
func TestPanicEndsTheProgram(t *testing.T) {
	if os.Getenv("OVERDAV_TEST_PANIC") != "" {
		s := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") }), zerolog.Nop(), defaultConfig())
		s.http.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://127.0.0.1/", nil))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPanicEndsTheProgram$")
	cmd.Env = append(os.Environ(), "OVERDAV_TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitPanic || !strings.Contains(string(out), "on purpose") {
		t.Errorf("got %v, want exit status %d and the panic's words\n%s", err, exitPanic, out)
	}
}
