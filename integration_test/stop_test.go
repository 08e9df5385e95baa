package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// An upload is a PUT of which the server has the head and waits for the body.
type upload struct {
	body   *io.PipeWriter
	result chan string // the status, or the error
}

// begin starts a PUT of name and returns when the server has asked for the
// body, which is when its handler runs.
func (s *server) begin(name string, size int) *upload {
	s.t.Helper()
	r, w := io.Pipe()
	u := &upload{w, make(chan string, 1)}
	going := make(chan bool, 1)
	req, err := http.NewRequest("PUT", s.url(name), r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.ContentLength = int64(size)
	req.Header.Set("Expect", "100-continue")
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got100Continue: func() { going <- true },
	}))
	transport := &http.Transport{ExpectContinueTimeout: giveUp}
	go func() {
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(req)
		if err != nil {
			r.CloseWithError(err) // or the writer would wait for ever
			u.result <- err.Error()
			return
		}
		resp.Body.Close()
		u.result <- resp.Status
	}()
	select {
	case <-going:
	case result := <-u.result:
		s.t.Fatalf("PUT %s: %s", name, result)
	}
	return u
}

// abort gives up an upload whose server is gone, and returns what it got. The
// client would wait for the rest of the body first.
func (u *upload) abort() string {
	u.body.CloseWithError(io.ErrUnexpectedEOF)
	return <-u.result
}

func TestStopFinishesUploadsInFlight(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	const size = 300_000
	content := strings.Repeat("0123456789", size/10)
	uploads := make(map[string]*upload)
	for i := range 8 {
		name := fmt.Sprintf("up%d", i)
		uploads[name] = s.begin(name, size)
		if _, err := io.WriteString(uploads[name].body, content[:size/2]); err != nil {
			t.Fatal(err)
		}
	}
	s.signal(syscall.SIGTERM)
	s.awaitDeaf()
	for name, u := range uploads {
		if _, err := io.WriteString(u.body, content[size/2:]); err != nil {
			t.Fatal(err)
		}
		u.body.Close()
		if got := <-u.result; got != "201 Created" {
			t.Errorf("PUT %s during the stop: %s", name, got)
		}
	}
	if state := s.wait(); !state.Success() {
		t.Errorf("the program ended with %v", state)
	}
	for name := range uploads {
		got, err := os.ReadFile(filepath.Join(l.Upper, name))
		if err != nil || string(got) != content {
			t.Errorf("%s has %d bytes, %v", name, len(got), err)
		}
	}
	stagingIsEmpty(t, l)
}

// Who closes the terminal in which "overdav serve DIR" runs does not want it to
// go on behind their back.
func TestClosedTerminalStops(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		stops  bool
	}{
		"by itself":   {`exec "$0" "$@"`, true},
		"under nohup": {`trap "" HUP; exec "$0" "$@"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, args := newShare(t)
			cmd := command(openDir(t), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
			cmd.Args = append([]string{"sh", "-c", test.script, cmd.Path}, cmd.Args[1:]...)
			cmd.Path, cmd.Stdin = "/bin/sh", newTerminal(t)
			s := startServer(t, cmd)
			u := s.begin("a", 10)
			s.signal(syscall.SIGHUP)
			if test.stops {
				s.awaitDeaf()
				s.signal(syscall.SIGHUP) // from the shell, after the kernel's
			}
			if _, err := io.WriteString(u.body, "0123456789"); err != nil {
				t.Fatal(err)
			}
			u.body.Close()
			if got := <-u.result; got != "204 No Content" {
				t.Errorf("PUT meanwhile: %s", got)
			}
			if !test.stops {
				s.must(http.StatusOK, "GET", "a", "")
				s.stop()
			} else if state := s.wait(); !state.Success() {
				t.Errorf("the program ended with %v", state)
			}
			stagingIsEmpty(t, l)
		})
	}
}

// Ctrl-C ends "overdav serve | tee log" as a whole, tee at once: what overdav
// then writes is read by nobody, and uploads are finished all the same.
func TestStopWhenNobodyReadsTheLog(t *testing.T) {
	l, args := newShare(t)
	reader, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(openDir(t), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Args = append([]string{"sh", "-c", `exec "$0" "$@" 2>&3 3>&-`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = "/bin/sh", []*os.File{log}
	s := startServer(t, cmd)
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	u := s.begin("a", 10)
	reader.Close()
	s.signal(syscall.SIGINT)
	s.awaitDeaf()
	if _, err := io.WriteString(u.body, "0123456789"); err != nil {
		t.Fatal(err)
	}
	u.body.Close()
	if got := <-u.result; got != "204 No Content" {
		t.Errorf("PUT during the stop: %s", got)
	}
	if state := s.wait(); !state.Success() {
		t.Errorf("the program ended with %v", state)
	}
	stagingIsEmpty(t, l)
}

func TestStopCutsOffWhatDoesNotEnd(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, append(args, "--stop-timeout", "50ms")...)
	u := s.begin("a", 10)
	if _, err := io.WriteString(u.body, "half "); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if got := u.abort(); strings.HasPrefix(got, "2") {
		t.Errorf("an upload that was cut off got %s", got)
	}
	stagingIsEmpty(t, l)
	s = serve(t, args...)
	s.must(http.StatusOK, "GET", "a", "")
	if _, got := s.do("GET", "a", ""); got != "one" {
		t.Errorf("after an upload that was cut off, a is %q, want the old content", got)
	}
	s.stop()
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	u := s.begin("a", 10)
	s.signal(syscall.SIGINT)
	s.awaitDeaf()
	s.signal(syscall.SIGINT)
	if ws, ok := s.wait().Sys().(syscall.WaitStatus); !ok || !ws.Signaled() {
		t.Errorf("ended with %v, want by the signal", s.cmd.ProcessState)
	}
	u.abort()
	s = serve(t, args...)
	if _, got := s.do("GET", "a", ""); got != "one" {
		t.Errorf("a is %q, want the old content", got)
	}
	s.stop()
	stagingIsEmpty(t, l)
}

// stagingIsEmpty expects nothing half done in the work directory of a server
// that has stopped.
func stagingIsEmpty(t testing.TB, l overlaytest.Layers) {
	t.Helper()
	for _, dir := range []string{"tmp", "trash"} {
		entries, err := os.ReadDir(filepath.Join(l.Work, "overdav", dir))
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("%s is left in staging", filepath.Join(dir, e.Name()))
		}
	}
}

// Go raises the limit of open files by itself (package os, since 1.19); the
// program relies on it for its connections.
func TestLimitOfOpenFilesIsRaised(t *testing.T) {
	_, args := newShare(t)
	cmd := command(openDir(t), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Args = append([]string{"sh", "-c", `ulimit -Sn 64; exec "$0" "$@"`, program}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	s := startServer(t, cmd)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			soft, hard := 0, 0
			if _, err := fmt.Sscan(rest, &soft, &hard); err == nil && soft < hard-1 { // Go leaves one
				t.Errorf("the soft limit is %d, the hard one %d", soft, hard)
			}
		}
	}
	s.stop()
}
