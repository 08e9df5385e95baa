package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"overdav/auth"
)

// hashOfRight is a bcrypt hash, at the lowest cost, of "right".
const hashOfRight = "$2a$04$yc0Y8yEyFTIdyjQIRRBqN.n27dHdvcoeBbvlWuoblgNT/q/pNKajC"

func configError(t *testing.T, text string) string {
	t.Helper()
	name := writeConfig(t, text)
	_, err := configure("serve", []string{"--config", name}, getenv(), io.Discard)
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), name, "FILE")
}

func TestMistakesInUsersAndRules(t *testing.T) {
	const nameRule = "it is 1 to 32 of a-z, 0-9, dot, underscore, hyphen"
	tests := []struct {
		name, file string
		want       []string
	}{
		{"good", "users: [{ name: alice, password: " + hashOfRight + ", groups: staff }, { htpasswd: x }]\nshares: [{ lower: [/srv], access: [{ users: '*', allow: read }] }]\n", nil},
		{"good, off loopback, with a proxy", "listen: 0.0.0.0:80\ntrusted_proxies: [10.0.0.1]\nauth: { user_header: x-remote-user }\nshares: [{ lower: [/srv] }]\n", nil},
		{"good, off loopback, allowed", "listen: 0.0.0.0:80\nauth: { allow_plaintext_auth: true }\nusers: [{ name: alice }]\nshares: [{ lower: [/srv] }]\n", nil},
		{"good, off loopback, over TLS", "listen: 0.0.0.0:80\ntls: { cert: a.pem, key: a.key }\nusers: [{ name: alice }]\nshares: [{ lower: [/srv] }]\n", nil},
		{"good, on a socket", "listen: unix:/run/x\nusers: [{ name: alice }]\nauth: { user_header: X-User }\nshares: [{ lower: [/srv] }]\n", nil},
		{
			"users", "users:\n  - { name: Al ice }\n  - { name: alice, password: secret }\n  - { name: ALICE }\n  - { groups: [a b] }\n  - { htpasswd: f, name: x }\n  - { name: anonymous }\nshares: [{ lower: [/srv] }]\n",
			[]string{
				`FILE:2:7: users[0].name: "Al ice" cannot be a user's name; ` + nameRule + ", and not anonymous",
				"FILE:3:20: users[1].password: not a bcrypt or argon2id hash; make one with overdav hash-password",
				`FILE:4:7: users[2].name: users[1] is called "alice" already; capitals make no difference`,
				"FILE:5:5: users[3]: has neither name nor htpasswd; write { name: alice, password: HASH } or { htpasswd: FILE }",
				`FILE:5:16: users[3].groups[0]: "a b" cannot be the name of a group; ` + nameRule,
				"FILE:6:7: users[4].htpasswd: names and passwords are in the file; write a user of your own as another item of users",
				`FILE:7:7: users[5].name: "anonymous" cannot be a user's name; ` + nameRule + ", and not anonymous",
			},
		},
		{
			"a hash with commas", "users: [{ name: alice, password: $argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$a2V5 }]\nshares: [{ lower: [/srv] }]\n",
			[]string{
				"FILE:1:57: users[0].t=2: unknown key; remove it",
				"FILE:1:61: users[0].p=1$...: unknown key; between braces a comma ends a value: put a value that has commas in quotes",
				"FILE:1:24: users[0].password: a damaged argon2id hash; it looks like $argon2id$v=19$m=19456,t=2,p=1$SALT$KEY; make one with overdav hash-password",
			},
		},
		{
			"auth", "auth: { user_header: Authorization, cache: 25h, tokens: t }\nshares: [{ lower: [/srv] }]\n",
			[]string{
				`FILE:1:9: auth.user_header: "Authorization" cannot be the name of a header; write it as in X-Remote-User`,
				"FILE:1:37: auth.cache: 25h0m0s is not between 0s and 24h; the default is 5m0s",
			},
		},
		{
			"a header from nobody", "auth: { user_header: X-User }\nshares: [{ lower: [/srv] }]\n",
			[]string{"FILE:1:9: auth.user_header: nobody is trusted to send it; name the proxy in trusted_proxies, or listen on unix:PATH"},
		},
		{
			"tokens of nobody", "auth: { tokens: t }\nshares: [{ lower: [/srv] }]\n",
			[]string{"FILE:1:9: auth.tokens: there are no users whom tokens could belong to; add users, or remove it"},
		},
		{
			"passwords in the clear", "listen: 0.0.0.0:80\nusers: [{ name: alice }]\nshares: [{ lower: [/srv] }]\n",
			[]string{"FILE:1:1: listen: passwords would cross the network for everybody to read; add tls, name a proxy that has TLS in trusted_proxies, or say auth.allow_plaintext_auth: true"},
		},
		{
			"rules", "users: [{ name: alice, groups: [staff] }]\nshares:\n  - lower: [/srv]\n    access:\n      - { allow: read }\n      - { users: [alice, bob], paths: docs, allow: [read, wirte] }\n      - { groups: stuff, users: [a b], paths: [/, '/a**'] }\n",
			[]string{
				`FILE:5:9: shares[0].access[0]: speaks of nobody; name users, groups, or everybody with a name: users: ["*"]`,
				`FILE:6:32: shares[0].access[1].paths: "docs" does not begin at the root of the share; write it as in /docs or /pub/**/*.txt`,
				`FILE:6:45: shares[0].access[1].allow: "wirte" is not one of read, write, none, or a list of read, list, create, overwrite, delete, properties`,
				"FILE:6:26: shares[0].access[1].users[1]: bob is nowhere in users; add it there, or correct it here",
				`FILE:7:26: shares[0].access[2].users: "a b" cannot be a user's name; "*" is everybody with a name, anonymous who gave none`,
				`FILE:7:51: shares[0].access[2].paths[1]: "/a**": "a**": ** means any number of components and stands alone between slashes`,
				"FILE:7:9: shares[0].access[2].allow: allows nothing; write none if that is meant, else read, write, or a list of read, list, create, overwrite, delete, properties",
				"FILE:7:11: shares[0].access[2].groups: stuff is nowhere in users; add it there, or correct it here",
			},
		},
		{
			"rules for nobody", "shares: [{ lower: [/srv], access: [{ users: ['*'], allow: read }] }]\n",
			[]string{"FILE:1:27: shares[0].access: nobody could do anything: nobody has a name without users, and no rule is for anonymous; add users, or a rule for anonymous"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, want := configError(t, test.file), strings.Join(test.want, "\n")
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestFilesWithPasswordsAreNotForEverybody(t *testing.T) {
	const users = "users: [{ name: alice, password: " + hashOfRight + " }]\nshares: [{ lower: [/srv] }]\n"
	name := writeConfig(t, users)
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o644: false, 0o604: false, 0o602: false} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		_, err := configure("serve", []string{"--config", name}, getenv(), io.Discard)
		if (err == nil) != good {
			t.Errorf("mode %v: %v", mode, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "users[0].password") || !strings.Contains(err.Error(), "chmod o-rwx")) {
			t.Errorf("the message has no key or no remedy: %v", err)
		}
	}
	open := writeConfig(t, "shares: [{ lower: [/srv] }]\nusers: [{ name: alice }]\n")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := configure("serve", []string{"--config", open}, getenv(), io.Discard); err != nil {
		t.Errorf("a file without passwords: %v", err)
	}
}

func TestLoadUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	c := defaultConfig()
	c.Users = []UserConfig{{Name: "Alice", Password: hashOfRight, Groups: Words{"Staff"}}, {HTPasswd: file, Groups: Words{"guests"}}}

	write("bob:"+hashOfRight+"\ncarol:!\n", 0o640)
	users, weak, err := loadUsers(c)
	if err != nil {
		t.Fatal(err)
	}
	bob, ok := users.Lookup("bob")
	if !ok || len(bob.Groups) != 1 || bob.Groups[0] != "guests" {
		t.Errorf("bob is %+v, %t", bob, ok)
	}
	if alice, ok := users.Lookup("alice"); !ok || alice.Groups[0] != "staff" {
		t.Errorf("alice is %+v, %t", alice, ok)
	}
	if _, ok := users.Lookup("carol"); ok {
		t.Error("carol may come in")
	}
	const why = "bcrypt cost 4 is guessed quickly; make new ones with overdav hash-password"
	if !slices.Equal(weak, []string{"users alice, bob: " + why}) {
		t.Errorf("warnings: %q", weak)
	}
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "user%d:%s\n", i, hashOfRight)
	}
	write(lines.String()+"sha:{SHA}QuIDPggrW89rtoShzET6nlGBXNY=\n", 0o640)
	if _, weak, err = loadUsers(c); err != nil || len(weak) != 2 || weak[0] != "users alice, user0, user1 and 998 more: "+why || !strings.HasPrefix(weak[1], "users sha: SHA-1") {
		t.Errorf("warnings: %q (%v), want one of each kind", weak, err)
	}

	for name, test := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"twice":        {"ALICE:" + hashOfRight, 0o600, "FILE:1: user alice is in the configuration as well; remove one"},
		"bad lines":    {"bob:plain\n\nx\n", 0o600, "FILE:1: no hash that overdav reads; make one with htpasswd -B, or overdav hash-password\nFILE:3: want NAME:HASH"},
		"for everyone": {"bob:" + hashOfRight, 0o644, "FILE: FILE has passwords in it, and others on this machine may open it; chmod o-rwx FILE"},
	} {
		write(test.text, test.mode)
		_, _, err := loadUsers(c)
		if err == nil || strings.ReplaceAll(err.Error(), file, "FILE") != test.want {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func runCommand(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(env{getenv: getenv(), stdin: strings.NewReader(stdin), stdout: &out, stderr: &err}, args)
	return status, out.String(), err.String()
}

func TestHashPassword(t *testing.T) {
	for flag, prefix := range map[string]string{"": "$2a$12$", "--argon2id": "$argon2id$v=19$m=19456,t=2,p=1$"} {
		args := strings.Fields("hash-password " + flag)
		status, out, _ := runCommand(t, "pass word\r\n", args...)
		text := strings.TrimSuffix(out, "\n")
		if status != 0 || !strings.HasPrefix(text, prefix) {
			t.Fatalf("%s: status %d, %q", flag, status, out)
		}
		if _, err := auth.ParseHash(text); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for name, test := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"empty":       {"\n", nil, "an empty password"},
		"nothing":     {"", nil, "an empty password"},
		"two lines":   {"a\nb\n", nil, "more than one line"},
		"73 bytes":    {strings.Repeat("x", 73), nil, "first 72 bytes"},
		"as argument": {"x", []string{"s3cret"}, "standard input"},
	} {
		status, out, stderr := runCommand(t, test.stdin, append([]string{"hash-password"}, test.args...)...)
		if status == 0 || out != "" || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "s3cret") {
			t.Errorf("%s: status %d, %q, %q", name, status, out, stderr)
		}
	}
}

func TestTokenCommand(t *testing.T) {
	dir := t.TempDir()
	name := writeConfig(t, "users: [{ name: alice }]\nauth: { tokens: "+dir+"/tokens.json }\nshares: [{ lower: [/srv], path: /films }]\n")
	must := func(args ...string) (string, string) {
		t.Helper()
		status, out, stderr := runCommand(t, "", append([]string{"token"}, args...)...)
		if status != 0 {
			t.Fatalf("%v: status %d, %s", args, status, stderr)
		}
		return out, stderr
	}
	secret, said := must("create", "--config", name, "--user", "alice", "--label", "back up", "--share", "/films/", "--path", "/docs", "--write", "--expires", "720h")
	if !strings.HasPrefix(secret, auth.TokenPrefix) || strings.Count(secret, "\n") != 1 || strings.Contains(said, strings.TrimSpace(secret)) {
		t.Errorf("printed %q and %q", secret, said)
	}
	list, _ := must("list", "--config", name, "--user", "Alice")
	if !strings.Contains(list, `write /films below /docs`) || !strings.Contains(list, `"back up"`) || strings.Contains(list, secret[4:20]) {
		t.Errorf("listed\n%s", list)
	}
	id := strings.Fields(strings.Split(list, "\n")[1])[0]
	must("revoke", id, "--config", name)
	if list, _ := must("list", "--config", name); list != "there are no tokens\n" {
		t.Errorf("listed\n%s", list)
	}

	proxied := writeConfig(t, "trusted_proxies: [127.0.0.1]\nauth: { user_header: X-User, tokens: "+dir+"/tokens.json }\nshares: [{ lower: [/srv] }]\n")
	must("create", "--config", proxied, "--user", "alcie", "--label", "x") // the proxy knows

	without := writeConfig(t, "shares: [{ lower: [/srv] }]\n")
	for _, args := range [][]string{
		{},
		{"make"},
		{"create", "--user", "alice", "--label", "x"},
		{"create", "--config", without, "--user", "alice", "--label", "x"},
		{"create", "--config", name, "--user", "alice"},
		{"create", "--config", name, "--user", "alice", "--label", "x", "--share", "/music"},
		{"create", "--config", name, "--user", "alcie", "--label", "x"},
		{"create", "--config", name, "--user", "alice", "--label", "x", "--expires", "soon"},
		{"create", "--config", name, "--user", "alice", "--label", "x", "--expires", "2001-01-01"},
		{"create", "--config", name, "--user", "alice", "--label", "x", "stray"},
		{"list", "--config", name, "stray"},
		{"revoke", "--config", name},
		{"revoke", "--config", name, id},
	} {
		if status, out, stderr := runCommand(t, "", append([]string{"token"}, args...)...); status == 0 || out != "" || stderr == "" {
			t.Errorf("%v: status %d, %q, %q", args, status, out, stderr)
		}
	}
}
