package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// depsPolicy says what each package may import, the standard library apart. A
// package that is not listed may not exist. "tests" is what test files may
// import besides what stands in their package's line.
//
//   - The engine does not know of HTTP, users, configuration or a logger: it
//     returns errors and raises events.
//   - Only overlay/internal/at talks to the kernel beyond what package os can,
//     so that one reader can check everything that reaches a disk.
//   - What the program needs for itself, log and YAML, stops at main.
const depsPolicy = `
overlay/internal/at     golang.org/x/sys/unix github.com/pkg/xattr
overlay                 overlay/internal/at
overlay/overlaytest     overlay overlay/internal/at github.com/rogpeppe/go-internal
overlay/changes         overlay
davfs                   overlay golang.org/x/net/webdav go.etcd.io/bbolt
web                     overlay overlay/changes davfs
auth                    golang.org/x/crypto github.com/tg123/go-htpasswd github.com/bmatcuk/doublestar/v4
main                    overlay overlay/changes davfs web auth github.com/rs/zerolog github.com/goccy/go-yaml golang.org/x/term
                        github.com/prometheus/client_golang github.com/coreos/go-systemd/v22 github.com/landlock-lsm/go-landlock
                        github.com/rs/cors golang.org/x/crypto
integration_test
integration_test/judges

tests                   overlay overlay/internal/at overlay/overlaytest davfs golang.org/x/sys/unix
                        github.com/pkg/xattr golang.org/x/net/webdav github.com/rogpeppe/go-internal pgregory.net/rapid
                        github.com/hanwen/go-fuse/v2
`

// testsAlone are the packages in which a test may not use what "tests" lists:
// an engine whose tests need HTTP would not be an engine.
var testsAlone = map[string][]string{
	"overlay":             {"davfs", "golang.org/x/net/webdav"},
	"overlay/internal/at": {"davfs", "golang.org/x/net/webdav", "overlay", "overlay/overlaytest"},
	"overlay/overlaytest": {"davfs", "golang.org/x/net/webdav"},
}

func parsePolicy(t *testing.T, text string) map[string][]string {
	t.Helper()
	policy := make(map[string][]string)
	last := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if !strings.HasPrefix(line, " ") { // else the line before goes on
			last, words = words[0], words[1:]
			if _, ok := policy[last]; ok {
				t.Fatalf("%s has two lines", last)
			}
			policy[last] = nil
		}
		policy[last] = append(policy[last], words...)
	}
	return policy
}

// A listedPackage is what go list tells of a package.
type listedPackage struct {
	ImportPath, Name, Doc, Dir         string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go tool on the path: the import policy is not checked")
	}
	// -e: imports are read without the modules that they lead to, which not
	// everybody has. What does not build is for other tests to find.
	out, err := exec.Command(goTool, "list", "-e", "-json", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listedPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			if len(all) == 0 {
				t.Fatal("go list finds no packages")
			}
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ownName turns an import path of this module into a name of the policy.
func ownName(path string) string {
	if path == "overdav" {
		return "main"
	}
	return strings.TrimPrefix(path, "overdav/")
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && first != "overdav"
}

// allowed says whether path is in list, or in a package below one of list's
// modules.
func allowed(list []string, path string) bool {
	name := ownName(path)
	own := name != path || path == "overdav"
	return slices.ContainsFunc(list, func(entry string) bool {
		return entry == name || !own && strings.HasPrefix(name, entry+"/")
	})
}

func TestImportsFollowThePolicy(t *testing.T) {
	policy := parsePolicy(t, depsPolicy)
	for _, p := range listPackages(t) {
		name := ownName(p.ImportPath)
		list, ok := policy[name]
		if !ok {
			t.Errorf("package %s is not in the policy", name)
			continue
		}
		for _, path := range p.Imports {
			if !isStandard(path) && !allowed(list, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			if isStandard(path) || allowed(list, path) || path == p.ImportPath {
				continue
			}
			if !allowed(policy["tests"], path) || allowed(testsAlone[name], path) {
				t.Errorf("a test of %s imports %s", name, path)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range listPackages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = ""
		}
		if len(p.GoFiles) > 0 && (p.Doc == "" || !strings.HasPrefix(p.Doc, want)) {
			t.Errorf("the package comment of %s is %q", p.ImportPath, p.Doc)
		}
	}
}

// The words of the kernel are the words of this project; and its text knows no
// machine but the reader's.
func TestWordsOfTheTree(t *testing.T) {
	forbidden := map[*regexp.Regexp]string{
		regexp.MustCompile(`(?i)\b(promote[ds]?|tombstones?|overlayed)\b`): "say copy up, whiteout, merged",
		regexp.MustCompile(`/(root|home)/[a-z]+/go\b|/root/go\b`):          "a path of one machine",
		regexp.MustCompile(`(?i)\b(TODO|FIXME|XXX)\b`):                     "write it down where it will be found, or do it",
		regexp.MustCompile(`^(<<<<<<<|>>>>>>>) `):                          "a merge that is not finished",
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".git") || d.Name() == "fuzz") {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || path == ".git" || path == "deps_test.go" || strings.HasSuffix(path, ".sum") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil || bytes.IndexByte(text, 0) >= 0 { // a program, a picture
			return err
		}
		n := 0
		for line := range bytes.Lines(text) {
			n++
			for re, why := range forbidden {
				if found := re.Find(line); found != nil {
					t.Errorf("%s:%d: %q: %s", path, n, found, why)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
