package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"overdav/auth"
)

// readMetrics is what somebody reads who may.
func readMetrics(t *testing.T, m *metrics) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	m.handler(discardLog()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	values := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			values[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return values
}

func TestMetricsCountRequests(t *testing.T) {
	m := newMetrics(MetricsConfig{Listen: "127.0.0.1:0"})
	s := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		if r.Method == "PUT" {
			w.WriteHeader(http.StatusInsufficientStorage)
		}
		_, _ = w.Write([]byte("abc")) // a recorder takes everything
	}), discardLog(), defaultConfig())
	s.metrics = m
	for _, method := range []string{"GET", "HEAD", "PROPFIND", "PUT", "MOVE", "DELETE", "LOCK", "BREW"} {
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "http://127.0.0.1/secret", strings.NewReader("12345")))
	}
	m.copiedUp(1000, 1500*time.Millisecond)
	got := readMetrics(t, m)
	for name, want := range map[string]string{
		`overdav_request_duration_seconds_count{op="read",status="2xx"}`:   "2",
		`overdav_request_duration_seconds_count{op="list",status="2xx"}`:   "1",
		`overdav_request_duration_seconds_count{op="write",status="5xx"}`:  "1",
		`overdav_request_duration_seconds_count{op="write",status="2xx"}`:  "0",
		`overdav_request_duration_seconds_count{op="move",status="2xx"}`:   "1",
		`overdav_request_duration_seconds_count{op="delete",status="2xx"}`: "1",
		`overdav_request_duration_seconds_count{op="lock",status="2xx"}`:   "1",
		`overdav_request_duration_seconds_count{op="other",status="2xx"}`:  "1",
		"overdav_request_body_bytes_total":                                 "40",
		"overdav_response_body_bytes_total":                                "24",
		"overdav_copyups_total":                                            "1",
		"overdav_copyup_bytes_total":                                       "1000",
		"overdav_copyup_seconds_total":                                     "1.5",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %s", name, got[name], want)
		}
	}
	for name := range got {
		if strings.Contains(name, "secret") || strings.Contains(name, "BREW") {
			t.Errorf("%s: what a client chose is a label", name)
		}
	}
}

// Without metrics nothing is counted, and it costs nothing.
func TestMetricsThatAreOff(t *testing.T) {
	m := newMetrics(MetricsConfig{})
	if m != nil {
		t.Fatal("metrics without anybody who may read them")
	}
	m.note(&record{method: "GET", status: 200})
	m.copiedUp(1, 1)
	on := newMetrics(MetricsConfig{Users: []string{"prometheus"}})
	rec := &record{method: "GET", status: 200}
	if got := testing.AllocsPerRun(100, func() { on.note(rec) }); got > 0 {
		t.Errorf("%v allocations to count a request", got)
	}
}

func TestMetricsForUsers(t *testing.T) {
	h := newMetrics(MetricsConfig{Users: []string{"prometheus"}}).forUsers([]string{"prometheus", auth.Anonymous}, discardLog())
	for name, want := range map[string]int{"prometheus": 200, "alice": 404, auth.Anonymous: 404} {
		r := httptest.NewRequest("GET", ownPath+"/metrics", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(auth.With(r.Context(), auth.Identity{Name: name})))
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", name, w.Code, want)
		}
	}
}

// The metrics are of the whole server: a token for a part of it is not good for
// them.
func TestMetricsForTokens(t *testing.T) {
	h := newMetrics(MetricsConfig{Users: []string{"prometheus"}}).forUsers([]string{"prometheus"}, discardLog())
	for _, test := range []struct {
		scope auth.Scope
		want  int
	}{
		{auth.Scope{}, 200},
		{auth.Scope{Path: "/docs"}, 404},
		{auth.Scope{Shares: []string{"/"}, Write: true}, 404},
	} {
		r := httptest.NewRequest("GET", ownPath+"/metrics", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(auth.With(r.Context(), auth.Identity{Name: "prometheus", Scope: &test.scope})))
		if w.Code != test.want {
			t.Errorf("%+v: status %d, want %d", test.scope, w.Code, test.want)
		}
	}
}

func TestMetricsConfigMistakes(t *testing.T) {
	for _, test := range []struct {
		c             MetricsConfig
		authenticates bool
		want          string
	}{
		{MetricsConfig{}, false, ""},
		{MetricsConfig{Listen: "127.0.0.1:9180"}, false, ""},
		{MetricsConfig{Listen: "9180"}, false, "metrics.listen"},
		{MetricsConfig{Users: []string{"a"}}, true, ""},
		{MetricsConfig{Users: []string{"a"}}, false, "metrics.users"},
	} {
		var got []string
		test.c.check("metrics.", test.authenticates, func(key, format string, args ...any) {
			got = append(got, key+": "+fmt.Sprintf(format, args...))
		})
		if text := strings.Join(got, " "); (text == "") != (test.want == "") || !strings.HasPrefix(text, test.want) {
			t.Errorf("%+v: got %q, want one about %q", test.c, text, test.want)
		}
	}
}

// What the door and the gates know is read when somebody asks.
func TestMetricsOfTheDoor(t *testing.T) {
	h, d, _ := testDoor(t, threeShares)
	m := newMetrics(MetricsConfig{Listen: "127.0.0.1:0"})
	m.watch(newConnLimit(defaultConfig().Limits, proxies{}), nil, new(health), d.authenticator)
	for _, password := range []string{"right", "right", "wrong"} { // the second one is remembered
		get(h, "GET", "/closed", "Authorization", credentials("alice", password))
	}
	got := readMetrics(t, m)
	for name, want := range map[string]string{
		"overdav_passwords_hashed_total": "2", "overdav_passwords_hashing": "0",
		"overdav_passwords_waiting": "0", "overdav_passwords_refused_total": "0",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %s", name, got[name], want)
		}
	}
}
