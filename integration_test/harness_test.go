// Package integration_test runs the built program: under real clients, beside
// the kernel's overlayfs on the same directories, and through kill -9.
//
// Nothing here looks into the program. What it says on standard output and
// standard error, what it answers, and what is on disk afterwards is all.
package integration_test

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"overdav/overlay/overlaytest"
)

// program is the built overdav.
var program string

// These bound every wait for a client and for the program. They are far above
// what is needed: who meets one has found a hang.
const (
	clientGiveUp = 2 * time.Minute
	giveUp       = 30 * time.Second
)

// nobody is an ordinary user of every machine.
const nobody = 65534

func TestMain(m *testing.M) { os.Exit(build(m)) }

// build builds the program once, or takes the one that OVERDAV_PROGRAM names,
// and runs the tests.
func build(m *testing.M) int {
	program = os.Getenv("OVERDAV_PROGRAM")
	if program != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "overdav-program")
	if err == nil {
		defer os.RemoveAll(dir)    // what stays is in the temporary directory
		err = os.Chmod(dir, 0o755) // other users run it too
	}
	program = filepath.Join(dir, "overdav")
	if err == nil {
		args := []string{"build", "-o", program}
		if raceEnabled {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "overdav")...)
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build overdav:", err)
		return 1
	}
	return m.Run()
}

// needProgram skips or fails a test whose client is not installed.
func needProgram(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		if err != nil && filepath.Base(name) == "mount.davfs" { // sbin is not on everybody's path
			_, err = os.Stat("/usr/sbin/" + name)
		}
		overlaytest.Need(t, err == nil, "the program %s (make deps)", name)
	}
}

// openDir returns a temporary directory that other users may enter, and which,
// unlike t.TempDir's, goes with whatever modes are in it.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "overdav-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// demo is the lower of most tests: names that clients get wrong, a directory
// to rename and one to delete.
const demo = `
a = one
docs/
docs/b = two
docs/deep/
docs/deep/c = three
old/
old/x = 1
old/y = 2
"sp ace %41+#&é" = odd
`

// newShare makes layers with demo as their lower, which must be unchanged when
// the test ends, and the flags to serve them.
func newShare(t *testing.T) (overlaytest.Layers, []string) {
	t.Helper()
	l := overlaytest.NewLayers(t, openDir(t), demo)
	overlaytest.LowersUnchanged(t, l.Lowers...)
	return l, flagsOf(l)
}

func flagsOf(l overlaytest.Layers) []string {
	var args []string
	for _, dir := range l.Lowers {
		args = append(args, "--lower", dir)
	}
	return append(args, "--upper", l.Upper, "--work", l.Work)
}

// A server is a running overdav.
type server struct {
	t      testing.TB
	cmd    *exec.Cmd
	base   string // http://127.0.0.1:port
	client *http.Client
	said   string // on standard output, before it served
	stderr lockedBuffer
	ended  chan struct{} // closed when cmd has been waited for
}

// lockedBuffer is written to by a process and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	// +checklocks:mu
	buf bytes.Buffer
	// wrote is closed at the next Write, when somebody waits for it.
	// +checklocks:mu
	wrote chan struct{}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrote != nil {
		close(b.wrote)
		b.wrote = nil
	}
	return b.buf.Write(p)
}

// since returns what was written after the first skip bytes, and a channel that
// is closed when there is more.
func (b *lockedBuffer) since(skip int) (text string, more <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrote == nil {
		b.wrote = make(chan struct{})
	}
	return b.buf.String()[skip:], b.wrote
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// command returns overdav with args, in an environment that holds nothing of
// the tester's. home is the user's home directory.
func command(home string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "XDG_STATE_HOME=" + filepath.Join(home, "state")}
	// The program must not outlive a test that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// serve starts overdav serve with args on a port of its own.
func serve(t testing.TB, args ...string) *server {
	t.Helper()
	return startServer(t, command(openDir(t), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...))
}

// startServer starts cmd and waits until it serves.
func startServer(t testing.TB, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, cmd: cmd, client: http.DefaultClient, ended: make(chan struct{})}
	cmd.Stderr = &s.stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
		_ = cmd.Wait() // ProcessState tells
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended already, as a rule
		<-s.ended
		if t.Failed() {
			t.Logf("overdav said\n%s%s", s.said, s.stderr.String())
		}
	})
	s.readAnnouncement(lines)
	return s
}

// readAnnouncement reads what overdav says before it serves.
func (s *server) readAnnouncement(lines <-chan string) {
	s.t.Helper()
	for timeout := time.After(giveUp); ; {
		select {
		case line, ok := <-lines:
			if !ok {
				s.t.Fatalf("overdav ended before it served: %s", s.stderr.String())
			}
			s.said += line + "\n"
			word, rest, _ := strings.Cut(line, " ")
			switch word {
			case "serving":
				s.base = strings.TrimSuffix(strings.TrimSpace(rest), "/")
			case "changes": // the last line but "work", which nobody waits for
				go func() {
					for range lines { // until the program ends
					}
				}()
				return
			}
		case <-timeout:
			s.t.Fatal("overdav does not say that it serves")
		}
	}
}

// signal sends sig.
func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits for the end of the program.
func (s *server) wait() *os.ProcessState {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(giveUp):
		s.t.Fatal("overdav does not end")
	}
	return s.cmd.ProcessState
}

// awaitSaid waits until the program says text on standard error, after the
// first skip bytes there.
func (s *server) awaitSaid(skip int, text string) {
	s.t.Helper()
	for timeout := time.After(giveUp); ; {
		said, more := s.stderr.since(skip)
		if strings.Contains(said, text) {
			return
		}
		select {
		case <-more:
		case <-timeout:
			s.t.Fatalf("overdav does not say %q but %q", text, said)
		}
	}
}

// stop ends the program as an operator does and expects it to be content.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if state := s.wait(); !state.Success() {
		s.t.Errorf("after SIGTERM: %v\n%s", state, s.stderr.String())
	}
}

// kill ends the program as a power cut does, or nearly.
func (s *server) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	s.wait()
}

// awaitDeaf waits until the server takes no new connections.
func (s *server) awaitDeaf() {
	s.t.Helper()
	for began := time.Now(); ; {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err != nil {
			return
		}
		conn.Close()
		if time.Since(began) > giveUp {
			s.t.Fatal("the server still listens")
		}
	}
}

// url is the address of a name of the merged tree.
func (s *server) url(name string) string {
	return s.base + (&url.URL{Path: "/" + strings.TrimPrefix(name, "/")}).EscapedPath()
}

// do makes one request and returns the status and the body. headers are pairs.
func (s *server) do(method, name, body string, headers ...string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url(name), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", method, name, err, s.stderr.String())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, name, err)
	}
	return resp.StatusCode, string(text)
}

// must makes one request and expects a status.
func (s *server) must(want int, method, name, body string, headers ...string) {
	s.t.Helper()
	if got, text := s.do(method, name, body, headers...); got != want {
		s.t.Errorf("%s %s: status %d, want %d: %s", method, name, got, want, text)
	}
}

// tree is what the share shows, as diskTree writes it.
func (s *server) tree() string {
	s.t.Helper()
	var lines []string
	s.walk("/", &lines)
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (s *server) walk(dir string, lines *[]string) {
	s.t.Helper()
	status, text := s.do("PROPFIND", dir, "", "Depth", "1")
	if status != http.StatusMultiStatus {
		s.t.Fatalf("PROPFIND %s: status %d: %s", dir, status, text)
	}
	var answer struct {
		Response []struct {
			Href       string    `xml:"DAV: href"`
			Collection *struct{} `xml:"DAV: propstat>prop>resourcetype>collection"`
		} `xml:"DAV: response"`
	}
	if err := xml.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatalf("PROPFIND %s: %v\n%s", dir, err, text)
	}
	for _, r := range answer.Response {
		u, err := url.Parse(r.Href)
		if err != nil {
			s.t.Fatalf("PROPFIND %s: %v", dir, err)
		}
		switch {
		case strings.Trim(u.Path, "/") == strings.Trim(dir, "/"):
		case r.Collection != nil:
			*lines = append(*lines, dirLine(u.Path))
			s.walk(u.Path, lines)
		default:
			status, content := s.do("GET", u.Path, "")
			if status != http.StatusOK {
				s.t.Errorf("GET %s: status %d", u.Path, status)
			}
			*lines = append(*lines, fileLine(u.Path, content))
		}
	}
}

func dirLine(name string) string { return fmt.Sprintf("%q/\n", strings.Trim(name, "/")) }

func fileLine(name, content string) string {
	if len(content) > 100 {
		content = fmt.Sprintf("%s... %d bytes", content[:100], len(content))
	}
	return fmt.Sprintf("%q = %q\n", strings.Trim(name, "/"), content)
}

// diskTree is what a directory shows: the names and what is in the files.
func diskTree(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, dir)
		switch {
		case err != nil:
			return err
		case name == "":
		case d.IsDir():
			lines = append(lines, dirLine(name))
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines = append(lines, fileLine(name, string(content)))
		default:
			lines = append(lines, fmt.Sprintf("%q %v\n", strings.Trim(name, "/"), d.Type()))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// sameTree compares two trees and shows where they part.
func sameTree(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

// run runs a client and expects it to succeed.
func run(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := runFor(clientGiveUp, cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return out
}

// runFor runs cmd, but not for longer than limit.
func runFor(limit time.Duration, cmd *exec.Cmd) (string, error) {
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // for what it leaves behind that holds the pipe
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() }) // it has ended, or is to
	defer timer.Stop()
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}
