package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// A discardRun is one way of discarding an upper.
type discardRun struct {
	anew   bool
	served bool // by a server that died: its guard is there, and what it left in staging
	stuck  bool // upper itself cannot be moved
}

// discarding is r on l, with hook before every change.
func (r discardRun) discarding(l overlaytest.Layers, hook at.Hook) overlay.Discarding {
	g := overlay.Discarding{Upper: l.Upper, Work: l.Work, Anew: r.anew, Hook: hook}
	if r.stuck {
		g.Hook = func(op at.Op, name string) error {
			if op == at.OpRename && name == filepath.Base(l.Upper) {
				return syscall.EBUSY // as of a mount
			}
			return hook(op, name)
		}
	}
	return g
}

const (
	discardLower = "docs/\ndocs/a = lower\nb = b\n"
	discardUpper = "docs/\ndocs/a = upper\ndocs/deep/\ndocs/deep/x = x\nown = own\n"
)

// build makes layers that a server has left.
func (r discardRun) build(t *testing.T, dir string) overlaytest.Layers {
	t.Helper()
	l := overlaytest.NewLayers(t, dir, discardLower)
	overlaytest.Build(t, l.Upper, discardUpper)
	fsys := r.open(t, l)
	if r.served {
		for _, name := range []string{"tmp/t1", "trash/t2"} {
			must(t, os.MkdirAll(filepath.Join(l.Work, "overdav", name, "left"), 0o700))
		}
		overlay.Crash(fsys)
	} else {
		must(t, fsys.Close())
	}
	must(t, os.WriteFile(filepath.Join(l.Work, "overdav/locks"), []byte("of clients"), 0o600))
	return l
}

func (r discardRun) open(t *testing.T, l overlaytest.Layers) *overlay.FS {
	t.Helper()
	fsys, err := overlay.Open(overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work})
	must(t, err)
	return fsys
}

// view is what a server that is started now shows, with an upper and a work that
// it makes as the program does.
func (r discardRun) view(t *testing.T, l overlaytest.Layers) string {
	t.Helper()
	for _, dir := range []string{l.Upper, l.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	fsys := r.open(t, l)
	text, err := overlaytest.MergedFS(fsys)
	must(t, err)
	must(t, fsys.Close())
	return text
}

// TestEveryFaultOfDiscard fails every change to the disk in turn, and lets the
// machine die at each: what the next start shows is the old tree, or that of the
// lowers alone, which it is if Discard said so; and Delete and RemoveWork, called
// again, leave nothing.
func TestEveryFaultOfDiscard(t *testing.T) {
	overlaytest.NeedRoot(t)
	within := overlaytest.Within(overlaytest.Filesystem(t, "tmpfs"))
	for _, r := range []discardRun{{anew: true}, {anew: true, served: true}, {}, {served: true}, {anew: true, stuck: true}, {anew: true, served: true, stuck: true}} {
		t.Run(fmt.Sprintf("anew %v, served %v, stuck %v", r.anew, r.served, r.stuck), func(t *testing.T) {
			before := r.view(t, r.build(t, within(t)))
			after := r.view(t, overlaytest.NewLayers(t, within(t), discardLower))
			if before == after {
				t.Fatal("nothing to tell them apart by")
			}
			for _, dies := range []bool{false, true} {
				n := 1
				for ; r.disturbed(t, within(t), &fault{errno: syscall.EIO, dies: dies, at: n, armed: true}, before, after); n++ {
				}
				if n < 12 {
					t.Errorf("it took only %d changes", n-1)
				}
			}
		})
	}
}

// disturbed runs it with a fault, and says whether it came to it.
func (r discardRun) disturbed(t *testing.T, dir string, f *fault, before, after string) (fired bool) {
	t.Helper()
	l := r.build(t, dir)
	g := r.discarding(l, f.hook)
	err := g.Discard()
	done := err == nil
	if done {
		if rest := g.Delete(context.Background()); rest != nil || r.anew {
			err = rest
		} else {
			err = g.RemoveWork()
		}
	}
	if fired = f.fired(); fired && !errors.Is(err, f.errno) || !fired && err != nil {
		t.Errorf("change %d, %s: %v", f.at, f.hit, err)
	}
	f.arm(false)
	r.cutShort(t, l, f)
	if r.anew {
		if _, err := os.Stat(l.Upper); err != nil {
			t.Errorf("change %d, %s: upper is not there: %v", f.at, f.hit, err)
		}
	}
	right := []string{before, after}
	if done {
		right = right[1:]
	}
	if f.at%2 == 0 { // what is left is deleted before the start, or after
		r.finish(t, g, f)
	}
	if got := r.view(t, l); !slices.Contains(right, got) {
		t.Errorf("change %d, %s (done: %v): shows\n%s", f.at, f.hit, done, got)
	}
	must(t, g.Delete(context.Background()))
	if left := slices.DeleteFunc(leftIn(t, l.Work), func(name string) bool { return name == "overdav/locks" && !done }); len(left) > 0 {
		t.Errorf("change %d, %s: left in work: %q", f.at, f.hit, left)
	}
	return fired
}

// cutShort looks after the guard while there is a note of what is half discarded.
func (r discardRun) cutShort(t *testing.T, l overlaytest.Layers, f *fault) {
	t.Helper()
	if note, err := os.ReadFile(filepath.Join(l.Work, "overdav/discarding")); err != nil || !bytes.HasSuffix(note, []byte("\n")) {
		return
	}
	if err := overlay.Unlock(l.Upper, l.Work); err == nil {
		t.Errorf("change %d, %s: half discarded, and unlocked", f.at, f.hit)
	}
	if fsys, err := overlay.Open(overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, ReadOnly: true}); err == nil {
		t.Errorf("change %d, %s: half discarded, and shown", f.at, f.hit)
		must(t, fsys.Close())
	}
	if _, err := os.Stat(filepath.Join(l.Work, "work/incompat/overdav")); err != nil {
		t.Errorf("change %d, %s: half discarded, and the kernel may mount it: %v", f.at, f.hit, err)
	}
}

func (r discardRun) finish(t *testing.T, g overlay.Discarding, f *fault) {
	t.Helper()
	if err := g.Delete(context.Background()); err != nil {
		t.Errorf("change %d, %s: what is left is not deleted: %v", f.at, f.hit, err)
	}
	if _, err := os.Stat(filepath.Join(g.Work, "overdav/discarded")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("change %d, %s: still there: %v", f.at, f.hit, err)
	}
	if err := g.RemoveWork(); err != nil {
		t.Errorf("change %d, %s: work: %v", f.at, f.hit, err)
	}
}

// An upper that can neither be moved nor be emptied stays as it was; one that can be
// emptied stays the same directory, and keeps no attribute but its permissions.
func TestDiscardOfAnUpperThatStaysInPlace(t *testing.T) {
	overlaytest.NeedRoot(t)
	r := discardRun{anew: true, stuck: true}
	l := r.build(t, overlaytest.Within(overlaytest.Filesystem(t, "tmpfs"))(t))
	must(t, os.Chmod(l.Upper, 0o751))
	before := r.view(t, l)
	must(t, syscall.Setxattr(l.Upper, "trusted.overlay.impure", []byte("y"), 0))
	was, err := os.Stat(l.Upper)
	must(t, err)
	g := r.discarding(l, func(op at.Op, name string) error {
		if op == at.OpRename && name == "own" {
			return syscall.EPERM // as of what chattr +i keeps
		}
		return nil
	})
	if err := g.Discard(); !errors.Is(err, syscall.EPERM) {
		t.Errorf("of what cannot be moved: %v", err)
	}
	if _, err := os.Stat(filepath.Join(l.Work, "work/incompat/overdav")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing is discarded, and the guard is there: %v", err)
	}
	must(t, overlay.Unlock(l.Upper, l.Work))
	if got := r.view(t, l); got != before {
		t.Errorf("what cannot be discarded shows\n%s", got)
	}
	must(t, r.discarding(l, func(at.Op, string) error { return nil }).Discard())
	is, err := os.Stat(l.Upper)
	must(t, err)
	if !os.SameFile(was, is) || is.Mode() != was.Mode() {
		t.Errorf("upper is another directory, or has modes %v for %v", is.Mode(), was.Mode())
	}
	if n, err := syscall.Getxattr(l.Upper, "trusted.overlay.impure", nil); err != syscall.ENODATA {
		t.Errorf("a mark of what is gone is still there: %d %v", n, err)
	}
	bare := overlaytest.NewLayers(t, t.TempDir(), discardLower)
	must(t, os.Chmod(bare.Upper, 0o751))
	if got, want := r.view(t, l), r.view(t, bare); got != want {
		t.Errorf("shows\n%s", got)
	}
}

// Discard is as fast for a large upper as for a small one: it deletes nothing.
// Delete ends when it is told to, and two of them get into nobody's way; nor does
// the server that has upper meanwhile.
func TestDiscardLeavesTheDeletingToOthers(t *testing.T) {
	r := discardRun{anew: true}
	dir := t.TempDir()
	l := overlaytest.NewLayers(t, dir, discardLower)
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(l.Upper, fmt.Sprint(i)), nil, 0o600))
	}
	must(t, r.open(t, l).Close())
	f := &fault{armed: true}
	g := overlay.Discarding{Upper: l.Upper, Work: l.Work, Anew: true, Hook: f.hook}
	must(t, g.Discard())
	if f.calls > 30 {
		t.Errorf("it took %d changes to discard 300 files", f.calls)
	}
	fsys := r.open(t, l)
	defer fsys.Close()
	must(t, fsys.Mkdir("new", 0o755))
	ended, end := context.WithCancel(t.Context())
	end()
	if err := g.Delete(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
	both := make(chan error)
	for range 2 {
		go func() { both <- g.Delete(t.Context()) }()
	}
	for range 2 {
		if err := <-both; err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(l.Work, "overdav/discarded")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := g.Discard(); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("of what is served: %v", err)
	}
	if err := g.RemoveWork(); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("work of what is served: %v", err)
	}
	if _, err := fsys.Stat("new"); err != nil {
		t.Errorf("what was made since: %v", err)
	}
}
