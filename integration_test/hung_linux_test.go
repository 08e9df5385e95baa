package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"overdav/overlay/overlaytest"
)

// A hangingDisk is a directory that is shown by FUSE and that can hang, as that
// of a server that died: whoever asks then gets no answer, not even when the
// client is gone.
type hangingDisk struct {
	mu sync.Mutex
	// +checklocks:mu
	back chan struct{} // closed when it answers again; nil while it does
	// +checklocks:mu
	waiting int
}

func (d *hangingDisk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.back = make(chan struct{})
}

func (d *hangingDisk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.back != nil {
		close(d.back)
		d.back = nil
	}
}

func (d *hangingDisk) wait() {
	d.mu.Lock()
	back := d.back
	d.waiting++
	d.mu.Unlock()
	if back != nil {
		<-back
	}
	d.mu.Lock()
	d.waiting--
	d.mu.Unlock()
}

func (d *hangingDisk) hanging() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}

type hangingNode struct {
	fusefs.LoopbackNode
	disk *hangingDisk
}

func (n *hangingNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	n.disk.wait()
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *hangingNode) OpendirHandle(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	n.disk.wait()
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

func (n *hangingNode) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	n.disk.wait()
	return n.LoopbackNode.Open(ctx, flags)
}

// WrapChild makes what is below hang as well.
func (n *hangingNode) WrapChild(context.Context, fusefs.InodeEmbedder) fusefs.InodeEmbedder {
	return &hangingNode{fusefs.LoopbackNode{RootData: n.RootData}, n.disk}
}

// newHangingDisk shows dir at a mount point, until the test ends.
func newHangingDisk(t *testing.T, dir string) (*hangingDisk, string) {
	t.Helper()
	disk := &hangingDisk{}
	root := &hangingNode{fusefs.LoopbackNode{RootData: &fusefs.LoopbackRoot{Path: dir}}, disk}
	point := openDir(t)
	server, err := fusefs.Mount(point, root, &fusefs.Options{MountOptions: fuse.MountOptions{DirectMount: true, MaxBackground: 1000}})
	overlaytest.Need(t, err == nil, "FUSE: %v", err)
	t.Cleanup(func() {
		disk.release()
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return disk, point
}

// threads is how many the server has.
func (s *server) threads() int {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Threads:\s+(\d+)$`).FindSubmatch(text)
	if m == nil {
		s.t.Fatalf("no number of threads in %s", text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// eventually waits for what must come to pass.
func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for began := time.Now(); !true(); {
		if time.Since(began) > giveUp {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A lower that hangs takes as many threads as may wait for it and no more; who
// comes beyond them is told to come again, other shares do not notice, and all
// is well when it is back.
func TestLowerThatHangs(t *testing.T) {
	overlaytest.NeedRoot(t)
	const operations, requests = 8, 200
	hung, well := overlaytest.NewLayers(t, openDir(t), demo), overlaytest.NewLayers(t, openDir(t), demo)
	disk, point := newHangingDisk(t, hung.Lowers[0])
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf(`
limits: { operations: %d, operation_wait: 50ms }
shares:
  - { path: /hung, lower: [%q], upper: %q, work: %q }
  - { path: /well, lower: [%q], upper: %q, work: %q }
`, operations, point, hung.Upper, hung.Work, well.Lowers[0], well.Upper, well.Work)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", file)
	s.base = strings.TrimSuffix(s.base, "/hung")
	s.must(http.StatusOK, "GET", "/hung/a", "")
	s.must(http.StatusOK, "GET", "/.overdav/healthz", "")
	before := s.threads()

	disk.hang()
	statuses := make(chan int, requests)
	for range requests {
		go func() { statuses <- s.statusOf("/hung/a") }()
	}
	for range requests - operations {
		if got := <-statuses; got != http.StatusServiceUnavailable {
			t.Errorf("beyond the limit: status %d, want 503", got)
		}
	}
	if got := disk.hanging(); got != operations {
		t.Errorf("%d requests wait for the disk, want %d", got, operations)
	}
	if got := s.threads() - before; got > 2*operations {
		t.Errorf("%d more threads while %d requests hang", got, operations)
	}
	s.must(http.StatusOK, "GET", "/well/a", "")
	s.must(http.StatusCreated, "PUT", "/well/new", "new")
	s.must(http.StatusCreated, "MOVE", "/well/docs", "", "Destination", "/well/moved")
	s.must(http.StatusMultiStatus, "PROPFIND", "/", "", "Depth", "1")
	eventually(t, "illness", func() bool { return s.statusOf("/.overdav/healthz") == http.StatusServiceUnavailable })
	for range 2 { // these looks wait for the first and start none
		status, body := s.do("GET", "/.overdav/healthz", "")
		if status != http.StatusServiceUnavailable || strings.Contains(body, "/") {
			t.Errorf("healthz: %d %q, want 503 without a path", status, body)
		}
	}
	// One look at the lower, and one that wants to write: it passes the lower.
	if got := disk.hanging(); got != operations+2 {
		t.Errorf("%d wait for the disk, want %d and two looks", got, operations)
	}

	disk.release()
	for range operations {
		if got := <-statuses; got != http.StatusOK {
			t.Errorf("who waited for the disk: status %d, want 200", got)
		}
	}
	s.must(http.StatusNoContent, "PUT", "/hung/a", "changed")
	eventually(t, "health", func() bool { return s.statusOf("/.overdav/healthz") == http.StatusOK })
	s.stop() // and what it said has arrived
	for _, text := range []string{"layer is ill", "layer is well again"} {
		if got := strings.Count(s.stderr.String(), text); got != 2 {
			t.Errorf("the log says %q %d times, want once of each", text, got)
		}
	}
	if strings.Contains(s.stderr.String(), `"share":"/well"`) {
		t.Error("the other share is said to be ill")
	}
}

// statusOf is do for goroutines: 0 is no answer.
func (s *server) statusOf(name string) int {
	resp, err := http.Get(s.url(name))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// Clients that came, in all the ways that clients go, leave nothing behind.
func TestConnectionsLeaveNothingBehind(t *testing.T) {
	_, flags := newShare(t)
	s := serve(t, flags...)
	open := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	round := func() {
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() { visit(t, strings.TrimPrefix(s.base, "http://"), i%5) })
		}
		clients.Wait()
	}
	round() // directories that are kept open, pools that are filled
	http.DefaultClient.CloseIdleConnections()
	settled := 0
	eventually(t, "descriptors to settle", func() bool {
		last := settled
		settled = open()
		return settled == last
	})
	for range 4 {
		round()
	}
	eventually(t, fmt.Sprintf("descriptors to go back from %d to %d", open(), settled), func() bool { return open() <= settled })
	s.stop()
}

// visit connects, does something, and goes.
func visit(t *testing.T, addr string, how int) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	text := []string{
		"",                            // nothing at all
		"GET / HTTP/1.1\r\nHost: loc", // half a header
		"PUT /new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf", // half a body
		"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n",                              // goes before the answer
		"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",         // as it should be
	}[how]
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
	if how == 4 {
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Error(err)
		}
	}
}
