package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With a configuration every upper is unlocked, and one that is in use keeps none
// of the others from it.
func TestUnlockOfEveryShare(t *testing.T) {
	dir := t.TempDir()
	mkdir := func(name string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	lower := mkdir("lower")
	mkdir("own/upper")
	mkdir("idle/upper")
	users := mkdir("users")
	file := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(`
anonymous: true
shares:
  - { path: /own, lower: [%[1]s], upper: %[2]s/own/upper }
  - { path: /users, lower: [%[1]s], upper: "%[3]s/{user}/upper" }
  - { path: /idle, lower: [%[1]s], upper: %[2]s/idle/upper }
  - { path: /view, lower: [%[1]s], read_only: true }
`, lower, dir, users)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	works := []string{"own/work", "users/alice/work", "users/bob/work"}
	for _, work := range works { // as a crash leaves them
		mkdir(filepath.Join(filepath.Dir(work), "upper"))
		mkdir(work + "/overdav")
		mkdir(filepath.Join(work, "work", "incompat", "overdav"))
	}
	guarded := func() (left []string) {
		t.Helper()
		for _, work := range works {
			if _, err := os.Stat(filepath.Join(dir, work, "work/incompat")); err == nil {
				left = append(left, work)
			} else if !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		return left
	}
	unlock := func(status int, words ...string) {
		t.Helper()
		var out strings.Builder
		if got := run(env{getenv: getenv(), stdout: &out, stderr: &out}, []string{"unlock", "--config", file}); got != status {
			t.Errorf("status %d, want %d: %s", got, status, &out)
		}
		for _, word := range words {
			if !strings.Contains(out.String(), word) {
				t.Errorf("it says %q, nothing of %q", &out, word)
			}
		}
	}

	c, err := configure("serve", []string{"--config", file}, getenv(), nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := newShares(c, "", discardLog())
	if err != nil {
		t.Fatal(err)
	}
	wantAs(t, all.at("/users"), 201, "bob", "PUT", "/users/new", "served", "")
	unlock(1, "unlocked "+dir+"/own/upper", "unlocked "+users+"/alice/upper", "share /users: user bob: ", "idle/upper was never served")
	if left := guarded(); len(left) != 1 || left[0] != "users/bob/work" {
		t.Errorf("while bob's is served, locked are %q", left)
	}
	if err := all.close(); err != nil {
		t.Fatal(err)
	}
	mkdir("users/bob/work/work/incompat/overdav")
	unlock(0, "unlocked "+users+"/bob/upper")
	if left := guarded(); len(left) > 0 {
		t.Errorf("in the end locked are %q", left)
	}
	if _, err := fs.Stat(os.DirFS(dir), "idle/work"); !os.IsNotExist(err) {
		t.Errorf("a work directory was made for who never served: %v", err)
	}
}
