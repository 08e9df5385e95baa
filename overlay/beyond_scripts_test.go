package overlay_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// The cases of xfstests' overlay group that no script can tell: those with
// several hands at work, with open files, and with layers that do not fit.

// openFS opens the engine over layers until the test ends, and at the end
// compares the lowers with what they were.
func openFS(t *testing.T, l overlaytest.Layers, options ...string) *overlay.FS {
	t.Helper()
	overlaytest.LowersUnchanged(t, l.Lowers...)
	fsys, err := overlaytest.OpenFS(l, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	})
	return fsys
}

// together runs n functions at once.
func together(t *testing.T, n int, run func(i int) error) {
	t.Helper()
	var group sync.WaitGroup
	errs := make([]error, n)
	start := make(chan struct{})
	for i := range n {
		group.Go(func() {
			<-start
			errs[i] = run(i)
		})
	}
	close(start)
	group.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("number %d: %v", i, err)
		}
	}
}

// Many who change one file of the lower at once copy it up once, and no change
// is lost (xfstests overlay/021).
func TestConcurrentCopyUpLosesNoChange(t *testing.T) {
	overlaytest.NeedRoot(t)
	content := strings.Repeat("0123456789abcdef", 1<<16)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/f 0640 = "+content+"\n")
	fsys := openFS(t, l)
	const hands = 8
	together(t, hands, func(i int) error {
		return fsys.Setxattr("d/f", fmt.Sprintf("user.hand%d", i), []byte("was here"))
	})
	attrs, err := fsys.Listxattr("d/f")
	if err != nil || len(attrs) != hands {
		t.Errorf("attributes %q, %v, want %d", attrs, err, hands)
	}
	if got := read(t, fsys, "d/f"); got != content {
		t.Errorf("content of %d bytes differs from that of the lower", len(got))
	}
	members, err := os.ReadDir(filepath.Join(l.Upper, "d"))
	if err != nil || len(members) != 1 {
		t.Errorf("upper has %v, %v, want the file alone", members, err)
	}
}

// The names of one file of the lower, changed at once, become files of their
// own, each with its own change (xfstests overlay/032).
func TestConcurrentCopyUpOfHardLinks(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f0 = base\nf1 == f0\nf2 == f0\nf3 == f0\n")
	fsys := openFS(t, l)
	together(t, 4, func(i int) error {
		f, err := fsys.OpenFile(fmt.Sprintf("f%d", i), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "-%d", i)
		return errors.Join(err, f.Close())
	})
	for i := range 4 {
		if got, want := read(t, fsys, fmt.Sprintf("f%d", i)), fmt.Sprintf("base-%d", i); got != want {
			t.Errorf("f%d: got %q, want %q", i, got, want)
		}
	}
}

func read(t *testing.T, fsys *overlay.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// What is being read stays what it was when it was opened, while the file is
// replaced, renamed and deleted.
func TestReaderKeepsItsVersion(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f = the old content\n")
	fsys := openFS(t, l)
	f, err := fsys.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := fsys.Stage("f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Rename("f", "g"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Remove("g"); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if string(content) != "the old content" || err != nil {
		t.Errorf("got %q, %v", content, err)
	}
}

// A listing is what it was at the first look, whatever is done meanwhile; from
// the start again it is what there is now (xfstests overlay/077).
func TestListingIsASnapshotUntilItIsRewound(t *testing.T) {
	overlaytest.NeedRoot(t)
	const half = 3000
	var lower, upper strings.Builder
	want := []string{}
	for i := range half {
		fmt.Fprintf(&lower, "d/lower-%04d =\n", i)
		fmt.Fprintf(&upper, "d/upper-%04d =\n", i)
		want = append(want, fmt.Sprintf("lower-%04d", i), fmt.Sprintf("upper-%04d", i))
	}
	slices.Sort(want)
	l := overlaytest.NewLayers(t, t.TempDir(), lower.String())
	overlaytest.Build(t, l.Upper, upper.String())
	fsys := openFS(t, l)
	dir, err := fsys.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	got := listSome(t, dir, 100)
	for _, change := range []error{
		fsys.Remove("d/lower-2999"), fsys.Remove("d/upper-2999"),
		fsys.Mkdir("d/new", 0o755), fsys.Rename("d/lower-0000", "d/zzz"),
	} {
		if change != nil {
			t.Fatal(change)
		}
	}
	got = append(got, listSome(t, dir, 2*half)...)
	slices.Sort(got)
	// What is gone may be left out; what is new may not come in, and nothing
	// comes twice or is lost.
	gone := []string{"lower-2999", "upper-2999", "lower-0000"}
	missing := slices.DeleteFunc(slices.Clone(want), func(n string) bool { return slices.Contains(got, n) || slices.Contains(gone, n) })
	if len(missing) > 0 || len(got) != len(slices.Compact(slices.Clone(got))) || slices.Contains(got, "new") {
		t.Errorf("%d names, missing %q", len(got), missing)
	}
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	again := listSome(t, dir, 2*half)
	if len(again) != 2*half-2+1 || !slices.Contains(again, "new") || slices.Contains(again, "lower-2999") {
		t.Errorf("from the start again: %d names, want %d", len(again), 2*half-1)
	}
}

// listSome reads up to n names, a hundred at a time.
func listSome(t *testing.T, dir *overlay.File, n int) (names []string) {
	t.Helper()
	for len(names) < n {
		entries, err := dir.ReadDir(100)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// The tree is one that package io/fs accepts.
func TestMergedTreeIsAnFS(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/low = one\nd/both = low\nd/gone = x\nsub/deep/er/f = two\n", "bottom/f = three\nd/bottom =\n")
	overlaytest.Build(t, l.Upper, "d/ [origin]\nd/up = four\nd/both = up\nd/gone whiteout\nopaque/ [opaque]\nopaque/f =\n")
	fsys := openFS(t, l)
	if err := fstest.TestFS(fsys.FS(), "d/low", "d/both", "d/up", "d/bottom", "sub/deep/er/f", "bottom/f", "opaque/f"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(fsys.FS(), "d/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted file: %v, want fs.ErrNotExist", err)
	}
}

// A lower may itself be an overlay, whose own marks it hides and whose escaped
// ones it shows (xfstests overlay/029, overlay/084).
func TestOverlayAsLower(t *testing.T) {
	overlaytest.NeedRoot(t)
	inner := overlaytest.NewLayers(t, t.TempDir(), "d/a = one\nd/b = two\nold/x = 1\ngone =\n")
	overlaytest.Build(t, inner.Upper, "d/ [origin]\nd/a whiteout\nd/c = three\ngone whiteout\nold whiteout\nnew/ [origin redirect=old]\nescaped/ [overlay.opaque=y]\nescaped/e =\n")
	innerDir, _ := overlaytest.KernelMount(t, inner)
	outer := overlaytest.NewLayers(t, t.TempDir())
	outer.Lowers = []string{innerDir}
	fsys := openFS(t, outer)
	for _, change := range []error{
		fsys.Remove("d/b"), fsys.Rename("new", "newer"), fsys.Chmod("d/c", 0o600), fsys.RemoveAll("escaped"),
	} {
		if change != nil {
			t.Fatal(change)
		}
	}
	got, err := overlaytest.MergedFS(fsys)
	if want := "d/\nd/c 0600 = three\nnewer/\nnewer/x = 1\n"; got != want || err != nil {
		t.Errorf("merged: %v\n%s", err, overlaytest.Diff(want, got))
	}
	// The kernel keeps no file handles on an overlay, so that origin is empty.
	want := "d/ [origin]\nd/b whiteout\nd/c 0600 [origin] = three\nescaped whiteout\nnew whiteout\nnewer/ [origin redirect=new]\n"
	if got := overlaytest.Raw(t, outer.Upper); got != want {
		t.Errorf("upper:\n%s", overlaytest.Diff(want, got))
	}
}

// An upper that was written with metacopy=on holds files without content: it is
// not written to; read-only they are errors, never zeros, and are in nobody's
// way (xfstests overlay/060).
func TestMetacopyIsRefusedNotServed(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/f 0644 = precious\nd/g = other\n")
	dir, unmount := overlaytest.KernelMount(t, l, "metacopy=on")
	if err := os.Chmod(filepath.Join(dir, "d/f"), 0o600); err != nil {
		t.Fatal(err)
	}
	unmount()
	if fsys, err := overlay.Open(optionsOf(l)); !errors.Is(err, overlay.ErrLayers) || !strings.Contains(err.Error(), "d/f") {
		if err == nil {
			fsys.Close()
		}
		t.Errorf("open for writing: %v, want a refusal that names the file", err)
	}
	o := optionsOf(l)
	o.ReadOnly = true
	fsys := open(t, o)
	f, err := fsys.Open("d/f")
	if err == nil {
		content, err := io.ReadAll(f)
		f.Close()
		if err == nil {
			t.Errorf("served %q, want an error", content)
		}
	}
	infos, err := fsys.ReadDir("d")
	if err != nil || len(infos) == 0 {
		t.Errorf("listing: %v, %v", infos, err)
	}
	if got := read(t, fsys, "d/g"); got != "other" {
		t.Errorf("its neighbour: %q", got)
	}
}

// Layers whose names are special to mount(8) and in its option strings are
// layers like others (xfstests overlay/083).
func TestSpecialCharactersInLayerPaths(t *testing.T) {
	overlaytest.NeedRoot(t)
	for _, name := range []string{"a:b", "c,d", `e\f`, "g h", "i=j", "k\nl", "ü", "a:b,c\\d"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			l := overlaytest.NewLayers(t, dir, "a = one\n")
			fsys, err := overlaytest.OpenFS(l, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(fsys.Rename("a", "b"), fsys.Close()); err != nil {
				t.Error(err)
			}
			if got, want := overlaytest.Raw(t, l.Upper), "a whiteout\nb [origin] = one\n"; got != want {
				t.Errorf("upper:\n%s", overlaytest.Diff(want, got))
			}
		})
	}
}

// Layers that cannot be an overlay together are refused, by the engine as by
// the kernel (xfstests overlay/035, 036 and 065).
func TestLayersThatDoNotFitAreRefused(t *testing.T) {
	overlaytest.NeedRoot(t)
	for _, test := range []struct {
		name   string
		change func(l *overlaytest.Layers, dir string)
		engine bool // refused by the engine alone
	}{
		{"missing lower", func(l *overlaytest.Layers, dir string) { l.Lowers[0] = dir + "/none" }, false},
		{"file as lower", func(l *overlaytest.Layers, dir string) { l.Lowers[0] = dir + "/lower1/file" }, false},
		{"missing upper", func(l *overlaytest.Layers, dir string) { l.Upper = dir + "/none" }, false},
		{"missing work", func(l *overlaytest.Layers, dir string) { l.Work = dir + "/none" }, false},
		{"one lower twice", func(l *overlaytest.Layers, dir string) { l.Lowers[1] = l.Lowers[0] }, false},
		{"lower in lower", func(l *overlaytest.Layers, dir string) { l.Lowers[1] = l.Lowers[0] + "/d" }, false},
		{"lower around lower", func(l *overlaytest.Layers, dir string) {
			l.Lowers[0] = l.Lowers[0] + "/d"
			l.Lowers[1] = dir + "/lower1"
		}, false},
		{"upper as lower", func(l *overlaytest.Layers, dir string) { l.Upper = l.Lowers[0] }, false},
		{"lower in upper", func(l *overlaytest.Layers, dir string) { l.Lowers[0] = l.Upper + "/d" }, false},
		{"work as lower", func(l *overlaytest.Layers, dir string) { l.Work = l.Lowers[0] }, false},
		{"lower in work", func(l *overlaytest.Layers, dir string) { l.Lowers[0] = l.Work + "/d" }, false},
		{"upper as work", func(l *overlaytest.Layers, dir string) { l.Work = l.Upper }, false},
		{"work in upper", func(l *overlaytest.Layers, dir string) { l.Work = l.Upper + "/d" }, false},
		{"upper in work", func(l *overlaytest.Layers, dir string) { l.Upper = l.Work + "/d" }, false},
		{"foreign incompat", func(l *overlaytest.Layers, dir string) { overlaytest.Build(t, l.Work, "work/incompat/other/\n") }, false},
		{"index in use", func(l *overlaytest.Layers, dir string) { overlaytest.Build(t, l.Work, "index/00fb =\n") }, true},
		{"mark of the other class", func(l *overlaytest.Layers, dir string) {
			overlaytest.Build(t, l.Upper, "./ [user.overlay.impure=y]\n")
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			l := overlaytest.NewLayers(t, dir, "d/\nfile =\n", "d/\n")
			overlaytest.Build(t, l.Upper, "d/\n")
			overlaytest.Build(t, l.Work, "d/\n")
			test.change(&l, dir)
			// Work may be looked into, and gets a lock for that.
			still := []string{dir + "/lower1", dir + "/lower2", dir + "/upper"}
			before, err := overlaytest.TakeSnapshot(still...)
			if err != nil {
				t.Fatal(err)
			}
			fsys, err := overlaytest.OpenFS(l, nil)
			if err == nil {
				fsys.Close()
				t.Error("the engine opens them")
			}
			if err := before.Unchanged(still...); err != nil {
				t.Errorf("refused, and %v", err)
			}
			k, err := overlaytest.Kernel.Open(l, nil)
			if err == nil {
				k.Close()
				if !test.engine {
					t.Error("the kernel mounts them")
				}
			} else if test.engine {
				t.Errorf("the kernel refuses them too: %v", err)
			}
		})
	}
}

// An upper is served by one at a time, engine or kernel (xfstests overlay/036).
func TestUpperInUseIsRefused(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "a =\n")
	fsys, err := overlaytest.OpenFS(l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := overlaytest.OpenFS(l, nil); err == nil {
		second.Close()
		t.Error("a second engine opens it")
	} else if !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("a second engine: %v, want ErrInUse", err)
	}
	if k, err := overlaytest.Kernel.Open(l, nil); err == nil {
		k.Close()
		t.Error("the kernel mounts what the engine serves")
	}
	if err := fsys.Mkdir("still-works", 0o755); err != nil {
		t.Errorf("after the kernel's attempt: %v", err)
	}
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	_, unmount := overlaytest.KernelMount(t, l)
	other := overlaytest.NewLayers(t, t.TempDir(), "a =\n")
	for name, layers := range map[string]overlaytest.Layers{
		"upper and work": l,
		"work as upper":  {Lowers: other.Lowers, Upper: l.Work, Work: other.Work},
	} {
		if fsys, err := overlaytest.OpenFS(layers, nil); err == nil {
			fsys.Close()
			t.Errorf("%s of a kernel mount: the engine opens it", name)
		}
	}
	unmount()
	fsys, err = overlaytest.OpenFS(l, nil)
	if err != nil {
		t.Fatalf("after the kernel: %v", err)
	}
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
}

// An upper on a read-only mount is refused, or served read-only to who asks.
func TestReadOnlyUpper(t *testing.T) {
	overlaytest.NeedRoot(t)
	dir := t.TempDir()
	l := overlaytest.NewLayers(t, dir, "a = one\nb = two\n")
	overlaytest.Build(t, l.Upper, "a whiteout\n")
	image := overlaytest.Image(t, "squashfs", dir)
	for i, lower := range l.Lowers {
		l.Lowers[i] = filepath.Join(image, filepath.Base(lower))
	}
	l.Upper, l.Work = filepath.Join(image, "upper"), filepath.Join(image, "work")
	if fsys, err := overlaytest.OpenFS(l, nil); err == nil {
		fsys.Close()
		t.Error("opened for writing")
	}
	fsys := openFS(t, l, "ro")
	got, err := overlaytest.MergedFS(fsys)
	if want := "b = two\n"; got != want || err != nil {
		t.Errorf("merged %q, %v, want %q", got, err, want)
	}
	if err := fsys.Remove("b"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("remove: %v, want EROFS", err)
	}
}

func TestAttributesOfMembers(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/low [user.a=lower] = x\nd/both [user.a=hidden] = x\n")
	overlaytest.Build(t, l.Upper, "d/\nd/both [user.a=upper] = y\nd/none = z\n")
	f, err := open(t, optionsOf(l)).Open("d")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	members, err := f.Infos(-1)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"low": "lower", "both": "upper", "none": ""}
	for _, m := range members {
		value, err := f.MemberXattr(m, "user.a")
		if string(value) != want[m.Name()] || (err == nil) != (want[m.Name()] != "") {
			t.Errorf("%s: got %q, %v, want %q", m.Name(), value, err, want[m.Name()])
		}
		if _, err := f.MemberXattr(m, "trusted.overlay.origin"); !errors.Is(err, syscall.ENODATA) {
			t.Errorf("%s: a mark is shown: %v", m.Name(), err)
		}
	}
	if len(members) != len(want) {
		t.Errorf("%d members, want %d", len(members), len(want))
	}
}

func TestResolve(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), strings.Join([]string{
		"d/", "d/f = x", "d/up -> ../../../d", "in -> d", "abs -> /d/f", "deep -> d/up/up/f",
		"gone -> nowhere/../..", "loop -> loop",
	}, "\n")+"\n")
	fsys := open(t, optionsOf(l))
	for _, test := range []struct {
		name   string
		follow bool
		want   string
		links  int
	}{
		{".", true, ".", 0},
		{"d/f", true, "d/f", 0},
		{"in", false, "in", 0},
		{"in", true, "d", 1},
		{"in/f", false, "d/f", 1},
		{"abs", true, "d/f", 1},
		{"deep", true, "d/f", 3},
		{"d/up", true, "d", 1},
		{"in/new/below", true, "d/new/below", 1},
		{"gone", true, ".", 1},
		{"d/f/x", true, "d/f/x", 0},
	} {
		got, links, err := fsys.Resolve(test.name, test.follow)
		if got != test.want || links != test.links || err != nil {
			t.Errorf("%s, follow %v: got %q with %d links, %v, want %q with %d", test.name, test.follow, got, links, err, test.want, test.links)
		}
	}
	if _, _, err := fsys.Resolve("loop", true); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: %v, want ELOOP", err)
	}
}
