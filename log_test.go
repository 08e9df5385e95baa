package main

import (
	"io"
	"net/http"
	"testing"

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
		recordOf(r.Context()).user = "alice"
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
