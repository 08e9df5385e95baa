package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"overdav/overlay/overlaytest"
)

// pebbleDir has pebble, the authority with which Let's Encrypt tests clients, and
// pebble-challtestsrv, whose names all lead to this machine.
var pebbleDir = sync.OnceValues(func() (string, error) {
	dir := filepath.Dir(program) // goes with it
	if os.Getenv("OVERDAV_PROGRAM") != "" {
		return "", fmt.Errorf("who was given a program may have no Go to build another")
	}
	out, err := runFor(clientGiveUp, exec.Command("go", "build", "-modfile=../tools.mod", "-o", dir+"/", "github.com/letsencrypt/pebble/v2/cmd/..."))
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// A pebble is an authority that runs.
type pebble struct {
	url   string         // of its directory
	ca    string         // PEM; it vouches for url
	roots *x509.CertPool // of what it issues
	cmd   *exec.Cmd
	said  *lockedBuffer
	ended chan struct{} // closed when cmd has been waited for
}

// startPebble starts an authority that calls at these ports of this machine,
// whatever the name.
func startPebble(t *testing.T, tlsPort, httpPort int) *pebble {
	t.Helper()
	programs, err := pebbleDir()
	overlaytest.Need(t, err == nil, "the program pebble (%v)", err)
	dir := openDir(t)
	client := writeCertificate(t, dir, "localhost")
	names, management, directory := freeAddr(t), freeAddr(t), freeAddr(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": directory, "managementListenAddress": management,
		"certificate": dir + "/cert.pem", "privateKey": dir + "/key.pem",
		"httpPort": httpPort, "tlsPort": tlsPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/config.json", string(config))
	resolver := exec.Command(programs+"/pebble-challtestsrv", "-dnsserver", names, "-management", freeAddr(t),
		"-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-doh", "", "-http01", "", "-https01", "", "-tlsalpn01", "")
	startBeside(t, resolver)
	awaitOpen(t, names)
	p := &pebble{url: "https://localhost" + directory[strings.LastIndex(directory, ":"):] + "/dir", ca: readFile(t, dir+"/cert.pem")}
	p.cmd = exec.Command(programs+"/pebble", "-config", dir+"/config.json", "-dnsserver", names)
	p.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	p.said, p.ended = startBeside(t, p.cmd)
	awaitOpen(t, management)
	awaitOpen(t, directory)
	resp, err := client.Get("https://" + management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	root, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	p.roots = x509.NewCertPool()
	if !p.roots.AppendCertsFromPEM(root) {
		t.Fatalf("the authority's root is %q", root)
	}
	return p
}

// stop ends the authority.
func (p *pebble) stop() {
	_ = p.cmd.Process.Kill() // it has ended already, or does now
	<-p.ended
}

// deadlocked ends the authority and says whether it was waiting for its own locks.
// Pebble 2.10 does so for ever when an order and its authorization are asked for
// while somebody wants to write the order: one handler holds the order and wants
// the authorization, the other the reverse (core.Order.GetStatus, and Authz in
// wfe.go). Autocert asks so when it gives back the authorizations that it did not
// need, beside the order.
func (p *pebble) deadlocked(t *testing.T) bool {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // the runtime then writes where each goroutine is
	select {
	case <-p.ended:
	case <-time.After(giveUp):
		t.Fatal("the authority does not end")
	}
	return strings.Contains(p.said.String(), " [sync.RWMutex.")
}

// client asks addr whatever the name, and believes the authority alone.
func (p *pebble) client(t *testing.T, addr string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// startBeside runs cmd until the test ends. What it said is logged if the test
// fails.
func startBeside(t *testing.T, cmd *exec.Cmd) (said *lockedBuffer, ended chan struct{}) {
	t.Helper()
	said = new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended already, or does now
		<-ended
		if t.Failed() {
			t.Logf("%s said\n%s", filepath.Base(cmd.Path), said.String())
		}
	})
	return said, ended
}

// freeAddr is an address of this machine that nobody listens at now.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln := listenLocal(t)
	ln.Close()
	return ln.Addr().String()
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// awaitOpen waits until somebody listens at addr.
func awaitOpen(t *testing.T, addr string) {
	t.Helper()
	for began := time.Now(); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Since(began) > giveUp {
			t.Fatal(err)
		}
	}
}

func portOf(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// The first client of a name waits for a certificate that an authority on the
// network makes, though the program may not open anything that is not its own. It
// is there at the next start, when the authority is not.
func TestACMEOfAConfinedServer(t *testing.T) {
	needLandlock(t)
	for _, challenge := range []string{"TLS-ALPN-01", "HTTP-01"} {
		t.Run(challenge, func(t *testing.T) {
			asBoth(t, func(t *testing.T, own func(*exec.Cmd, ...string) *exec.Cmd) {
				served, plain := listenLocal(t), listenLocal(t)
				atTLS := served
				if challenge == "HTTP-01" {
					atTLS = plain // where nobody speaks it
				}
				for range authorities {
					if testACME(t, startPebble(t, portOf(atTLS), portOf(plain)), own, served, plain) {
						return
					}
					t.Log("the authority locked itself up")
				}
				t.Errorf("each of %d authorities locked itself up", authorities)
			})
		})
	}
}

const (
	// authorities is how many are tried where one locks itself up.
	authorities = 3
	// issueGiveUp is how long the first client waits for the certificate, which
	// takes a second or two.
	issueGiveUp = time.Minute
)

// testACME is not conclusive where the authority was at fault.
func testACME(t *testing.T, authority *pebble, own func(*exec.Cmd, ...string) *exec.Cmd, served, plain net.Listener) (conclusive bool) {
	dir := openDir(t)
	overlaytest.Build(t, dir, "conf/\ncache/\nlower/\nlower/a = one\nupper/\nwork/\nca/\n")
	writeFile(t, dir+"/ca/ca.pem", authority.ca)
	writeFile(t, dir+"/conf/config.yaml", fmt.Sprintf(`
landlock: require
listen: systemd
log: { format: json }
tls: { acme: { hosts: [files.example.org], cache: ../cache, directory_url: %q } }
shares: [{ lower: [../lower], upper: ../upper, work: ../work }]
`, authority.url))
	client := authority.client(t, served.Addr().String())
	client.Timeout = issueGiveUp
	var serial string
	for _, start := range []string{"first", "second"} {
		cmd := command(dir, "serve", "--config", dir+"/conf/config.yaml")
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+dir+"/ca/ca.pem", "LISTEN_FDNAMES=https:http")
		s := startServer(t, activate(t, own(cmd, dir), served, plain))
		resp, err := client.Get("https://files.example.org/a")
		if err != nil && start == "first" && authority.deadlocked(t) {
			s.kill()
			return false
		}
		if err != nil {
			t.Fatalf("at the %s start: %v", start, err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(text) != "one" {
			t.Errorf("at the %s start: %d, %q, %v", start, resp.StatusCode, text, err)
		}
		got := resp.TLS.PeerCertificates[0].SerialNumber.String()
		if serial != "" && got != serial {
			t.Errorf("at the %s start the certificate is %s, not %s, which was kept", start, got, serial)
		}
		serial = got
		if resp, err := client.Get("https://other.example.org/a"); err == nil {
			resp.Body.Close()
			t.Error("there is a certificate for a name that was not configured")
		}
		checkSignpost(t, authority.client(t, plain.Addr().String()), portOf(served))
		client.CloseIdleConnections()
		s.stop()
		authority.stop()
	}
	return true
}

// checkSignpost asks over plain HTTP, which sends pages on, but not WebDAV.
func checkSignpost(t *testing.T, client *http.Client, port int) {
	t.Helper()
	for method, want := range map[string]string{
		http.MethodGet: fmt.Sprintf("302 https://files.example.org:%d/a?b", port),
		http.MethodPut: "403 ",
	} {
		req, err := http.NewRequest(method, "http://files.example.org/a?b", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location")); got != want {
			t.Errorf("%s over plain HTTP: %s, want %s", method, got, want)
		}
	}
}
