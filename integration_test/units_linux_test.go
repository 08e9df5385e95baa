package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"overdav/overlay/overlaytest"
)

// unitsDir has the units that are shipped.
const unitsDir = "../dist/systemd"

var units = []string{"overdav.service", "overdav-root.service", "overdav.socket", "overdav-http.socket"}

// Exposure is a tenth of a point each; below 30 systemd itself says "OK".
func TestUnitsAreHardened(t *testing.T) {
	needProgram(t, "systemd-analyze")
	for unit, threshold := range map[string]string{"overdav.service": "20", "overdav-root.service": "35"} {
		cmd := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+threshold, filepath.Join(unitsDir, unit))
		if out, err := runFor(clientGiveUp, cmd); err != nil {
			t.Errorf("%s is exposed by more than %s: %v\n%s", unit, threshold, err, out)
		}
	}
}

// What systemd does not know it skips with a warning, and the unit is not what it
// seems to be.
func TestUnitsAreUnderstood(t *testing.T) {
	needProgram(t, "systemd-analyze")
	dir := openDir(t)
	for _, unit := range units {
		text, err := os.ReadFile(filepath.Join(unitsDir, unit))
		if err != nil {
			t.Fatal(err)
		}
		// The program is looked for; where it will be installed it is not yet.
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/overdav"), []byte(program))
		writeFile(t, filepath.Join(dir, unit), string(text))
	}
	for _, unit := range units {
		out, err := runFor(clientGiveUp, exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, unit)))
		if err != nil || strings.Contains(out, unit+":") {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// directives are the values of a unit's directive, in their order.
func directives(t *testing.T, unit, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(unitsDir, unit))
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			values = append(values, value)
		}
	}
	return values
}

// allowedCalls are the system calls that a unit's filter lets through: a first
// list of what may, then, with a tilde, what of it may not.
func allowedCalls(t *testing.T, unit string) map[string]bool {
	t.Helper()
	allowed := make(map[string]bool)
	for _, value := range directives(t, unit, "SystemCallFilter") {
		list, deny := strings.CutPrefix(value, "~")
		for _, name := range strings.Fields(list) {
			for _, call := range callsOf(t, name) {
				allowed[call] = !deny
			}
		}
	}
	return allowed
}

// callsOf lists a group of system calls, and the groups in it.
func callsOf(t *testing.T, name string) []string {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	var calls []string
	for line := range strings.Lines(run(t, exec.Command("systemd-analyze", "syscall-filter", "--no-pager", name))) {
		line = strings.TrimSpace(line)
		if line != "" && line != name && !strings.HasPrefix(line, "#") {
			calls = append(calls, callsOf(t, line)...)
		}
	}
	return calls
}

// tracedCall is a line of strace -f.
var tracedCall = regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)`)

// The units let the program do all it has to: under their capabilities, on a
// file system of which it may write to its own directories alone, with the system
// calls that their filters let through. What systemd does is done by others here,
// because there is none: setpriv, mount, and strace for the filter. It sees which
// calls are made; those that the filter refuses are then made to fail the same
// way, which must not matter.
func TestProgramWorksUnderItsUnits(t *testing.T) {
	overlaytest.NeedRoot(t)
	needProgram(t, "systemd-analyze", "strace", "setpriv", "unshare", "mount")
	for _, unit := range []string{"overdav.service", "overdav-root.service"} {
		t.Run(unit, func(t *testing.T) {
			used := smokeUnder(t, unit, nil)
			allowed := allowedCalls(t, unit)
			var refused []string
			for _, call := range used {
				// Calls without a name are newer than strace and systemd, which
				// answers ENOSYS to them, as older kernels do. And execve is how
				// strace's child becomes the program.
				if !allowed[call] && call != "execve" && !strings.HasPrefix(call, "syscall_") {
					refused = append(refused, call)
				}
			}
			t.Logf("makes %d kinds of calls, of which the filter refuses %q", len(used), refused)
			if len(used) < 30 {
				t.Errorf("strace saw %q alone", used)
			}
			for _, needed := range []string{"openat2", "renameat2", "statx", "landlock_restrict_self"} {
				if !slices.Contains(used, needed) || !allowed[needed] {
					t.Errorf("%s: used %t, allowed %t", needed, slices.Contains(used, needed), allowed[needed])
				}
			}
			if len(refused) > 0 {
				smokeUnder(t, unit, refused)
			}
		})
	}
}

// smokeUnder runs the program confined as unit says and uses every method. The
// calls in refused fail. It returns the calls that were made.
func smokeUnder(t *testing.T, unit string, refused []string) []string {
	t.Helper()
	dir := openDir(t)
	overlaytest.Build(t, dir, "upper/\nwork/\nlower/\nlower/shared/ 2775\nlower/shared/f = shared\n")
	overlaytest.Build(t, dir+"/lower", demo)
	privileges := []string{"setpriv", "--no-new-privs"}
	if user := directives(t, unit, "User"); user != nil {
		giveAway(t, dir)
		privileges = append(privileges, fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups")
	}
	overlaytest.LowersUnchanged(t, dir+"/lower")
	set := "-all"
	for _, capability := range strings.Fields(strings.Join(directives(t, unit, "CapabilityBoundingSet"), " ")) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
	}
	privileges = append(privileges, "--bounding-set="+set, "--inh-caps=-all")
	// -D: what we start is the program, and gets our signals.
	trace := []string{"strace", "-D", "-f", "-q", "-o", dir + "/trace"}
	if refused != nil {
		trace = append(trace, "-e", "inject="+strings.Join(refused, ",")+":error=EPERM")
	}
	cmd := command(dir, "serve", "--listen", "127.0.0.1:0", "--upper", dir+"/upper", "--work", dir+"/work", dir+"/lower")
	script := `mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"`
	cmd.Args = slices.Concat([]string{"unshare", "--mount", "sh", "-c", script, dir}, privileges, trace, []string{program}, cmd.Args[1:])
	path, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	s := startServer(t, cmd)
	changeALot(s)
	s.must(http.StatusNoContent, "PUT", "shared/f", "changed")
	s.must(http.StatusOK, "LOCK", "a", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`)
	s.stop()
	calls := make(map[string]bool)
	for _, match := range tracedCall.FindAllStringSubmatch(readTrace(t, dir+"/trace", s.cmd.Process.Pid), -1) {
		calls[match[1]] = true
	}
	var used []string
	for call := range calls {
		used = append(used, call)
	}
	slices.Sort(used)
	return used
}

// readTrace reads what strace has written when it has seen the end of pid.
func readTrace(t *testing.T, name string, pid int) string {
	t.Helper()
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited`, pid))
	for began := time.Now(); time.Since(began) < giveUp; {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if end.Match(text) {
			return string(text)
		}
	}
	t.Fatalf("strace has not seen the end of %d", pid)
	return ""
}
