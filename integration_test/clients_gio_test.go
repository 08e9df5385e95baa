package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// needGio skips or fails a test that cannot run GNOME's command line.
func needGio(t *testing.T) {
	t.Helper()
	needProgram(t, "gio", "dbus-run-session")
	overlaytest.Need(t, exists("/usr/libexec/gvfsd-dav") || exists("/usr/lib/gvfs/gvfsd-dav"), "gvfs-backends (make deps)")
}

// gio runs a script in a session of its own, with the share mounted as $URL.
func (s *server) gio(text string) string {
	s.t.Helper()
	dir := openDir(s.t)
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	// The session's end ends gvfsd, and the mount with it, also after a failure.
	cmd := exec.Command("dbus-run-session", "--", "sh", "-eu", "-c", `gio mount "$URL/"`+text+`gio mount -u "$URL/"`)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "XDG_RUNTIME_DIR=" + dir + "/run",
		"URL=" + strings.Replace(s.base, "http:", "dav:", 1), "GIO_USE_VFS=gvfs", "GVFS_DISABLE_FUSE=1",
	}
	return run(s.t, cmd)
}

// GNOME Files' back end, by its command line.
func TestGio(t *testing.T) {
	needGio(t)
	s, l := shareFor(t)
	out := s.gio(`
		test "$(gio cat "$URL/docs/deep/c")" = three
		gio list "$URL/"
		gio info -a standard::size,etag::value,time::modified "$URL/docs/b"
		seq 10000 > local
		gio copy local "$URL/local"
		gio copy "$URL/local" back
		cmp local back
		gio copy "$URL/sp%20ace%20%2541+%23&%C3%A9" out
		test "$(cat out)" = odd
		gio mkdir "$URL/made"
		gio mkdir "$URL/made/deep" "$URL/made/deep/er"
		gio move "$URL/local" "$URL/made/local"
		gio rename "$URL/docs" papers
		gio copy "$URL/papers/b" "$URL/made/b"
		gio rename "$URL/papers/b" deep && exit 1
		gio remove "$URL/a"
		gio remove "$URL/old" && exit 1 # not empty
		gio remove "$URL/old/x" "$URL/old/y" "$URL/old"
		echo saved | gio save "$URL/papers/b"
		etag=$(gio info -a etag::value "$URL/papers/b" | sed -n 's/.*etag::value: //p')
		echo lost | gio save --etag='"another"' "$URL/papers/b" && exit 1
		echo saved again | gio save --etag="$etag" "$URL/papers/b"
	`)
	for _, want := range []string{"\nsp ace %41+#&é\n", "standard::size: 3", "etag::value: \"", "time::modified: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in what gio says\n%s", want, out)
		}
	}
	s.finish(l, `"made"/
"made/b" = "two"
"made/deep"/
"made/deep/er"/
`+fileLine("made/local", seq(1, 10000))+`"papers"/
"papers/b" = "saved again\n"
"papers/deep"/
"papers/deep/c" = "three"
"sp ace %41+#&é" = "odd"
`)
}

// What GNOME says is free is what the disk under upper has.
func TestGioDf(t *testing.T) {
	needGio(t)
	overlaytest.NeedRoot(t) // for a disk of its own
	l, _ := newDisk(t, "size=64m")
	s := serve(t, flagsOf(l)...)
	s.must(http.StatusCreated, "PUT", "ten", strings.Repeat("x", 10<<20))
	out := s.gio(`
		gio info -f "$URL/"
	`)
	var disk syscall.Statfs_t
	if err := syscall.Statfs(l.Upper, &disk); err != nil {
		t.Fatal(err)
	}
	for key, blocks := range map[string]uint64{"used": disk.Blocks - disk.Bfree, "free": disk.Bavail} {
		if want := fmt.Sprintf("filesystem::%s: %d\n", key, blocks*uint64(disk.Bsize)); !strings.Contains(out, want) {
			t.Errorf("gio says %s, want %s", out, want)
		}
	}
	s.finish(l, s.tree())
}
