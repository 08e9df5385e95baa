package overlaytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// imageSizes are the smallest that the mkfs programs take, or a little more.
var imageSizes = map[string]int64{"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}

// Filesystem mounts a new file system of a kind, ext4, xfs, btrfs or tmpfs,
// until the test ends, and returns the directory where it is. Access times are
// kept strictly there, so that a read of a lower which leaves one is seen.
func Filesystem(t testing.TB, kind string) string {
	t.Helper()
	dir := mountPoint(t)
	if kind == "tmpfs" {
		mountNew(t, dir, "-t", "tmpfs", "-o", "size=512m,strictatime", "tmpfs")
		return dir
	}
	// The image is in memory: it costs what is written, and a sync nothing.
	image := filepath.Join(memory(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, imageSizes[kind]); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs."+kind, "-q", image)
	mountNew(t, dir, "-t", kind, "-o", "loop,strictatime", image)
	// What mkfs leaves in the root is none of a layer's; a directory below is.
	sub := filepath.Join(dir, "t")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	return sub
}

// memory mounts a tmpfs for an image. It is only detached at the end: the loop
// device lets go of the image a little after the unmount that frees it.
func memory(t testing.TB) string {
	t.Helper()
	dir := mountPoint(t)
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", dir).CombinedOutput()
	Need(t, err == nil, "a mount: %v: %s", err, out)
	t.Cleanup(func() {
		if err := detach(dir); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Image mounts a read-only file system of a kind, squashfs or erofs, that
// holds what tree holds, until the test ends, and returns the directory where
// it is.
func Image(t testing.TB, kind, tree string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	switch kind {
	case "squashfs":
		run(t, "mksquashfs", tree, image, "-quiet", "-no-progress", "-xattrs")
	case "erofs":
		run(t, "mkfs.erofs", "--quiet", image, tree)
	default:
		t.Fatalf("no read-only file system %q", kind)
	}
	dir := mountPoint(t)
	mountNew(t, dir, "-t", kind, "-o", "loop,ro", image)
	return dir
}

func mountPoint(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	// Not in t.TempDir, whose removal would go into what is still mounted if
	// an unmount failed.
	dir, err := os.MkdirTemp("", "overlaytest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("mount point: %v", err)
		}
	})
	return dir
}

// mountNew mounts with mount(8), which sets loop devices up and has them
// vanish with the mount.
func mountNew(t testing.TB, dir string, args ...string) {
	t.Helper()
	out, err := exec.Command("mount", append(args, dir)...).CombinedOutput()
	Need(t, err == nil, "a mount: mount %s: %v: %s", strings.Join(args, " "), err, out)
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// run runs a program that a test cannot do without.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	_, err := exec.LookPath(name)
	Need(t, err == nil, "the program %s", name)
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Within makes new directories in dir, for a Run's Base.
func Within(dir string) func(t testing.TB) string {
	return func(t testing.TB) string {
		t.Helper()
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(sub); err != nil {
				t.Errorf("layers: %v", err)
			}
		})
		return sub
	}
}
