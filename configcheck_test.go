package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What serve would stumble over one after the other is told at once, each with
// its place, and mistakes in keys hide none in files.
func TestConfigCheckLooksAtEverythingThatIsNamed(t *testing.T) {
	file := writeConfig(t, `audit: none/audit.log
landlock: perhaps
auth: { tokens: none/tokens.json, admins: [ghost] }
metrics: { users: [nobody] }
tls:
  cert: none.pem
  key: none.key
  client_ca: none.ca
users: [{ name: alice }, { name: Alice }]
shares:
  - path: /a
    lower: [low, none]
    upper: none
    work: none.work
  - path: /b
    lower: [low]
    upper: none/{user}/upper
  - path: /c
    lower: [low, low]
    upper: up
  - path: /d
    lower: [low]
    upper: "{user}x"
  - path: /e
    lower: [low]
    upper: up
  - path: /f
    lower: [low]
    upper: up/{user}/upper
`)
	dir := filepath.Dir(file)
	for _, name := range []string{"low", "up"} {
		mustMkdir(t, dir, name)
	}
	want := strings.ReplaceAll(`FILE:2:1: landlock: "perhaps" is not one of try, require, off
FILE:9:28: users[1].name: users[0] is called "alice" already; capitals make no difference
FILE:23:5: shares[3].upper: {user} must be the whole name of a directory above; write it as in /var/lib/overdav/{user}/upper
FILE:26:5: shares[4].upper: shares[2] has the same; each share keeps its changes in an upper of its own
FILE:3:35: auth.admins: ghost is nowhere in users; add it there, or correct it here
FILE:4:12: metrics.users: nobody is nowhere in users; add it there, or correct it here
FILE:6:3: tls.cert: open DIR/none.pem: no such file or directory
FILE:7:3: tls.key: open DIR/none.key: no such file or directory
FILE:8:3: tls.client_ca: open DIR/none.ca: no such file or directory
FILE:1:1: audit: there is no directory DIR/none; name one that exists
FILE:3:9: auth.tokens: stat DIR/none: no such file or directory; make the directory DIR/none, and let overdav's user write to it
FILE:12:18: shares[0].lower[1]: there is no directory DIR/none; name one that exists
FILE:13:5: shares[0].upper: there is no directory DIR/none; name one that exists
FILE:14:5: shares[0].work: there is no directory DIR/none.work; name one that exists
FILE:17:5: shares[1].upper: there is no directory DIR/none; name one that exists
FILE:18:9: shares[2]: unsuitable layers: lower 1 and lower 2 are the same directory "DIR/low"; name each once
FILE:29:5: shares[5].upper: DIR/up/{user}/upper overlaps DIR/up of share /e; keep the changes of each share in directories of its own
overdav: nothing was started
`, "FILE", file)
	want = strings.ReplaceAll(want, "DIR", dir)
	for _, command := range []string{"config check", "serve"} {
		var out bytes.Buffer
		status := run(env{getenv: getenv("HOME", dir), stdout: &out, stderr: &out}, append(strings.Fields(command), "--config", file))
		if got := out.String(); status != 2 || got != want {
			t.Errorf("%s: status %d\ngot\n%s\nwant\n%s", command, status, got, want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 3 {
		t.Errorf("%v: config check has left %v", err, left)
	}
}

// A flag's value has the flag for its place, not the list of the file that it
// replaces.
func TestConfigCheckNamesTheFlag(t *testing.T) {
	file := writeConfig(t, "shares: [{ lower: [low], read_only: true }]\n")
	mustMkdir(t, filepath.Dir(file), "low")
	gone := filepath.Join(t.TempDir(), "gone")
	var out bytes.Buffer
	run(env{getenv: getenv(), stdout: &out, stderr: &out}, []string{"config", "check", "--config", file, gone})
	if want := "--lower: there is no directory " + gone + "; name one that exists\noverdav: nothing was started\n"; out.String() != want {
		t.Errorf("got  %s\nwant %s", out.String(), want)
	}
}

// What config check reads of a file of users is what serve would.
func TestConfigCheckReadsFilesOfUsers(t *testing.T) {
	file := writeConfig(t, "users: [{ htpasswd: good }, { htpasswd: bad }, { htpasswd: none }]\nshares: [{ lower: [low], read_only: true }]\n")
	dir := filepath.Dir(file)
	mustMkdir(t, dir, "low")
	for name, text := range map[string]string{"good": "bob:" + hashOfRight + "\n", "bad": "# who\nBOB:plain\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	run(env{getenv: getenv(), stdout: &out, stderr: &out}, []string{"config", "check", "--config", file})
	for _, want := range []string{file + ":1:50: users[2].htpasswd: open " + dir + "/none: ", dir + "/bad:2: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("said %q, want %q in it", out.String(), want)
		}
	}
}

// A user who is in two places is told of with both, whichever comes first.
func TestConfigCheckFindsUsersInTwoPlaces(t *testing.T) {
	file := writeConfig(t, `users:
  - { htpasswd: staff }
  - { name: alice }
  - { htpasswd: guests }
  - { htpasswd: guests, groups: [late] }
shares: [{ lower: [low] }]
`)
	dir := filepath.Dir(file)
	mustMkdir(t, dir, "low")
	for name, text := range map[string]string{"staff": "# of us\nalice:!\n", "guests": "bob:!\nAlice:!\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.NewReplacer("FILE", file, "DIR", dir).Replace(`FILE:3:7: users[1].name: user alice is in DIR/staff:2 as well; remove one
DIR/guests:2: user alice is in DIR/staff:2 as well; remove one
DIR/guests:1: user bob is in DIR/guests:1 as well; remove one
DIR/guests:2: user alice is in DIR/staff:2 as well; remove one
overdav: nothing was started
`)
	var out strings.Builder
	if status := run(env{getenv: getenv("HOME", dir), stdout: &out, stderr: &out}, []string{"config", "check", "--config", file}); status != 2 || out.String() != want {
		t.Errorf("status %d, said\n%s\nwant\n%s", status, &out, want)
	}
}

// Where nothing can be made is told of before the first user comes.
func TestConfigCheckTriesWhatHasToChange(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere; an ordinary user runs this")
	}
	file := writeConfig(t, `audit: closed/new.log
shares:
  - { path: /a, lower: [low], upper: "closed/{user}/upper" }
  - { path: /b, lower: [low], upper: closed.up, work: closed.work }
  - { path: /c, lower: [low], upper: closed.shown, work: closed.work2, read_only: true }
`)
	dir := filepath.Dir(file)
	mustMkdir(t, dir, "low")
	for _, name := range []string{"closed", "closed.up", "closed.work", "closed.shown", "closed.work2"} {
		mustMkdir(t, dir, name)
		if err := os.Chmod(filepath.Join(dir, name), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	const why = ": permission denied; let overdav's user write to it, or name another"
	want := []string{
		file + ":1:1: audit: nothing can be made in " + dir + "/closed" + why,
		file + ":3:31: shares[0].upper: nothing can be made in " + dir + "/closed" + why,
		file + ":4:31: shares[1].upper: nothing can be made in " + dir + "/closed.up" + why,
		file + ":4:49: shares[1].work: nothing can be made in " + dir + "/closed.work" + why,
		"overdav: nothing was started\n",
	}
	for _, command := range []string{"config check", "serve"} {
		var out bytes.Buffer
		run(env{getenv: getenv("HOME", dir), stdout: &out, stderr: &out}, append(strings.Fields(command), "--config", file))
		if got := out.String(); got != strings.Join(want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", command, got, strings.Join(want, "\n"))
		}
	}
}

// A mistyped variable is a mistake like a mistyped key; what only begins like one of
// ours is not.
func TestConfigCheckFindsMistypedVariables(t *testing.T) {
	file := writeConfig(t, "shares: [{ lower: [low], read_only: true }]\n")
	mustMkdir(t, filepath.Dir(file), "low")
	try := func(want string, environ ...string) {
		t.Helper()
		for _, command := range []string{"config check", "serve"} {
			if command == "serve" && !strings.Contains(want, "nothing was started") {
				continue
			}
			var out bytes.Buffer
			run(env{getenv: getenv(), stdout: &out, stderr: &out, environ: environ}, append(strings.Fields(command), "--config", file))
			if out.String() != want {
				t.Errorf("%s with %q: got %swant %s", command, environ, &out, want)
			}
		}
	}
	try("OVERDAV_READONLY: unknown variable; did you mean OVERDAV_READ_ONLY?\noverdav: nothing was started\n", "HOME=/", "OVERDAV_READONLY=true", "OVERDAV_READ_ONLY=true")
	try("the configuration has no mistakes\n", "OVERDAV_LOWER=/", "OVERDAV_CONFIG=x", "OVERDAV_PORT=tcp://10.0.0.1:80", "OVERDAV_SERVICE_HOST=10.0.0.1", "OVERDAV_PORT_8080_TCP_ADDR=10.0.0.1", "READONLY=1")
}
