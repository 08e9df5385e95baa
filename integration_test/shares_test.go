package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// writeShares writes a configuration with a share for each of paths, with the
// same demo lower and with uppers of their own, and returns the file and the
// layers. extra are lines of every share.
func writeShares(t *testing.T, extra []string, paths ...string) (string, map[string]overlaytest.Layers) {
	t.Helper()
	all := make(map[string]overlaytest.Layers)
	text := "shares:\n"
	for _, path := range paths {
		l, _ := newShare(t)
		all[path] = l
		text += fmt.Sprintf("  - path: %s\n    lower: [%q]\n    upper: %q\n    work: %q\n", path, l.Lowers[0], l.Upper, l.Work)
		for _, line := range extra {
			text += "    " + line + "\n"
		}
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, all
}

func TestSharesStandSideBySide(t *testing.T) {
	file, layers := writeShares(t, nil, "/films", "/music", "/films/old")
	s := serve(t, "--config", file)
	s.base = strings.TrimSuffix(s.base, "/films")

	_, above := s.do("PROPFIND", "/", "", "Depth", "1")
	for href, want := range map[string]bool{"/": true, "/films/": true, "/music/": true, "/films/old/": false} {
		if got := strings.Contains(above, "<D:href>"+href+"</D:href>"); got != want {
			t.Errorf("%s above the shares: %t, want %t\n%s", href, got, want, above)
		}
	}
	for _, path := range []string{"/films", "/music", "/films/old"} {
		s.must(http.StatusCreated, "PUT", path+"/new", path)
		s.must(http.StatusOK, "GET", path+"/a", "")
	}
	for path, l := range layers {
		if got, err := os.ReadFile(filepath.Join(l.Upper, "new")); string(got) != path {
			t.Errorf("%s/new is %q (%v) in its upper", path, got, err)
		}
	}
	if exists(filepath.Join(layers["/films"].Upper, "old")) {
		t.Error("/films/old went to the upper of /films")
	}
	s.must(http.StatusNotFound, "GET", "/filmstars", "")
	s.must(http.StatusNotFound, "PUT", "/.overdav/x", "x")
	for _, dst := range []string{"/music/b", "/films/old/b", "/films/old", "/.overdav/x", "/elsewhere"} {
		for _, method := range []string{"COPY", "MOVE"} {
			s.must(http.StatusBadGateway, method, "/films/a", "", "Destination", dst)
		}
	}
	s.must(http.StatusCreated, "MOVE", "/films/old/a", "", "Destination", "/films/old/b")

	// A lock is a share's own.
	s.must(http.StatusOK, "LOCK", "/films/new", lockBody)
	s.must(http.StatusLocked, "PUT", "/films/new", "x")
	s.must(http.StatusNoContent, "PUT", "/music/new", "x")
	s.stop()

	check := command(t.TempDir(), "check", "--config", file)
	if out := run(t, check); strings.Count(out, "no problems") != 3 {
		t.Errorf("check of three shares says %q", out)
	}
}

// A tree may have what the server keeps for itself, and what another share
// covers: neither can be reached.
func TestAShareCannotReachWhatIsCovered(t *testing.T) {
	file, layers := writeShares(t, nil, "/", "/sub")
	overlaytest.Build(t, layers["/"].Upper, ".overdav/\n.overdav/secret = 1\nsub/\nsub/covered = 1\n")
	s := serve(t, "--config", file)
	s.must(http.StatusNotFound, "GET", "/.overdav/secret", "")
	s.must(http.StatusNotFound, "GET", "/sub/covered", "")
	s.must(http.StatusBadGateway, "COPY", "/a", "", "Destination", "/sub/covered")
	s.must(http.StatusBadGateway, "COPY", "/a", "", "Destination", "/.overdav/secret")
	s.must(http.StatusCreated, "PUT", "/subway", "not covered")
	s.stop()
}

func TestAShareThatCannotStartIsNamedAndNothingIsLeft(t *testing.T) {
	file, layers := writeShares(t, nil, "/one", "/two")
	if err := os.Remove(layers["/two"].Work); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Dir(layers["/two"].Upper), []string{"--config", file, "--listen", "127.0.0.1:0"}, "shares[1].work: ", layers["/two"].Work)
	if exists(filepath.Join(layers["/one"].Work, "incompat")) {
		t.Error("the share that could start has kept its guard")
	}
}

func TestConfigCheckSaysWhatIsWrong(t *testing.T) {
	good, layers := writeShares(t, nil, "/one", "/two")
	home := openDir(t)
	if out := run(t, command(home, "config", "check", "--config", good)); !strings.Contains(out, "no mistakes") {
		t.Errorf("of a good file: %q", out)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("lissen: 1\nshares: [{path: x}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(layers["/one"].Lowers[0], "gone")
	for name, test := range map[string]struct{ args, words string }{
		"mistakes":        {"--config " + bad, bad + ":1:1: lissen|" + bad + ":2:11: shares[0].path|shares[0].lower"},
		"no file":         {"--config " + bad + "2", bad + "2"},
		"no directory":    {"--config " + good + " " + gone, "--lower: there is no directory " + gone},
		"a flag's value":  {"--config " + good + " --durability most", "--durability"},
		"no such command": {"", "nothing to serve"},
	} {
		cmd := command(home, append([]string{"config", "check"}, strings.Fields(test.args)...)...)
		out, err := runFor(giveUp, cmd)
		if err == nil || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%s: %v, want exit status 2", name, cmd.ProcessState)
		}
		for _, word := range strings.Split(test.words, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("%s: said %q, want %q in it", name, out, word)
			}
		}
	}
}

func TestHangupReadsTheConfigurationAgain(t *testing.T) {
	file, _ := writeShares(t, nil, "/one", "/two")
	s := serve(t, "--config", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ file, says string }{
		{"lissen: 1\n" + string(text), "did you mean listen?"},
		{"stop_timeout: 1m\n" + strings.Replace(string(text), "- path", "- durability: none\n    path", 1), "shares[0].durability"},
		{string(text), "configuration reloaded"},
	} {
		if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
			t.Fatal(err)
		}
		skip := len(s.stderr.String())
		s.signal(syscall.SIGHUP)
		s.awaitSaid(skip, test.says)
		s.must(http.StatusOK, "GET", "/a", "")
	}
	s.stop()
}

// A reload drops no connection: uploads and downloads that run go on, and what
// has changed counts from the next request.
func TestHangupUnderRunningTransfers(t *testing.T) {
	file, _ := writeShares(t, []string{"quota: 100MiB"}, "/")
	s := serve(t, "--config", file)
	content := strings.Repeat("0123456789", 200_000)
	s.must(http.StatusCreated, "PUT", "/big", content)

	up := s.begin("up", len(content))
	half := len(content) / 2
	if _, err := io.WriteString(up.body, content[:half]); err != nil {
		t.Fatal(err)
	}
	down, err := http.Get(s.url("/big"))
	if err != nil {
		t.Fatal(err)
	}
	defer down.Body.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(down.Body, first); err != nil {
		t.Fatal(err)
	}

	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(text, says string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		skip := len(s.stderr.String())
		s.signal(syscall.SIGHUP)
		s.awaitSaid(skip, says)
	}
	small := strings.ReplaceAll(string(text), "100MiB", "5MiB")
	reload(strings.ReplaceAll(string(text), "100MiB", "many"), "is not a size")
	reload(small, "configuration reloaded")

	if _, err := io.WriteString(up.body, content[half:]); err != nil {
		t.Fatal(err)
	}
	up.body.Close()
	if got := <-up.result; got != "201 Created" {
		t.Errorf("the upload got %s", got)
	}
	rest, err := io.ReadAll(down.Body)
	if err != nil || string(first)+string(rest) != content {
		t.Errorf("the download got %d bytes, %v", len(first)+len(rest), err)
	}
	status, body := s.do("PUT", "/more", content)
	if status != http.StatusInsufficientStorage || !strings.Contains(body, "quota-not-exceeded") {
		t.Errorf("beyond the new quota: %d %s", status, body)
	}
	reload(string(text), "configuration reloaded")
	s.must(http.StatusCreated, "PUT", "/more", content)
	s.stop()
}

// Each user, here the one without a name, has an upper that the kernel could
// mount, and kill -9 loses nothing of it.
func TestUppersOfUsers(t *testing.T) {
	l, _ := newShare(t)
	users := openDir(t)
	args := []string{"--lower", l.Lowers[0], "--upper", filepath.Join(users, "{user}", "upper")}
	s := serve(t, args...)
	if exists(filepath.Join(users, "anonymous")) {
		t.Error("an upper was made before anybody came")
	}
	s.must(http.StatusCreated, "PUT", "/new", "x")
	s.must(http.StatusNoContent, "DELETE", "/docs", "")
	s.kill()
	s = serve(t, args...)
	s.must(http.StatusOK, "GET", "/new", "")
	s.must(http.StatusNotFound, "GET", "/docs", "")
	refused := command(openDir(t), append([]string{"reset", "/", "--user", "anonymous"}, args...)...)
	if out, err := runFor(giveUp, refused); err == nil || !strings.Contains(out, "have the running server do it") {
		t.Errorf("reset under a server: %v %s", err, out)
	}
	s.must(http.StatusNoContent, "POST", "/.overdav/api/v1/reset", `{"share": "/", "user": "anonymous"}`, "Content-Type", "application/json")
	s.must(http.StatusNotFound, "GET", "/new", "")
	s.must(http.StatusOK, "GET", "/docs/b", "")
	s.stop()
	if out := run(t, command(openDir(t), append([]string{"check"}, args...)...)); !strings.Contains(out, "uppers of 1 users") || !strings.Contains(out, "no problems") {
		t.Errorf("check: %s", out)
	}
	if out := run(t, command(openDir(t), append([]string{"reset", "/", "--user", "anonymous"}, args...)...)); !strings.Contains(out, "is gone") {
		t.Errorf("reset: %s", out)
	}
	if exists(filepath.Join(users, "anonymous")) {
		t.Error("the upper is still there")
	}
}

// What all users have in common is thrown away by the server that serves it, though
// Landlock keeps it from the directory that upper is in; the next changes find their
// place.
func TestResetOfWhatIsServedToAll(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	s.must(http.StatusCreated, "PUT", "/new", "x")
	s.must(http.StatusNoContent, "DELETE", "/docs", "")
	s.must(http.StatusNoContent, "POST", "/.overdav/api/v1/reset", `{"share": "/"}`, "Content-Type", "application/json")
	s.must(http.StatusNotFound, "GET", "/new", "")
	s.must(http.StatusOK, "GET", "/docs/b", "")
	s.must(http.StatusCreated, "PUT", "/newer", "y")
	s.stop()
	if !exists(filepath.Join(l.Upper, "newer")) || exists(filepath.Join(l.Upper, "new")) {
		t.Error("upper does not hold what was changed since, and that alone")
	}
}
