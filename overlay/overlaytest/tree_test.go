package overlaytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// everything has each kind of object and each word of the language. The text
// is in the writer's own spelling.
const everything = `./ 0711 @3
docs/ 0750 1000:1000 @12.5 [opaque user.color=red]
docs/a = one
docs/b = "two\nlines\n"
docs/c 0600 1000:1000 @5.000000001 =
docs/d [user.k="with space"] = x
docs/e size=65536 +4096=data +60000="more data"
docs/f == docs/a
docs/g/ [opaque=x]
docs/g/hidden whiteout-xattr
docs/h = (not a sum)
empty/
gone whiteout
moved/ [origin redirect=/old/place]
pipe fifo
sock 0600 socket
tty chr 4:1
disk blk 7:0
l -> docs/a
escaped [overlay.opaque=y] =
"sp ace #1"/
"sp ace #1/=not-content" =
"bad\xff" = x
"q\"[]" = " lead"
ümlaut = ä
`

func TestTreeTextIsReadBackAsWritten(t *testing.T) {
	tree, err := Parse(everything)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(tree.String())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.String(), tree.String(); got != want {
		t.Errorf("second writing differs:\n%s", Diff(want, got))
	}
}

func TestBuiltLayerReadsAsItsText(t *testing.T) {
	NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "layer")
	Build(t, dir, everything)
	tree, err := Parse(everything)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Raw(t, dir), tree.String(); got != want {
		t.Errorf("layer differs from its text:\n%s", Diff(want, got))
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, text := range []string{"a 0999 = x", "a banana", "a [", "a @x", "a chr", `"a`, "a +x=1", "a +5", `"a"b`} {
		if tree, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", text, tree)
		}
	}
}

func TestRawLeavesOutImpureAndExactShowsIt(t *testing.T) {
	NeedRoot(t)
	dir := t.TempDir()
	Build(t, dir, "d/ [impure]\n")
	exact, err := Trusted.Exact(dir)
	if raw := Raw(t, dir); raw != "d/\n" || exact != "d/ [impure]\n" || err != nil {
		t.Errorf("raw %q, exact %q, %v", raw, exact, err)
	}
}

func TestSnapshotSeesEachChange(t *testing.T) {
	changes := map[string]func(dir string) error{
		"content": func(dir string) error { return os.WriteFile(dir+"/a", []byte("two"), 0o644) },
		"mode":    func(dir string) error { return os.Chmod(dir+"/a", 0o600) },
		"mtime":   func(dir string) error { return os.Chtimes(dir+"/a", Epoch, Epoch.Add(1)) },
		"atime":   func(dir string) error { return os.Chtimes(dir+"/a", Epoch.Add(1), Epoch) },
		"new":     func(dir string) error { return os.Mkdir(dir+"/d", 0o755) },
		"gone":    func(dir string) error { return os.Remove(dir + "/a") },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			Build(t, dir, "a = one\nb = x\n")
			before, err := TakeSnapshot(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := before.Unchanged(dir); err != nil {
				t.Fatalf("with nothing changed: %v", err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			if err := before.Unchanged(dir); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want an error naming what changed", err)
			}
		})
	}
}

func TestSnapshotLeavesNoTrace(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := Filesystem(t, kind)
			Build(t, dir, "d/\nd/a = one\nl -> d/a\n")
			before, err := TakeSnapshot(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := before.Unchanged(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestImagesHoldTheTree(t *testing.T) {
	NeedRoot(t)
	for _, kind := range []string{"squashfs", "erofs"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			text := "d/ 0700 [opaque user.k=v]\nd/a = one\nl -> d/a\nw whiteout\n"
			Build(t, dir, text)
			if got := Raw(t, Image(t, kind, dir)); got != text {
				t.Errorf("image differs:\n%s", Diff(text, got))
			}
		})
	}
}

// TestKernelShowsBothClasses mounts the same layers as root and as root of a
// user namespace.
func TestKernelShowsBothClasses(t *testing.T) {
	NeedRoot(t)
	l := NewLayers(t, t.TempDir(), "docs/\ndocs/a = one\n")
	Build(t, l.Upper, "docs/ [opaque]\nw = x\n")
	LowersUnchanged(t, l.Lowers...)
	dir, _ := KernelMount(t, l)
	if got, want := Merged(t, dir), "docs/\nw = x\n"; got != want {
		t.Errorf("merged %q, want %q", got, want)
	}
}

func TestKernelMountsForAnOrdinaryUser(t *testing.T) {
	if !InUserNamespace(t) {
		return
	}
	base := t.TempDir()
	l := Layers{Lowers: []string{base + "/lower"}, Upper: base + "/upper", Work: base + "/work"}
	for _, build := range []error{
		User.Build(l.Lowers[0], "docs/\ndocs/a = one\nb = two\n"),
		User.Build(l.Upper, "docs/ [opaque]\n"),
		User.Build(l.Work, ""),
	} {
		if build != nil {
			t.Fatal(build)
		}
	}
	dir, unmount := KernelMount(t, l, "userxattr")
	if got, want := Merged(t, dir), "b = two\ndocs/\n"; got != want {
		t.Errorf("merged %q, want %q", got, want)
	}
	if err := os.Remove(dir + "/b"); err != nil {
		t.Fatal(err)
	}
	unmount()
	raw, err := User.Raw(l.Upper)
	if want := "b whiteout\ndocs/ [opaque]\n"; raw != want || err != nil {
		t.Errorf("raw upper %q, %v, want %q", raw, err, want)
	}
}
