package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// problems is what Check says, a line for each.
func problems(t testing.TB, fsys *overlay.FS) []string {
	t.Helper()
	var all []string
	if err := fsys.Check(func(p overlay.Problem) { all = append(all, p.Path+": "+p.What) }); err != nil {
		t.Fatalf("check: %v", err)
	}
	slices.Sort(all)
	return all
}

// checkSilent fails the test when Check finds anything.
func checkSilent(t testing.TB, fsys *overlay.FS) {
	t.Helper()
	for _, p := range problems(t, fsys) {
		t.Errorf("check: %s", p)
	}
}

// open opens the layers until the test ends.
func open(t testing.TB, o overlay.Options) *overlay.FS {
	t.Helper()
	fsys, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fsys.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return fsys
}

func optionsOf(l overlaytest.Layers) overlay.Options {
	return overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Durability: overlay.DurabilityNone}
}

func TestCheckReportsDamage(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "ext4")
	lower := "a/\na/x = 1\nb/\nb/x = 2\np/\np/c/\np/c/x = 3\nf = low\n"
	for _, test := range []struct {
		name, upper string
		want        string // in the one line; "" for silence
	}{
		{"empty redirect", `d/ [redirect=""]`, `d: corrupt redirect mark ""`},
		{"relative redirect with a slash", "d/ [redirect=a/b]", `d: corrupt redirect mark "a/b"`},
		{"redirect that climbs", "d/ [redirect=/../etc]", `d: corrupt redirect mark "/../etc"`},
		{"redirect on a symlink", "d [redirect=a] -> a", "d: has the mark redirect, which means nothing there"},
		{"redirect on the root", "./ [redirect=a]\nn = x", ".: has the mark redirect, which means nothing there"},
		{"two redirects to one directory", "a whiteout\nc/ [redirect=a]\nd/ [redirect=a]", `d: shows the same directory of lower 1 as "c" does`},
		{"redirect to what still shows, lower alone", "d/ [redirect=a]", `d: shows the same directory of lower 1 as "a" does`},
		{"redirect to what still shows, merged", "a/\nd/ [redirect=a]", `d: shows the same directory of lower 1 as "a" does`},
		{"absolute redirect to what still shows", "b/\nb/d/ [redirect=/a]", `b/d: shows the same directory of lower 1 as "a" does`},
		{"relative redirect in a renamed directory", "p whiteout\nq/ [redirect=p]\nq/d/ [redirect=c]", `q/d: shows the same directory of lower 1 as "q/c" does`},
		{"opaque of another value", "d/ [opaque=yes]", `d: the opaque mark is "yes", which hides nothing`},
		{"opaque on a file", "d [opaque] = x", "d: has the mark opaque, which means nothing there"},
		{"opaque on the root", "./ [opaque]\nn = x", ".: has the mark opaque, which means nothing there"},
		{"mark of the other namespace", "d/ [user.overlay.opaque=y]", "d: has the mark user.overlay.opaque, which is not read"},
		{"metacopy", "d [metacopy] size=5 +0=x", "d: the content is in a lower layer"},
		{"whiteout mark on content", "d [whiteout] = x", "d: has the whiteout mark and content"},
		{"whiteout mark on a directory", "d/ [whiteout]", "d: has the mark whiteout, which means nothing there"},
		{"impure on a file", "d [impure] = x", "d: has the mark impure, which means nothing there"},
		{"impure of another value", "d/ [impure=n]", `d: the impure mark is "n"`},
		{"uuid below the root", "d/ [uuid=0123456789abcdef]", "d: has the mark uuid, which means nothing there"},
		{"short uuid", "./ [uuid=0123]\nn = x", ".: the uuid mark has 4 bytes"},
		{"origin that is no handle", "d/ [origin=garbage-garbage-garbage]", "d: corrupt origin mark"},
		{"origin with the wrong length", `d [origin="\x00\xfb\x20\x00\x010123456789abcdefhandle"] = x`, "d: corrupt origin mark"},
		{"protattr with unknown letters", "d [protattr=iq] = x", `d: the protattr mark is "iq"`},
		{"protattr on a symlink", "d [protattr=i] -> a", "d: has the mark protattr, which means nothing there"},
		{"index mark", "d/ [upper=x]", "d: has the mark upper, which means nothing there"},
		{"unknown mark", "d/ [later=x]", "d: has the mark later, which nobody knows"},
		{"damage deep in a pure upper", "n/\nn/d/\nn/d/e [metacopy] = x", "n/d/e: the content is in a lower layer"},
		{"damage below an opaque directory", "a/ [opaque]\na/d [impure] = x", "a/d: has the mark impure"},

		{"nothing", "", ""},
		{"needless whiteout", "nothing whiteout", ""},
		{"needless opaque", "d/ [opaque]", ""},
		{"redirect to itself", "a/ [redirect=a]", ""},
		{"absolute redirect to itself", "a/ [redirect=/a]", ""},
		{"redirect to nothing", "d/ [redirect=gone]", ""},
		{"redirect with what it left hidden", "a whiteout\nd/ [redirect=a]", ""},
		{"exchanged directories", "a/ [redirect=b]\nb/ [redirect=a]", ""},
		{"new directory in a renamed one's place", "a/ [opaque]\nd/ [redirect=a]", ""},
		{"opaque and redirect of a flattening cut short", "a whiteout\nd/ [opaque redirect=a]", ""},
		{"whiteout by attribute", "f whiteout-xattr", ""},
		{"marker of such whiteouts", "d/ [opaque=x]", ""},
		{"empty origin", "d/ [origin]\ne [origin] =", ""},
		{"redirect of a former metacopy", "e [redirect=/f] = x", ""},
		{"protattr", "d [protattr=ai] = x\ne/ [protattr=i]", ""},
		{"marks of a nested overlay", "d/ [overlay.opaque=yes overlay.later=x]", ""},
		{"marks by other names", "d/ [trusted.overlayx=1 user.overlay.color=red]", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overlaytest.NewLayers(t, overlaytest.Within(disk)(t), lower)
			overlaytest.Build(t, l.Upper, test.upper)
			before := snapshot(t, l.Upper)
			got := problems(t, open(t, optionsOf(l)))
			switch {
			case test.want == "":
				if len(got) > 0 {
					t.Errorf("got %q, want silence", got)
				}
			case len(got) != 1 || !strings.HasPrefix(got[0], test.want):
				t.Errorf("got %q, want one: %q", got, test.want)
			}
			if test.upper != "" { // an empty one gets its UUID
				unchanged(t, before, l.Upper)
			}
		})
	}
}

func snapshot(t testing.TB, dirs ...string) overlaytest.Snapshot {
	t.Helper()
	s, err := overlaytest.TakeSnapshot(dirs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unchanged(t testing.TB, before overlaytest.Snapshot, dirs ...string) {
	t.Helper()
	if err := before.Unchanged(dirs...); err != nil {
		t.Error(err)
	}
}

// TestCheckOfUserMarks has the classes the other way round.
func TestCheckOfUserMarks(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "ext4"), "a/\n")
	overlaytest.Build(t, l.Upper, "d/ [user.overlay.redirect=a]\ne/ [trusted.overlay.opaque=y]\nf/ [user.overlay.opaque=y]\n")
	o := optionsOf(l)
	o.Xattr = overlay.XattrUser
	want := []string{
		"d: has a redirect, which is not followed with marks in user.overlay.*",
		"e: has the mark trusted.overlay.opaque, which is not read: the marks of this upper are in user.overlay.*",
	}
	if got := problems(t, open(t, o)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCheckReportsUnreadableDirectories(t *testing.T) {
	if !overlaytest.AsOrdinaryUser(t) {
		return
	}
	base := t.TempDir()
	for _, dir := range []string{"lower", "upper/shut", "work"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	shut := base + "/upper/shut"
	if err := os.Chmod(shut, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(shut, 0o700) }) // for TempDir's own clean-up
	fsys := open(t, overlay.Options{Lowers: []string{base + "/lower"}, Upper: base + "/upper", Work: base + "/work"})
	got := problems(t, fsys)
	if len(got) == 0 || !strings.HasPrefix(got[0], "shut: cannot be read: ") {
		t.Errorf("got %q, want that shut cannot be read", got)
	}
}

func TestCheckReportsLeftovers(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f = 1\n")
	fsys := open(t, optionsOf(l))
	if err := fsys.Remove("f"); err != nil {
		t.Fatal(err)
	}
	checkSilent(t, fsys)
	for _, name := range []string{"tmp/t99", "trash/x", "moving"} {
		if err := os.WriteFile(filepath.Join(l.Work, "overdav", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := fmt.Sprint(problems(t, fsys))
	for _, name := range []string{"tmp/t99", "trash/x", "moving"} {
		if !strings.Contains(got, "overdav/"+name+": was left over") {
			t.Errorf("%s is not reported in %s", name, got)
		}
	}
}

// TestCheckOfAnUpperOfTheKernel holds Check against what kernel mounts write.
func TestCheckOfAnUpperOfTheKernel(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "ext4"),
		"a/\na/x = 1\na/e/\nb/\nb/x = 2\nf = low\ng = low\nl -> f\n", "a/\na/y = 1\nc/\nc/x = 3\n")
	dir, unmount := overlaytest.KernelMount(t, l)
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Rename(path("a"), path("b/a")), os.Rename(path("b/a/e"), path("e")), os.Rename(path("c"), path("d")),
		os.Mkdir(path("a"), 0o755), os.Remove(path("f")), os.WriteFile(path("g"), []byte("new"), 0o644),
		os.RemoveAll(path("b/a/x")), os.Lchown(path("l"), 1, 1), os.Link(path("g"), path("h")),
		os.RemoveAll(path("d")), os.Mkdir(path("d"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := overlaytest.Merged(t, dir)
	unmount()
	fsys := open(t, optionsOf(l))
	checkSilent(t, fsys)
	if got, err := overlaytest.MergedFS(fsys); err != nil || got != want {
		t.Errorf("the engine shows (%v)\n%s\nwant\n%s", err, got, want)
	}
}
