//go:build linux

package overlay_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// What was found out about a name is not asked again while its directory is
// kept; whatever is changed underneath, in whichever layer, the next who opens
// it sees what somebody who knows nothing sees.
func TestNextOpenSeesWhatChangedUnderneath(t *testing.T) {
	overlaytest.NeedRoot(t)
	write := func(text string, elements ...string) error {
		return os.WriteFile(filepath.Join(elements...), []byte(text), 0o666)
	}
	for name, test := range map[string]struct {
		open   string
		change func(upper, topmost, lowest string) error
		want   string // the content; "" for nothing there
		err    error
	}{
		"nothing": {
			"d/f", func(_, _, _ string) error { return nil }, "lowest", nil,
		},
		"upper gets the name": {
			"d/f", func(upper, _, _ string) error { return write("upper", upper, "d/f") }, "upper", nil,
		},
		"another lower gets the name": {
			"d/f", func(_, topmost, _ string) error { return write("topmost", topmost, "d/f") }, "topmost", nil,
		},
		"upper gets the name by a rename": {
			"d/f", func(upper, _, _ string) error {
				return errors.Join(write("upper", upper, "g"), os.Rename(filepath.Join(upper, "g"), filepath.Join(upper, "d/f")))
			}, "upper", nil,
		},
		"upper gets a whiteout": {
			"d/f", func(upper, _, _ string) error { return unix.Mknod(filepath.Join(upper, "d/f"), unix.S_IFCHR, 0) }, "", fs.ErrNotExist,
		},
		"the file goes": {
			"d/f", func(_, _, lowest string) error { return os.Remove(filepath.Join(lowest, "d/f")) }, "", fs.ErrNotExist,
		},
		"another file takes its place": {
			"d/f", func(_, _, lowest string) error {
				return errors.Join(write("another", lowest, "g"), os.Rename(filepath.Join(lowest, "g"), filepath.Join(lowest, "d/f")))
			}, "another", nil,
		},
		"a FIFO takes its place": {
			"d/f", func(_, _, lowest string) error {
				return errors.Join(os.Remove(filepath.Join(lowest, "d/f")), unix.Mkfifo(filepath.Join(lowest, "d/f"), 0o666))
			}, "", unix.ENXIO,
		},
		"a link takes its place": {
			"d/f", func(_, topmost, lowest string) error {
				return errors.Join(write("linked", topmost, "d/g"), os.Remove(filepath.Join(lowest, "d/f")), os.Symlink("g", filepath.Join(lowest, "d/f")))
			}, "linked", nil,
		},
		"it is written to": {
			"d/f", func(_, _, lowest string) error { return write("written", lowest, "d/f") }, "written", nil,
		},
		"it is in the root, and upper gets the name": {
			"r", func(upper, _, _ string) error { return write("upper", upper, "r") }, "upper", nil,
		},
		"it is in the root, and another takes its place": {
			"r", func(_, _, lowest string) error {
				return errors.Join(write("another", lowest, "g"), os.Rename(filepath.Join(lowest, "g"), filepath.Join(lowest, "r")))
			}, "another", nil,
		},
		"the file becomes a metacopy": {
			"d/f", func(_, _, lowest string) error {
				return unix.Setxattr(filepath.Join(lowest, "d/f"), "trusted.overlay.metacopy", nil, 0)
			}, "", unix.EPERM,
		},
		"what was not there comes": {
			"d/none", func(_, topmost, _ string) error { return write("new", topmost, "d/none") }, "new", nil,
		},
		"the directory is another": {
			"d/f", func(upper, _, _ string) error {
				old, other := filepath.Join(upper, "d"), filepath.Join(upper, "e")
				return errors.Join(os.Mkdir(other, 0o777), write("other", other, "f"),
					unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE))
			}, "other", nil,
		},
		"the directory becomes opaque": {
			"d/f", func(upper, _, _ string) error {
				return unix.Setxattr(filepath.Join(upper, "d"), "trusted.overlay.opaque", []byte("y"), 0)
			}, "", fs.ErrNotExist,
		},
	} {
		t.Run(name, func(t *testing.T) {
			upper, topmost, lowest, work := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
			for _, dir := range []string{upper, topmost, lowest} {
				mustMkdir(t, filepath.Join(dir, "d"))
			}
			must(t, write("lowest", lowest, "d/f"))
			must(t, write("lowest", lowest, "r"))
			fsys, err := overlay.Open(overlay.Options{Lowers: []string{topmost, lowest}, Upper: upper, Work: work, Xattr: overlay.XattrTrusted})
			must(t, err)
			defer fsys.Close()
			for range 3 { // the first keeps the directory, the second finds out
				_, _ = contentOf(fsys, test.open)
			}
			must(t, test.change(upper, topmost, lowest))
			for range 3 {
				if got, err := contentOf(fsys, test.open); got != test.want || !errors.Is(err, test.err) {
					t.Errorf("got %q, %v; want %q, %v", got, err, test.want, test.err)
				}
			}
		})
	}
}

// Whoever changes a name by us is seen as anybody else is.
func TestFactsDoNotOutliveOurOwnChanges(t *testing.T) {
	lower, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	mustMkdir(t, filepath.Join(lower, "d"))
	must(t, os.WriteFile(filepath.Join(lower, "d/f"), []byte("0"), 0o666))
	fsys, err := overlay.Open(overlay.Options{Lowers: []string{lower}, Upper: upper, Work: work})
	must(t, err)
	defer fsys.Close()
	for i := range 100 {
		for _, name := range []string{"d/f", "d/g"} {
			for range 2 {
				_, _ = contentOf(fsys, name)
			}
			want := strconv.Itoa(i)
			must(t, overwrite(fsys, name, want))
			if got, err := contentOf(fsys, name); got != want || err != nil {
				t.Fatalf("%s written: got %q, %v; want %q", name, got, err, want)
			}
			must(t, fsys.Remove(name))
			if got, err := contentOf(fsys, name); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s removed: got %q, %v", name, got, err)
			}
		}
	}
}

func overwrite(fsys *overlay.FS, name, text string) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Close())
}

func contentOf(fsys *overlay.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() // it was only read
	text, err := io.ReadAll(f)
	return string(text), err
}
