//go:build linux

package overlay_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// manyNames makes layers with names in the root and in d: of three names one is
// hidden by upper, and one of upper alone; each seventh has an attribute. It
// returns what each directory shows.
func manyNames(t *testing.T, count int) (overlaytest.Layers, map[string]bool) {
	t.Helper()
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\n")
	shown := make(map[string]bool)
	for _, in := range []string{".", "d"} {
		mustMkdir(t, filepath.Join(l.Upper, in))
		for i := range count {
			name := fmt.Sprintf("f%05d", i)
			layer := l.Lowers[0]
			if i%3 == 1 {
				layer = l.Upper
			}
			path := filepath.Join(layer, in, name)
			must(t, os.WriteFile(path, []byte(name), 0o666))
			if i%7 == 0 {
				must(t, unix.Setxattr(path, "user.prop", []byte(name), 0))
			}
			if i%3 == 2 {
				must(t, unix.Mknod(filepath.Join(l.Upper, in, name), unix.S_IFCHR, 0))
			} else {
				shown[name] = i%7 == 0
			}
		}
	}
	return l, shown
}

// A listing that is read in pieces of whatever size, or is made anew or kept,
// has each name once, and tells of the attribute that it was to look for.
func TestListingInPieces(t *testing.T) {
	overlaytest.NeedRoot(t)
	for _, count := range []int{0, 1, 33, 64, 1000} {
		l, shown := manyNames(t, count)
		for _, size := range []int{1, 2, 31, 64, 100, 256, 5000} {
			fsys := mustOpen(t, options(l))
			for _, name := range []string{".", "d", "d"} { // the last is kept
				t.Run(fmt.Sprintf("%d names of %s, %d at a time", count, name, size), func(t *testing.T) {
					dir, err := fsys.Open(name)
					must(t, err)
					defer dir.Close()
					dir.Want("user.prop")
					got := make(map[string]bool)
					infos := make([]overlay.Info, size)
					for {
						n, err := dir.ReadInfos(infos)
						if err == io.EOF {
							break
						}
						must(t, err)
						for i := range infos[:n] {
							info := &infos[i]
							if _, again := got[info.Name()]; again {
								t.Errorf("%s is listed twice", info.Name())
							}
							value, err := dir.MemberXattr(info, "user.prop")
							if got[info.Name()] = err == nil; err == nil && string(value) != info.Name() {
								t.Errorf("%s has the attribute of %s", info.Name(), value)
							}
						}
					}
					delete(got, "d")
					if fmt.Sprint(got) != fmt.Sprint(shown) {
						t.Errorf("got %d names, want %d, or another has the attribute", len(got), len(shown))
					}
				})
			}
			must(t, fsys.Close())
		}
	}
}

// A listing that is given up while others look for it ends with them, and so does
// the tree.
func TestListingIsClosedWhileItIsLookedAt(t *testing.T) {
	overlaytest.NeedRoot(t)
	l, _ := manyNames(t, 2000)
	for range 20 {
		fsys := mustOpen(t, options(l))
		var dirs []*overlay.File
		for _, name := range []string{".", "d"} {
			dir, err := fsys.Open(name)
			must(t, err)
			if n, err := dir.ReadInfos(make([]overlay.Info, 256)); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			dirs = append(dirs, dir)
		}
		must(t, dirs[1].Close())
		must(t, fsys.Close())
		must(t, dirs[0].Close())
	}
}

// Where as many look for others as may, as before a disk that hangs, who lists
// looks himself.
func TestListingWithoutLookers(t *testing.T) {
	overlaytest.NeedRoot(t)
	l, shown := manyNames(t, 1000)
	fsys := mustOpen(t, options(l))
	defer fsys.Close()
	free := overlay.TakeLookerPlaces()
	defer free()
	if infos := mustReadDir(t, fsys, "d"); len(infos) != len(shown) {
		t.Errorf("%d names, want %d", len(infos), len(shown))
	}
}
