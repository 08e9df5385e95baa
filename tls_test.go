package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// An authority signs certificates of tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	a.cert = a.sign(a.key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign completes template and signs it, by itself if there is no certificate yet.
func (a *authority) sign(key *ecdsa.PrivateKey, template *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	return a.signFor(&key.PublicKey, template)
}

func (a *authority) signFor(key *ecdsa.PublicKey, template *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// write puts a new certificate for name, and its key, into dir.
func (a *authority) write(dir, name string, notAfter time.Time) TLSConfig {
	a.t.Helper()
	key := newKey(a.t)
	cert := a.sign(key, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	c := defaultTLS()
	c.Cert, c.Key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.replace(c.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	a.replace(c.Cert, certPEM(cert))
	return c
}

// replace renames a new file onto name, as whoever renews certificates does.
func (a *authority) replace(name string, text []byte) {
	a.t.Helper()
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		a.t.Fatal(err)
	}
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// client trusts the authority.
func (a *authority) client() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool}
}

// shown is the name in the certificate that a server with config shows, or why
// it shows none.
func shown(t *testing.T, config, client *tls.Config) (string, error) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = conn.(*tls.Conn).HandshakeContext(t.Context())
			defer conn.Close()
		}
		served <- err
	}()
	conn, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err != nil {
		return "", errors.Join(err, <-served)
	}
	defer conn.Close()
	// In TLS 1.3 a server may still refuse when the client is content.
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, <-served
}

func TestRenewedCertificateIsShownAtTheNextHandshake(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	c := a.write(dir, "first.example", time.Time{})
	var log bytes.Buffer
	files, err := newTLSFiles(c, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when, want string) {
		t.Helper()
		if got, err := shown(t, files.config(), a.client()); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %s", when, got, err, want)
		}
	}
	expect("at first", "first.example")
	a.write(dir, "second.example", time.Time{})
	expect("after a renewal", "second.example")
	if !strings.Contains(log.String(), `"names":["second.example"]`) {
		t.Errorf("the log does not name the new certificate:\n%s", &log)
	}

	log.Reset()
	a.replace(c.Key, []byte("no key"))
	expect("with a broken key", "second.example")
	expect("with a broken key, again", "second.example")
	if n := strings.Count(log.String(), "the old one stays"); n != 1 {
		t.Errorf("a broken key is reported %d times, want once:\n%s", n, &log)
	}
	if err := os.Remove(c.Cert); err != nil {
		t.Fatal(err)
	}
	expect("without a file", "second.example")
	a.write(dir, "third.example", time.Time{})
	expect("when it is mended", "third.example")
}

func TestReloadOfCertificatesIsAllOrNothing(t *testing.T) {
	a := newAuthority(t)
	c := defaultConfig()
	c.TLS = a.write(t.TempDir(), "first.example", time.Time{})
	files, err := newTLSFiles(c.TLS, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when, want string) {
		t.Helper()
		if got, err := shown(t, files.config(), a.client()); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %s", when, got, err, want)
		}
	}
	next := c
	next.TLS = a.write(t.TempDir(), "second.example", time.Time{})
	apply, err := files.reload(next)
	if err != nil {
		t.Fatal(err)
	}
	expect("before apply", "first.example")
	apply()
	expect("after apply", "second.example")
	for _, test := range []struct {
		what   string
		change func(*TLSConfig)
	}{
		{"no file", func(c *TLSConfig) { c.Cert = filepath.Join(t.TempDir(), "none") }},
		{"no TLS", func(c *TLSConfig) { *c = defaultTLS() }},
		{"another's key", func(c *TLSConfig) { c.Key = a.write(t.TempDir(), "other.example", time.Time{}).Key }},
	} {
		broken := next
		test.change(&broken.TLS)
		if _, err := files.reload(broken); err == nil || !strings.HasPrefix(err.Error(), "tls") {
			t.Errorf("%s: error %v, want one that begins with the key", test.what, err)
		}
	}
	expect("after refusals", "second.example")
}

func TestOnlyClientsOfTheAuthorityGetIn(t *testing.T) {
	ours, theirs, dir := newAuthority(t), newAuthority(t), t.TempDir()
	c := ours.write(dir, "server.example", time.Time{})
	c.ClientCA = filepath.Join(dir, "ca.pem")
	ours.replace(c.ClientCA, certPEM(ours.cert))
	files, err := newTLSFiles(c, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		who string
		by  *authority
		in  bool
	}{{"with a certificate of ours", ours, true}, {"with a stranger's", theirs, false}, {"without", nil, false}} {
		client := ours.client()
		if test.by != nil {
			mine := test.by.write(t.TempDir(), "client.example", time.Time{})
			pair, err := tls.LoadX509KeyPair(mine.Cert, mine.Key)
			if err != nil {
				t.Fatal(err)
			}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		if _, err := shown(t, files.config(), client); (err == nil) != test.in {
			t.Errorf("%s: %v, want to get in: %t", test.who, err, test.in)
		}
	}
}

func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	a := newAuthority(t)
	files, err := newTLSFiles(a.write(t.TempDir(), "server.example", time.Time{}), discardLog())
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		client := a.client()
		client.MinVersion, client.MaxVersion = tls.VersionTLS10, version
		if _, err := shown(t, files.config(), client); (err == nil) != want {
			t.Errorf("%s: %v, want it spoken: %t", tls.VersionName(version), err, want)
		}
	}
}

func TestUnusableCertificatesAreRefusedWithKeyAndRemedy(t *testing.T) {
	a := newAuthority(t)
	tests := []struct {
		name   string
		change func(t *testing.T, c *TLSConfig)
		want   string
		hint   string
	}{
		{"missing key", func(t *testing.T, c *TLSConfig) { c.Key += ".none" }, "tls.key: open ", ""},
		{"key that others read", func(t *testing.T, c *TLSConfig) { chmod(t, c.Key, 0o644) }, "tls.key: every user of this machine can read ", "chmod o-rw "},
		{"key that others write", func(t *testing.T, c *TLSConfig) { chmod(t, c.Key, 0o602) }, "tls.key: ", "chmod o-rw "},
		{"certificate without a certificate", func(t *testing.T, c *TLSConfig) { c.Cert = c.Key }, "tls.cert: ", "PEM"},
		{"empty authorities", func(t *testing.T, c *TLSConfig) { c.ClientCA = os.DevNull }, "tls.client_ca: there is no certificate", "vouch"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := a.write(t.TempDir(), "server.example", time.Time{})
			test.change(t, &c)
			_, err := newTLSFiles(c, discardLog())
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Fatalf("error %v, want it to begin with %s", err, test.want)
			}
			var said bytes.Buffer
			report(&said, err)
			if !strings.Contains(said.String(), test.hint) {
				t.Errorf("said %q, want %q in it", &said, test.hint)
			}
		})
	}
	c := a.write(t.TempDir(), "server.example", time.Time{})
	chmod(t, c.Key, 0o640) // a group is how a key is shared on purpose
	if _, err := newTLSFiles(c, discardLog()); err != nil {
		t.Errorf("a key that a group reads: %v", err)
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestExpiredCertificateIsServedWithAWarning(t *testing.T) {
	a := newAuthority(t)
	var log bytes.Buffer
	if _, err := newTLSFiles(a.write(t.TempDir(), "old.example", time.Now().Add(-time.Minute)), zerolog.New(&log)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), `"level":"warn","expired":true`) {
		t.Errorf("the log says\n%s", &log)
	}
}

func TestTLSServerSpeaksHTTP2AndIsStrict(t *testing.T) {
	a := newAuthority(t)
	c := defaultConfig()
	c.TLS = a.write(t.TempDir(), "server.example", time.Time{})
	certs, err := newTLSFiles(c.TLS, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto) // the client reports what is missing
	}), discardLog(), c)
	s.http.TLSConfig = certs.config()
	stop := runServer(t, s, ln)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{TLSClientConfig: a.client(), ForceAttemptHTTP2: proto == "HTTP/2.0"}
		resp, err := (&http.Client{Transport: transport}).Get("https://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != proto || err != nil {
			t.Errorf("handled as %q, %v, want %s", body, err, proto)
		}
		if got := resp.Header.Get("Strict-Transport-Security"); got != "max-age=15552000" {
			t.Errorf("%s: Strict-Transport-Security is %q", proto, got)
		}
		transport.CloseIdleConnections()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A client that begins HTTP/2 without TLS is none that we know.
func TestHTTP2IsNotSpokenInTheClear(t *testing.T) {
	base, stop := start(t, defaultConfig(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request was handled")
	}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	if resp, err := (&http.Client{Transport: transport}).Get(base); err == nil {
		resp.Body.Close()
		t.Errorf("answered with %s", resp.Status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
