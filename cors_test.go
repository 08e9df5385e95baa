package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// corsServer answers like a browser's counterpart: status and headers.
func corsServer(c CORSConfig) func(method, origin string, headers ...string) *http.Response {
	config := defaultConfig()
	config.CORS = c
	h := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "OPTIONS" {
			w.WriteHeader(http.StatusUnauthorized) // whoever asks first gives no name
		}
	}), discardLog(), config).http.Handler
	return func(method, origin string, headers ...string) *http.Response {
		r := httptest.NewRequest(method, "http://127.0.0.1/f", nil)
		r.Header.Set("Origin", origin)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
}

func TestPagesOfOtherSitesUseNothingUnlessConfigured(t *testing.T) {
	const app, evil = "https://app.example.org", "https://evil.example"
	tests := []struct {
		name     string
		cors     CORSConfig
		origin   string
		allowed  string // Access-Control-Allow-Origin
		mayWrite bool
	}{
		{"nothing configured", defaultCORS(), app, "", false},
		{"configured", CORSConfig{Origins: []string{app}}, app, app, true},
		{"configured, with credentials", CORSConfig{Origins: []string{app}, Credentials: true}, app, app, true},
		{"another's", CORSConfig{Origins: []string{app}, Credentials: true}, evil, "", false},
		{"one that begins like it", CORSConfig{Origins: []string{app}}, app + ".evil.example", "", false},
		{"everybody", CORSConfig{Origins: []string{"*"}}, evil, "*", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ask := corsServer(test.cors)
			for _, method := range []string{"GET", "PUT", "PROPFIND", "MOVE", "LOCK"} {
				resp := ask("OPTIONS", test.origin, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "authorization,depth,destination,lock-token")
				if got := resp.Header.Get("Access-Control-Allow-Origin"); got != test.allowed {
					t.Errorf("preflight of %s: allowed origin %q, want %q", method, got, test.allowed)
				}
				if test.allowed != "" && (resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Methods") != method ||
					!strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "destination")) {
					t.Errorf("preflight of %s: %s %v", method, resp.Status, resp.Header)
				}
			}
			resp := ask("GET", test.origin)
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != test.allowed {
				t.Errorf("GET: allowed origin %q, want %q", got, test.allowed)
			}
			if got := resp.Header.Get("Access-Control-Allow-Credentials") == "true"; got != (test.cors.Credentials && test.allowed != "") {
				t.Errorf("GET: with credentials: %t", got)
			}
			if exposed := resp.Header.Get("Access-Control-Expose-Headers"); (exposed != "") != (test.allowed != "") {
				t.Errorf("GET: exposes %q", exposed)
			}
			want := http.StatusForbidden
			if test.mayWrite {
				want = http.StatusOK
			}
			if got := ask("PUT", test.origin).StatusCode; got != want {
				t.Errorf("PUT: status %d, want %d", got, want)
			}
		})
	}
}
