package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A nowhere is a http.ResponseWriter that costs nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

// loggedServer is a server with nothing behind it, that logs at a level.
func loggedServer(level zerolog.Level) *server {
	s := newServer(nil, zerolog.New(io.Discard).Level(level).With().Timestamp().Logger(), defaultConfig())
	s.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := recordOf(r.Context())
		rec.user, rec.copiedUp = "alice", 7
		rec.fromLayer(2)
		w.WriteHeader(http.StatusNoContent)
	})
	return s
}

func newLoggedRequest(tb testing.TB) *http.Request {
	r, err := http.NewRequest("GET", "http://127.0.0.1/docs/a.txt", nil)
	if err != nil {
		tb.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.7:4711"
	return r
}

// What every request pays for deadlines, record and line: the exchange, and the
// request with it as its context.
func TestLogCostsNextToNothing(t *testing.T) {
	const want = 2
	for _, level := range []zerolog.Level{zerolog.InfoLevel, zerolog.WarnLevel} {
		s, r, w := loggedServer(level), newLoggedRequest(t), nowhere{http.Header{}}
		if got := testing.AllocsPerRun(1000, func() { s.ServeHTTP(w, r) }); got > want {
			t.Errorf("level %v: %v allocations for a request, want %d", level, got, want)
		}
	}
}

func BenchmarkAccessLog(b *testing.B) {
	for _, level := range []zerolog.Level{zerolog.InfoLevel, zerolog.WarnLevel} {
		b.Run(level.String(), func(b *testing.B) {
			s, r, w := loggedServer(level), newLoggedRequest(b), nowhere{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				s.ServeHTTP(w, r)
			}
		})
	}
}

// The line of a request says which layer its answer is from, and what it had
// copied up, if it did.
func TestLineTellsOfLayersAndCopyUps(t *testing.T) {
	share, _ := userShare(t, nil)
	var said bytes.Buffer
	s := newServer(nil, zerolog.New(&said), defaultConfig())
	s.next = share
	for _, test := range []struct {
		method, body, destination, depth string
		layer                            string
		copiedUp                         int64
	}{
		{"GET", "", "", "", "lower 1", 0},
		{"MOVE", "", "/b", "", "", 5},
		{"PUT", "anew", "", "", "", 0},
		{"PROPFIND", "", "", "0", "upper", 0},
	} {
		said.Reset()
		if status, body := as(s, "alice", test.method, "/a", test.body, "Depth", test.depth, "Destination", test.destination); status >= 400 {
			t.Errorf("%s: %d %s", test.method, status, body)
		}
		var line struct {
			Layer    string `json:"layer"`
			CopiedUp int64  `json:"copied_up"`
		}
		if err := json.Unmarshal(said.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Layer != test.layer || line.CopiedUp != test.copiedUp {
			t.Errorf("%s: the line is %s, want layer %q, copied_up %v", test.method, &said, test.layer, test.copiedUp)
		}
	}
}

func TestLogTimesAreThoseOfTheirLines(t *testing.T) {
	defer func(f func() time.Time) { zerolog.TimestampFunc = f }(zerolog.TimestampFunc)
	var buf bytes.Buffer
	log := newLog(LogConfig{Level: "info", Format: "json"}, &buf)
	began := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for _, after := range []time.Duration{0, 999 * time.Microsecond, time.Millisecond, -time.Hour} {
		zerolog.TimestampFunc = func() time.Time { return began.Add(after) }
		log.Info().Msg("line")
	}
	var got []string
	for line := range strings.Lines(buf.String()) {
		var fields struct{ Time string }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		got = append(got, fields.Time)
	}
	want := []string{"2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.679Z", "2026-01-02T02:04:05.678Z"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Lines for people are kept in files and journals, too, which show no colours.
func TestConsoleLogInAFile(t *testing.T) {
	var out bytes.Buffer
	log := newLog(LogConfig{Format: "console", Level: "info"}, &out)
	log.Warn().Str(keyPath, "/a").Msg("refused")
	if got := out.String(); !strings.HasSuffix(got, " WRN refused path=/a\n") || strings.Contains(got, "\x1b") {
		t.Errorf("got %q", got)
	}
}

// Whoever looks whether a port is open has no operator woken.
func TestBrokenHandshakesAreNoWarning(t *testing.T) {
	var out bytes.Buffer
	log := stdLogger(newLog(LogConfig{Format: "json", Level: "warn"}, &out))
	log.Printf("http: TLS handshake error from 192.0.2.7:4711: EOF")
	if out.Len() > 0 {
		t.Errorf("got %s", &out)
	}
	log.Printf("http: Accept error: too many open files; retrying in 5ms")
	if !strings.Contains(out.String(), `"level":"warn"`) {
		t.Errorf("got %q, want a warning", &out)
	}
}
