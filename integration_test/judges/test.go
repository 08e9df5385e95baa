package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// nobody is an ordinary user of every machine.
const nobody = 65534

// errTests says that tests failed; which, has been printed.
var errTests = errors.New("there were failures")

// test runs all tests as who we are, and, when that is root, once more as an
// ordinary user: half of the promises are made to one.
func test(flags []string) error {
	root := os.Geteuid() == 0
	heading(map[bool]string{true: "root", false: "an ordinary user"}[root])
	// Twelve at a time: most of them wait for mounts.
	cmd := exec.Command("go", append([]string{"test", "-json", "-timeout=14m", "-parallel=12"}, append(flags, "./...")...)...)
	var r reporter
	if err := r.run(cmd, cmd); err != nil {
		return err
	}
	r.printSkipped()
	if root {
		if err := testAsUser(&r); err != nil {
			return err
		}
		r.printSkipped()
	}
	if r.failed {
		return errTests
	}
	return nil
}

func heading(who string) { fmt.Printf("judges: all tests as %s\n", who) }

// testAsUser runs the tests as nobody. They are built beforehand, and what
// they read is copied: nobody has no Go caches, and cannot enter a checkout
// below /root.
func testAsUser(r *reporter) error {
	heading("an ordinary user, as far as they need no root")
	tmp, err := os.MkdirTemp("", "overdav-judges")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // below the temporary directory it is in nobody's way
	stage, err := newStage(tmp)
	if err != nil {
		return err
	}
	packages, err := output("go", "list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}", "./...")
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(packages) {
		cmd, err := stage.command(path)
		if err != nil {
			return err
		}
		if err := r.run(exec.Command("go", "tool", "test2json", "-t", "-p", path), cmd); err != nil {
			return err
		}
	}
	return nil
}

func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return string(out), err
}

// A stage is a place where nobody can run tests.
type stage struct{ dir string }

// newStage copies the source to dir and makes nobody's directories there.
func newStage(dir string) (*stage, error) {
	src := os.DirFS(".")
	err := fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		target := filepath.Join(dir, "src", name)
		switch {
		case err != nil:
			return err
		case name == ".git" && d.IsDir():
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular() || name == ".git":
			return nil
		}
		text, err := fs.ReadFile(src, name)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		return nil, err
	}
	for _, own := range []string{"home", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, own), 0o700); err != nil {
			return nil, err
		}
		if err := os.Chown(filepath.Join(dir, own), nobody, nobody); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	_, err = output("go", "build", "-o", filepath.Join(dir, "overdav"), ".")
	return &stage{dir}, err
}

// command builds the tests of a package and returns the command that runs them.
func (s *stage) command(path string) (*exec.Cmd, error) {
	binary := filepath.Join(s.dir, strings.ReplaceAll(path, "/", "-")+".test")
	if _, err := output("go", "test", "-c", "-o", binary, path); err != nil {
		return nil, err
	}
	// Short: what an ordinary user's rights and marks change shows in the short
	// runs of the loops, too; root has seen them to their ends.
	cmd := exec.Command(binary, "-test.v=test2json", "-test.short", "-test.timeout=10m")
	cmd.Dir = filepath.Join(s.dir, "src", strings.TrimPrefix(strings.TrimPrefix(path, "overdav"), "/"))
	cmd.Env = []string{
		"HOME=" + s.dir + "/home", "TMPDIR=" + s.dir + "/tmp", "PATH=" + os.Getenv("PATH"),
		"OVERDAV_PROGRAM=" + s.dir + "/overdav", "GOFLAGS=-mod=mod", "GOTOOLCHAIN=local", "GOPROXY=off",
		// CI is left out: root has met the judges, and what needs root is not
		// for this user.
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd, nil
}

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// reporter prints what matters of many events: the packages' results, all that
// failing tests said, and why others were skipped.
type reporter struct {
	failed  bool
	said    map[string]string   // by package and test, until it has ended
	skipped map[string][]string // by reason
}

// run runs cmd and reports what comes out of reader, which is cmd itself or
// a program that turns cmd's output into events.
func (r *reporter) run(reader, cmd *exec.Cmd) error {
	r.said = make(map[string]string)
	if r.skipped == nil {
		r.skipped = make(map[string][]string)
	}
	events, err := reader.StdoutPipe()
	if err != nil {
		return err
	}
	reader.Stderr = os.Stderr
	if reader != cmd {
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		cmd.Stderr = cmd.Stdout
		reader.Stdin = pipe
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	if err := reader.Start(); err != nil {
		return err
	}
	r.read(events)
	for _, c := range slices.Compact([]*exec.Cmd{reader, cmd}) {
		var exit *exec.ExitError
		switch err := c.Wait(); {
		case errors.As(err, &exit):
			r.failed = true
		case err != nil:
			return err
		}
	}
	return nil
}

// read reports events until they end.
func (r *reporter) read(events io.Reader) {
	sc := bufio.NewScanner(events)
	sc.Buffer(nil, 64<<20) // a test may say much in one line
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Println(sc.Text()) // the go tool itself
			continue
		}
		key := e.Package + " " + e.Test
		switch {
		case e.Action == "output" && e.Test == "", e.Action == "build-output":
			if e.Output != "PASS\n" && !strings.HasPrefix(e.Output, "=== ") {
				fmt.Print(e.Output)
			}
		case e.Action == "output":
			r.said[key] += e.Output
		case e.Action == "fail" || e.Action == "build-fail":
			r.failed = true
			fmt.Print(r.said[key])
			delete(r.said, key)
		case e.Action == "skip" && e.Test != "":
			why := reason(r.said[key])
			r.skipped[why] = append(r.skipped[why], key)
			delete(r.said, key)
		case e.Action == "pass":
			delete(r.said, key)
		}
	}
	if err := sc.Err(); err != nil {
		fmt.Println("judges: reading events:", err)
		r.failed = true
	}
}

// position is a place in a test, or a line of a scenario with its command.
var position = regexp.MustCompile(`^(\w+\.go:\d+: )?(\S+\.txtar:\d+: .*: )?`)

// reason is what a skipped test said, on one line and without the place.
func reason(said string) string {
	var lines []string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			lines = append(lines, position.ReplaceAllString(line, ""))
		}
	}
	return strings.Join(lines, " ")
}

// printSkipped tells what was skipped and why, and forgets it.
func (r *reporter) printSkipped() {
	const named = 3
	for _, why := range slices.Sorted(maps.Keys(r.skipped)) {
		tests := r.skipped[why]
		fmt.Printf("judges: skipped %d: %s: %s", len(tests), why, strings.Join(tests[:min(named, len(tests))], ", "))
		if len(tests) > named {
			fmt.Print(", ...")
		}
		fmt.Println()
	}
	clear(r.skipped)
}
