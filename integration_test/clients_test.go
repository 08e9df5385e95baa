package integration_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// shareFor serves demo to a client; its view at the end must be the kernel's.
func shareFor(t *testing.T) (*server, overlaytest.Layers) {
	t.Helper()
	l, args := newShare(t)
	return serve(t, args...), l
}

// finish stops the server and compares its last view with the kernel's.
func (s *server) finish(l overlaytest.Layers, want string) {
	s.t.Helper()
	sameTree(s.t, "what overdav shows", s.tree(), want)
	s.stop()
	stagingIsEmpty(s.t, l)
	if os.Geteuid() != 0 {
		return // an ordinary user's upper is looked at in user_test.go
	}
	mnt, unmount := overlaytest.KernelMount(s.t, l)
	defer unmount()
	sameTree(s.t, "what the kernel shows", diskTree(s.t, mnt), want)
}

// newDisk makes layers with demo as their lower on a disk of their own, in memory,
// which is mounted at point; options are those of tmpfs(5).
func newDisk(t *testing.T, options string) (l overlaytest.Layers, point string) {
	t.Helper()
	point = openDir(t)
	if err := syscall.Mount("overdav-test", point, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	l = overlaytest.NewLayers(t, point, demo)
	overlaytest.LowersUnchanged(t, l.Lowers...)
	return l, point
}

func script(dir, text string, env ...string) *exec.Cmd {
	cmd := exec.Command("sh", "-eu", "-c", text)
	cmd.Dir = dir
	cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C.UTF-8"}, env...)
	return cmd
}

func TestCurl(t *testing.T) {
	needProgram(t, "curl")
	s, l := shareFor(t)
	dir := openDir(t)
	run(t, script(dir, `
		seq 20000 > numbers
		curl() { command curl -sS --fail "$@"; }
		curl -T numbers "$URL/numbers"
		curl -o back "$URL/numbers"
		cmp numbers back
		curl -r 100-199 -o part "$URL/numbers"
		dd if=numbers bs=1 skip=100 count=100 2>/dev/null | cmp - part
		head -c 1000 numbers > resumed
		curl -C - -o resumed "$URL/numbers"
		cmp numbers resumed
		head -c 1000 numbers > part
		curl -T part "$URL/part"
		curl -C 1000 -T numbers "$URL/part" # what is missing of it
		curl -o back "$URL/part"
		cmp numbers back
		echo short | curl -T - "$URL/a" # chunked
		curl -X MKCOL "$URL/dir"
		curl -X MOVE -H "Destination: $URL/dir/docs" "$URL/docs"
		curl -X DELETE "$URL/old"
		curl -X DELETE "$URL/numbers"
		curl -X DELETE "$URL/part"
	`, "URL="+s.base))
	s.finish(l, `"a" = "short\n"
"dir"/
"dir/docs"/
"dir/docs/b" = "two"
"dir/docs/deep"/
"dir/docs/deep/c" = "three"
"sp ace %41+#&é" = "odd"
`)
}

func sortLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	lines = lines[:len(lines)-1] // behind the last newline there is nothing
	return strings.Join(slices.Sorted(slices.Values(lines)), "")
}

func TestCadaver(t *testing.T) {
	needProgram(t, "cadaver")
	s, l := shareFor(t)
	dir := openDir(t)
	cmd := script(dir, `echo local > local; cadaver "$URL/" < commands; cat fetched`, "URL="+s.base, "TERM=dumb")
	commands := "put local\nget a fetched\nmkcol made\ncopy docs/ made/docs/\nmove local made/local\ndelete a\nrmcol old\nls made\nquit\n"
	if err := os.WriteFile(filepath.Join(dir, "commands"), []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, cmd)
	if strings.Contains(out, "failed") || !strings.HasSuffix(out, "one") {
		t.Errorf("cadaver says\n%s", out)
	}
	s.finish(l, `"docs"/
"docs/b" = "two"
"docs/deep"/
"docs/deep/c" = "three"
"made"/
"made/docs"/
"made/docs/b" = "two"
"made/docs/deep"/
"made/docs/deep/c" = "three"
"made/local" = "local\n"
"sp ace %41+#&é" = "odd"
`)
}

// Locks of others are seen and can be taken over, and properties of one's own
// go with a file.
func TestCadaverLocksAndProperties(t *testing.T) {
	needProgram(t, "cadaver")
	s, l := shareFor(t)
	s.must(http.StatusOK, "LOCK", "a", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype>`+
		`<owner>somebody else</owner></lockinfo>`, "Timeout", "Second-600")
	dir := openDir(t)
	const commands = `discover a
put mine a
steal a
showlocks
put mine a
unlock a
lock docs/b
discover docs/b
put mine docs/b
unlock docs/b
discover docs/b
propset a colour "light blue"
propget a colour
move a docs/moved
propget docs/moved colour
propdel docs/moved colour
propget docs/moved colour
chexec + docs/moved
quit
`
	if err := os.WriteFile(filepath.Join(dir, "commands"), []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, script(dir, `echo mine > mine; cadaver "$URL/" < commands`, "URL="+s.base, "TERM=dumb"))
	inOrder(t, out, "discover a", "Scope: exclusive  Type: write  Timeout: 600 seconds", "Owner: somebody else",
		"put mine a", "423 Locked", "steal a", "<urn:uuid:", "showlocks", "Owner: somebody else", "put mine a", "succeeded",
		"unlock a", "succeeded", "lock docs/b", "succeeded", "discover docs/b", "Lock token <urn:uuid:", "put mine docs/b", "succeeded",
		"unlock docs/b", "succeeded", "discover docs/b", "no locks found", "propset a", "succeeded", "propget a",
		"Value of colour is: light blue", "move a", "succeeded", "propget docs/moved colour", "Value of colour is: light blue",
		"propdel", "succeeded", "propget docs/moved colour", "404 Not Found", "chexec", "succeeded")
	s.finish(l, `"docs"/
"docs/b" = "mine\n"
"docs/deep"/
"docs/deep/c" = "three"
"docs/moved" = "mine\n"
"old"/
"old/x" = "1"
"old/y" = "2"
"sp ace %41+#&é" = "odd"
`)
	if info, err := os.Stat(filepath.Join(l.Upper, "docs/moved")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("chexec left %v, %v", info, err)
	}
}

// inOrder expects words in text, each after the one before.
func inOrder(t *testing.T, text string, words ...string) {
	t.Helper()
	rest := text
	for _, word := range words {
		_, after, ok := strings.Cut(rest, word)
		if !ok {
			t.Errorf("no %q where it should be in\n%s", word, text)
			return
		}
		rest = after
	}
}

// The outside judge of the protocol. It works in a collection of its own and
// removes it.
func TestLitmus(t *testing.T) {
	needProgram(t, "litmus")
	s, l := shareFor(t)
	before := s.tree()
	out, err := runFor(clientGiveUp, script(openDir(t), `litmus -k "$URL/"`, "URL="+s.base))
	if err != nil || strings.Contains(out, "FAIL") {
		t.Errorf("litmus: %v\n%s", err, out)
	}
	for _, suite := range []string{"basic", "copymove", "props", "locks", "http"} {
		if !strings.Contains(out, "summary for `"+suite+"'") {
			t.Errorf("litmus did not run %s\n%s", suite, out)
		}
	}
	if t.Failed() {
		return
	}
	s.must(http.StatusNoContent, "DELETE", "litmus", "")
	s.finish(l, before)
}
