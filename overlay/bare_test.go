//go:build linux

package overlay_test

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// A bareNode is of a file system that shows a directory and has no attributes,
// each in its own words.
type bareNode struct {
	fusefs.LoopbackNode
	words *bareWords
}

// bareWords are what it says when it is asked for them.
type bareWords struct {
	ofDir, ofFile syscall.Errno // 0: it has some
	asked         atomic.Int64
}

func (n *bareNode) refuse() syscall.Errno {
	n.words.asked.Add(1)
	if n.IsDir() {
		return n.words.ofDir
	}
	return n.words.ofFile
}

func (n *bareNode) Getxattr(ctx context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	if errno := n.refuse(); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Getxattr(ctx, attr, dest)
}

func (n *bareNode) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	if errno := n.refuse(); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Listxattr(ctx, dest)
}

func (n *bareNode) WrapChild(context.Context, fusefs.InodeEmbedder) fusefs.InodeEmbedder {
	return &bareNode{fusefs.LoopbackNode{RootData: n.RootData}, n.words}
}

// newBareLayer shows dir at a mount point, until the test ends.
func newBareLayer(t *testing.T, dir string, words *bareWords) (point string) {
	t.Helper()
	root := &bareNode{fusefs.LoopbackNode{RootData: &fusefs.LoopbackRoot{Path: dir}}, words}
	point = t.TempDir()
	server, err := fusefs.Mount(point, root, &fusefs.Options{MountOptions: fuse.MountOptions{DirectMount: true}})
	overlaytest.Need(t, err == nil, "FUSE: %v", err)
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return point
}

// A lower whose root has no attributes has none anywhere, in whichever words its
// files say so. It is said once, and then nobody asks.
func TestLowerWithoutAttributes(t *testing.T) {
	overlaytest.NeedRoot(t)
	for name, words := range map[string]*bareWords{
		"EOPNOTSUPP":        {ofDir: syscall.EOPNOTSUPP, ofFile: syscall.EOPNOTSUPP},
		"rclone":            {ofDir: syscall.EOPNOTSUPP, ofFile: syscall.EIO},
		"EIO":               {ofDir: syscall.EIO, ofFile: syscall.EIO},
		"ENOSYS":            {ofDir: syscall.ENOSYS, ofFile: syscall.ENOSYS},
		"with, but no file": {ofFile: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			l := overlaytest.NewLayers(t, t.TempDir(), "f = top\ng = gone\nempty =\nd/\nd/x = top\n", "f = bottom\nd/\nd/y = bottom\n")
			overlaytest.LowersUnchanged(t, l.Lowers[1]) // the test itself reads the other
			l.Lowers[0] = newBareLayer(t, l.Lowers[0], words)
			o := optionsOf(l)
			var warned []string
			o.Events.Warning = func(message string) { warned = append(warned, message) }
			fsys := open(t, o)
			words.asked.Store(0)
			if words.ofDir == 0 { // then it is broken, and that is not hidden
				if _, err := fs.ReadFile(fsys.FS(), "f"); err == nil || len(warned) > 0 {
					t.Errorf("a file whose marks cannot be read: %v, warned %q", err, warned)
				}
				return
			}
			if len(warned) != 1 || !strings.Contains(warned[0], "no extended attributes") || !strings.Contains(warned[0], l.Lowers[0]) {
				t.Errorf("warned %q", warned)
			}
			for name, want := range map[string]string{"f": "top", "d/x": "top", "d/y": "bottom", "empty": ""} {
				if got, err := fs.ReadFile(fsys.FS(), name); err != nil || string(got) != want {
					t.Errorf("%s is %q, %v, want %q", name, got, err, want)
				}
			}
			if attrs, err := fsys.Listxattr("d"); err != nil && !strings.Contains(err.Error(), syscall.EOPNOTSUPP.Error()) || len(attrs) > 0 {
				t.Errorf("d has the attributes %q, %v", attrs, err)
			}
			for _, change := range []error{
				fsys.CopyUp("f"), fsys.Rename("d", "e"), fsys.Remove("g"), fsys.Chmod("empty", 0o600),
			} {
				if change != nil {
					t.Error(change)
				}
			}
			got, err := overlaytest.MergedFS(fsys)
			if err != nil || !strings.Contains(got, "e/x") || strings.Contains(got, "g =") {
				t.Errorf("shows (%v)\n%s", err, got)
			}
			if n := words.asked.Load(); n > 0 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// An upper without attributes is refused, whatever it says of them.
func TestUpperWithoutAttributesIsRefused(t *testing.T) {
	overlaytest.NeedRoot(t)
	for name, words := range map[string]*bareWords{
		"EOPNOTSUPP": {ofDir: syscall.EOPNOTSUPP, ofFile: syscall.EOPNOTSUPP},
		"EIO":        {ofDir: syscall.EIO, ofFile: syscall.EIO},
	} {
		base := t.TempDir()
		l := overlaytest.NewLayers(t, base, "f = 1\n")
		point := newBareLayer(t, base, words)
		l.Upper, l.Work = filepath.Join(point, filepath.Base(l.Upper)), filepath.Join(point, filepath.Base(l.Work))
		fsys, err := overlay.Open(optionsOf(l))
		if err == nil {
			t.Errorf("%s: it was opened", name)
			fsys.Close()
		}
	}
}
