package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// needLandlock skips a test on a kernel that "landlock: require" refuses: older
// than 6.10, or without Landlock.
func needLandlock(t *testing.T) {
	t.Helper()
	const createRuleset, askVersion = 444, 1 // landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION
	version, _, errno := syscall.Syscall(createRuleset, 0, 0, askVersion)
	overlaytest.Need(t, errno == 0 && version >= 5, "Landlock 5 in the kernel (%d, %v)", version, errno)
}

// asBoth runs a test as root and as an ordinary user. own gives cmd to the user in
// question, with directories to be theirs.
func asBoth(t *testing.T, test func(t *testing.T, own func(cmd *exec.Cmd, dirs ...string) *exec.Cmd)) {
	t.Run("root", func(t *testing.T) {
		overlaytest.NeedRoot(t)
		test(t, func(cmd *exec.Cmd, _ ...string) *exec.Cmd { return cmd })
	})
	t.Run("ordinary user", func(t *testing.T) {
		test(t, func(cmd *exec.Cmd, dirs ...string) *exec.Cmd {
			for _, dir := range dirs {
				giveAway(t, dir)
			}
			return asUser(t, cmd)
		})
	})
}

// A server that may do nothing else does all that it has to: every method, on an
// upper for all and on one of each user, which is made later; over TLS, with an
// audit, on a socket whose name goes in the end.
func TestConfinedServerDoesEverything(t *testing.T) {
	needLandlock(t)
	asBoth(t, func(t *testing.T, own func(*exec.Cmd, ...string) *exec.Cmd) {
		dir := openDir(t)
		overlaytest.Build(t, dir, "users/\nconf/\nlogs/\nrun/\nlower/\nup/\nup/upper/\nup/work/\n")
		overlaytest.Build(t, dir+"/lower", demo)
		client := writeCertificate(t, dir+"/conf", "server.example")
		writeFile(t, dir+"/conf/config.yaml", `
landlock: require
tls: { cert: cert.pem, key: key.pem }
audit: ../logs/audit
auth: { user_header: X-User, allow_plaintext_auth: true }
trusted_proxies: [127.0.0.1]
shares:
  - { path: /all, lower: [../lower], upper: ../up/upper, work: ../up/work }
  - { path: /own, lower: [../lower], upper: "../users/{user}/upper" }
`)
		cmd := own(command(dir, "serve", "--config", dir+"/conf/config.yaml", "--listen", "127.0.0.1:0"), dir)
		overlaytest.LowersUnchanged(t, dir+"/lower")
		s := startServer(t, cmd)
		client.Transport = asUserHeader{client.Transport, "alice"}
		s.client = client
		root := strings.TrimSuffix(s.base, "/own")
		root = strings.TrimSuffix(root, "/all")
		for _, share := range []string{"/all", "/own"} {
			s.base = root + share
			changeALot(s)
			s.must(http.StatusOK, "LOCK", "a", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`)
		}
		if !exists(dir + "/users/alice/upper/dir/copy") {
			t.Error("nothing of alice's is in her upper")
		}
		// Logs are rotated by renaming them.
		if err := os.Rename(dir+"/logs/audit", dir+"/logs/audit.1"); err != nil {
			t.Fatal(err)
		}
		said := len(s.stderr.String())
		s.signal(syscall.SIGHUP)
		s.awaitSaid(said, "configuration reloaded")
		if !exists(dir + "/logs/audit") {
			t.Error("there is no new audit after its rotation")
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
		if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
			t.Errorf("a program that it started could have more rights: %v", err)
		}
		s.base = root
		s.stop()
	})
}

// asUserHeader is a proxy that says who makes a request.
type asUserHeader struct {
	next http.RoundTripper
	user string
}

func (a asUserHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-User", a.user)
	return a.next.RoundTrip(r)
}

// What is elsewhere cannot be opened, even by root, and even if the
// configuration comes to name it; without the sandbox it can.
func TestConfinedServerOpensNothingElsewhere(t *testing.T) {
	needLandlock(t)
	asBoth(t, func(t *testing.T, own func(*exec.Cmd, ...string) *exec.Cmd) {
		for _, mode := range []string{"require", "try", "off"} {
			t.Run(mode, func(t *testing.T) {
				dir := openDir(t)
				overlaytest.Build(t, dir, "conf/\nelsewhere/\nlower/\nlower/a = one\nupper/\nwork/\n")
				writeCertificate(t, dir+"/conf", "first.example")
				renewed := writeCertificate(t, dir+"/elsewhere", "second.example")
				config := func(certs string) {
					writeFile(t, dir+"/conf/config.yaml", fmt.Sprintf(`
landlock: %s
tls: { cert: %[2]s/cert.pem, key: %[2]s/key.pem }
shares: [{ lower: [../lower], upper: ../upper, work: ../work }]
`, mode, certs))
				}
				config(dir + "/conf")
				s := startServer(t, own(command(dir, "serve", "--config", dir+"/conf/config.yaml", "--listen", "127.0.0.1:0"), dir))
				config(dir + "/elsewhere")
				s.signal(syscall.SIGHUP)
				want := "configuration reloaded"
				if mode != "off" {
					want = filepath.Join(dir, "elsewhere", "cert.pem") + ": permission denied"
				}
				s.awaitSaid(0, want)
				resp, err := renewed.Get(s.url("a"))
				if err == nil {
					resp.Body.Close()
				}
				if open := err == nil; open != (mode == "off") {
					t.Errorf("the certificate from elsewhere is shown: %t, %v", open, err)
				}
				s.stop()
			})
		}
	})
}

func TestSocketOfAConfinedServerGoesWithIt(t *testing.T) {
	needLandlock(t)
	asBoth(t, func(t *testing.T, own func(*exec.Cmd, ...string) *exec.Cmd) {
		dir := openDir(t)
		overlaytest.Build(t, dir, "run/\nlower/\nlower/a = one\nupper/\nwork/\n")
		writeFile(t, dir+"/config.yaml", "landlock: require\nlisten: unix:"+dir+"/run/s\nshares: [{ lower: [lower], upper: upper, work: work }]\n")
		s := startServer(t, own(command(dir, "serve", "--config", dir+"/config.yaml"), dir))
		s.client, s.base = unixClient(t, dir+"/run/s"), "http://files.example.org"
		s.must(http.StatusNoContent, "PUT", "a", "two")
		s.stop()
		if exists(dir + "/run/s") {
			t.Error("the socket is still there")
		}
	})
}
