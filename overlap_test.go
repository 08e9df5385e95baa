package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// Lowers that another share changes are named at the start and by config check,
// and refused by neither.
func TestLowersThatOthersChangeAreToldOf(t *testing.T) {
	for name, test := range map[string]struct {
		shares string
		want   []string // "the share, its lower, and the share that changes it"
	}{
		"apart":              {"{ path: /a, lower: [one], upper: up }, { path: /b, lower: [one, two], upper: up2 }", nil},
		"the upper":          {"{ path: /a, lower: [one], upper: up }, { path: /b, lower: [two, up], upper: up2 }", []string{"/b 2 /a"}},
		"the work":           {"{ path: /a, lower: [one], upper: up, work: w }, { path: /b, lower: [w], upper: up2 }", []string{"/b 1 /a"}},
		"what holds both":    {"{ path: /a, lower: [one], upper: in/up, work: in/w }, { path: /b, lower: [in], read_only: true }", []string{"/b 1 /a"}},
		"something in it":    {"{ path: /b, lower: [up/deep], read_only: true }, { path: /a, lower: [one], upper: up }", []string{"/b 1 /a"}},
		"by a symlink":       {"{ path: /a, lower: [one], upper: up }, { path: /b, lower: [link], read_only: true }", []string{"/b 1 /a"}},
		"a user's":           {"{ path: /a, lower: [one], upper: 'users/{user}/upper' }, { path: /b, lower: [users/bob/upper], read_only: true }", []string{"/b 1 /a"}},
		"all users'":         {"{ path: /a, lower: [one], upper: 'users/{user}/upper' }, { path: /b, lower: [users], read_only: true }", []string{"/b 1 /a"}},
		"of nobody's":        {"{ path: /a, lower: [one], upper: up, read_only: true }, { path: /b, lower: [up], read_only: true }", nil},
		"each other's":       {"{ path: /a, lower: [up2], upper: up }, { path: /b, lower: [up], upper: up2 }", []string{"/a 1 /b", "/b 1 /a"}},
		"a name that begins": {"{ path: /a, lower: [one], upper: up }, { path: /b, lower: [up2], read_only: true }", nil},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeConfig(t, "shares: ["+test.shares+"]\n")
			dir := filepath.Dir(file)
			for _, sub := range []string{"one", "two", "up", "up/deep", "up2", "w", "in", "in/up", "in/w", "users", "users/bob", "users/bob/upper"} {
				mustMkdir(t, dir, sub)
			}
			if err := os.Symlink("up", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			c, o := defaultConfig(), make(origins)
			if mistakes, err := loadFile(file, &c, o); err != nil || len(mistakes) > 0 {
				t.Fatal(mistakes, err)
			}
			all, err := newShares(c, "", discardLog())
			if err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			all.warnOfOverlaps(zerolog.New(&said))
			var out bytes.Buffer
			status := run(env{getenv: getenv("HOME", dir), stdout: &out, stderr: &out}, []string{"config", "check", "--config", file})
			if status != 0 {
				t.Errorf("config check: status %d", status)
			}
			for _, want := range test.want {
				var share, other string
				var lower int
				fmt.Sscan(want, &share, &lower, &other)
				if line := fmt.Sprintf(`"share":%q,"layer":"lower %d","changer":%q`, share, lower, other); !strings.Contains(said.String(), line) {
					t.Errorf("the log does not say %s: %s", line, said.String())
				}
				if line := fmt.Sprintf("but lower %d of share %s overlaps ", lower, share); !strings.Contains(out.String(), line) || !strings.Contains(out.String(), "which share "+other+" changes") {
					t.Errorf("config check does not say %s: %s", line, out.String())
				}
			}
			if n, m := strings.Count(said.String(), "\n"), strings.Count(out.String(), "\n")-1; n != len(test.want) || m != n {
				t.Errorf("want %q\nlogged: %s\nsaid: %s", test.want, said.String(), out.String())
			}
		})
	}
}
