//go:build linux

package overlay_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// listed is what a listing of name tells of each object.
func listed(t *testing.T, fsys *overlay.FS, name string) string {
	t.Helper()
	dir, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	dir.Want("user.prop")
	infos, err := dir.Infos(-1)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for _, info := range infos {
		if _, again := lines[info.Name()]; again {
			t.Errorf("%s is listed twice", info.Name())
		}
		prop := "none"
		if value, err := dir.MemberXattr(info, "user.prop"); err == nil {
			prop = string(value)
		}
		uid, gid := info.Owner()
		lines[info.Name()] = fmt.Sprintf("%s %v size %d mtime %v birth %v owner %d %d links %d blocks %d layer %d tag %s prop %s",
			info.Name(), info.Mode(), info.Size(), info.ModTime(), info.Birth(), uid, gid, info.Links(), info.Blocks(), info.Layer(), info.ETag(), prop)
	}
	var b strings.Builder
	for _, info := range mustReadDir(t, fsys, name) { // the order
		fmt.Fprintln(&b, lines[info.Name()])
	}
	return b.String()
}

func mustReadDir(t *testing.T, fsys *overlay.FS, name string) []*overlay.Info {
	t.Helper()
	infos, err := fsys.ReadDir(name)
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

// A listing is kept while nothing changes. Whatever is changed underneath, by
// whomever and in whichever layer, the next listing is that of somebody who
// keeps nothing.
func TestNextListingShowsWhatChangedUnderneath(t *testing.T) {
	overlaytest.NeedRoot(t)
	changes := map[string]func(upper, lower string) error{
		"a file is written to": func(_, lower string) error { return appendTo(filepath.Join(lower, "d/one")) },
		"a file is cut":        func(_, lower string) error { return os.Truncate(filepath.Join(lower, "d/one"), 1) },
		"a file gets another time": func(_, lower string) error {
			return os.Chtimes(filepath.Join(lower, "d/one"), time.Time{}, time.Unix(1, 0))
		},
		"a file gets another mode":  func(upper, _ string) error { return os.Chmod(filepath.Join(upper, "d/up"), 0o600) },
		"a file gets another owner": func(upper, _ string) error { return os.Lchown(filepath.Join(upper, "d/up"), 7, 8) },
		"a file gets an attribute": func(_, lower string) error {
			return unix.Setxattr(filepath.Join(lower, "d/one"), "user.prop", []byte("value"), 0)
		},
		"a directory gets an attribute": func(_, lower string) error {
			return unix.Setxattr(filepath.Join(lower, "d/sub"), "user.prop", []byte("value"), 0)
		},
		"a file appears in the lower":    func(_, lower string) error { return os.WriteFile(filepath.Join(lower, "d/new"), nil, 0o644) },
		"a file appears in upper":        func(upper, _ string) error { return os.WriteFile(filepath.Join(upper, "d/new"), nil, 0o644) },
		"a file of the lower is covered": func(upper, _ string) error { return os.WriteFile(filepath.Join(upper, "d/one"), nil, 0o644) },
		"a file is removed":              func(_, lower string) error { return os.Remove(filepath.Join(lower, "d/one")) },
		"what covered is removed":        func(upper, _ string) error { return os.Remove(filepath.Join(upper, "d/both")) },
		"a file is renamed": func(_, lower string) error {
			return os.Rename(filepath.Join(lower, "d/one"), filepath.Join(lower, "d/renamed"))
		},
		"a file is replaced": func(_, lower string) error {
			return os.Rename(filepath.Join(lower, "other"), filepath.Join(lower, "d/one"))
		},
		"a whiteout appears": func(upper, _ string) error {
			return unix.Mknod(filepath.Join(upper, "d/one"), syscall.S_IFCHR, 0)
		},
		"a whiteout is removed": func(upper, _ string) error { return os.Remove(filepath.Join(upper, "d/white")) },
		"a file appears in a directory in it": func(_, lower string) error {
			return os.WriteFile(filepath.Join(lower, "d/sub/new"), nil, 0o644)
		},
		"a file is written to by its other name": func(_, lower string) error { return appendTo(filepath.Join(lower, "elsewhere")) },
		"a file gets an attribute by its other name": func(_, lower string) error {
			return unix.Setxattr(filepath.Join(lower, "elsewhere"), "user.prop", []byte("value"), 0)
		},
		"the directory becomes opaque": func(upper, _ string) error {
			return unix.Setxattr(filepath.Join(upper, "d"), "trusted.overlay.opaque", []byte("y"), 0)
		},
		"the directory is another": func(_, lower string) error {
			if err := os.Rename(filepath.Join(lower, "d"), filepath.Join(lower, "was")); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(lower, "d"), 0o755)
		},
		"many files appear": func(_, lower string) error {
			for i := range 3000 {
				if err := os.WriteFile(filepath.Join(lower, "d", fmt.Sprint(i)), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for label, change := range changes {
		t.Run(label, func(t *testing.T) {
			l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/one = one\nd/both = below\nd/white = hidden\nd/linked = linked\nd/sub/\nd/link -> one\nother = other\n")
			overlaytest.Build(t, l.Upper, "d/\nd/up = up\nd/both = above\nd/white whiteout\n")
			lower := l.Lowers[0]
			if err := os.Link(filepath.Join(lower, "d/linked"), filepath.Join(lower, "elsewhere")); err != nil {
				t.Fatal(err)
			}
			fsys := mustOpen(t, options(l))
			first := listed(t, fsys, "d")
			for range 2 {
				if again := listed(t, fsys, "d"); again != first {
					t.Fatalf("nothing changed; got\n%s\nwant\n%s", again, first)
				}
			}
			if err := change(l.Upper, lower); err != nil {
				t.Fatal(err)
			}
			fresh := mustOpen(t, overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, ReadOnly: true})
			want := listed(t, fresh, "d")
			for range 2 {
				if got := listed(t, fsys, "d"); got != want {
					t.Fatalf("got\n%s\nwant\n%s", got, want)
				}
			}
			if want == first {
				t.Error("the change makes no difference to a listing")
			}
		})
	}
}

func appendTo(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("more")
	return errors.Join(err, f.Close())
}

// Writing through a mapping raises no event: who opened a file may be doing it.
func TestListingSeesWritesThroughAMapping(t *testing.T) {
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/f = content\n")
	fsys := mustOpen(t, options(l))
	name := filepath.Join(l.Lowers[0], "d/f")
	listed(t, fsys, "d")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory, err := unix.Mmap(int(f.Fd()), 0, 7, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(memory); err != nil {
			t.Error(err)
		}
	}()
	if err := f.Close(); err != nil { // the mapping stays
		t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	before := listed(t, fsys, "d")
	memory[0] = 'C'
	if err := unix.Msync(memory, unix.MS_SYNC); err != nil {
		t.Fatal(err)
	}
	if after := listed(t, fsys, "d"); after == before {
		t.Errorf("a write through a mapping does not show in\n%s", after)
	}
}

// What is kept is bounded, and a listing that is given up half way is listed anew.
func TestListingGivenUp(t *testing.T) {
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\n")
	for i := range 1000 {
		mustWrite(t, filepath.Join(l.Lowers[0], "d", fmt.Sprint(i)), 1)
	}
	fsys := mustOpen(t, options(l))
	dir, err := fsys.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	if infos, err := dir.Infos(10); err != nil || len(infos) != 10 {
		t.Fatalf("%d objects, %v", len(infos), err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if infos := mustReadDir(t, fsys, "d"); len(infos) != 1000 {
			t.Errorf("%d objects, want 1000", len(infos))
		}
	}
}

// Two trees over one lower share its watch: what the one asks of it must not end
// what the other needs.
func TestListingIsWatchedForEachTree(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/f = content\n")
	other := overlaytest.Layers{Lowers: l.Lowers, Upper: filepath.Join(t.TempDir(), "upper")}
	other.Work = other.Upper + "-work"
	mustMkdir(t, other.Upper)
	mustMkdir(t, other.Work)
	fsys := mustOpen(t, options(l))
	before := listed(t, fsys, "d")
	if _, err := mustOpen(t, options(other)).Stat("d/f"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(l.Lowers[0], "d/f"), 1); err != nil {
		t.Fatal(err)
	}
	if after := listed(t, fsys, "d"); after == before {
		t.Errorf("a cut file does not show in\n%s", after)
	}
}
