package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/rs/zerolog"
)

// An audit is the list of everything that was changed, and of what was refused:
// a line of JSON for each request that changes something. It has a file of its
// own, because it is kept longer and read by fewer than the log.
//
// A line is one write(2) behind all others, so that programs may follow or
// rotate the file; after a rotation SIGHUP opens it again. When it cannot be
// written, the log says so, and requests are answered all the same: the change
// is made by then.
type audit struct {
	log zerolog.Logger // the program's, for what goes wrong here

	mu sync.Mutex
	// +checklocks:mu
	file *os.File // nil: nothing is audited
	// +checklocks:mu
	failed int // lines that were lost since the last that was written
}

// newAudit opens the file of c, if it names one.
func newAudit(c Config, log zerolog.Logger) (*audit, error) {
	file, err := openAudit(c.Audit)
	return &audit{log: log, file: file}, err
}

// openAudit opens name to append to it; "" is no file. Only its owner's group
// may read what it makes: the lines tell who does what.
func openAudit(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	// No FIFO: opening one would wait for a reader.
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, &hintError{fmt.Errorf("audit: %w", err), "audit names a file that overdav may write"}
	}
	return f, nil
}

// checkAudit looks whether there is a place for the file, for config check.
func checkAudit(_ env, c Config, o origins) error {
	if c.Audit == "" {
		return nil
	}
	if info, err := os.Stat(c.Audit); err == nil && info.IsDir() {
		return o.errorf("audit", "%s is a directory; name a file", c.Audit)
	}
	dir, err := realDir(filepath.Dir(c.Audit))
	switch fileErr := syscall.Access(c.Audit, accessWrite); {
	case err != nil:
	case errors.Is(fileErr, fs.ErrNotExist):
		err = mayChange(dir)
	case fileErr != nil:
		err = &hintError{fmt.Errorf("%s cannot be written: %w", c.Audit, fileErr), "let overdav's user write it, or name another"}
	}
	if err != nil {
		return o.errorf("audit", "%s", advice(err))
	}
	return nil
}

// reload is the audit's reloader: it opens the file anew, under whatever name.
func (a *audit) reload(c Config) (apply func(), err error) {
	file, err := openAudit(c.Audit)
	if err != nil {
		return nil, err
	}
	return func() { a.swap(file) }, nil
}

func (a *audit) swap(file *os.File) {
	a.mu.Lock()
	old := a.file
	a.file = file
	a.mu.Unlock()
	if old == nil {
		return
	}
	if err := old.Close(); err != nil {
		a.log.Error().Err(err).Msg("audit not closed")
	}
}

func (a *audit) close() { a.swap(nil) }

// audited are the methods that change something.
const audited = "PUT PATCH DELETE MKCOL COPY MOVE PROPPATCH LOCK UNLOCK POST"

func isAudited(method string) bool {
	for word := range strings.SplitSeq(audited, " ") {
		if word == method {
			return true
		}
	}
	return false
}

// note writes the line of a request that has ended. answer is the header of the
// answer.
func (a *audit) note(rec *record, r *http.Request, answer http.Header) {
	if a == nil || !isAudited(rec.method) || !a.on() {
		return
	}
	sink := zerolog.New(auditWriter{a})
	e := sink.Log().Time("time", rec.began).Uint64(keyID, rec.id)
	if rec.user != "" {
		e.Str(keyUser, rec.user)
	}
	e.Str(keyRemote, rec.remote()).Str("op", rec.method).Str(keyPath, rec.path)
	if destination := r.Header.Get("Destination"); destination != "" {
		e.Str("destination", pathOf(destination))
	}
	if rec.about != "" {
		e.Str("about", rec.about)
	}
	e.Int(keyStatus, rec.status).Int64(keyBytes, rec.received)
	if token := lockToken(r, answer); token != "" {
		e.Str("lock", tokenHash(token))
	}
	e.Send()
}

func (a *audit) on() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file != nil
}

// pathOf is the path in a Destination header. The rest of an address may hold a
// password.
func pathOf(destination string) string {
	u, err := url.Parse(destination)
	if err != nil {
		return "?"
	}
	return u.Path
}

// lockToken is the token that a request made, ends, or submits: the first, if it
// submits several.
func lockToken(r *http.Request, answer http.Header) string {
	for _, text := range []string{answer.Get("Lock-Token"), r.Header.Get("Lock-Token"), r.Header.Get("If")} {
		// Resource tags in an If header stand in angle brackets, too.
		if _, rest, ok := strings.Cut(text, "<urn:uuid:"); ok {
			token, _, _ := strings.Cut(rest, ">")
			return "urn:uuid:" + token
		}
	}
	return ""
}

// tokenHash tells tokens apart and gives none away: they are random numbers of
// 128 bits, so that nobody finds one by its hash.
func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

// auditWriter writes lines to the file that is open at the moment.
type auditWriter struct{ a *audit }

// Write is io.Writer's. It answers no error: zerolog would print it.
func (w auditWriter) Write(line []byte) (int, error) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return len(line), nil // closed since note looked
	}
	n, err := a.file.Write(line)
	switch {
	case err != nil || n < len(line):
		a.failed++
		if a.failed == 1 {
			a.log.Error().Err(errorOr(err, io.ErrShortWrite)).Msg("audit cannot be written")
		}
	case a.failed > 0:
		a.log.Warn().Int("lines", a.failed).Msg("audit is written again; lines were lost")
		a.failed = 0
	}
	return len(line), nil
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
