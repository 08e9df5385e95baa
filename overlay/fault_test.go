package overlay_test

import (
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

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// A fault lets a number of changes to the disk pass and then refuses one, or
// that one and all after it, as a machine does that dies there.
type fault struct {
	mu    sync.Mutex
	armed bool
	calls int // so far, while armed
	at    int // which one is refused, from 1; 0 none
	errno syscall.Errno
	dies  bool
	hit   string // what was refused first
	op    at.Op
}

func (f *fault) hook(op at.Op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed {
		return nil
	}
	f.calls++
	if f.at == 0 || f.calls < f.at || f.calls > f.at && !f.dies {
		return nil
	}
	if f.calls == f.at {
		f.op, f.hit = op, fmt.Sprintf("%s %q", op, name)
	}
	return f.errno
}

func (f *fault) arm(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = on
}

// fired says whether there was a change to refuse.
func (f *fault) fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit != ""
}

// A faultCase is one operation on one tree.
type faultCase struct {
	name    string
	methods []string // that it tries, as "FS.Rename"
	upper   string
	lower   string
	options func(*overlay.Options)
	op      func(*overlay.FS) error

	// between are operations whose outcomes may show after a fault, because op
	// is documented to be several changes.
	between []func(*overlay.FS) error
	// late says that an error of this call may come when the change shows
	// already; see TestEveryFault.
	late func(op at.Op) bool
}

// errDead is what a machine that died answers.
const errDead = syscall.EIO

// TestEveryFault runs each operation, counts its changes to the disk, and then
// runs it again for each of them: once with that change refused, and once with
// it and all that follow refused, as when the machine dies.
//
// After each the merged view, as the kernel mounts it and as the engine shows
// it, is the one before or the one after, and nothing else; nothing is left in
// staging; Check is silent. What was refused and reported left the view of
// before; what was not reported, the view of after. An error may come too late
// for that in one place: the sync of a name or of an attribute that shows
// already. Then it says the truth: that the change may not last.
func TestEveryFault(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := faultRun{t: t, c: c, dir: overlaytest.Within(disk)}
			r.all()
		})
	}
}

// A faultRun runs one case.
type faultRun struct {
	t      *testing.T
	c      faultCase
	dir    func(testing.TB) string
	before string
	after  string
	right  []string // the views that may be
	result error    // of the operation undisturbed
}

func (r *faultRun) all() {
	r.undisturbed()
	for _, op := range r.c.between {
		r.right = append(r.right, r.outcome(op))
	}
	for _, kind := range []struct {
		errno syscall.Errno
		dies  bool
	}{{syscall.EIO, false}, {syscall.ENOSPC, false}, {errDead, true}} {
		n := 1
		for r.disturbed(&fault{errno: kind.errno, dies: kind.dies, at: n}) {
			if n++; n > 1000 {
				r.t.Fatal("an operation without end")
			}
		}
	}
}

// A bench is one set of layers under one engine.
type bench struct {
	t      *testing.T
	layers overlaytest.Layers
	fsys   *overlay.FS
	o      overlay.Options
}

// build makes the case's layers.
func (r *faultRun) build(t *testing.T, f *fault) *bench {
	t.Helper()
	b := &bench{t: t, layers: overlaytest.NewLayers(t, r.dir(t), r.c.lower)}
	overlaytest.Build(t, b.layers.Upper, r.c.upper)
	b.o = overlay.Options{Lowers: b.layers.Lowers, Upper: b.layers.Upper, Work: b.layers.Work, Hook: f.hook}
	if r.c.options != nil {
		r.c.options(&b.o)
	}
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.fsys, err = overlay.Open(b.o); err != nil {
		b.t.Fatalf("open: %v", err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.fsys.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
}

func (b *bench) view() string {
	b.t.Helper()
	text, err := overlaytest.MergedFS(b.fsys)
	if err != nil {
		b.t.Fatalf("view: %v", err)
	}
	return text
}

// kernelView is what the kernel shows of the layers, mounted as they are to be
// served.
func (b *bench) kernelView() string {
	b.t.Helper()
	dir, unmount := overlaytest.KernelMount(b.t, b.layers)
	defer unmount()
	return overlaytest.Merged(b.t, dir)
}

// kernelGlance is what the kernel shows of the layers as they lie there,
// without a change to them.
func (b *bench) kernelGlance() string {
	b.t.Helper()
	l := overlaytest.Layers{Lowers: slices.Concat([]string{b.layers.Upper}, b.layers.Lowers)}
	dir, unmount := overlaytest.KernelMount(b.t, l, "ro")
	defer unmount()
	return overlaytest.Merged(b.t, dir)
}

// stagingEmpty fails the test when a closed FS left anything in its workdir.
func stagingEmpty(t testing.TB, work string) {
	t.Helper()
	var left []string
	err := filepath.WalkDir(work, func(path string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(work, path) // it is below
		switch name {
		case ".", "overdav", "overdav/lock", "overdav/tags", "overdav/tmp", "overdav/trash":
		default:
			left = append(left, name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if len(left) > 0 {
		t.Errorf("left in work: %q", left)
	}
}

// undisturbed finds out what is right.
func (r *faultRun) undisturbed() {
	t := r.t
	f := &fault{}
	b := r.build(t, f)
	b.open()
	r.before = b.view()
	r.result = r.c.op(b.fsys)
	overlay.Drain(b.fsys)
	r.after = b.view()
	checkSilent(t, b.fsys)
	b.close()
	stagingEmpty(t, b.layers.Work)
	if got := b.kernelView(); got != r.after {
		t.Errorf("undisturbed, the kernel shows\n%s\nand the engine\n%s", got, r.after)
	}
	if r.result != nil && r.after != r.before {
		t.Errorf("%v, and yet it shows\n%s\nwhere it was\n%s", r.result, r.after, r.before)
	}
	r.right = []string{r.before, r.after}
}

// outcome is the view after another operation.
func (r *faultRun) outcome(op func(*overlay.FS) error) string {
	b := r.build(r.t, &fault{})
	b.open()
	defer b.close()
	if err := op(b.fsys); err != nil {
		r.t.Fatalf("between: %v", err)
	}
	return b.view()
}

// disturbed runs the case with a fault and says whether it came to it.
func (r *faultRun) disturbed(f *fault) (fired bool) {
	r.t.Helper()
	dir := r.dir
	// Removed at once: there are many.
	top := dir(r.t)
	r.dir = overlaytest.Within(top)
	defer func() {
		r.dir = dir
		if err := os.RemoveAll(top); err != nil {
			r.t.Error(err)
		}
	}()
	b := r.build(r.t, f)
	b.open()
	f.arm(true)
	err := r.c.op(b.fsys)
	overlay.Drain(b.fsys)
	if !f.fired() {
		f.arm(false)
		b.close()
		return false
	}
	if f.dies {
		r.afterDeath(b, f)
	} else {
		f.arm(false)
		r.afterError(b, f, err)
	}
	return true
}

func (r *faultRun) errorf(f *fault, format string, args ...any) {
	r.t.Helper()
	how := "fails with " + f.errno.Error()
	if f.dies {
		how = "and all after it fail"
	}
	r.t.Errorf("when change %d, %s, %s: %s", f.at, f.hit, how, fmt.Sprintf(format, args...))
}

// afterError looks at what one refused change left.
func (r *faultRun) afterError(b *bench, f *fault, err error) {
	r.t.Helper()
	got := b.view()
	switch {
	case !slices.Contains(r.right, got):
		r.errorf(f, "(%v) shows\n%s\nwant\n%s\nor\n%s", err, got, r.before, r.after)
	case r.result != nil || r.before == r.after || r.c.between != nil:
	case err == nil && got != r.after:
		r.errorf(f, "reported success and shows what was before:\n%s", got)
	case err != nil && got != r.before && !r.isLate(f):
		r.errorf(f, "reported %v and shows what should be after:\n%s", err, got)
	}
	if err != nil && r.result == nil && !errors.Is(err, f.errno) {
		r.errorf(f, "reported %v", err)
	}
	// What could not be deleted waits for the end, and Check says so.
	for _, p := range problems(r.t, b.fsys) {
		if !strings.HasPrefix(p, "overdav/") {
			r.errorf(f, "check: %s", p)
		}
	}
	b.close()
	r.afterClose(b, f, got)
}

// isLate says whether an error may come when the change shows already.
func (r *faultRun) isLate(f *fault) bool {
	return f.op == at.OpSync || r.c.late != nil && r.c.late(f.op)
}

func (r *faultRun) afterClose(b *bench, f *fault, want string) {
	r.t.Helper()
	stagingEmpty(r.t, b.layers.Work)
	if got := b.kernelView(); got != want {
		r.errorf(f, "the kernel shows\n%s\nand the engine showed\n%s", got, want)
	}
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// afterDeath looks at what a death left, as the kernel does and then as a
// restart does.
func (r *faultRun) afterDeath(b *bench, f *fault) {
	r.t.Helper()
	overlay.Crash(b.fsys)
	f.arm(false)
	_, err := os.Stat(filepath.Join(b.layers.Work, "overdav/moving"))
	pending := err == nil // a restart finishes it; the guard keeps the kernel out
	glance := ""
	if !pending {
		if glance = b.kernelGlance(); !slices.Contains(r.right, glance) {
			r.errorf(f, "the kernel shows\n%s\nwant\n%s\nor\n%s", glance, r.before, r.after)
		}
	}
	if f.at%2 == 0 && !pending {
		if err := overlay.Unlock(b.layers.Upper, b.layers.Work); err != nil {
			r.errorf(f, "unlock: %v", err)
		}
		stagingEmpty(r.t, b.layers.Work)
		if got := b.kernelView(); got != glance {
			r.errorf(f, "after unlock the kernel shows\n%s\nand showed\n%s", got, glance)
		}
	}
	b.open()
	got := b.view()
	if pending && !slices.Contains(r.right, got) || !pending && got != glance {
		r.errorf(f, "after a restart it shows\n%s\nand showed\n%s", got, glance)
	}
	checkSilent(r.t, b.fsys)
	b.close()
	r.afterClose(b, f, got)
}
