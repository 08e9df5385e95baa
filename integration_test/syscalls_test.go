package integration_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// What the Go runtime does for itself is not counted.
var ofTheRuntime = regexp.MustCompile(`^\d+ +(<\.\.\.|\+\+\+|---|futex|epoll|nanosleep|sched_|tgkill|rt_sig|getpid|madvise|restart|pread64|mmap|munmap|clone|(read|write)\(\d+<anon_inode:\[eventfd\]>)`)

// A small request makes few system calls: what they were when this was written,
// and a quarter more. Those that look go three levels deep in two layers.
func TestSystemCallsOfSmallRequests(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	_, args := newShare(t)
	s := serve(t, append(args, "--log-level", "warn", "--durability", "none")...)
	ask := func(method, path, destination string) {
		t.Helper()
		body := strings.NewReader("")
		if method == "PUT" {
			body = strings.NewReader(strings.Repeat("y", 4096))
		}
		r, err := http.NewRequest(method, s.base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if method == "PROPFIND" {
			r.Header.Set("Depth", "0")
		}
		if destination != "" {
			r.Header.Set("Destination", destination)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body) // the connection is used again
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	ask("MKCOL", "/cost/", "")
	ask("PUT", "/cost/warm", "")
	ask("PUT", "/docs/deep/of-upper", "")
	for range 2 {
		ask("GET", "/docs/deep/c", "")
	}
	for _, test := range []struct {
		method, path, destination string
		most                      int
		connect                   bool // over a connection of its own
	}{
		{"PUT", "/cost/new", "", 18, false},
		{"PUT", "/cost/new", "", 28, false},
		{"MOVE", "/cost/new", "/cost/moved", 21, false},
		{"DELETE", "/cost/moved", "", 13, false},
		{"MKCOL", "/cost/made/", "", 12, false},
		{"GET", "/docs/deep/c", "", 11, false},
		{"PROPFIND", "/docs/deep/c", "", 8, false},
		{"PROPFIND", "/docs/deep/c", "", 13, true},
	} {
		out := filepath.Join(t.TempDir(), "calls")
		cmd := exec.Command(strace, "-f", "-y", "-o", out, "-p", strconv.Itoa(s.cmd.Process.Pid))
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stderr).ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
			_ = cmd.Wait() // it says why already
			t.Skipf("strace may not look: %s", line)
		}
		if test.connect {
			http.DefaultClient.CloseIdleConnections()
		}
		ask(test.method, test.path, test.destination)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "signal: terminated"
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			if !ofTheRuntime.MatchString(line) {
				n++
			}
		}
		t.Logf("%s %s: %d calls", test.method, test.path, n)
		if n == 0 || n > test.most {
			t.Errorf("%s %s makes %d system calls, want at most %d:\n%s", test.method, test.path, n, test.most, text)
		}
	}
	s.stop()
}
