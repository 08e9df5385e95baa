package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

// An acmeAuthority issues certificates for one name to whoever answers by it at
// target: as much of RFC 8555 as a client asks for. It believes every signature;
// what it checks is the challenge (RFC 8737).
type acmeAuthority struct {
	*authority
	target string
	url    string

	mu sync.Mutex
	// +checklocks:mu
	valid bool
	// +checklocks:mu
	chain []byte
	// +checklocks:mu
	issued int
}

func newACMEAuthority(t *testing.T) *acmeAuthority {
	t.Helper()
	a := &acmeAuthority{authority: newAuthority(t)}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

const acmeHost = "files.example.org"

func (a *acmeAuthority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var jws struct{ Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws) // a GET has none
	payload, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	if err != nil {
		a.t.Error(err)
	}
	w.Header().Set("Replay-Nonce", "nonce")
	answer := func(status int, location string, v any) {
		w.Header().Set("Location", a.url+location)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // the client reports what is missing
	}
	identifier := map[string]string{"type": "dns", "value": acmeHost}
	order := map[string]any{
		"status": "pending", "identifiers": []any{identifier},
		"authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize",
	}
	challenge := map[string]string{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token", "status": "pending"}
	status := "pending"
	if a.valid {
		status, order["status"] = "valid", "ready"
	}
	switch r.URL.Path {
	case "/":
		answer(200, "", map[string]string{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
	case "/nonce":
	case "/account":
		answer(201, "/account/1", map[string]string{"status": "valid"})
	case "/order":
		answer(201, "/order/1", order)
	case "/order/1":
		answer(200, "/order/1", order)
	case "/authz":
		answer(200, "", map[string]any{"status": status, "identifier": identifier, "challenges": []any{challenge}})
	case "/challenge":
		a.valid = a.dare()
		answer(200, "", challenge)
	case "/finalize":
		a.issueLocked(payload)
		order["status"], order["certificate"] = "valid", a.url+"/cert"
		answer(200, "/order/1", order)
	case "/cert":
		_, _ = w.Write(a.chain) // the client reports what is missing
	default:
		a.t.Errorf("the authority was asked for %s", r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}
}

// dare looks whether the target answers the challenge.
func (a *acmeAuthority) dare() bool {
	conn, err := tls.Dial("tcp", a.target, &tls.Config{ServerName: acmeHost, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
	if err != nil {
		a.t.Error(err)
		return false
	}
	defer conn.Close()
	state := conn.ConnectionState()
	cert := state.PeerCertificates[0]
	for _, e := range cert.Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && slices.Contains(cert.DNSNames, acmeHost) && state.NegotiatedProtocol == acme.ALPNProto {
			return true
		}
	}
	a.t.Errorf("the challenge was answered with %v over %s", cert.DNSNames, state.NegotiatedProtocol)
	return false
}

// issueLocked signs what payload asks for.
// +checklocks:a.mu
func (a *acmeAuthority) issueLocked(payload []byte) {
	var request struct{ CSR string }
	der, err := func() ([]byte, error) {
		if err := json.Unmarshal(payload, &request); err != nil {
			return nil, err
		}
		return base64.RawURLEncoding.DecodeString(request.CSR)
	}()
	if err != nil {
		a.t.Error(err)
		return
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		a.t.Error(err)
		return
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || !slices.Equal(csr.DNSNames, []string{acmeHost}) {
		a.t.Errorf("a certificate was asked for %v with a %T", csr.DNSNames, csr.PublicKey)
		return
	}
	leaf := a.signFor(key, &x509.Certificate{DNSNames: csr.DNSNames, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a.chain = append(certPEM(leaf), certPEM(a.cert)...)
	a.issued++
}

func TestACMECertificateIsFetchedOnceAndKept(t *testing.T) {
	a := newACMEAuthority(t)
	c := defaultTLS()
	c.ACME = ACMEConfig{Hosts: []string{acmeHost}, Cache: filepath.Join(t.TempDir(), "acme"), DirectoryURL: a.url}
	c.ClientCA = filepath.Join(t.TempDir(), "ca.pem") // the authority gets in without a certificate
	a.replace(c.ClientCA, certPEM(a.cert))
	mine := a.write(t.TempDir(), "client.example", time.Time{})
	pair, err := tls.LoadX509KeyPair(mine.Cert, mine.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []string{"the first start", "the second"} {
		files, err := newTLSFiles(c, discardLog())
		if err != nil {
			t.Fatal(err)
		}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", files.config())
		if err != nil {
			t.Fatal(err)
		}
		a.target = ln.Addr().String()
		ended := make(chan bool)
		go func() {
			defer close(ended)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_ = conn.(*tls.Conn).HandshakeContext(t.Context()) // the client reports it
				}()
			}
		}()
		ask := func(name string) error {
			client := a.client()
			client.ServerName, client.Certificates = name, []tls.Certificate{pair}
			conn, err := tls.Dial("tcp", ln.Addr().String(), client)
			if err == nil {
				conn.Close()
			}
			return err
		}
		if err := ask(acmeHost); err != nil {
			t.Errorf("%s: %v", start, err)
		}
		if err := ask("other.example.org"); err == nil {
			t.Errorf("%s: a certificate for a name that was not configured", start)
		}
		ln.Close()
		<-ended
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.issued != 1 {
		t.Errorf("%d certificates were issued, want one that is kept", a.issued)
	}
}

func TestACMEMistakes(t *testing.T) {
	for want, c := range map[string]ACMEConfig{
		"tls.acme.cache: without it":             {Hosts: []string{acmeHost}},
		`tls.acme.hosts: "*.example.org" is not`: {Hosts: []string{"*.example.org"}, Cache: "x"},
		`tls.acme.hosts: "files" is not`:         {Hosts: []string{"files"}, Cache: "x"},
		"tls.acme.directory_url: \"http://a.b\"": {Hosts: []string{acmeHost}, Cache: "x", DirectoryURL: "http://a.b"},
		"tls.acme: without hosts":                {Email: "me@example.org"},
	} {
		if c.DirectoryURL == "" {
			c.DirectoryURL = acme.LetsEncryptURL
		}
		said := mistakes(c.check)
		if len(said) != 1 || !strings.HasPrefix(said[0], want) {
			t.Errorf("%+v: said %q, want %q", c, said, want)
		}
	}
}

// mistakes are what check reports.
func mistakes(check func(report func(key, format string, args ...any))) (said []string) {
	check(func(key, format string, args ...any) { said = append(said, key+": "+fmt.Sprintf(format, args...)) })
	return said
}
