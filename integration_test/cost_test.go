package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkStart measures from the start of the process to its first answer.
func BenchmarkStart(b *testing.B) {
	for _, lowers := range []int{1, 100} {
		b.Run(fmt.Sprintf("lowers=%d", lowers), func(b *testing.B) {
			dir := b.TempDir()
			args := []string{"serve", "--listen", "unix:" + dir + "/s", "--upper", dir + "/upper", "--work", dir + "/work", "--log-level", "warn"}
			names := []string{"upper", "work"}
			for i := range lowers {
				names = append(names, fmt.Sprintf("lower%d", i))
				args = append(args, filepath.Join(dir, names[len(names)-1]))
			}
			for _, name := range names {
				if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				cmd := command(dir, args...)
				cmd.Stderr = os.Stderr
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				awaitAnswer(b, dir+"/s")
				b.StopTimer()
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					b.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// awaitAnswer asks at the socket until somebody answers.
func awaitAnswer(b *testing.B, socket string) {
	b.Helper()
	for {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			continue // not there yet
		}
		fmt.Fprint(conn, "OPTIONS / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			b.Fatalf("the first answer is %q, %v", answer, err)
		}
		return
	}
}

// Clients keep connections open for minutes: one at rest may not cost much.
func TestAThousandConnectionsAtRestAreCheap(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const connections, bound = 1000, 64 << 10 // KiB
	_, args := newShare(t)
	s := serve(t, append(args, "--log-level", "warn")...)
	for range connections {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "PROPFIND / HTTP/1.1\r\nHost: localhost\r\nDepth: 1\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusMultiStatus {
			t.Fatalf("PROPFIND: %v, %v", resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("%v in\n%s", err, status)
	}
	t.Logf("%d connections at rest: %d KiB", connections, kib)
	if kib > bound {
		t.Errorf("%d connections at rest take %d KiB, want at most %d", connections, kib, bound)
	}
	s.stop()
}
