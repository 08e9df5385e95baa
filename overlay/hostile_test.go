//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// TestForgedMarks holds what the engine says of marks that nobody writes
// against what the kernel says.
func TestForgedMarks(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "ext4")
	const top, bottom = "real/\nreal/sub/\nreal/sub/x = 1\nother/\nother/y = 1\nfile = 1\nlink -> real\nd/\nd/z = 1\n", "real/\nreal/w = 2\nd/\nd/v = 2\n"
	for _, test := range []struct {
		name   string
		upper  string // d is looked at
		middle string // in the topmost lower
	}{
		{"redirect to a name", "d/ [redirect=real]", ""},
		{"absolute redirect", "d/ [redirect=/real]", ""},
		{"absolute redirect to below", "d/ [redirect=/real/sub]", ""},
		{"redirect to itself", "d/ [redirect=d]", ""},
		{"redirect to nothing", "d/ [redirect=gone]", ""},
		{"redirect to nothing below", "d/ [redirect=/gone/sub]", ""},
		{"redirect to a file", "d/ [redirect=file]", ""},
		{"redirect through a file", "d/ [redirect=/file/x]", ""},
		{"redirect to a symlink", "d/ [redirect=link]", ""},
		{"redirect through a symlink", "d/ [redirect=/link/sub]", ""},
		{"redirect up", `d/ [redirect=".."]`, ""},
		{"absolute redirect up", `d/ [redirect="/.."]`, ""},
		{"redirect out", `d/ [redirect="/../lower1/real"]`, ""},
		{"redirect to here", `d/ [redirect="."]`, ""},
		{"relative redirect with a slash", "d/ [redirect=real/sub]", ""},
		{"redirect to the root", "d/ [redirect=/]", ""},
		{"redirect with two slashes", "d/ [redirect=//real]", ""},
		{"redirect with a slash at its end", "d/ [redirect=/real/]", ""},
		{"empty redirect", `d/ [redirect=""]`, ""},
		{"redirect with a NUL", `d/ [redirect="real\x00/sub"]`, ""},
		{"long redirect", "d/ [redirect=/" + strings.Repeat("long/", 60) + "end]", ""},
		{"redirect with a name too long", "d/ [redirect=" + strings.Repeat("n", 300) + "]", ""},
		{"redirect of a middle layer", "", "d/ [redirect=real]"},
		{"absolute redirect of a middle layer", "", "d/ [redirect=/real]"},
		{"bad redirect of a middle layer", "", "d/ [redirect=real/sub]"},
		{"redirect out of a middle layer", "", `d/ [redirect="/../real"]`},
		{"bad redirect that an opaque directory hides", "d/ [opaque]", "d/ [redirect=real/sub]"},
		{"opaque y", "d/ [opaque=y]", ""},
		{"opaque x", "d/ [opaque=x]", ""},
		{"opaque n", "d/ [opaque=n]", ""},
		{"opaque yy", "d/ [opaque=yy]", ""},
		{"opaque empty", `d/ [opaque=""]`, ""},
		{"opaque file", "d [opaque] = x", ""},
		{"opaque and redirect", "d/ [opaque redirect=real]", ""},
		{"block device 0:0", "d blk 0:0", ""},
		{"metacopy", "d [metacopy] size=1", ""},
		{"metacopy with a redirect", "d [metacopy redirect=/file] size=1", ""},
		{"metacopy directory", "d/ [metacopy]", ""},
		{"whiteout with content", "d [whiteout] = x", ""},
		{"whiteout directory", "d/ [whiteout]", ""},
		{"corrupt origin", "d/ [origin=corrupt]", ""},
		{"corrupt impure", "d/ [impure=corrupt]", ""},
		{"unknown mark", "d/ [later=1]", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overlaytest.NewLayers(t, overlaytest.Within(disk)(t), test.middle, top, bottom)
			overlaytest.Build(t, l.Upper, test.upper+"\n")
			overlaytest.LowersUnchanged(t, l.Lowers...)
			var said [2]string
			for i, opener := range []overlaytest.Opener{overlaytest.Kernel, overlaytest.FS} {
				var options []string
				if opener.Name == overlaytest.FS.Name {
					options = append(options, "ro") // for writing, metacopies are refused whole
				}
				e, err := opener.Open(l, options)
				if err != nil {
					t.Fatal(err)
				}
				names, err := e.Ls("d")
				said[i] = fmt.Sprint(names, overlaytest.ErrClass(err))
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}
			if said[0] != said[1] {
				t.Errorf("the kernel says %s, the engine %s", said[0], said[1])
			}
		})
	}
}

// TestTwoRedirectsToOneDirectory: the kernel answers ESTALE for one of them;
// the engine shows both and harms neither.
func TestTwoRedirectsToOneDirectory(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "real/\nreal/x = 1\n")
	overlaytest.Build(t, l.Upper, "one/ [redirect=real]\ntwo/ [redirect=real]\nreal whiteout\n")
	overlaytest.LowersUnchanged(t, l.Lowers...)
	fsys := open(t, optionsOf(l))
	for _, name := range []string{"one", "two"} {
		if _, err := fsys.Stat(name + "/x"); err != nil {
			t.Error(err)
		}
	}
	if err := fsys.RemoveAll("one"); err != nil {
		t.Error(err)
	}
	if _, err := fsys.Stat("two/x"); err != nil {
		t.Error(err)
	}
}

// TestSymlinksStayInside has every kind of target, in every layer and as every
// component. A file that lies outside beside the layers is never reached.
func TestSymlinksStayInside(t *testing.T) {
	overlaytest.NeedRoot(t)
	base := t.TempDir()
	if err := os.WriteFile(base+"/secret", []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	var links strings.Builder
	for i := range 41 {
		fmt.Fprintf(&links, "chain%d -> chain%d\n", i, i+1)
	}
	long := strings.Repeat("a/../", 818) + "b" // 4091 bytes
	l := overlaytest.NewLayers(t, base, links.String()+`chain41 -> f
f = inside
a/
a/f = inside a
a/root -> /f
a/here -> f
a/up -> ../f
`, "b/\nb/g = inside b\n")
	for _, dir := range []string{l.Upper, l.Lowers[0], l.Lowers[1]} {
		layer := filepath.Base(dir)
		for name, target := range map[string]string{
			"abs": base + "/secret", "up": "../secret", "upup": "../../../../../../../../" + base + "/secret", "dots": "a/../../secret",
			"proc": "/proc/self/cwd/secret", "fd": "/proc/self/fd/3", "dir": base, "dirup": "..", "self": "dot-self." + layer,
			"root": "/", "rootfile": "/f", "within": "/a/../b/g", "around": "../../b/./g", "long": long,
		} {
			if err := os.Symlink(target, filepath.Join(dir, name+"."+layer)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("dot-self."+layer, filepath.Join(dir, "dot-self."+layer)); err != nil {
			t.Fatal(err)
		}
	}
	fsys := open(t, optionsOf(l))
	for _, layer := range []string{"upper", "lower1", "lower2"} {
		for _, test := range []struct {
			name string
			want any // content, or errno
		}{
			{"abs", syscall.ENOENT},
			{"up", syscall.ENOENT},
			{"upup", syscall.ENOENT},
			{"dots", syscall.ENOENT},
			{"proc", syscall.ENOENT},
			{"fd", syscall.ENOENT},
			{"self", syscall.ELOOP},
			{"dir", syscall.ENOENT},
			{"rootfile", "inside"},
			{"within", "inside b"},
			{"around", "inside b"},
		} {
			name := test.name + "." + layer
			content, err := fs.ReadFile(fsys.FS(), name)
			if want, ok := test.want.(string); ok {
				if err != nil || string(content) != want {
					t.Errorf("%s: %q, %v, want %q", name, content, err, want)
				}
			} else if !errors.Is(err, test.want.(syscall.Errno)) {
				t.Errorf("%s: %q, %v, want %v", name, content, err, test.want)
			}
		}
		for _, name := range []string{"dir." + layer + "/secret", "dirup." + layer + "/secret", "root." + layer + "/secret", "proc." + layer + "/x"} {
			if _, err := fsys.Stat(name); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("%s: %v, want ENOENT", name, err)
			}
		}
		// The parent of the root is the root; the rest leads nowhere.
		for _, name := range []string{"dir." + layer + "/secret", "abs." + layer, "proc." + layer, "upup." + layer} {
			if err := stage(fsys, name); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("writing %s: %v, want ENOENT", name, err)
			}
		}
		if infos, err := fsys.ReadDir("long." + layer); err != nil || len(infos) != 1 {
			t.Errorf("target of 4091 bytes: %v, %v", infos, err)
		}
		// Deleting removes the link, never what it names.
		for _, name := range []string{"abs", "dir", "root", "within", "self"} {
			if err := fsys.RemoveAll(name + "." + layer); err != nil {
				t.Errorf("remove %s.%s: %v", name, layer, err)
			}
		}
	}
	for name, want := range map[string]string{"a/root": "inside", "a/here": "inside a", "a/up": "inside"} {
		if content, err := fs.ReadFile(fsys.FS(), name); string(content) != want {
			t.Errorf("%s: %q, %v, want %q", name, content, err, want)
		}
	}
	if _, err := fsys.Stat("chain1"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a chain of 41: %v, want ELOOP", err)
	}
	if _, err := fsys.Stat("chain2"); err != nil {
		t.Errorf("a chain of 40: %v", err)
	}
	if content, err := os.ReadFile(base + "/secret"); string(content) != secret {
		t.Errorf("outside: %q, %v", content, err)
	}
	if _, err := fsys.Stat("f"); err != nil {
		t.Error(err)
	}
}

// TestNamesOfEveryByte makes, reads, renames and deletes names of any bytes and
// of any length.
func TestNamesOfEveryByte(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "ext4")
	base := overlaytest.Within(disk)(t)
	l := overlaytest.NewLayers(t, base, "")
	names := []string{"...", "a\nb", "#1", "\xc3\x28", "\xed\xa0\x80", "e\u0301", "é", "\u202e", "CON", "a:b", `a\b`, strings.Repeat("n", 255), strings.Repeat("\xff", 255), ".wh.x", ".wh..wh..opq"}
	for b := range 256 {
		if b != 0 && b != '/' && b != '.' {
			names = append(names, string([]byte{byte(b)}))
		}
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(l.Lowers[0], name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	overlaytest.LowersUnchanged(t, l.Lowers...)
	fsys := open(t, optionsOf(l))
	infos, err := fsys.ReadDir(".")
	if err != nil || len(infos) != len(names) {
		t.Fatalf("lists %d names, %v, want %d", len(infos), err, len(names))
	}
	if err := fsys.Mkdir("to", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, err := range []error{stage(fsys, name), fsys.Rename(name, "to/"+name), fsys.Copy("to/"+name, name, overlay.CopyOptions{}), fsys.Remove(name)} {
			if err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	checkSilent(t, fsys)
	if infos, err := fsys.ReadDir("to"); err != nil || len(infos) != len(names) {
		t.Errorf("moved %d names, %v, want %d", len(infos), err, len(names))
	}
}

// TestBadNames are refused by everything that takes a name, with nothing done.
func TestBadNames(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f = 1\nd/\n")
	fsys := open(t, optionsOf(l))
	before := snapshot(t, l.Upper)
	long := strings.Repeat("n", 256)
	for _, name := range []string{"", "/", "/f", "f/", "d//f", ".", "..", "../f", "d/../f", "./f", "d/.", "f\x00", long, "d/" + long, long + "/f"} {
		want := syscall.EINVAL
		if strings.Contains(name, long) {
			want = syscall.ENAMETOOLONG
		}
		_, stageErr := fsys.Stage(name, 0o644)
		_, createErr := fsys.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
		for op, err := range map[string]error{
			"stage": stageErr, "create": createErr, "mkdir": fsys.Mkdir(name, 0o755), "symlink": fsys.Symlink("x", name),
			"rename to": fsys.Rename("f", name), "rename": fsys.Rename(name, "g"), "link": fsys.Link("f", name),
			"move": fsys.Move("f", name, true), "copy": fsys.Copy("f", name, overlay.CopyOptions{}), "remove": fsys.Remove(name),
		} {
			if err == nil || name != "." && !errors.Is(err, want) {
				t.Errorf("%s %q: %v, want %v", op, name, err, want)
			}
		}
	}
	unchanged(t, before, l.Upper)
}

// TestOddObjects are listed and never opened: a look at one cannot hang.
func TestOddObjects(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "low.fifo fifo\nlow.sock socket\nlow.null chr 1:3\nlow.disk blk 7:99\n")
	overlaytest.Build(t, l.Upper, "up.fifo fifo\nup.sock socket\nup.null chr 1:3\nup.disk blk 7:99\n")
	overlaytest.LowersUnchanged(t, l.Lowers...)
	fsys := open(t, optionsOf(l))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, layer := range []string{"low.", "up."} {
			for _, kind := range []string{"fifo", "sock", "null", "disk"} {
				name := layer + kind
				_, openErr := fsys.Open(name)
				_, writeErr := fsys.OpenFile(name, os.O_RDWR, 0)
				for op, err := range map[string]error{
					"open": openErr, "write": writeErr, "stage": stage(fsys, name), "copy": fsys.Copy(name, "copy", overlay.CopyOptions{}),
				} {
					if !errors.Is(err, syscall.ENXIO) {
						t.Errorf("%s %s: %v, want ENXIO", op, name, err)
					}
				}
				for _, err := range []error{fsys.Chmod(name, 0o600), fsys.Rename(name, name+"2"), fsys.Remove(name + "2")} {
					if err != nil {
						t.Error(err)
					}
				}
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
}

// TestHugeAttributes are copied up whole.
func TestHugeAttributes(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "xfs"), "f = 1\nd/\n")
	value := strings.Repeat("v", 64<<10) // XATTR_SIZE_MAX
	longest := "user." + strings.Repeat("n", 250)
	for _, attr := range []string{"user.big", longest} {
		setxattr(t, l.Lowers[0], "f", attr, value)
	}
	for i := range 300 {
		setxattr(t, l.Lowers[0], "d", fmt.Sprintf("user.%0100d", i), "v")
	}
	fsys := open(t, optionsOf(l))
	for _, name := range []string{"f", "d"} {
		before, err := fsys.Listxattr(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := fsys.CopyUp(name); err != nil {
			t.Fatal(err)
		}
		after, err := fsys.Listxattr(name)
		slices.Sort(before)
		slices.Sort(after)
		if err != nil || !slices.Equal(before, after) {
			t.Errorf("%s had %d attributes, has %d, %v", name, len(before), len(after), err)
		}
	}
	if got, err := fsys.Getxattr("f", longest); err != nil || string(got) != value {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A sickLayer is a file system that shows a directory and answers EIO for some
// of what is asked of it.
type sickLayer struct {
	mu   sync.Mutex
	sick map[string]bool // "lookup f"
}

func (s *sickLayer) errno(op, name string) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sick[op+" "+name] {
		return syscall.EIO
	}
	return 0
}

func (s *sickLayer) set(what ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sick = map[string]bool{}
	for _, w := range what {
		s.sick[w] = true
	}
}

type sickNode struct {
	fusefs.LoopbackNode
	layer *sickLayer
}

func (n *sickNode) name() string { return filepath.Base(n.Path(nil)) }

func (n *sickNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if errno := n.layer.errno("lookup", name); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *sickNode) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if errno := n.layer.errno("open", n.name()); errno != 0 {
		return nil, 0, errno
	}
	return n.LoopbackNode.Open(ctx, flags)
}

func (n *sickNode) OpendirHandle(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if errno := n.layer.errno("opendir", n.name()); errno != 0 {
		return nil, 0, errno
	}
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

func (n *sickNode) Getxattr(ctx context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	if errno := n.layer.errno("getxattr", n.name()); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Getxattr(ctx, attr, dest)
}

func (n *sickNode) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	if errno := n.layer.errno("listxattr", n.name()); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Listxattr(ctx, dest)
}

// WrapChild makes what is below a sick node sick as well.
func (n *sickNode) WrapChild(context.Context, fusefs.InodeEmbedder) fusefs.InodeEmbedder {
	return &sickNode{fusefs.LoopbackNode{RootData: n.RootData}, n.layer}
}

// newSickLayer shows dir at a mount point, until the test ends.
func newSickLayer(t *testing.T, dir string) (*sickLayer, string) {
	t.Helper()
	layer := &sickLayer{}
	root := &sickNode{fusefs.LoopbackNode{RootData: &fusefs.LoopbackRoot{Path: dir}}, layer}
	point := t.TempDir()
	server, err := fusefs.Mount(point, root, &fusefs.Options{MountOptions: fuse.MountOptions{DirectMount: true}})
	overlaytest.Need(t, err == nil, "FUSE: %v", err)
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return layer, point
}

// TestSickLower has the upper of two lowers answer EIO. That is never taken for
// absence: what lies below does not show, and nothing is made in its place.
func TestSickLower(t *testing.T) {
	overlaytest.NeedRoot(t)
	base := t.TempDir()
	l := overlaytest.NewLayers(t, base, "f = top\nd/ [opaque user.k=v]\nd/x = top\n", "f = bottom\nd/\nd/hidden = bottom\ng = bottom\n")
	layer, point := newSickLayer(t, l.Lowers[0])
	l.Lowers[0] = point
	fsys := open(t, optionsOf(l))
	before, err := overlaytest.MergedFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	upper := snapshot(t, l.Upper)
	for _, test := range []struct {
		name string
		sick []string
		ask  map[string]func() error
	}{
		{"lookup of a file", []string{"lookup f"}, map[string]func() error{
			"stat":   func() error { _, err := fsys.Stat("f"); return err },
			"open":   func() error { _, err := fsys.Open("f"); return err },
			"list":   func() error { _, err := fsys.ReadDir("."); return err },
			"mkdir":  func() error { return fsys.Mkdir("f", 0o755) },
			"create": func() error { return create(fsys, "f") },
			"stage":  func() error { return stage(fsys, "f") },
			"remove": func() error { return fsys.Remove("f") },
			"rename": func() error { return fsys.Rename("f", "z") },
			"onto":   func() error { return fsys.Rename("g", "f") },
			"chmod":  func() error { return fsys.Chmod("f", 0o600) },
			"link":   func() error { return fsys.Link("g", "f") },
			"copy":   func() error { return fsys.Copy("g", "f", overlay.CopyOptions{Overwrite: true}) },
		}},
		{"lookup of a directory", []string{"lookup d"}, map[string]func() error{
			"stat":      func() error { _, err := fsys.Stat("d"); return err },
			"below":     func() error { _, err := fsys.Stat("d/hidden"); return err },
			"removeall": func() error { return fsys.RemoveAll("d") },
			"rename":    func() error { return fsys.Rename("d", "e") },
		}},
		{"marks of a directory", []string{"getxattr d", "listxattr d"}, map[string]func() error{
			"list":   func() error { _, err := fsys.ReadDir("d"); return err },
			"below":  func() error { _, err := fsys.Stat("d/hidden"); return err },
			"create": func() error { return create(fsys, "d/hidden") },
		}},
		{"listing", []string{"opendir d"}, map[string]func() error{
			"list":   func() error { _, err := fsys.ReadDir("d"); return err },
			"remove": func() error { return fsys.Remove("d") },
		}},
		{"content", []string{"open f"}, map[string]func() error{
			"open":    func() error { _, err := fsys.Open("f"); return err },
			"copy up": func() error { return fsys.CopyUp("f") },
			"rename":  func() error { return fsys.Rename("f", "z") },
			"copy":    func() error { return fsys.Copy("f", "z", overlay.CopyOptions{}) },
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			layer.set(test.sick...)
			defer layer.set()
			for op, ask := range test.ask {
				if err := ask(); !errors.Is(err, syscall.EIO) {
					t.Errorf("%s: %v, want EIO", op, err)
				}
			}
		})
	}
	if after, err := overlaytest.MergedFS(fsys); err != nil || after != before {
		t.Errorf("shows (%v)\n%s\nand showed\n%s", err, after, before)
	}
	for name, was := range upper {
		if is := snapshot(t, l.Upper)[name]; strings.Split(is, " (mode")[0] != strings.Split(was, " (mode")[0] {
			t.Errorf("%s: was %s, is %s", name, was, is)
		}
	}
}
