package main

import (
	"context"
	"io"
	"io/fs"
	stdlog "log"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"overdav/overlay"
)

// The keys of the log: its whole vocabulary.
const (
	keyAddr     = "addr"      // where the server listens
	keyBytes    = "bytes"     // of the response's body, or copied up
	keyChanger  = "changer"   // the path of a share that changes another's lower
	keyCopiedUp = "copied_up" // bytes of files that a request had copied up; absent for none
	keyDur      = "dur"       // milliseconds
	keyID       = "id"        // of the request, since the start
	keyIP       = "ip"        // of who could not log in; empty when nobody knows
	keyKey      = "key"       // of the configuration
	keyLayer    = "layer"     // upper, or lower and its number, the topmost 1
	keyMethod   = "method"    // of the request
	keyNames    = "names"     // that a certificate is for
	keyNotAfter = "not_after" // the last second of a certificate
	keyPath     = "path"      // as clients name it; never a directory of the host
	keyPort     = "port"      // of who could not log in; 0 behind a proxy
	keyReason   = "reason"    // why somebody could not log in
	keyRemote   = "remote"    // the client's address
	keyShare    = "share"     // its path
	keyStatus   = "status"    // of the response
	keyTimeout  = "timeout"   // milliseconds
	keyUser     = "user"      // who made the request
)

// newLog returns the program's log. It is written to by main only: the engine
// returns errors and raises events. Messages are constant; what varies is a
// field.
func newLog(c LogConfig, w io.Writer) zerolog.Logger {
	if c.Format == "console" || c.Format == "auto" && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, FieldsOrder: fieldsOrder, NoColor: !isTerminal(w)}
	}
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // Config.check has refused it
	}
	return zerolog.New(w).Level(level).Hook(new(logClock))
}

// A logClock is zerolog's timestamp. It writes a time anew when a millisecond is
// over: a busy server has many lines in one.
type logClock struct{ last atomic.Pointer[logTime] }

type logTime struct {
	ms   int64 // since 1970
	text string
}

// Run is zerolog.Hook's.
func (c *logClock) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	now := zerolog.TimestampFunc()
	last := c.last.Load()
	if last == nil || last.ms != now.UnixMilli() {
		last = &logTime{now.UnixMilli(), now.Format(zerolog.TimeFieldFormat)}
		c.last.Store(last)
	}
	e.Str(zerolog.TimestampFieldName, last.text)
}

// fieldsOrder is that of the lines for people: as in JSON, what was asked comes
// first, then what came of it. What clients chose is quoted where it could be
// taken for something else.
var fieldsOrder = []string{
	keyIP, keyPort, keyMethod, keyPath, keyStatus, keyBytes, keyDur, keyUser, keyReason, keyLayer, keyCopiedUp, keyRemote, keyID,
}

// Times have milliseconds, so that lines can be told apart and compared.
func init() { zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00" }

// isTerminal says whether a person is likely to read w.
func isTerminal(w io.Writer) bool {
	if b, ok := w.(*logBuffer); ok {
		w = b.out
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}

// A record is what the log says of a request. Whoever finds out something that
// it has a field for fills it in.
type record struct {
	id             uint64 // of the request, in this process
	began          time.Time
	method, path   string         // as they came, before a handler strips something
	peer           string         // who is connected, as net/http writes it
	client         netip.AddrPort // who asks (proxies.client)
	user           string         // "" for nobody who has a name
	status         int            // of the response; 0 until it begins
	sent, received int64          // bytes of the bodies
	copiedUp       int64          // bytes of files of lowers, because of it
	about          string         // what our own interface was asked to change, for the audit
	layer          int            // that the answer of a reading is from, 1 is upper; 0: not known
	quiet          bool           // its line is of use to nobody who does not look for it
}

// fromLayer notes the layer that the answer is from, 0 for upper.
func (rec *record) fromLayer(index int) { rec.layer = index + 1 }

// layerName is a layer as the log and the health probes call it; 0 is upper.
func layerName(index int) string {
	if index < len(layerNames) {
		return layerNames[index]
	}
	return "lower " + strconv.Itoa(index)
}

// layerNames are those that nobody has to make for each request.
var layerNames = func() (names [16]string) {
	names[0] = "upper"
	for i := range names[1:] {
		names[i+1] = "lower " + strconv.Itoa(i+1)
	}
	return names
}()

// sequence numbers the requests of this process.
var sequence atomic.Uint64

func newRecord(r *http.Request, p proxies) record {
	return record{
		id: sequence.Add(1), began: time.Now(), method: r.Method, path: r.URL.Path,
		peer: r.RemoteAddr, client: p.client(r),
	}
}

// recordOf returns the record of the request with the context; one that nobody
// reads if it is none of ours.
func recordOf(ctx context.Context) *record {
	if x := exchangeOf(ctx); x != nil {
		return &x.record
	}
	return new(record)
}

// remote is the client as the log writes it.
func (rec *record) remote() string {
	switch {
	case rec.client.Port() != 0 || !rec.client.IsValid():
		return rec.peer
	default:
		return rec.client.Addr().String()
	}
}

// access writes the request's line when it has ended.
func (rec *record) access(log *zerolog.Logger, aborted bool) {
	var e *zerolog.Event
	switch {
	case aborted: // the answer could not be finished
		e = log.Warn().Bool("aborted", true)
	case isOurFault(rec.status):
		e = log.Error()
	case rec.quiet:
		e = log.Debug()
	default:
		e = log.Info()
	}
	if e == nil { // the level: nothing is formatted
		return
	}
	e.Str(keyMethod, rec.method).Str(keyPath, rec.path).Int(keyStatus, rec.status).Int64(keyBytes, rec.sent).
		Dur(keyDur, time.Since(rec.began))
	if rec.user != "" {
		e.Str(keyUser, rec.user)
	}
	if rec.layer > 0 {
		e.Str(keyLayer, layerName(rec.layer-1))
	}
	if rec.copiedUp > 0 {
		e.Int64(keyCopiedUp, rec.copiedUp)
	}
	e.Str(keyRemote, rec.remote()).Uint64(keyID, rec.id).Msg("request")
}

// isOurFault says whether a status says that the server, or a disk of its, is
// broken: not that a disk is full, or that somebody wants to copy to another
// server.
func isOurFault(status int) bool {
	return status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage && status != http.StatusBadGateway
}

// authFailed writes the line that fail2ban reads (dist/fail2ban): the address
// comes before what the client chose. reason is one of a few words of ours.
func (rec *record) authFailed(log *zerolog.Logger, user, reason string) {
	const longest = 128 // of a user name; ours are shorter
	e := log.Warn()
	if e == nil {
		return
	}
	ip := "" // of a client of a Unix socket that nobody named
	if rec.client.IsValid() {
		ip = rec.client.Addr().String()
	}
	e.Str(keyIP, ip).Uint16(keyPort, rec.client.Port()).
		Str(keyUser, user[:min(len(user), longest)]).Str(keyReason, reason).Msg("auth-fail")
}

// engineEvents has the log, the metrics and the processors follow what the engine tells.
func engineEvents(log zerolog.Logger, m *metrics, p *processors) overlay.Events {
	return overlay.Events{
		CopiedUp: func(name string, bytes int64, took time.Duration) {
			m.copiedUp(bytes, took)
			log.Info().Str(keyPath, "/"+strings.TrimPrefix(name, "/")).Int64(keyBytes, bytes).Dur(keyDur, took).Msg("copied up")
		},
		Warning: func(message string) {
			log.Warn().Str("warning", message).Msg("engine")
		},
		Purging: p.job,
	}
}

// stdLogger is for net/http, which knows no other: broken handshakes and
// panics of handlers.
func stdLogger(log zerolog.Logger) *stdlog.Logger {
	return stdlog.New(lineWriter{log}, "", 0)
}

type lineWriter struct{ log zerolog.Logger }

// Write is io.Writer's. A handshake that breaks off is the client's doing, and that
// of everybody who looks whether the port is open.
func (w lineWriter) Write(p []byte) (int, error) {
	line, level := strings.TrimSpace(string(p)), zerolog.WarnLevel
	if strings.HasPrefix(line, "http: TLS handshake error") {
		level = zerolog.InfoLevel
	}
	w.log.WithLevel(level).Str("message_of", "net/http").Msg(line)
	return len(p), nil
}
