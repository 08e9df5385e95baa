package davfs

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/webdav"
)

// needProgram skips the test without the program, and fails under CI, where it
// must be.
func needProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed: its judgement is missing", name)
	return ""
}

// runLitmus returns the names of the tests that failed, warned or were skipped.
func runLitmus(t *testing.T, url string) (complaints []string) {
	program := needProgram(t, "litmus")
	deadline, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(deadline, program, "-k", url)
	cmd.Dir = t.TempDir() // it leaves its log there
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), "\r", "\n")
	if deadline.Err() != nil {
		t.Fatalf("litmus did not end:\n%s", text)
	}
	_ = err // it is non-zero when a test failed, which the output tells better
	line := regexp.MustCompile(`(?m)^ *\d+\. ([a-z0-9_]+)\.* (FAIL|WARNING|SKIPPED)[^\n]*`)
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		t.Logf("litmus: %s", m[0])
		complaints = append(complaints, m[1])
	}
	for _, suite := range []string{"basic", "copymove", "props", "locks", "http"} {
		if !strings.Contains(text, "<- summary for `"+suite+"'") {
			t.Errorf("litmus: suite %s did not run to its end:\n%s", suite, text)
		}
	}
	slices.Sort(complaints)
	return slices.Compact(complaints)
}

func TestLitmusHasNoComplaint(t *testing.T) {
	s := serve(t, map[string]string{"dav/": ""})
	if complaints := runLitmus(t, s.URL+"/dav/"); len(complaints) > 0 {
		t.Errorf("litmus complains about %v", complaints)
	}
}

// Under x/net's Handler the complaints are that Handler's own: an empty
// namespace prefix, and shared locks. Its own lock system adds entity tags.
func TestLitmusUnderBareHandlerHasNoComplaintAboutUs(t *testing.T) {
	known := []string{
		"cond_put_corrupt_token", "double_sharedlock", "lock_shared", "notowner_lock", "notowner_modify",
		"owner_modify", "propfind_invalid2", "sharedlock", "unlock",
	}
	t.Run("with its own locks", func(t *testing.T) {
		s := serveBare(t, map[string]string{"dav/": ""})
		for _, name := range runLitmus(t, s.URL+"/dav/") {
			if !slices.Contains(append(known, "fail_complex_cond_put"), name) {
				t.Errorf("litmus complains about %s", name)
			}
		}
	})
	t.Run("with our locks", func(t *testing.T) {
		s := serveBareLocked(t, map[string]string{"dav/": ""}, func(fsys *FileSystem) webdav.LockSystem {
			return fsys.LockSystem(NewLocks(LockOptions{}), "")
		})
		for _, name := range runLitmus(t, s.URL+"/dav/") {
			if !slices.Contains(known, name) {
				t.Errorf("litmus complains about %s", name)
			}
		}
	})
}
