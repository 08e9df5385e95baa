package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"overdav/overlay/overlaytest"
)

// rcloneEnv is a configuration with one remote, "dav:".
func rcloneEnv(s *server, vendor string) []string {
	return []string{
		"RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_DAV_TYPE=webdav", "RCLONE_CONFIG_DAV_VENDOR=" + vendor,
		"RCLONE_CONFIG_DAV_URL=" + s.base, "TZ=UTC",
	}
}

func TestRclone(t *testing.T) {
	needProgram(t, "rclone")
	s, l := shareFor(t)
	dir := openDir(t)
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
	`, rcloneEnv(s, "other")...))
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
		grep Copied second && exit 1 || true
	`, rcloneEnv(s, "owncloud")...))
	if strings.Contains(out, "could not be checked") || !strings.Contains(out, "20 matching files") {
		t.Errorf("rclone says\n%s", out)
	}
	want := ""
	for i := range 20 {
		want += fmt.Sprintf("\"%d\" = \"%d\\n\"\n", i+1, i+1)
	}
	s.finish(l, sortLines(want))
}

// What the server copies and moves itself keeps its times and sums.
func TestRcloneOnTheServerSide(t *testing.T) {
	needProgram(t, "rclone")
	s, l := shareFor(t)
	out := run(t, script(openDir(t), `
		mkdir -p tree/deep
		echo one > tree/one
		echo two > tree/deep/two
		touch -d "2019-01-01 12:00" tree/one tree/deep/two
		rclone copy tree dav:tree
		rclone copy -v dav:tree dav:copy 2>&1 | tee log
		test "$(grep -c "Copied (server-side copy)" log)" = 2
		rclone deletefile dav:a
		rclone copyto dav:tree/one dav:a # where a lower's file was; 1.60 replaces none
		rclone check tree dav:copy 2>&1 | tee log
		grep "could not be checked" log && exit 1
		rclone moveto -v dav:copy/one dav:copy/moved 2>&1 | grep "Moved (server-side)"
		rclone move -v dav:docs dav:papers 2>&1 | grep "Server side directory move succeeded"
		rclone purge dav:old
		rclone mkdir dav:x/y/z
		rclone rmdirs dav:x
		echo streamed | rclone rcat dav:streamed
		rclone touch -t 2020-01-02T03:04:05 dav:touched
		rclone hashsum md5 dav:copy
		rclone lsf --format tp --csv --recursive --files-only --include "/{a,touched,copy/**}" dav:
	`, rcloneEnv(s, "owncloud")...))
	for _, want := range []string{
		"5bbf5a52328e7439ae6e719dfe712200  moved", "c193497a1a06b2c72230e6146ff47080  deep/two",
		"2019-01-01 12:00:00,copy/moved", "2019-01-01 12:00:00,a", "2020-01-02 03:04:05,touched",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in what rclone says\n%s", want, out)
		}
	}
	s.finish(l, `"a" = "one\n"
"copy"/
"copy/deep"/
"copy/deep/two" = "two\n"
"copy/moved" = "one\n"
"papers"/
"papers/b" = "two"
"papers/deep"/
"papers/deep/c" = "three"
"sp ace %41+#&é" = "odd"
"streamed" = "streamed\n"
"touched" = ""
"tree"/
"tree/deep"/
"tree/deep/two" = "two\n"
"tree/one" = "one\n"
`)
}

// What rclone says is free is what the disk under upper has.
func TestRcloneAbout(t *testing.T) {
	needProgram(t, "rclone")
	overlaytest.NeedRoot(t) // for a disk of its own
	l, _ := newDisk(t, "size=64m")
	s := serve(t, flagsOf(l)...)
	s.must(http.StatusCreated, "PUT", "ten", strings.Repeat("x", 10<<20))
	out := run(t, script(openDir(t), `rclone about --json dav:`, rcloneEnv(s, "owncloud")...))
	var disk syscall.Statfs_t
	if err := syscall.Statfs(l.Upper, &disk); err != nil {
		t.Fatal(err)
	}
	for key, blocks := range map[string]uint64{"used": disk.Blocks - disk.Bfree, "free": disk.Bavail} {
		if want := fmt.Sprintf("%q: %d", key, blocks*uint64(disk.Bsize)); !strings.Contains(out, want) {
			t.Errorf("rclone says %s, want %s", out, want)
		}
	}
	s.finish(l, s.tree())
}

// mountRclone mounts dav: on dir/mnt. What is written is uploaded one second
// later, and only while it is mounted.
func mountRclone(t *testing.T, dir string, env []string) (unmount func()) {
	t.Helper()
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rclone", "mount", "dav:", mnt, "--vfs-cache-mode", "writes", "--vfs-write-back", "1s",
		"--cache-dir", filepath.Join(dir, "cache"))
	cmd.Env = append(script(dir, "").Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // ProcessState tells
		close(ended)
	}()
	var once bool
	unmount = func() {
		if once {
			return
		}
		once = true
		run(t, script(dir, "fusermount3 -u mnt || umount -l mnt"))
		select {
		case <-ended:
		case <-time.After(giveUp):
			_ = cmd.Process.Kill() // it has ended, or is to
			t.Fatal("rclone does not end")
		}
		if !cmd.ProcessState.Success() {
			t.Errorf("rclone mount: %v\n%s", cmd.ProcessState, said.String())
		}
	}
	t.Cleanup(unmount)
	for began := time.Now(); !isMountPoint(t, mnt); {
		select {
		case <-ended:
			once = true
			t.Fatalf("rclone mount: %v\n%s", cmd.ProcessState, said.String())
		case <-time.After(10 * time.Millisecond): // until looking again
		}
		if time.Since(began) > giveUp {
			t.Fatalf("rclone does not mount\n%s", said.String())
		}
	}
	return unmount
}

func isMountPoint(t *testing.T, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+dir+" ")
}

// Programs write through a mount by rclone, which caches writes and never
// locks.
func TestRcloneMount(t *testing.T) {
	needProgram(t, "rclone", "fusermount3")
	overlaytest.Need(t, exists("/dev/fuse"), "/dev/fuse")
	s, l := shareFor(t)
	dir := openDir(t)
	env := rcloneEnv(s, "owncloud")
	unmount := mountRclone(t, dir, env)
	out := run(t, script(dir, `
		cd mnt
		test "$(cat docs/deep/c)" = three
		test "$(cat "sp ace %41+#&é")" = odd
		echo new > new
		echo more >> a
		mkdir made
		mv new made/renamed
		mv docs made/docs
		rm -r old
		exec 3> open
		echo 1 >&3
		mv open renamed
		echo 2 >&3
		exec 3>&-
		echo 2 > made/docs/b
		seq 100000 > numbers
		dd if=numbers bs=1 skip=300000 count=10 2>/dev/null
		for i in $(seq 31); do echo $i > made/$i; done
		rm made/31
		touch -d "2015-01-01 12:00" made/1
		df -B1 --output=avail . | tail -n 1
	`, "TZ=UTC"))
	numbers := seq(1, 100000)
	free, ok := strings.CutPrefix(out, numbers[300000:300010])
	if n, err := strconv.ParseUint(strings.TrimSpace(free), 10, 64); !ok || err != nil || n == 0 {
		t.Errorf("the mount says %q, want what is in the middle of numbers and what is free", out)
	}
	want := `"a" = "onemore\n"
"made"/
"made/docs"/
"made/docs/b" = "2\n"
"made/docs/deep"/
"made/docs/deep/c" = "three"
"made/renamed" = "new\n"
"renamed" = "1\n2\n"
"sp ace %41+#&é" = "odd"
` + fileLine("numbers", numbers)
	for i := range 30 {
		want += fmt.Sprintf("\"made/%d\" = \"%d\\n\"\n", i+1, i+1)
	}
	s.await(sortLines(want))
	unmount()
	s.finish(l, sortLines(want))
	info, err := os.Stat(filepath.Join(l.Upper, "made/1"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.ModTime(), time.Date(2015, 1, 1, 12, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("the time that was set is %v, want %v", got, want)
	}
}

// await waits until the share shows want, or for giveUp.
func (s *server) await(want string) {
	s.t.Helper()
	for began := time.Now(); s.tree() != want && time.Since(began) < giveUp; {
		time.Sleep(50 * time.Millisecond) // until looking again
	}
}

// seq is what the program seq prints.
func seq(first, last int) string {
	var b strings.Builder
	for i := first; i <= last; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}
