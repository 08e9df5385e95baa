package integration_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A secretRun is a whole run of the program, of which everything that it shows
// to anybody is kept.
type secretRun struct {
	*server
	shown strings.Builder // to clients: status lines, headers, bodies
}

// ask makes a request as it is written, and keeps the answer as it comes.
func (r *secretRun) ask(want int, request string, headers ...string) string {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	line, body, _ := strings.Cut(request, "\n")
	text := line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	if body != "" {
		text += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	for _, header := range headers {
		text += header + "\r\n"
	}
	if _, err := io.WriteString(conn, text+"\r\n"+body); err != nil {
		r.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.shown.Write(answer)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(answer))), nil)
	if err != nil {
		r.t.Fatalf("%s: %v", line, err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		r.t.Errorf("%s: status %d, want %d", line, resp.StatusCode, want)
	}
	return string(answer)
}

func credentials(name, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// Nothing that the program shows, to whomever, has a password, a hash, a token, a
// lock's token or a directory of the machine in it.
func TestNothingShowsASecret(t *testing.T) {
	const right, wrong, query = "correct-horse-battery", "hunter2-wrong-guess", "query-secret-4711"
	l, _ := newShare(t)
	dir := t.TempDir()
	hash := strings.TrimSpace(runWith(t, right+"\n", "hash-password"))
	file, auditFile := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "audit.log")
	text := fmt.Sprintf(`
log: { level: debug, format: json }
audit: %q
metrics: { listen: "127.0.0.1:0", users: [alice] }
auth: { tokens: %q }
users: [{ name: alice, password: %q }, { name: bob, password: %q }]
shares:
  - path: /
    lower: [%q]
    upper: %q
    work: %q
    access: [{ users: [alice], allow: write }, { users: [bob], paths: [/docs], allow: read }]
`, auditFile, filepath.Join(dir, "tokens.json"), hash, hash, l.Lowers[0], l.Upper, l.Work)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	token := lastWord(runWith(t, "", "token", "create", "--config", file, "--user", "alice", "--label", "backup", "--write"))
	r := &secretRun{server: serve(t, "--config", file)}
	alice, bob := credentials("alice", right), credentials("bob", right)

	r.ask(200, "GET /a", alice)
	r.ask(200, "GET /a", credentials("alice", token))
	r.ask(200, "GET /a", "Authorization: Bearer "+token)
	r.ask(200, "GET /?token="+query, alice)
	r.ask(200, "GET /", alice, "Accept: application/json")
	r.ask(207, "PROPFIND /", alice, "Depth: 1")
	r.ask(401, "GET /a")
	r.ask(401, "GET /a", credentials("alice", wrong))
	r.ask(401, "GET /a", credentials("nobody", wrong))
	r.ask(401, "GET /a", credentials(wrong, ""))
	r.ask(401, "GET /a", "Authorization: Bearer "+wrong)
	r.ask(404, "GET /none", alice)
	r.ask(404, "GET /a", bob)
	r.ask(404, "PUT /a\nx", bob)
	r.ask(400, "GET /%2e%2e/etc", alice)
	r.ask(405, "BREW /a", alice)
	r.ask(201, "PUT /new\ncontent", alice)
	r.ask(409, "PUT /none/new\ncontent", alice)
	r.ask(201, "MKCOL /made", alice)
	r.ask(400, "MOVE /docs", alice, "Destination: http://alice:"+right+"@localhost/moved?token="+query)
	r.ask(201, "MOVE /docs", alice, "Destination: http://alice:"+right+"@localhost/moved")
	r.ask(502, "COPY /a", alice, "Destination: http://bob:"+wrong+"@elsewhere.example/b")
	r.ask(400, "PROPPATCH /a\n<nonsense>", alice)
	r.ask(200, "OPTIONS /", alice)
	lock := regexp.MustCompile(`<(urn:uuid:[^>]+)>`).FindStringSubmatch(r.ask(200, "LOCK /a\n"+lockBody, alice))
	if lock == nil {
		t.Fatal("no lock token")
	}
	r.ask(423, "PUT /a\nx", alice)
	r.ask(400, "PUT /a\nx", alice, "If: (<"+lock[1]+">) nonsense <"+lock[1]+">")
	r.ask(400, "UNLOCK /a", alice, "Lock-Token: <"+lock[1]+"> nonsense")
	r.ask(204, "PUT /a\nx", alice, "If: (<"+lock[1]+">)")
	r.ask(204, "UNLOCK /a", alice, "Lock-Token: <"+lock[1]+">")
	r.ask(204, "DELETE /a", alice)
	r.ask(200, "GET /.overdav/healthz")
	r.ask(200, "GET /.overdav/tokens", alice)
	r.ask(200, "GET /.overdav/api/v1/tokens", alice)
	r.ask(404, "GET /.overdav/metrics", bob)
	numbers := r.ask(200, "GET /.overdav/metrics", alice)
	if !strings.Contains(numbers, "overdav_request_duration_seconds_bucket") {
		t.Errorf("no metrics in %s", numbers)
	}
	elsewhere := regexp.MustCompile(`"addr":"([^"]+)"[^\n]*"serving metrics"`).FindStringSubmatch(r.stderr.String())
	if elsewhere == nil {
		t.Fatalf("the log does not say where the metrics are: %s", r.stderr.String())
	}
	resp, err := http.Get("http://" + elsewhere[1] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("metrics at their own address: %d, %v", resp.StatusCode, err)
	}
	r.shown.Write(body)
	r.stop()

	audit, err := os.ReadFile(auditFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(audit), `"op":"MOVE","path":"/docs","destination":"/moved","status":201`) {
		t.Errorf("the audit does not tell of a change: %s", audit)
	}
	log := r.stderr.String()
	if n := strings.Count(log, `"message":"auth-fail"`); n < 3 {
		t.Errorf("%d lines about who could not log in: %s", n, log)
	}
	streams := map[string]string{"an answer": r.shown.String(), "the audit": string(audit), "the log": log}
	for where, text := range streams {
		secrets := []string{right, wrong, query, hash, hash[7:], token, lastPart(token), strings.Fields(alice)[2], strings.Fields(bob)[2], dir}
		secrets = append(secrets, l.Lowers...)
		secrets = append(secrets, l.Upper, l.Work, filepath.Dir(l.Upper))
		if where != "an answer" {
			secrets = append(secrets, lock[1]) // a client is told of its lock
		}
		for _, secret := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s has a secret (%q) in it: %q", where, secret, text[max(0, i-200):min(len(text), i+200)])
			}
		}
	}
}

// runWith runs overdav with something on its standard input.
func runWith(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := command(openDir(t), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("overdav %v: %v", args, err)
	}
	return string(out)
}

func lastWord(text string) string {
	words := strings.Fields(text)
	return words[len(words)-1]
}

// lastPart is the random part of a token.
func lastPart(token string) string {
	return token[strings.LastIndexAny(token, "_-.")+1:]
}
