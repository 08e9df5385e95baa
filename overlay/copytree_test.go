package overlay_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// wideTree is upper and a lower with a directory top that has so many below it,
// with all kinds of members, that several copiers are at work. Each of the dirs
// shows wideMembers objects.
func wideTree(top string, dirs int) (upper, lower string) {
	var u, l strings.Builder
	fmt.Fprintf(&u, "%s/ 0711 @5\n", top)
	fmt.Fprintf(&l, "%s/\n", top)
	for i := range dirs {
		d := fmt.Sprintf("%s/d%03d", top, i)
		fmt.Fprintf(&u, "%s/ 0750 @%d [opaque=x user.k=%d]\n", d, 1000+i, i)
		fmt.Fprintf(&u, "%s/b 0444 @%d [user.k=v] = up %d\n", d, 2000+i, i)
		fmt.Fprintf(&u, "%s/gone whiteout\n%s/gone2 whiteout-xattr\n", d, d)
		fmt.Fprintf(&l, "%s/\n%s/a 0664 @%d = low %d\n", d, d, 3000+i, i)
		fmt.Fprintf(&l, "%s/gone = low\n%s/gone2 = low\n%s/l -> a\n", d, d, d)
		fmt.Fprintf(&l, "%s/s/ 0700 @%d\n%s/s/empty 0666 @%d =\n", d, 4000+i, d, 5000+i)
		fmt.Fprintf(&l, "%s/s/t/ 01777 @%d\n%s/s/t/f 0755 @%d = deep %d\n", d, 6000+i, d, 7000+i, i)
	}
	return u.String(), l.String()
}

const wideMembers = 8

// A directory with many below it is copied by several copiers, and the copy has
// everything that the source shows, the times of directories too.
func TestCopyOfManyDirectories(t *testing.T) {
	overlaytest.NeedRoot(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	disk := overlaytest.Filesystem(t, "ext4")
	const dirs = 60
	upper, lower := wideTree("src", dirs)
	l := overlaytest.NewLayers(t, disk, lower)
	overlaytest.Build(t, l.Upper, upper)
	nothingLeft(t, disk)
	fsys := open(t, optionsOf(l))
	if err := fsys.Copy("src", "dst", overlay.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := overlaytest.MergedFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	var src, dst []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "src"); ok {
			src = append(src, name)
		} else if name, ok := strings.CutPrefix(line, "dst"); ok {
			dst = append(dst, name)
		}
	}
	if len(src) != 1+dirs*wideMembers {
		t.Fatalf("the source shows %d objects, want %d", len(src), 1+dirs*wideMembers)
	}
	if got, want := strings.Join(dst, ""), strings.Join(src, ""); got != want {
		t.Errorf("the copy is\n%s\nthe source\n%s", got, want)
	}
	checkSilent(t, fsys)
}
