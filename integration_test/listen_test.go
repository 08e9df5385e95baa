package integration_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeCertificate puts a certificate for 127.0.0.1 that vouches for itself, and
// its key, into dir, and returns a client that trusts it.
func writeCertificate(t *testing.T, dir, name string) *http.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"key.pem":  {Type: "PRIVATE KEY", Bytes: secret},
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEveryMethodWorksOverTLSAndHTTP2(t *testing.T) {
	_, args := newShare(t)
	conf := openDir(t)
	client := writeCertificate(t, conf, "first.example")
	writeFile(t, conf+"/config.yaml", "tls: { cert: cert.pem, key: key.pem }\n")
	s := serve(t, append(args, "--config", conf+"/config.yaml")...)
	if !strings.HasPrefix(s.base, "https://127.0.0.1:") {
		t.Errorf("the server says it is at %s", s.base)
	}
	s.client = client
	sameTree(t, "before", s.tree(), demoTree)
	changeALot(s)
	sameTree(t, "after", s.tree(), changedALot)

	// Whoever renews the certificate tells nobody.
	renewed := writeCertificate(t, conf, "second.example")
	resp, err := renewed.Get(s.url("a"))
	if err != nil {
		t.Fatalf("after a renewal: %v", err)
	}
	resp.Body.Close()
	if got := resp.TLS.PeerCertificates[0].Subject.CommonName; got != "second.example" || resp.Proto != "HTTP/2.0" {
		t.Errorf("after a renewal %s is shown over %s", got, resp.Proto)
	}
	client.CloseIdleConnections()
	if resp, err := client.Get(s.url("a")); err == nil {
		resp.Body.Close()
		t.Error("a client that trusts the old certificate alone still connects")
	}
	s.stop()
}

func TestKeyThatOthersReadIsRefused(t *testing.T) {
	l, args := newShare(t)
	conf := openDir(t)
	writeCertificate(t, conf, "server.example")
	if err := os.Chmod(conf+"/key.pem", 0o644); err != nil {
		t.Fatal(err)
	}
	writeFile(t, conf+"/config.yaml", "tls: { cert: cert.pem, key: key.pem }\n")
	refused(t, filepath.Dir(l.Upper), append(args, "--listen", "127.0.0.1:0", "--config", conf+"/config.yaml"), "tls.key", "chmod o-rw "+conf+"/key.pem")
}

// activate makes cmd one that systemd starts with sockets of lns.
func activate(t *testing.T, cmd *exec.Cmd, lns ...net.Listener) *exec.Cmd {
	t.Helper()
	for _, ln := range lns {
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	// sd_listen_fds(3): they are for the process with this number alone.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(lns)))
	return cmd
}

func TestSocketsFromSystemdAreServed(t *testing.T) {
	_, args := newShare(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(openDir(t), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	cmd := command(openDir(t), append([]string{"serve", "--listen", "systemd"}, args...)...)
	s := startServer(t, activate(t, cmd, tcp, unix))
	s.base = "http://" + tcp.Addr().String()
	s.must(http.StatusOK, "GET", "a", "")
	s.client = unixClient(t, path)
	s.base = "http://files.example.org"
	s.must(http.StatusCreated, "PUT", "new", "made")
	s.stop()
	if !exists(path) {
		t.Error("overdav removed a socket that is systemd's")
	}
}

func TestSystemdsSocketIsMissedAndHeldAgainstTheRules(t *testing.T) {
	l, args := newShare(t)
	refused(t, filepath.Dir(l.Upper), append(args, "--listen", "systemd"), "systemd has handed over no socket")

	open, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	cmd := activate(t, command(openDir(t), append([]string{"serve"}, args...)...), open)
	out, err := runFor(giveUp, cmd)
	if err == nil || !strings.Contains(out, "can be reached from other machines") {
		t.Errorf("a socket that everybody reaches: %v, said %q", err, out)
	}

	cmd = activate(t, command(openDir(t), append([]string{"serve"}, args...)...), listenLocal(t))
	cmd.Env = append(cmd.Env, "LISTEN_FDNAMES=http")
	out, err = runFor(giveUp, cmd)
	if err == nil || !strings.Contains(out, "socket http from systemd: it is for sending clients on to TLS") {
		t.Errorf("a socket for plain HTTP without TLS: %v, said %q", err, out)
	}
}

func unixClient(t *testing.T, socket string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestSocketHasTheModesAskedFor(t *testing.T) {
	_, args := newShare(t)
	dir := openDir(t)
	writeFile(t, dir+"/config.yaml", "listen: unix:"+dir+"/s\nsocket_mode: 0620\n")
	cmd := command(dir, append([]string{"serve", "--config", dir + "/config.yaml"}, args...)...)
	s := startServer(t, cmd)
	info, err := os.Stat(dir + "/s")
	if err != nil || info.Mode().Perm() != 0o620 {
		t.Errorf("modes %v, %v, want 0620", info.Mode(), err)
	}
	s.client, s.base = unixClient(t, dir+"/s"), "http://files.example.org"
	s.must(http.StatusCreated, "PUT", "new", "made") // what is made now has the umask's modes, not the socket's
	s.stop()
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	for i, arg := range args {
		if arg == "--upper" {
			info, err := os.Stat(filepath.Join(args[i+1], "new"))
			if want := os.FileMode(0o666 &^ umask); err != nil || info.Mode().Perm() != want {
				t.Errorf("a new file: modes %v, %v, want %v", info.Mode(), err, want)
			}
		}
	}
}

// sd_notify(3): what systemd is told, and in which order.
func TestServiceManagerIsTold(t *testing.T) {
	_, args := newShare(t)
	dir := openDir(t)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: dir + "/notify"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(giveUp)); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		n, err := conn.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, want) {
			t.Fatalf("the manager was told %q, %v, want %s", got, err, want)
		}
	}
	cmd := command(dir, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+dir+"/notify", "WATCHDOG_USEC=900000000")
	s := startServer(t, cmd)
	expect("READY=1")
	expect("WATCHDOG=1")
	s.signal(syscall.SIGHUP)
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	s.stop()
	expect("STOPPING=1")
}
