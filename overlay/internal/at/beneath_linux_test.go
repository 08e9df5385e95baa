package at

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// No call follows a link, whatever it leads to, or leaves its directory: without
// luck what davfs's test of links that come and go can only hope to meet. Each
// flag that says so to the kernel was taken away once to see this fail, but for
// those that another one includes: RESOLVE_NO_MAGICLINKS beside RESOLVE_NO_SYMLINKS,
// and O_NOFOLLOW beside O_EXCL.
func TestNothingIsFollowed(t *testing.T) {
	base := t.TempDir()
	layer := filepath.Join(base, "layer")
	for _, dir := range []string{"layer/d/e", "outside"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(base, "outside/f")
	for _, file := range []string{target, filepath.Join(layer, "f")} {
		if err := os.WriteFile(file, []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	links := map[string]string{
		"in": "d", "infile": "f", "out": "../outside", "outfile": "../outside/f",
		"abs": filepath.Join(base, "outside"), "absfile": target, "magic": fmt.Sprintf("/proc/self/fd/%d", open.Fd()), "gone": "none",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(layer, name)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := OpenRW(layer, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	want := func(what string, err error, errnos ...syscall.Errno) {
		t.Helper()
		for _, errno := range errnos {
			if errors.Is(err, errno) {
				return
			}
		}
		t.Errorf("%s: %v, want %v", what, err, errnos)
	}
	other := os.Getuid()
	if other == 0 {
		other = 1 // who is not root can give nothing away
	}
	for name := range links {
		_, err := d.OpenDir(name)
		want("OpenDir "+name, err, unix.ENOTDIR)
		_, err = d.OpenPath(name + "/e")
		want("OpenPath through "+name, err, unix.ELOOP)
		_, err = d.OpenFile(name)
		want("OpenFile "+name, err, unix.ELOOP)
		_, err = d.OpenWrite(name)
		want("OpenWrite "+name, err, unix.ELOOP)
		_, err = d.Create(name, 0o644)
		want("Create "+name, err, unix.EEXIST)
		_, err = d.Lock(name)
		want("Lock "+name, err, unix.ELOOP)
		want("Chmod "+name, d.Chmod(name, 0o600), unix.EOPNOTSUPP)
		if err := d.SetTimes(name, time.Unix(1, 0), time.Unix(1, 0)); err != nil { // the link's own
			t.Errorf("SetTimes %s: %v", name, err)
		}
		if err := d.Chown(name, other, -1); err != nil {
			t.Errorf("Chown %s: %v", name, err)
		}
		var st Stat
		if err := d.Stat(name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("Stat %s: modes %o, %v", name, st.Mode, err)
		}
	}
	for _, path := range []string{"..", "d/../..", "d/../../outside", base} {
		_, err := d.OpenPath(path)
		want("OpenPath "+path, err, unix.EXDEV)
	}
	for _, file := range []string{target, filepath.Join(layer, "f"), filepath.Join(layer, "d")} {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm()&0o044 != 0o044 || info.ModTime().Equal(time.Unix(1, 0)) ||
			info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
			t.Errorf("%s has changed: %+v, %v", file, info, err)
		}
	}
	want("a mount", openIn(t, "/", "proc"), unix.EXDEV)
	want("a link of /proc", openIn(t, "/proc/self", "cwd"), unix.ENOTDIR)
}

func openIn(t *testing.T, dir, name string) error {
	inner, err := mustOpen(t, dir).OpenDir(name)
	if err == nil {
		inner.Close()
	}
	return err
}

// Attributes are those of a link, not of what it leads to.
func TestAttributesAreTheLinksOwn(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "f"), filepath.Join(dir, "l")
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Symlink("f", link)); err != nil {
		t.Fatal(err)
	}
	const attr = "user.overdav.test"
	if err := unix.Setxattr(file, attr, []byte("1"), 0); err != nil {
		t.Skipf("no attributes here: %v", err)
	}
	d, err := OpenRW(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if value, err := d.Getxattr("l", attr); err == nil {
		t.Errorf("Getxattr of a link: %q", value)
	}
	if names, err := d.Listxattr("l"); len(names) > 0 {
		t.Errorf("Listxattr of a link: %q, %v", names, err)
	}
	if err := d.Setxattr("l", attr, []byte("2")); err == nil {
		t.Error("Setxattr of a link")
	}
	if err := d.Removexattr("l", attr); err == nil {
		t.Error("Removexattr of a link")
	}
	if value, err := d.Getxattr("f", attr); err != nil || string(value) != "1" {
		t.Errorf("the file has %q, %v", value, err)
	}
}
