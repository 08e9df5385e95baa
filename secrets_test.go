package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestSecretsInServedTreesAreToldOf(t *testing.T) {
	for name, test := range map[string]struct {
		file string // the configuration, below the directory
		text string
		want []string // keys and shares
	}{
		"beside the trees": {"", `
tls: { cert: cert, key: key }
auth: { tokens: users/tokens.json }
audit: lower.log
users: [{ name: a, password: HASH }, { htpasswd: users/htpasswd }]
shares: [{ lower: [lower], upper: "users/{user}/upper" }]`, nil},
		"in a lower": {"", `
tls: { cert: lower/cert, key: lower/key, acme: { cache: lower/acme } }
auth: { tokens: lower/deep/tokens.json }
audit: lower/log
users: [{ htpasswd: lower/htpasswd }]
shares: [{ path: /x, lower: [other, lower], read_only: true }]`, []string{"audit /x", "auth.tokens /x", "tls.acme.cache /x", "tls.key /x", "users[].htpasswd /x"}},
		"in uppers": {"", `
auth: { tokens: users/tokens/upper/t }
audit: up/log
users: [{ name: a }]
shares: [{ path: /x, lower: [lower], upper: "users/{user}/upper" }, { path: /y, lower: [lower], upper: up }]`, []string{"audit /y", "auth.tokens /x"}},
		"the configuration": {"lower", `
users: [{ name: a, password: HASH }]
shares: [{ lower: [.], read_only: true }]`, []string{"users[].password /"}},
		"a configuration without passwords": {"lower", `
users: [{ name: a }]
shares: [{ lower: [.], read_only: true }]`, nil},
	} {
		dir := t.TempDir()
		for _, sub := range []string{"lower/deep", "other", "up", "users"} {
			mustMkdir(t, dir, sub)
		}
		file := filepath.Join(dir, test.file, "config.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(test.text, "HASH", hashOfRight)), 0o600); err != nil {
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
		var out bytes.Buffer
		all.warnOfSecrets(c.secrets(file), zerolog.New(&out))
		var got []string
		for _, line := range regexp.MustCompile(`"key":"([^"]*)","share":"([^"]*)"`).FindAllStringSubmatch(out.String(), -1) {
			got = append(got, line[1]+" "+line[2])
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: told of %q, want %q", name, got, test.want)
		}
	}
}
