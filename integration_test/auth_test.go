package integration_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// basic is an Authorization header.
func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// hashOf asks the program what a password is in the configuration.
func hashOf(tb testing.TB, password string, flags ...string) string {
	tb.Helper()
	cmd := command(tb.TempDir(), append([]string{"hash-password"}, flags...)...)
	cmd.Stdin = strings.NewReader(password + "\n")
	out, err := cmd.Output()
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// rewrite replaces the content of a file that is there.
func rewrite(t *testing.T, file string, pairs ...string) {
	t.Helper()
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(pairs...).Replace(string(old))
	if text == string(old) {
		t.Fatalf("nothing in %s is %q", file, pairs)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// From a password on the command line to who may do what, and what a reload
// changes of it.
func TestUsersAndRules(t *testing.T) {
	file, layers := writeShares(t, []string{
		"access:",
		"  - { groups: [guests], paths: [/old, '/**/x'], allow: none }",
		"  - { users: [alice], allow: write }",
		"  - { users: ['*'], allow: read }",
		"  - { users: anonymous, paths: /docs, allow: read }",
	}, "/")
	users := filepath.Join(filepath.Dir(file), "htpasswd")
	if err := os.WriteFile(users, []byte("bob:"+hashOf(t, "bob's", "--argon2id")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte("users:\n  - { name: alice, password: "+hashOf(t, "alice's")+" }\n  - { htpasswd: htpasswd, groups: guests }\n"), text...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", file)
	alice := []string{"Authorization", basic("alice", "alice's")}
	bob := []string{"Authorization", basic("bob", "bob's")}

	s.must(http.StatusUnauthorized, "GET", "a", "")
	s.must(http.StatusUnauthorized, "GET", "a", "", "Authorization", basic("alice", "bob's"))
	s.must(http.StatusOK, "GET", "docs/b", "")
	s.must(http.StatusUnauthorized, "PUT", "docs/b", "x")
	s.must(http.StatusCreated, "PUT", "new", "x", alice...)
	s.must(http.StatusOK, "GET", "new", "", bob...)
	s.must(http.StatusForbidden, "PUT", "new", "y", bob...)
	s.must(http.StatusNotFound, "GET", "old/y", "", bob...)
	s.must(http.StatusOK, "GET", "old/y", "", alice...)
	if _, listing := s.do("PROPFIND", "/", "", append([]string{"Depth", "1"}, bob...)...); strings.Contains(listing, "/old") || !strings.Contains(listing, "/docs") {
		t.Errorf("bob's listing is\n%s", listing)
	}

	reload := func(said string) {
		t.Helper()
		skip := len(s.stderr.String())
		s.signal(syscall.SIGHUP)
		s.awaitSaid(skip, said)
	}
	rewrite(t, file, "{ users: [alice], allow: write }", "{ users: [alice, bob], allow: write }")
	reload("configuration reloaded")
	s.must(http.StatusNoContent, "PUT", "new", "y", bob...)

	rewrite(t, users, "bob:", "bob:!")
	reload("configuration reloaded")
	s.must(http.StatusUnauthorized, "GET", "new", "", bob...)
	s.must(http.StatusOK, "GET", "new", "", alice...)

	rewrite(t, file, "paths: /docs, allow: read", "paths: docs, allow: read")
	reload("the old settings stay in force")
	s.must(http.StatusOK, "GET", "docs/b", "")
	s.stop()

	if got, err := os.ReadFile(filepath.Join(layers["/"].Upper, "new")); string(got) != "y" {
		t.Errorf("in upper is %q (%v)", got, err)
	}
	if log := s.stderr.String(); strings.Contains(log, "alice's") || strings.Contains(log, "bob's") || strings.Contains(log, "$2a$") || strings.Contains(log, "$argon2id$") {
		t.Errorf("the log has a password or a hash in it:\n%s", log)
	}
}

// What htpasswd writes is what overdav reads.
func TestHTPasswdOfApache(t *testing.T) {
	needProgram(t, "htpasswd")
	file, _ := writeShares(t, nil, "/")
	users := filepath.Join(filepath.Dir(file), "htpasswd")
	for name, flag := range map[string]string{"bcrypt": "-B", "md5": "-m", "sha": "-s", "sha256": "-2", "sha512": "-5"} {
		create := ""
		if _, err := os.Stat(users); err != nil {
			create = "c"
		}
		out, err := exec.Command("htpasswd", "-b"+create+strings.TrimPrefix(flag, "-"), users, name, "of "+name).CombinedOutput()
		if err != nil && strings.HasPrefix(name, "sha") && name != "sha" {
			t.Logf("htpasswd %s: %s", flag, out) // since Apache 2.4.59
			continue
		}
		if err != nil {
			t.Fatalf("htpasswd %s: %v: %s", flag, err, out)
		}
	}
	if err := os.Chmod(users, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, file, "shares:\n", "users: [{ htpasswd: htpasswd }]\nshares:\n")
	s := serve(t, "--config", file)
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		s.must(http.StatusOK, "GET", "a", "", "Authorization", basic(name, "of "+name))
		s.must(http.StatusUnauthorized, "GET", "a", "", "Authorization", basic(name, "of somebody"))
	}
	s.stop()
	if !strings.Contains(s.stderr.String(), "stored weakly") {
		t.Error("nobody is told that MD5 is weak")
	}
}

// A token that the command makes and revokes is one that a running server knows
// and forgets.
func TestTokensOfTheCommand(t *testing.T) {
	file, _ := writeShares(t, nil, "/")
	rewrite(t, file, "shares:\n", "users: [{ name: alice, password: '"+hashOf(t, "alice's", "--argon2id")+"' }]\nauth: { tokens: tokens.json }\nshares:\n")
	s := serve(t, "--config", file)
	token := func(args ...string) string {
		t.Helper()
		out, err := command(t.TempDir(), append([]string{"token"}, append(args, "--config", file)...)...).Output()
		if err != nil {
			t.Fatalf("token %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	secret := token("create", "--user", "alice", "--label", "test", "--path", "/docs")
	for _, use := range []string{basic("alice", secret), "Bearer " + secret} {
		s.must(http.StatusOK, "GET", "docs/b", "", "Authorization", use)
		s.must(http.StatusNotFound, "GET", "a", "", "Authorization", use)
		s.must(http.StatusForbidden, "PUT", "docs/b", "x", "Authorization", use)
	}
	s.must(http.StatusUnauthorized, "GET", "docs/b", "", "Authorization", basic("bob", secret))
	token("revoke", strings.Fields(strings.Split(token("list"), "\n")[1])[0])
	s.must(http.StatusUnauthorized, "GET", "docs/b", "", "Authorization", "Bearer "+secret)

	// A file that only its maker could replace is of no use to the others.
	info, err := os.Stat(filepath.Join(filepath.Dir(file), "tokens.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("tokens.json: %v, %v", info, err)
	}
	s.stop()
	if strings.Contains(s.stderr.String(), secret) {
		t.Error("the token is in the log")
	}
}

// Passwords do not go over the network in the clear unless somebody said so.
func TestPasswordsInTheClearAreRefused(t *testing.T) {
	file, _ := writeShares(t, nil, "/")
	rewrite(t, file, "shares:\n", "users: [{ name: alice, password: '"+hashOf(t, "x", "--argon2id")+"' }]\nshares:\n")
	out, err := command(t.TempDir(), "serve", "--config", file, "--listen", "0.0.0.0:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "passwords would cross the network") {
		t.Fatalf("%v: %s", err, out)
	}
	rewrite(t, file, "shares:\n", "auth: { allow_plaintext_auth: true }\nshares:\n")
	s := serve(t, "--config", file, "--listen", "0.0.0.0:0")
	s.base = strings.Replace(s.base, "[::]", "127.0.0.1", 1)
	s.base = strings.Replace(s.base, "0.0.0.0", "127.0.0.1", 1)
	s.must(http.StatusOK, "GET", "a", "", "Authorization", basic("alice", "x"))
	s.stop()
	if !strings.Contains(s.stderr.String(), "passwords cross the network in the clear") {
		t.Error("nobody is warned")
	}
}

// The clients of the test and of the benchmark of an attack.
const (
	goodClients = 500
	badClients  = 500
	goodUsers   = 10 // each with many clients
)

// attackConfig is a configuration with alice and goodUsers others, behind a proxy
// that says where everybody is.
func attackConfig(tb testing.TB, hash string) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower", "a"), []byte("one"), 0o600); err != nil {
		tb.Fatal(err)
	}
	text := "trusted_proxies: [127.0.0.1]\nusers:\n  - { name: alice, password: '" + hash + "' }\n"
	for i := range goodUsers {
		text += fmt.Sprintf("  - { name: good%d, password: '%s' }\n", i, hash)
	}
	text += "shares:\n  - { lower: [lower], upper: upper, work: work }\n"
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// cheapHash is of "right", and takes some milliseconds to verify.
const cheapHash = "$2a$06$yc0Y8yEyFTIdyjQIRRBqN.7sksJSwND5fTxoRC9TdhM4Fm6954mpC"

// An asker makes requests for one file, on connections of its own.
type asker struct {
	client *http.Client
	url    string
}

func newAsker(url string) *asker {
	return &asker{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: goodClients + badClients + 1}}, url}
}

// ask asks as name, through a proxy, from the address with number from.
func (a *asker) ask(name, password string, from int) (int, error) {
	req, err := http.NewRequest("GET", a.url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", basic(name, password))
	req.Header.Set("X-Forwarded-For", fmt.Sprintf("10.0.%d.%d", from/256, from%256))
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// bad asks as an attacker does: half of them as alice, the others as many names,
// each from an address of its own.
func (a *asker) bad(client, round int) (int, error) {
	name := "alice"
	if client%2 == 1 {
		name = fmt.Sprintf("name%d", client)
	}
	return a.ask(name, fmt.Sprintf("wrong%d.%d", client, round), client)
}

// 500 clients with right credentials and 500 with wrong ones, half of which are
// after alice's: no right one is refused, whoever knows nothing gets few answers,
// and alice notices nothing but the load.
func TestAttackConcernsNobodyWhoIsIn(t *testing.T) {
	s := serve(t, "--config", attackConfig(t, cheapHash))
	a := newAsker(s.url("a"))
	defer a.client.CloseIdleConnections()
	for i := range goodUsers {
		if status, err := a.ask(fmt.Sprintf("good%d", i), "right", 5000+i); err != nil || status != http.StatusOK {
			t.Fatalf("good%d: %d, %v", i, status, err)
		}
	}
	if status, err := a.ask("alice", "right", 6000); err != nil || status != http.StatusOK {
		t.Fatalf("alice: %d, %v", status, err)
	}

	var wg sync.WaitGroup
	expect := func(who string, ok func(int) bool, ask func() (int, error)) {
		status, err := ask()
		if err != nil || !ok(status) {
			t.Errorf("%s: %d, %v", who, status, err)
		}
	}
	in := func(status int) bool { return status == http.StatusOK }
	out := func(status int) bool {
		return status == http.StatusUnauthorized || status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
	}
	for i := range badClients {
		wg.Go(func() {
			for round := range 4 {
				expect("an attacker", out, func() (int, error) { return a.bad(i, round) })
			}
		})
	}
	for i := range goodClients {
		wg.Go(func() {
			for range 4 {
				expect("a good one", in, func() (int, error) { return a.ask(fmt.Sprintf("good%d", i%goodUsers), "right", 5000) })
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for attacked := true; attacked; {
		expect("alice", in, func() (int, error) { return a.ask("alice", "right", 6000) })
		select {
		case <-done:
			attacked = false
		default:
		}
	}
	s.stop()

	// A line with this reason is of a password that was verified.
	verified := strings.Count(s.stderr.String(), `"user":"alice","reason":"bad-credentials"`)
	// Ten are free, and after each pause there is one more: 1 s, 2 s, 4 s and so on.
	if most := 10 + 8 + runtime.NumCPU(); verified == 0 || verified > most {
		t.Errorf("%d wrong passwords of alice's were verified, at most %d", verified, most)
	}
}
