package integration_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// What browsers are told of every kind of answer: to guess nothing; of content,
// to run nothing; of pages, to load nothing from elsewhere and to be in no frame;
// and nothing of other sites, who are told nothing.
func TestHeadersOfEveryKindOfAnswer(t *testing.T) {
	const (
		content = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
		page    = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	)
	_, flags := newShare(t)
	r := &secretRun{server: serve(t, flags...)}
	tests := []struct {
		kind, request string
		status        int
		header        string
		policy        string // Content-Security-Policy
		referrer      string
		resource      string // Cross-Origin-Resource-Policy
	}{
		{"a file", "GET /a", 200, "X: y", content, "no-referrer", "same-origin"},
		{"a part of one", "GET /a", 206, "Range: bytes=0-0", content, "no-referrer", "same-origin"},
		{"its head", "HEAD /a", 200, "X: y", content, "no-referrer", "same-origin"},
		{"a listing", "GET /", 200, "X: y", page, "same-origin", "same-origin"},
		{"a listing as JSON", "GET /", 200, "Accept: application/json", page, "same-origin", "same-origin"},
		{"a refusal", "GET /none", 404, "X: y", "", "", ""},
		{"no method", "BREW /a", 405, "X: y", "", "", ""},
		{"an upload", "PUT /new\nx", 201, "X: y", "", "", ""},
		{"properties", "PROPFIND /", 207, "Depth: 1", "", "", ""},
		{"options", "OPTIONS /", 200, "X: y", "", "", ""},
		{"a lock", "LOCK /a\n" + lockBody, 200, "X: y", "", "", ""},
		{"a page of another site that writes", "PUT /a\nx", 403, "Sec-Fetch-Site: cross-site", "", "", ""},
		{"a page of another site that asks whether it may", "OPTIONS /", 200, "Origin: https://evil.example", "", "", ""},
		{"health", "GET /.overdav/healthz", 200, "X: y", "", "", ""},
		{"nothing of ours", "GET /.overdav/none", 404, "X: y", "", "", ""},
	}
	for _, test := range tests {
		t.Run(test.kind, func(t *testing.T) {
			answer := r.ask(test.status, test.request, test.header)
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Content-Security-Policy": test.policy, "Referrer-Policy": test.referrer,
				"Cross-Origin-Resource-Policy": test.resource, "Access-Control-Allow-Origin": "", "Strict-Transport-Security": "", "Set-Cookie": "",
			} {
				if got := strings.Join(resp.Header.Values(name), " | "); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
	r.stop()
}
