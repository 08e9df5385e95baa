//go:build linux

package overlay_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// A ground is where a start is tried: two lowers, an upper with something in
// it, a work.
type ground struct {
	t    *testing.T
	base string
	o    overlay.Options
}

func newGround(t *testing.T, base string) *ground {
	t.Helper()
	l := overlaytest.NewLayers(t, base, "d/\nd/one = 1\nf = low\n", "d/\nd/two = 2\n")
	overlaytest.Build(t, l.Upper, "sub/\nsub/inner/\nf = up\n")
	return &ground{t, base, optionsOf(l)}
}

func (g *ground) path(name string) string { return filepath.Join(g.base, name) }

func (g *ground) mkdir(name string) string {
	g.t.Helper()
	if err := os.MkdirAll(g.path(name), 0o755); err != nil {
		g.t.Fatal(err)
	}
	return g.path(name)
}

func (g *ground) file(name string) string {
	g.t.Helper()
	if err := os.WriteFile(g.path(name), nil, 0o644); err != nil {
		g.t.Fatal(err)
	}
	return g.path(name)
}

func (g *ground) symlink(target, name string) string {
	g.t.Helper()
	// Outside of what is held against a snapshot: following it leaves a trace.
	link := filepath.Join(g.t.TempDir(), name)
	if err := os.Symlink(g.path(target), link); err != nil {
		g.t.Fatal(err)
	}
	return link
}

// mount runs mount(8) for a new directory, until the test ends.
func (g *ground) mount(name string, args ...string) string {
	g.t.Helper()
	dir := g.mkdir(name)
	out, err := exec.Command("mount", append(args, dir)...).CombinedOutput()
	overlaytest.Need(g.t, err == nil, "a mount: mount %s: %v: %s", strings.Join(args, " "), err, out)
	g.t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			g.t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// bind shows a directory at a second place, until the test ends.
func (g *ground) bind(dir, name string, options ...string) string {
	g.t.Helper()
	dir = g.mount(name, "--bind", dir)
	if len(options) > 0 {
		out, err := exec.Command("mount", "-o", "remount,bind,"+strings.Join(options, ","), dir).CombinedOutput()
		if err != nil {
			g.t.Fatalf("remount: %v: %s", err, out)
		}
	}
	return dir
}

func (g *ground) layers() overlaytest.Layers {
	return overlaytest.Layers{Lowers: g.o.Lowers, Upper: g.o.Upper, Work: g.o.Work}
}

// setxattr gives a name in a directory of the host an attribute.
func setxattr(t testing.TB, dir, name, attr, value string) {
	t.Helper()
	d, err := at.OpenRW(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Setxattr(name, attr, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// refusals are the layers that end a start.
var refusals = []struct {
	name string
	// spoil makes the layers unfit.
	spoil func(g *ground)
	is    error
	text  []string // what the message says, the remedy last
	// served says that the same layers are shown when nothing is to be changed.
	served bool
}{
	{"no lower", func(g *ground) { g.o.Lowers = nil }, overlay.ErrLayers, []string{"no lower directory", "name at least one"}, false},
	{"lower missing", func(g *ground) { g.o.Lowers[1] = g.path("gone") }, overlay.ErrLayers, []string{"lower 2", "/gone", "no such file", "make it, or name another"}, false},
	{"lower is a file", func(g *ground) { g.o.Lowers[0] = g.file("plain") }, overlay.ErrLayers, []string{"lower 1", "/plain", "not a directory", "name another"}, false},
	{"lower is a dangling link", func(g *ground) { g.o.Lowers[0] = g.symlink("nowhere", "link") }, overlay.ErrLayers, []string{"lower 1", "/link", "name another"}, false},
	{"upper missing", func(g *ground) { g.o.Upper = g.path("gone") }, overlay.ErrLayers, []string{"upper", "/gone", "make it"}, false},
	{"upper is a file", func(g *ground) { g.o.Upper = g.file("plain") }, overlay.ErrLayers, []string{"upper", "not a directory", "name another"}, false},
	{"work missing", func(g *ground) { g.o.Work = g.path("gone") }, overlay.ErrLayers, []string{"work", "/gone", "make it"}, true},
	{"work is a file", func(g *ground) { g.o.Work = g.file("plain") }, overlay.ErrLayers, []string{"work", "not a directory", "name another"}, true},
	{"upper without work", func(g *ground) { g.o.Work = "" }, overlay.ErrLayers, []string{"upper", "needs a work directory beside it"}, true},
	{"work without upper", func(g *ground) { g.o.Upper = "" }, overlay.ErrLayers, []string{"work", "of no use without an upper", "leave work out"}, false},
	{"upper and work on two file systems", func(g *ground) { g.o.Work = g.mount("other", "-t", "tmpfs", "tmpfs") }, overlay.ErrLayers, []string{"different mounts", "put work beside upper"}, true},
	{"upper and work on two mounts of one file system", func(g *ground) { g.o.Work = g.bind(g.o.Work, "alias") }, overlay.ErrLayers, []string{"different mounts", "put work beside upper"}, true},
	{"work is upper", func(g *ground) { g.o.Work = g.o.Upper }, overlay.ErrLayers, []string{"upper and work are the same directory", "name each once"}, true},
	{"work inside upper", func(g *ground) { g.o.Work = g.path("upper/sub") }, overlay.ErrLayers, []string{"work", "is inside upper", "separate trees"}, true},
	{"upper inside work", func(g *ground) { g.o.Work, g.o.Upper = g.o.Upper, g.path("upper/sub") }, overlay.ErrLayers, []string{"upper", "is inside work", "separate trees"}, true},
	{"one lower twice", func(g *ground) { g.o.Lowers[1] = g.o.Lowers[0] }, overlay.ErrLayers, []string{"lower 1 and lower 2 are the same directory", "name each once"}, false},
	{"one lower twice, by a link", func(g *ground) { g.o.Lowers[1] = g.symlink("lower1", "link") }, overlay.ErrLayers, []string{"the same directory", "name each once"}, false},
	{"one lower twice, by a bind mount", func(g *ground) { g.o.Lowers[1] = g.bind(g.o.Lowers[0], "alias") }, overlay.ErrLayers, []string{"the same directory", "name each once"}, false},
	{"lower is upper", func(g *ground) { g.o.Lowers[1] = g.o.Upper }, overlay.ErrLayers, []string{"lower 2 and upper are the same", "name each once"}, false},
	{"lower is work", func(g *ground) { g.o.Lowers[1] = g.o.Work }, overlay.ErrLayers, []string{"lower 2 and work are the same", "name each once"}, true},
	{"lower inside a lower", func(g *ground) { g.o.Lowers[1] = g.path("lower1/d") }, overlay.ErrLayers, []string{"lower 2", "is inside lower 1", "separate trees"}, false},
	{"lower around a lower", func(g *ground) { g.o.Lowers[0] = g.path("lower2/d") }, overlay.ErrLayers, []string{"lower 1", "is inside lower 2", "separate trees"}, false},
	{"lower inside a lower, by a bind mount", func(g *ground) { g.o.Lowers[1] = g.bind(g.path("lower1/d"), "alias") }, overlay.ErrLayers, []string{"is inside lower 1", "separate trees"}, false},
	{"lower inside upper", func(g *ground) { g.o.Lowers[1] = g.path("upper/sub") }, overlay.ErrLayers, []string{"lower 2", "is inside upper", "separate trees"}, false},
	{"lower inside upper, by a bind mount", func(g *ground) { g.o.Lowers[1] = g.bind(g.path("upper/sub/inner"), "alias") }, overlay.ErrLayers, []string{"is inside upper", "separate trees"}, false},
	{"lower inside work", func(g *ground) { g.o.Lowers[1] = g.mkdir("work/sub") }, overlay.ErrLayers, []string{"lower 2", "is inside work", "separate trees"}, true},
	{"too many lowers", func(g *ground) { g.o.Lowers = g.many(501) }, overlay.ErrLayers, []string{"501 lower directories", "500 at most"}, false},
	{"upper served already", func(g *ground) { open(g.t, g.o) }, overlay.ErrInUse, []string{"another overdav serves", "stop it first"}, true},
	{"work of a kernel mount", func(g *ground) { overlaytest.KernelMount(g.t, g.layers()); g.o.Upper = g.mkdir("upper2") }, overlay.ErrInUse, []string{"mounted overlay", "unmount it first"}, true},
	{"upper of a kernel mount", func(g *ground) { overlaytest.KernelMount(g.t, g.layers()); g.o.Work = g.mkdir("work2") }, overlay.ErrInUse, []string{"mounted overlay", "unmount it first"}, true},
	{"upper of a kernel mount in another namespace", func(g *ground) { g.mountElsewhere() }, overlay.ErrInUse, []string{"mounted overlay", "unmount it first"}, true},
	{"volatile mount that was unmounted", func(g *ground) { _, unmount := overlaytest.KernelMount(g.t, g.layers(), "volatile"); unmount() }, overlay.ErrLayers, []string{`feature "volatile"`, "remove ", "work/work/incompat"}, true},
	{"feature of a later kernel", func(g *ground) { g.mkdir("work/work/incompat/later") }, overlay.ErrLayers, []string{`feature "later"`, "remove ", "work/work/incompat"}, true},
	{"upper with an index", func(g *ground) { g.useIndex() }, overlay.ErrLayers, []string{"has an index", "serve it read-only, or name a fresh upper"}, true},
	{"marks of the other namespace", func(g *ground) { setxattr(g.t, g.o.Upper, ".", "user.overlay.impure", "y") }, overlay.ErrLayers, []string{"user.overlay.*", "serve it with xattr: user"}, false},
	{"marks of the other namespace, asked for user", func(g *ground) {
		setxattr(g.t, g.o.Upper, ".", "trusted.overlay.origin", "")
		g.o.Xattr = overlay.XattrUser
	}, overlay.ErrLayers, []string{"trusted.overlay.*", "serve it with xattr: trusted"}, false},
	{"upper on an overlay", func(g *ground) {
		dir, _ := overlaytest.KernelMount(g.t, overlaytest.NewLayers(g.t, g.mkdir("nested"), "d/\n"))
		g.o.Upper, g.o.Work = filepath.Join(dir, "u"), filepath.Join(dir, "w")
		for _, d := range []string{g.o.Upper, g.o.Work} {
			if err := os.Mkdir(d, 0o755); err != nil {
				g.t.Fatal(err)
			}
		}
	}, overlay.ErrUnsupported, []string{"on an overlay mount", "put it on a file system of its own"}, true},
	{"upper on a file system without attributes", func(g *ground) { g.onto("-t", "ramfs", "ramfs") }, overlay.ErrUnsupported, []string{"extended attributes", "put upper and work on ext4, xfs, btrfs or tmpfs"}, true},
	{"read-only mount", func(g *ground) {
		dir := g.bind(g.base, "../"+filepath.Base(g.base)+".ro", "ro")
		g.o.Upper, g.o.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	}, overlay.ErrLayers, []string{"read-only file system", "serve read-only"}, true},
	{"full disk", func(g *ground) {
		g.onto("-t", "tmpfs", "-o", "size=1m,nr_inodes=8", "tmpfs")
		for i := range 8 { // until there is no room
			_ = os.Mkdir(filepath.Join(g.o.Upper, fmt.Sprint(i)), 0o755)
		}
	}, overlay.ErrLayers, []string{"no space left on device", "serve read-only"}, true},
}

// many makes lowers without number.
func (g *ground) many(n int) (dirs []string) {
	g.t.Helper()
	for i := range n {
		dirs = append(dirs, g.mkdir(fmt.Sprintf("many/%d", i)))
	}
	return dirs
}

// onto puts upper and work on a new file system.
func (g *ground) onto(args ...string) {
	g.t.Helper()
	dir := g.mount("fs", args...)
	g.o.Upper, g.o.Work = filepath.Join(dir, "u"), filepath.Join(dir, "w")
	for _, d := range []string{g.o.Upper, g.o.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
}

// useIndex has a kernel mount with an index copy up one of two hard links.
func (g *ground) useIndex() {
	g.t.Helper()
	if err := os.Link(g.path("lower2/d/two"), g.path("lower2/d/three")); err != nil {
		g.t.Fatal(err)
	}
	dir, unmount := overlaytest.KernelMount(g.t, g.layers(), "index=on")
	defer unmount()
	if err := os.Chmod(filepath.Join(dir, "d/two"), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// mountElsewhere has the kernel mount the layers where we cannot see it.
func (g *ground) mountElsewhere() {
	g.t.Helper()
	dir := g.mkdir("elsewhere")
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4" && echo mounted && read wait`,
		"sh", g.o.Lowers[0], g.o.Upper, g.o.Work, dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		overlaytest.Need(g.t, false, "the program unshare: %v", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	g.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			g.t.Logf("elsewhere: %v", err) // its read found the end
		}
	})
	if line != "mounted\n" {
		g.t.Fatalf("elsewhere: %q, %v", line, err)
	}
}

func TestStartRefuses(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "ext4")
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			g := newGround(t, overlaytest.Within(disk)(t))
			test.spoil(g)
			before := snapshot(t, g.base)
			fsys, err := overlay.Open(g.o)
			if err == nil {
				fsys.Close()
				t.Fatal("it started")
			}
			if !errors.Is(err, test.is) {
				t.Errorf("got %v, want %v", err, test.is)
			}
			for _, text := range test.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("got %q, want %q in it", err, text)
				}
			}
			g.unchanged(before)
			g.o.ReadOnly = true
			fsys, err = overlay.Open(g.o)
			if served := err == nil; served != test.served {
				t.Errorf("read-only: got %v, want served %v", err, test.served)
			}
			if err == nil {
				if _, err := overlaytest.MergedFS(fsys); err != nil {
					t.Error(err)
				}
				if err := fsys.Mkdir("new", 0o755); !errors.Is(err, syscall.EROFS) {
					t.Errorf("mkdir: %v, want EROFS", err)
				}
				if err := fsys.Close(); err != nil {
					t.Error(err)
				}
			}
			g.unchanged(before)
		})
	}
}

// unchanged holds everything against a snapshot but what a start makes in work.
func (g *ground) unchanged(before overlaytest.Snapshot) {
	g.t.Helper()
	now := snapshot(g.t, g.base)
	for name, was := range before {
		if is, ok := now[name]; !ok || is != was && !g.isStaging(name) {
			g.t.Errorf("%s\n  was %s\n  is  %s", name, was, is)
		}
	}
	for name := range now {
		if _, ok := before[name]; !ok && !g.isStaging(name) {
			g.t.Errorf("%s is new", name)
		}
	}
}

func (g *ground) isStaging(name string) bool {
	return name == g.o.Work+"/." || strings.HasPrefix(name, filepath.Join(g.o.Work, "overdav"))
}

// TestStartAccepts has what looks odd and is right.
func TestStartAccepts(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "ext4")
	for _, test := range []struct {
		name string
		odd  func(g *ground)
		warn string // in a warning; "" none
	}{
		{"nothing odd", func(g *ground) {}, ""},
		{"one lower and no upper", func(g *ground) { g.o = overlay.Options{Lowers: g.o.Lowers[:1]} }, ""},
		{"500 lowers", func(g *ground) { g.o.Lowers = g.many(500) }, ""},
		{"lowers with odd names", func(g *ground) {
			g.o.Lowers = []string{g.mkdir("a:b,c\\d"), g.mkdir("lower=\nx")}
		}, ""},
		{"upper and work through a bind mount", func(g *ground) {
			dir := g.bind(g.base, "../"+filepath.Base(g.base)+".alias")
			g.o.Upper, g.o.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		}, ""},
		{"upper by a link", func(g *ground) { g.o.Upper = g.symlink("upper", "link") }, ""},
		{"lower on an overlay", func(g *ground) {
			dir, _ := overlaytest.KernelMount(g.t, overlaytest.NewLayers(g.t, g.mkdir("nested"), "d/\n"))
			g.o.Lowers[0] = dir
		}, ""},
		{"upper that an unmounted kernel mount left", func(g *ground) {
			_, unmount := overlaytest.KernelMount(g.t, g.layers())
			unmount()
		}, ""},
		{"upper and work inside a lower", func(g *ground) { g.o.Lowers = []string{g.base} }, "it does not show there"},
		{"lower that is the upper of a kernel mount", func(g *ground) {
			other := overlaytest.NewLayers(g.t, g.mkdir("other"), "d/\n")
			overlaytest.KernelMount(g.t, other)
			g.o.Lowers[1] = other.Upper
		}, "mounted overlay"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGround(t, overlaytest.Within(disk)(t))
			test.odd(g)
			var warnings []string
			g.o.Events.Warning = func(message string) { warnings = append(warnings, message) }
			fsys := open(t, g.o)
			if _, err := overlaytest.MergedFS(fsys); err != nil {
				t.Error(err)
			}
			checkSilent(t, fsys)
			switch {
			case test.warn == "" && len(warnings) > 0:
				t.Errorf("warned %q", warnings)
			case test.warn != "" && !strings.Contains(strings.Join(warnings, "\n"), test.warn):
				t.Errorf("warned %q, want %q", warnings, test.warn)
			}
		})
	}
}

// TestLayerRootsInsideALower are found as names of the lower and never entered.
func TestLayerRootsInsideALower(t *testing.T) {
	overlaytest.NeedRoot(t)
	g := newGround(t, t.TempDir())
	g.o.Lowers = []string{g.base}
	fsys := open(t, g.o)
	for _, name := range []string{"upper/f", "work/overdav/lock"} {
		if _, err := fsys.Open(name); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("open %s: %v, want ELOOP", name, err)
		}
		if err := fsys.RemoveAll(filepath.Dir(name)); err == nil {
			t.Errorf("%s was removed", filepath.Dir(name))
		}
	}
	if _, err := fsys.ReadDir("lower1"); err != nil {
		t.Error(err)
	}
}

// TestStartBesideUsersMount is a start as an ordinary user whose own mount, in
// namespaces of its own, has the upper.
func TestStartBesideUsersMount(t *testing.T) {
	if !overlaytest.InUserNamespace(t) {
		return
	}
	g := userGround(t)
	_, unmount := overlaytest.KernelMount(t, g.layers(), "userxattr")
	if fsys, err := overlay.Open(g.o); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("got %v, %v, want ErrInUse", fsys, err)
	}
	unmount()
	fsys := open(t, g.o)
	if _, err := fsys.ReadDir("."); err != nil {
		t.Error(err)
	}
}

// userGround is a ground for who is not root.
func userGround(t *testing.T) *ground {
	t.Helper()
	base := t.TempDir()
	g := &ground{t, base, overlay.Options{
		Lowers: []string{filepath.Join(base, "lower")}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
		Xattr: overlay.XattrUser, Durability: overlay.DurabilityNone,
	}}
	for _, dir := range []string{"lower/d", "upper", "work"} {
		g.mkdir(dir)
	}
	return g
}

// TestStartAsOrdinaryUser asks for trusted marks, which need root, and then
// leaves the choice.
func TestStartAsOrdinaryUser(t *testing.T) {
	if !overlaytest.AsOrdinaryUser(t) {
		return
	}
	g := userGround(t)
	g.o.Xattr = overlay.XattrTrusted
	_, err := overlay.Open(g.o)
	if !errors.Is(err, overlay.ErrUnsupported) || !strings.Contains(err.Error(), "run as root") || !strings.Contains(err.Error(), "xattr: user") {
		t.Errorf("trusted marks: %v, want ErrUnsupported and both remedies", err)
	}
	g.o.Xattr = overlay.XattrAuto
	fsys := open(t, g.o)
	if fsys.Namespace() != overlay.XattrUser || fsys.Redirects() {
		t.Errorf("marks in %v, redirects %v", fsys.Namespace(), fsys.Redirects())
	}
	g.o.Upper = "/" // belongs to root
	g.o.Work = "/tmp"
	if _, err := overlay.Open(g.o); !errors.Is(err, overlay.ErrLayers) {
		t.Errorf("upper of root: %v, want ErrLayers", err)
	}
	g = userGround(t)
	if err := os.Chmod(g.o.Work, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.Open(g.o); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "make it writable") {
		t.Errorf("work of mode 0500: %v, want a permission error and the remedy", err)
	}
}

func TestGuard(t *testing.T) {
	overlaytest.NeedRoot(t)
	g := newGround(t, overlaytest.Filesystem(t, "ext4"))
	for _, err := range []error{overlay.Unlock(g.o.Upper, g.path("gone")), overlay.Unlock(g.o.Upper, g.o.Work)} {
		if !errors.Is(err, overlay.ErrLayers) {
			t.Errorf("unlock of what was never locked: %v, want ErrLayers", err)
		}
	}
	fsys := open(t, g.o)
	guarded(t, g.layers())
	if err := overlay.Unlock(g.o.Upper, g.o.Work); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("unlock of what is served: %v, want ErrInUse", err)
	}
	if err := fsys.Mkdir("made", 0o755); err != nil {
		t.Errorf("after a kernel mount that failed: %v", err)
	}
	if err := fsys.Remove("f"); err != nil {
		t.Errorf("after a kernel mount that failed: %v", err)
	}
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	kernelMounts(t, g.layers(), "after Close")

	for _, how := range []string{"restart", "unlock"} {
		fsys, err := overlay.Open(g.o)
		if err != nil {
			t.Fatal(err)
		}
		overlay.Crash(fsys)
		guarded(t, g.layers())
		if how == "unlock" {
			if err := overlay.Unlock(g.o.Upper, g.o.Work); err != nil {
				t.Fatal(err)
			}
		} else {
			fsys, err := overlay.Open(g.o)
			if err != nil {
				t.Fatal(err)
			}
			if err := fsys.Close(); err != nil {
				t.Fatal(err)
			}
		}
		kernelMounts(t, g.layers(), how)
	}
}

// TestNoGuard serves without one.
func TestNoGuard(t *testing.T) {
	overlaytest.NeedRoot(t)
	g := newGround(t, t.TempDir())
	g.o.NoGuard = true
	open(t, g.o)
	if _, err := os.Stat(g.path("work/work/incompat")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the guard: %v, want none", err)
	}
}

func kernelMounts(t *testing.T, l overlaytest.Layers, when string) {
	t.Helper()
	k, err := overlaytest.Kernel.Open(l, nil)
	if err != nil {
		t.Fatalf("%s the kernel answers %v", when, err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}
