package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/acme/autocert"
)

// TLSConfig says how the server proves who it is. Without a certificate it
// speaks plain HTTP.
type TLSConfig struct {
	Cert     string        `yaml:"cert" reload:"yes"`      // PEM, the server's own first, then those that vouch for it
	Key      string        `yaml:"key" reload:"yes"`       // PEM
	ClientCA string        `yaml:"client_ca" reload:"yes"` // PEM; only clients with a certificate of one of these get in
	ACME     ACMEConfig    `yaml:"acme"`                   // instead of Cert and Key
	HSTS     time.Duration `yaml:"hsts"`                   // for how long browsers are told to use nothing but TLS

	HTTPListen string `yaml:"http_listen"` // host:port for plain HTTP, which is sent on to TLS; "" is none
}

func defaultTLS() TLSConfig {
	return TLSConfig{ACME: defaultACME(), HSTS: 180 * 24 * time.Hour}
}

// on says whether the server speaks TLS.
func (c *TLSConfig) on() bool { return c.Cert != "" || c.Key != "" || c.ACME.on() }

func (c *TLSConfig) check(report func(key, format string, args ...any)) {
	switch {
	case c.ACME.on() && (c.Cert != "" || c.Key != ""):
		report("tls.acme", "there is a certificate already; remove tls.cert and tls.key, or this")
	case c.Cert != "" && c.Key == "":
		report("tls.cert", "a certificate without its key proves nothing; add tls.key")
	case c.Cert == "" && c.Key != "":
		report("tls.key", "a key without its certificate; add tls.cert")
	case c.ClientCA != "" && !c.on():
		report("tls.client_ca", "clients show certificates over TLS only; add tls.cert and tls.key")
	}
	c.ACME.check(report)
	c.checkHTTPListen(report)
	if c.HSTS < 0 {
		report("tls.hsts", "%v is no time; 0 leaves the header out", c.HSTS)
	}
}

func (c *TLSConfig) checkHTTPListen(report func(key, format string, args ...any)) {
	if c.HTTPListen == "" {
		return
	}
	if _, _, err := net.SplitHostPort(c.HTTPListen); err != nil {
		report("tls.http_listen", "%q is not an address; write host:port, or :80 for every address of this machine", c.HTTPListen)
	} else if !c.on() {
		report("tls.http_listen", "there is no TLS to send anybody on to; add tls.cert and tls.key, or tls.acme, or remove it")
	}
}

// absolute makes the relative names of files begin at dir.
func (c *TLSConfig) absolute(dir string) {
	for _, name := range []*string{&c.Cert, &c.Key, &c.ClientCA, &c.ACME.Cache} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
}

// strictTransport tells browsers to come over TLS only, for the time given
// (RFC 6797, section 6.1). It speaks for this name, not for those below it,
// which may be others' servers.
func strictTransport(age time.Duration, next http.Handler) http.Handler {
	value := fmt.Sprintf("max-age=%d", int64(age/time.Second))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", value)
		next.ServeHTTP(w, r)
	})
}

// tlsFiles are the certificates that the server shows, and takes. They are
// read again on SIGHUP and, at a client's next handshake, when one of the files
// has changed: whoever renews a certificate need not know who uses it. What
// cannot be used then is reported once, and the old ones stay.
type tlsFiles struct {
	log     zerolog.Logger
	acme    *autocert.Manager // nil: certificates are files
	current atomic.Pointer[tlsPair]

	// mu is held by who looks at the files.
	mu sync.Mutex
	// seen is how the files were when they were last read, whether or not they
	// could be used.
	// +checklocks:mu
	seen [3]fileState
}

// A tlsPair is what was read from files, which were as state says just before.
type tlsPair struct {
	files  TLSConfig
	state  [3]fileState
	config *tls.Config
	leaf   *x509.Certificate // nil: ACME's, there may be several, or none yet
}

// A fileState tells one content of a file from another.
type fileState struct {
	info fs.FileInfo // nil: there is none
}

func stateOf(name string) fileState {
	info, err := os.Stat(name)
	if err != nil {
		return fileState{} // reading it tells what is the matter
	}
	return fileState{info}
}

func (s fileState) same(t fileState) bool {
	if s.info == nil || t.info == nil {
		return s.info == t.info
	}
	return os.SameFile(s.info, t.info) && s.info.ModTime().Equal(t.info.ModTime()) && s.info.Size() == t.info.Size()
}

func (c *TLSConfig) states() [3]fileState {
	return [3]fileState{stateOf(c.Cert), stateOf(c.Key), stateOf(c.ClientCA)}
}

// newTLSFiles reads the files that c names. It returns nil, which is good for
// plain HTTP, if there are none.
func newTLSFiles(c TLSConfig, log zerolog.Logger) (*tlsFiles, error) {
	if !c.on() {
		return nil, nil
	}
	if err := c.ACME.makeCache(); err != nil {
		return nil, fmt.Errorf("tls.acme.cache: %w", err)
	}
	t := &tlsFiles{log: log, acme: c.ACME.manager()}
	p, err := readTLSPair(c, t.acme)
	if err != nil {
		return nil, err
	}
	t.put(p)
	return t, nil
}

// checkTLS reads the certificates, for config check.
func checkTLS(_ env, c Config, o origins) error {
	var errs []error
	for _, file := range []struct {
		key, name string
		forbidden fs.FileMode
	}{
		{"tls.cert", c.TLS.Cert, 0},
		{"tls.key", c.TLS.Key, readableByOthers},
		{"tls.client_ca", c.TLS.ClientCA, 0},
	} {
		if file.name != "" {
			_, err := readPEM(file.key, file.name, file.forbidden)
			errs = append(errs, tlsMistake(err, o))
		}
	}
	if err := errors.Join(errs...); err != nil || !c.TLS.on() || c.TLS.Cert == "" != (c.TLS.Key == "") {
		return err
	}
	_, err := readTLSPair(c.TLS, c.TLS.ACME.manager())
	return tlsMistake(err, o)
}

// tlsMistake is an error that begins with a key, at the place of the key.
func tlsMistake(err error, o origins) error {
	if err == nil {
		return nil
	}
	key, text, _ := strings.Cut(advice(err), ": ")
	return o.errorf(key, "%s", text)
}

// config is for http.Server, nil where no TLS is spoken.
func (t *tlsFiles) config() *tls.Config {
	if t == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			t.refresh()
			config := t.current.Load().config
			if config.ClientAuth != tls.NoClientCert && isChallenge(hello) {
				config = config.Clone()
				config.ClientAuth = tls.NoClientCert      // the authority has none of ours
				config.NextProtos = hello.SupportedProtos // nor a request to make
			}
			return config, nil
		},
	}
}

// answering is h, but for what the authority asks over plain HTTP (RFC 8555,
// section 8.3).
func (t *tlsFiles) answering(h http.Handler) http.Handler {
	if t.acme == nil {
		return h
	}
	h = t.acme.HTTPHandler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(r.Context()) // a copy
		r.Host = hostname(r.Host)      // autocert compares it with a name, and an authority's test has a port, too
		h.ServeHTTP(w, r)
	})
}

// refresh reads the files again if one has changed. While one handshake does,
// others go on with what there is.
func (t *tlsFiles) refresh() {
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	files := t.current.Load().files
	now := files.states()
	if now[0].same(t.seen[0]) && now[1].same(t.seen[1]) && now[2].same(t.seen[2]) {
		return
	}
	t.seen = now
	p, err := readTLSPair(files, t.acme)
	if err != nil {
		t.log.Warn().Err(err).Msg("certificate has changed but cannot be used; the old one stays")
		return
	}
	t.putLocked(p)
}

// reload is a reloader.
func (t *tlsFiles) reload(c Config) (apply func(), err error) {
	if c.TLS.on() != (t != nil) {
		return nil, errors.New("tls: cannot be switched on or off while overdav serves; restart it")
	}
	if t == nil {
		return nil, nil
	}
	p, err := readTLSPair(c.TLS, t.acme)
	if err != nil {
		return nil, err
	}
	return func() { t.put(p) }, nil
}

func (t *tlsFiles) put(p *tlsPair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.putLocked(p)
}

// Preconditions: t.mu is held.
// +checklocks:t.mu
func (t *tlsFiles) putLocked(p *tlsPair) {
	t.seen = p.state
	t.current.Store(p)
	if p.leaf == nil {
		return
	}
	e := t.log.Info()
	if time.Now().After(p.leaf.NotAfter) {
		e = t.log.Warn().Bool("expired", true)
	}
	e.Strs(keyNames, p.leaf.DNSNames).Time(keyNotAfter, p.leaf.NotAfter).Msg("certificate")
}

// readTLSPair reads what c names. m is c.ACME's.
func readTLSPair(c TLSConfig, m *autocert.Manager) (*tlsPair, error) {
	p := &tlsPair{files: c, state: c.states()}
	if m != nil {
		p.config = acmeConfig(m)
	} else if err := p.readCertificate(c); err != nil {
		return nil, err
	}
	if c.ClientCA == "" {
		return p, nil
	}
	authorities, err := readPEM("tls.client_ca", c.ClientCA, 0)
	if err != nil {
		return nil, err
	}
	p.config.ClientAuth, p.config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !p.config.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, &hintError{
			fmt.Errorf("tls.client_ca: there is no certificate in %s", c.ClientCA),
			"it is a PEM file with the certificates that vouch for the clients'",
		}
	}
	return p, nil
}

func (p *tlsPair) readCertificate(c TLSConfig) error {
	cert, err := readPEM("tls.cert", c.Cert, 0)
	if err != nil {
		return err
	}
	key, err := readPEM("tls.key", c.Key, readableByOthers)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return &hintError{
			fmt.Errorf("tls.cert: %s with key %s: %w", c.Cert, c.Key, err),
			"both files are PEM: the certificate, then those that vouch for it; and its key, without a password",
		}
	}
	p.leaf = pair.Leaf
	p.config = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	return nil
}

// readableByOthers are the modes that a secret must not have.
const readableByOthers fs.FileMode = 0o006

// readPEM reads the file that key names. None of the modes in forbidden may be
// set on it.
func readPEM(key, name string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, &hintError{
			fmt.Errorf("%s: every user of this machine can read %s", key, name),
			"chmod o-rw " + name,
		}
	}
	const largest = 1 << 20 // whatever is larger is something else
	var text bytes.Buffer
	if _, err := io.Copy(&text, io.LimitReader(f, largest)); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return text.Bytes(), nil
}
