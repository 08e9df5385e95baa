package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
		echo short | curl -T - "$URL/a" # chunked
		curl -X MKCOL "$URL/dir"
		curl -X MOVE -H "Destination: $URL/dir/docs" "$URL/docs"
		curl -X DELETE "$URL/old"
		curl -X DELETE "$URL/numbers"
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

func TestRclone(t *testing.T) {
	needProgram(t, "rclone")
	s, l := shareFor(t)
	dir := openDir(t)
	env := []string{
		"RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_DAV_TYPE=webdav", "RCLONE_CONFIG_DAV_VENDOR=other",
		"RCLONE_CONFIG_DAV_URL=" + s.base,
	}
	run(t, script(dir, `
		rclone copy dav: down
		cat "down/sp ace %41+#&é"
		rm -r down/old
		mkdir -p down/many/empty
		for i in $(seq 50); do echo $i > down/many/$i; done
		echo changed, and longer > down/a
		rclone sync --create-empty-src-dirs down dav:
		rclone check --download down dav:
		rclone moveto dav:docs/b dav:many/b
		rclone purge dav:docs
	`, env...))
	want := `"a" = "changed, and longer\n"
"many"/
"many/b" = "two"
"many/empty"/
"sp ace %41+#&é" = "odd"
`
	for i := range 50 {
		want += fmt.Sprintf("\"many/%d\" = \"%d\\n\"\n", i+1, i+1)
	}
	s.finish(l, sortLines(want))
}

// With vendor owncloud rclone sets times and knows sums: what is unchanged is
// not sent again, and check compares without reading.
func TestRcloneOwncloudSendsNothingTwice(t *testing.T) {
	needProgram(t, "rclone")
	l, args := newShare(t)
	s := serve(t, args...)
	out := run(t, script(openDir(t), `
		mkdir tree
		for i in $(seq 20); do echo $i > tree/$i; touch -d "2020-01-$i 12:00" tree/$i; done
		rclone -q sync tree dav:
		rclone -v --stats-one-line sync tree dav: 2>&1 | tee second
		rclone -v check tree dav: 2>&1
		! grep Copied second
	`, "RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_DAV_TYPE=webdav", "RCLONE_CONFIG_DAV_VENDOR=owncloud", "RCLONE_CONFIG_DAV_URL="+s.base))
	if strings.Contains(out, "could not be checked") || !strings.Contains(out, "20 matching files") {
		t.Errorf("rclone says\n%s", out)
	}
	want := ""
	for i := range 20 {
		want += fmt.Sprintf("\"%d\" = \"%d\\n\"\n", i+1, i+1)
	}
	s.finish(l, sortLines(want))
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

// GNOME Files' back end, by its command line.
func TestGio(t *testing.T) {
	needProgram(t, "gio", "dbus-run-session")
	overlaytest.Need(t, exists("/usr/libexec/gvfsd-dav") || exists("/usr/lib/gvfs/gvfsd-dav"), "gvfs-backends (make deps)")
	s, l := shareFor(t)
	dir := openDir(t)
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-run-session", "--", "sh", "-eu", "-c", `
		gio mount "$URL/"
		test "$(gio cat "$URL/docs/deep/c")" = three
		echo local > local
		gio copy local "$URL/local"
		gio mkdir "$URL/made"
		gio move "$URL/local" "$URL/made/local"
		gio rename "$URL/docs" papers
		gio copy "$URL/papers/b" "$URL/made/b"
		gio remove "$URL/a"
		echo saved | gio save "$URL/papers/b"
		gio mount -u "$URL/"
	`)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "XDG_RUNTIME_DIR=" + dir + "/run",
		"URL=" + strings.Replace(s.base, "http:", "dav:", 1), "GIO_USE_VFS=gvfs", "GVFS_DISABLE_FUSE=1",
	}
	run(t, cmd)
	s.finish(l, `"made"/
"made/b" = "two"
"made/local" = "local\n"
"old"/
"old/x" = "1"
"old/y" = "2"
"papers"/
"papers/b" = "saved\n"
"papers/deep"/
"papers/deep/c" = "three"
"sp ace %41+#&é" = "odd"
`)
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
