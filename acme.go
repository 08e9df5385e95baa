package main

import (
	"crypto/tls"
	"net/url"
	"os"
	"strings"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACMEConfig has certificates made, and renewed, by an authority on the network
// (RFC 8555), which checks that the server is reached by its names: at the port
// that is served (RFC 8737), or else at tls.http_listen (RFC 8555, section 8.3).
// To configure it is to agree to the authority's terms.
type ACMEConfig struct {
	Hosts        []string `yaml:"hosts"`         // the names; none: no ACME
	Email        string   `yaml:"email"`         // whom the authority may write to
	Cache        string   `yaml:"cache"`         // a directory for keys and certificates
	DirectoryURL string   `yaml:"directory_url"` // the authority
}

func defaultACME() ACMEConfig { return ACMEConfig{DirectoryURL: acme.LetsEncryptURL} }

func (c *ACMEConfig) on() bool { return len(c.Hosts) > 0 }

func (c *ACMEConfig) check(report func(key, format string, args ...any)) {
	if !c.on() {
		if c.Email != "" || c.Cache != "" {
			report("tls.acme", "without hosts there is nothing to certify; add tls.acme.hosts")
		}
		return
	}
	for _, host := range c.Hosts {
		if host != strings.ToLower(host) || !strings.Contains(strings.Trim(host, "."), ".") || strings.ContainsAny(host, "*:/ ") {
			report("tls.acme.hosts", "%q is not the full name of a host; write it as in files.example.org", host)
		}
	}
	if c.Cache == "" {
		report("tls.acme.cache", "without it every start would ask for new certificates, which authorities limit; name a directory")
	}
	if u, err := url.Parse(c.DirectoryURL); err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		report("tls.acme.directory_url", "%q is not the https address of an authority", c.DirectoryURL)
	}
}

// makeCache makes the directory of the cache, which only we may read.
func (c *ACMEConfig) makeCache() error {
	if !c.on() {
		return nil
	}
	return os.MkdirAll(c.Cache, 0o700)
}

// manager speaks with the authority; nil where there is none. There is one for as
// long as the program runs: it keeps the time of each renewal.
func (c *ACMEConfig) manager() *autocert.Manager {
	if !c.on() {
		return nil
	}
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.Cache),
		HostPolicy: autocert.HostWhitelist(c.Hosts...),
		Email:      c.Email,
		Client:     &acme.Client{DirectoryURL: c.DirectoryURL, UserAgent: "overdav"},
	}
}

// acmeConfig shows certificates of m's authority. The first client to ask for a
// name waits until there is one.
func acmeConfig(m *autocert.Manager) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: m.GetCertificate,
		NextProtos:     []string{"h2", "http/1.1", acme.ALPNProto},
	}
}

// isChallenge says whether it is the authority that calls, to see who answers by
// that name (RFC 8737, section 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto
}
