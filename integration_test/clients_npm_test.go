package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"overdav/overlay/overlaytest"
)

// The package webdav of npm, which is in many programs that speak WebDAV from
// JavaScript. Its version and those of what it uses are in package-lock.json.
func TestNpmWebdav(t *testing.T) {
	needProgram(t, "node", "npm")
	dir := openDir(t)
	if err := os.CopyFS(dir, os.DirFS("npm")); err != nil {
		t.Fatal(err)
	}
	install := exec.Command("npm", "ci", "--prefer-offline") // with the tester's own cache and settings
	install.Dir = dir
	out, err := runFor(clientGiveUp, install)
	overlaytest.Need(t, err == nil, "what npm ci installs: %s", npmError(out, err))

	s, l := shareFor(t)
	node := exec.Command("node", "--test", "--test-reporter=tap", filepath.Join(dir, "webdav.mjs"))
	node.Dir = dir
	node.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "URL=" + s.base}
	run(t, node)
	s.finish(l, fileLine("a", "everybody's")+
		fileLine("big", string(overdavs(1<<20)))+
		fileLine("bytes", "\x00\x01\xfe\xff")+
		`"copy"/
"copy/er"/
"copy/er/file" = "in it"
"copy/er/still"/
"deep"/
"deep/er"/
"deep/er/file" = "in it"
"deep/er/still"/
"new" = "new"
"numbers" = "012xyz6789"
"papers"/
"papers/b" = "tWo"
"papers/deep"/
"papers/deep/c" = "three"
"shallow"/
"sp ace %41+#&é" = "newer"
`)
}

// npmError is the first line of what npm says that tells of an error.
func npmError(out string, err error) string {
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "npm error "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return fmt.Sprint(err)
}

// overdavs is what webdav.mjs writes to the file big.
func overdavs(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = "overdav "[i%8]
	}
	return b
}
