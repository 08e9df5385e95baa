package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// auditLines reads an audit file and wants every line to be an object.
func auditLines(t *testing.T, name string) (lines []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var object map[string]any
		if err := json.Unmarshal(line, &object); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		lines = append(lines, object)
	}
	return lines
}

// audited serves h with an audit and returns its file, too.
func auditedServer(t *testing.T, h http.HandlerFunc) (*server, string) {
	t.Helper()
	c := defaultConfig()
	c.Audit = filepath.Join(t.TempDir(), "audit.log")
	s := newServer(h, discardLog(), c)
	var err error
	if s.audit, err = newAudit(c, discardLog()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.audit.close)
	return s, c.Audit
}

func TestAuditHasALineForEveryChangeAndEachRefusedOne(t *testing.T) {
	const token = "urn:uuid:0b1c2d3e-0000-4000-8000-123456789abc"
	tests := []struct {
		name, method, path, body string
		header                   []string
		status                   int
		want                     map[string]any // nil: no line
	}{
		{"a look", "GET", "/a", "", nil, 200, nil},
		{"a refused look", "PROPFIND", "/a", "", nil, 403, nil},
		{"an upload", "PUT", "/a%0Ab%22", "12345", nil, 201, map[string]any{"op": "PUT", "path": "/a\nb\"", "status": 201.0, "bytes": 5.0}},
		{"a refused one", "DELETE", "/a", "", nil, 403, map[string]any{"op": "DELETE", "status": 403.0}},
		{"a password in an address", "MOVE", "/a", "", []string{"Destination", "http://bob:hunter2@127.0.0.1/b%20c?token=hunter2"}, 201, map[string]any{"op": "MOVE", "destination": "/b c"}},
		{"no address", "COPY", "/a", "", []string{"Destination", "http://[hunter2"}, 400, map[string]any{"destination": "?"}},
		{"a query", "POST", "/a?token=hunter2", "", nil, 200, map[string]any{"op": "POST", "path": "/a"}},
		{"a lock", "LOCK", "/lock", "", nil, 200, map[string]any{"lock": tokenHash(token)}},
		{"its end", "UNLOCK", "/a", "", []string{"Lock-Token", "<" + token + ">"}, 204, map[string]any{"lock": tokenHash(token)}},
		{"a change under it", "PUT", "/a", "", []string{"If", "<http://127.0.0.1/a> (<" + token + ">)"}, 204, map[string]any{"lock": tokenHash(token)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, file := auditedServer(t, func(w http.ResponseWriter, r *http.Request) {
				recordOf(r.Context()).user = "alice"
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					t.Error(err)
				}
				if r.URL.Path == "/lock" {
					w.Header().Set("Lock-Token", "<"+token+">")
				}
				w.WriteHeader(test.status)
			})
			r := httptest.NewRequest(test.method, "http://127.0.0.1"+test.path, strings.NewReader(test.body))
			r.Header.Set("Authorization", "Basic hunter2")
			for i := 0; i < len(test.header); i += 2 {
				r.Header.Set(test.header[i], test.header[i+1])
			}
			s.ServeHTTP(httptest.NewRecorder(), r)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"hunter2", token, "bob"} {
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("the audit tells %q: %s", secret, text)
				}
			}
			lines := auditLines(t, file)
			if test.want == nil {
				if len(lines) > 0 {
					t.Errorf("got %s, want no line", text)
				}
				return
			}
			if len(lines) != 1 {
				t.Fatalf("got %q, want one line", text)
			}
			test.want["user"], test.want["remote"] = "alice", "192.0.2.1:1234" // httptest's
			for key, want := range test.want {
				if got := lines[0][key]; got != want {
					t.Errorf("%s: got %v, want %v", key, got, want)
				}
			}
		})
	}
}

// The path of our own interface does not say what was thrown away, or made.
func TestAuditSaysWhatWasReset(t *testing.T) {
	own, _ := userShare(t, nil)
	api := resetServer(own, false)
	s, file := auditedServer(t, api.ServeHTTP)
	const body = `{"share": "/", "user": "Anonymous"}`
	r := httptest.NewRequest("POST", "http://127.0.0.1"+resetPath, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 204 {
		t.Fatalf("reset: %d %s", w.Code, w.Body)
	}
	lines := auditLines(t, file)
	if len(lines) != 1 || lines[0]["about"] != "/ of anonymous" {
		t.Errorf("got %v, want one line about / of anonymous", lines)
	}
}

func TestAuditFileIsItsGroupsAndReopened(t *testing.T) {
	s, file := auditedServer(t, func(http.ResponseWriter, *http.Request) {})
	change := func() { s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("DELETE", "http://127.0.0.1/a", nil)) }
	reload := func(name string) error {
		c := defaultConfig()
		c.Audit = name
		apply, err := s.audit.reload(c)
		if err == nil {
			apply()
		}
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm() &^ 0o640; got != 0 {
		t.Errorf("mode %v, want at most 0640", info.Mode())
	}
	change()
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	change()
	if err := reload(file); err != nil {
		t.Fatal(err)
	}
	change()
	if old, now := len(auditLines(t, file+".1")), len(auditLines(t, file)); old != 2 || now != 1 {
		t.Errorf("%d lines before the rotation and %d after it, want 2 and 1", old, now)
	}
	if err := reload(filepath.Join(file, "no")); err == nil {
		t.Error("a file that cannot be opened was taken")
	}
	change()
	if now := len(auditLines(t, file)); now != 2 {
		t.Errorf("after a reload that failed: %d lines, want 2", now)
	}
	if err := reload(""); err != nil {
		t.Fatal(err)
	}
	change()
	if now := len(auditLines(t, file)); now != 2 {
		t.Errorf("without an audit: %d lines, want 2", now)
	}
}

// A full disk does not stop the service, and is told of once.
func TestAuditThatCannotBeWritten(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full:", err)
	}
	var said bytes.Buffer
	c := defaultConfig()
	c.Audit = "/dev/full"
	a, err := newAudit(c, zerolog.New(&said))
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	note := func() {
		a.note(&record{method: "PUT"}, httptest.NewRequest("PUT", "/", nil), http.Header{})
	}
	note()
	note()
	if n := strings.Count(said.String(), "audit cannot be written"); n != 1 {
		t.Errorf("told %d times: %s", n, said.String())
	}
	file, err := openAudit(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	a.swap(file)
	note()
	if !strings.Contains(said.String(), `"lines":2`) {
		t.Errorf("nobody says how many lines were lost: %s", said.String())
	}
}
