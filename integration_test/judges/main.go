// Command judges gathers those who judge overdav and lets them speak: it
// installs the programs that the tests run overdav under, and runs all tests,
// as root and as an ordinary user.
//
//	go run ./integration_test/judges deps
//	go run ./integration_test/judges test [go test flags]
//	go run ./integration_test/judges bench DAVBENCH SIZE WORKLOADS
//
// It installs only where it may, that is as root on a machine with apt-get,
// and only what is missing. What it could not install it names; the tests that
// need it are skipped then, and listed at the end with their reasons. With
// CI=true they fail instead.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A judge is something the tests need that Go does not bring.
type judge struct {
	file string // a program, or the name of a file
	deb  string // the Debian package that has it
}

var judges = []judge{
	{"litmus", "litmus"},
	{"rclone", "rclone"},
	{"cadaver", "cadaver"},
	{"curl", "curl"},
	{"mount.davfs", "davfs2"},
	{"gio", "libglib2.0-bin"},
	{"/usr/libexec/gvfsd-dav", "gvfs-backends"},
	{"dbus-run-session", "dbus-daemon"},
	{"chromium", "chromium"},
	{"git", "git"},
	{"zip", "zip"},
	{"unzip", "unzip"},
	{"fusermount3", "fuse3"}, // what rclone mounts with
	{"node", "nodejs"},
	{"npm", "npm"}, // some packages of node have it inside
	{"mkfs.ext4", "e2fsprogs"},
	{"mkfs.xfs", "xfsprogs"},
	{"mkfs.btrfs", "btrfs-progs"},
	{"mksquashfs", "squashfs-tools"},
	{"mkfs.erofs", "erofs-utils"},
	{"getfattr", "attr"},
	{"getfacl", "acl"},
	{"unshare", "util-linux"},
	{"mount", "mount"},
	{"setpriv", "util-linux"},
	{"strace", "strace"},
	{"systemd-analyze", "systemd"},
	{"fail2ban-regex", "fail2ban"},
	{"buildah", "buildah"},
	{"/etc/ssl/certs/ca-certificates.crt", "ca-certificates"},
}

func main() {
	// What Debian puts into sbin is not on everybody's path.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		fail(err)
	}
	verb := strings.Join(os.Args[1:min(2, len(os.Args))], "")
	switch {
	case verb == "bench" && len(os.Args) == 5:
		if err := bench(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fail(err)
		}
		return
	case verb != "deps" && verb != "test":
		fail(fmt.Errorf("usage: judges deps | judges test [go test flags] | judges bench DAVBENCH SIZE WORKLOADS"))
	}
	install(missing())
	for _, j := range missing() {
		fmt.Printf("judges: %s is not installed (Debian package %s); tests that need it are skipped\n", j.file, j.deb)
	}
	if verb == "deps" {
		return
	}
	if err := test(os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "judges:", err)
	os.Exit(1)
}

func missing() []judge {
	return slices.DeleteFunc(slices.Clone(judges), func(j judge) bool {
		if strings.HasPrefix(j.file, "/") {
			_, err := os.Stat(j.file)
			return err == nil
		}
		_, err := exec.LookPath(j.file)
		return err == nil
	})
}

// install installs what is missing, as far as it may. Whether it could is seen
// by looking again.
func install(lack []judge) {
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 || len(lack) == 0 {
		return
	}
	args := []string{"install", "-y", "-q", "--no-install-recommends"}
	for _, j := range lack {
		args = append(args, j.deb)
	}
	fmt.Printf("judges: apt-get %s\n", strings.Join(args, " "))
	out, err := aptGet(args...)
	if err != nil { // the lists may be missing or old, as in a fresh container
		if out, err = aptGet("update", "-q"); err == nil {
			out, err = aptGet(args...)
		}
	}
	if err != nil {
		fmt.Printf("judges: apt-get: %v\n%s", err, out)
	}
}

func aptGet(args ...string) (string, error) {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
