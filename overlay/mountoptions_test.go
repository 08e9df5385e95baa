//go:build linux

package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// mountOptions are the kernel's options under which an upper of ours must show
// what we show. In asLower it is the topmost lower of a read-only mount.
var mountOptions = []string{
	"",
	"redirect_dir=on",
	"redirect_dir=follow",
	"index=on",
	"index=on,nfs_export=on",
	"metacopy=on,redirect_dir=on",
	"xino=on",
	"xino=off,uuid=null",
	"volatile",
	"fsync=strict",
	asLower,
}

const asLower = "ro"

// TestMountOptions mounts what the engine alone wrote, in random operations,
// with every set of options and compares what the kernel shows then.
func TestMountOptions(t *testing.T) {
	overlaytest.NeedRoot(t)
	soak := soakFactor(t)
	setRapidFlags(t)
	for _, disk := range []string{"ext4", "tmpfs", "xfs", "btrfs"} {
		t.Run(disk, func(t *testing.T) {
			v := lockstepVariant{disk: disk, sequences: 4 * soak, atEnd: underEveryOption}
			v.run(t, overlaytest.Within(overlaytest.Filesystem(t, disk))(t))
		})
	}
}

func underEveryOption(l *lockstep) {
	want, err := l.ours.engine.Tree()
	l.check(err)
	l.shut()
	for i, options := range mountOptions {
		got, err := l.mounted(i, options)
		if err != nil {
			l.differ("mounted with %q: %v", options, err)
		}
		if got != want {
			l.differ("mounted with %q, the tree differs (- ours, + kernel):\n%s", options, overlaytest.Diff(want, got))
		}
	}
	l.open()
}

// mounted is what the kernel shows of a copy of our upper, because some options
// write to it.
func (l *lockstep) mounted(i int, options string) (tree string, err error) {
	upper := filepath.Join(l.dir, fmt.Sprintf("copy.%d", i))
	work := filepath.Join(l.dir, fmt.Sprintf("copy.%d.work", i))
	dir := filepath.Join(l.dir, fmt.Sprintf("copy.%d.mount", i))
	l.check(copyLayer(l.ours.layers.Upper, upper))
	l.check(os.Mkdir(work, 0o755))
	l.check(os.Mkdir(dir, 0o755))
	lowers := l.ours.layers.Lowers
	var words []string
	if options == asLower {
		lowers = append([]string{upper}, lowers...)
	} else {
		words = append(words, "upperdir="+upper, "workdir="+work)
	}
	words = append(words, "lowerdir="+strings.Join(lowers, ":"))
	if options != "" {
		words = append(words, options)
	}
	if err := syscall.Mount("overlay", dir, "overlay", 0, strings.Join(words, ",")); err != nil {
		return "", err
	}
	// Detached: nobody else's look at it keeps the test from going on.
	defer func() { l.check(syscall.Unmount(dir, syscall.MNT_DETACH)) }()
	return overlaytest.MergedDir(dir)
}
