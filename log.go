package main

import (
	"io"
	"io/fs"
	stdlog "log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"overdav/overlay"
)

// The keys of the log: its whole vocabulary.
const (
	keyAddr     = "addr"      // where the server listens
	keyBytes    = "bytes"     // of the response's body, or copied up
	keyDur      = "dur"       // milliseconds
	keyMethod   = "method"    // of the request
	keyNames    = "names"     // that a certificate is for
	keyNotAfter = "not_after" // the last second of a certificate
	keyPath     = "path"      // as clients name it; never a directory of the host
	keyRemote   = "remote"    // the client's address
	keyStatus   = "status"    // of the response
	keyTimeout  = "timeout"   // milliseconds
)

// newLog returns the program's log. It is written to by main only: the engine
// returns errors and raises events. Messages are constant; what varies is a
// field.
func newLog(c LogConfig, w io.Writer) zerolog.Logger {
	if c.Format == "console" || c.Format == "auto" && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // Config.check has refused it
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// isTerminal says whether a person is likely to read w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}

// accessLog writes a line for each request when it has ended.
func accessLog(log zerolog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		cw := &countingWriter{ResponseWriter: w}
		path := r.URL.Path // before a handler strips something of it
		aborted := true
		defer func() {
			status := cw.status
			if status == 0 {
				status = http.StatusOK
			}
			e := log.Info()
			switch {
			case aborted: // a panic, which is net/http's to handle and report
				e = log.Warn().Bool("aborted", true)
			case status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage:
				e = log.Error()
			}
			e.Str(keyMethod, r.Method).Str(keyPath, path).Int(keyStatus, status).Int64(keyBytes, cw.bytes).
				Dur(keyDur, time.Since(began)).Str(keyRemote, r.RemoteAddr).Msg("request")
		}()
		next.ServeHTTP(cw, r)
		aborted = false
	})
}

// countingWriter notes what went through it.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController find the server's writer.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 { // 1xx are not the answer
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom keeps the way to the server's, and so to sendfile(2), open.
func (w *countingWriter) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// engineEvents writes to the log what the engine tells.
func engineEvents(log zerolog.Logger) overlay.Events {
	return overlay.Events{
		CopiedUp: func(name string, bytes int64, took time.Duration) {
			log.Info().Str(keyPath, "/"+strings.TrimPrefix(name, "/")).Int64(keyBytes, bytes).Dur(keyDur, took).Msg("copied up")
		},
		Warning: func(message string) {
			log.Warn().Str("warning", message).Msg("engine")
		},
	}
}

// stdLogger is for net/http, which knows no other: broken handshakes and
// panics of handlers.
func stdLogger(log zerolog.Logger) *stdlog.Logger {
	return stdlog.New(lineWriter{log}, "", 0)
}

type lineWriter struct{ log zerolog.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.log.Warn().Str("message_of", "net/http").Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}
