package at

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// An open file gets a name both as such and by way of /proc, over no other one,
// and a directory that is gone does not pass for a kernel that refuses the former.
func TestLinkOfAnOpenFile(t *testing.T) {
	defer linksByName.Store(linksByName.Load())
	for _, byName := range []bool{false, true} {
		linksByName.Store(byName)
		name := t.TempDir()
		if err := os.Mkdir(filepath.Join(name, "gone"), 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := OpenRW(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		gone, err := d.OpenRWDir("gone")
		if err != nil {
			t.Fatal(err)
		}
		defer gone.Close()
		f, err := d.Tmpfile(0o600)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			t.Skip("the file system has no files without a name")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := d.Rmdir("gone"); err != nil {
			t.Fatal(err)
		}
		if err := f.Link(gone, "a"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("into a directory that is gone: %v", err)
		}
		if linksByName.Load() != byName {
			t.Error("a directory that is gone passes for a kernel that refuses")
		}
		if _, err := f.Write([]byte("content")); err != nil {
			t.Fatal(err)
		}
		if err := f.Link(d, "a"); err != nil {
			t.Fatal(err)
		}
		if err := f.Link(d, "a"); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("over a name that is there: %v", err)
		}
		if got, err := os.ReadFile(filepath.Join(name, "a")); err != nil || string(got) != "content" {
			t.Errorf("shows %q, %v", got, err)
		}
	}
}
