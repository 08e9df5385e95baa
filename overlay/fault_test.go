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

	pair bool // of two objects

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
	t.Run("all", func(t *testing.T) {
		for i, c := range faultCases() {
			if testing.Short() && c.pair && i%8 != 0 {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				r := faultRun{t: t, c: c, dir: overlaytest.Within(disk)}
				r.all()
			})
		}
	})
	nothingOpen(t, disk)
}

// nothingOpen fails the test when this process has anything below dir open.
func nothingOpen(t testing.TB, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		path, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(path, dir+"/") {
			t.Errorf("left open: %s", path)
		}
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
		if kind.errno == syscall.ENOSPC && r.c.pair {
			continue // there are many, and the parts of which they are made were tried
		}
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
	dir, unmount := overlaytest.KernelMount(b.t, b.layers, b.kernelOptions()...)
	defer unmount()
	return overlaytest.Merged(b.t, dir)
}

// kernelOptions are those that a mount of the layers takes.
func (b *bench) kernelOptions() []string {
	if b.o.Metacopy {
		return []string{"metacopy=on"}
	}
	return nil
}

// kernelGlance is what the kernel shows of the layers as they lie there,
// without a change to them.
func (b *bench) kernelGlance() string {
	b.t.Helper()
	l := overlaytest.Layers{Lowers: slices.Concat([]string{b.layers.Upper}, b.layers.Lowers)}
	dir, unmount := overlaytest.KernelMount(b.t, l, append(b.kernelOptions(), "ro")...)
	defer unmount()
	return overlaytest.Merged(b.t, dir)
}

// stagingEmpty fails the test when a closed FS left anything in its workdir.
func stagingEmpty(t testing.TB, work string) {
	t.Helper()
	if left := leftIn(t, work); len(left) > 0 {
		t.Errorf("left in work: %q", left)
	}
}

// leftIn lists what is in a workdir beyond what always is.
func leftIn(t testing.TB, work string) (left []string) {
	t.Helper()
	err := filepath.WalkDir(work, func(path string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(work, path) // it is below
		switch name {
		case ".", "overdav", "overdav/lock", "overdav/metacopies", "overdav/tags", "overdav/tmp", "overdav/trash":
		default:
			left = append(left, name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return left
}

// moving says whether a move waits to be finished.
func moving(work string) bool {
	_, err := os.Stat(filepath.Join(work, "overdav/moving"))
	return err == nil
}

// guarded fails the test when the kernel mounts the layers.
func guarded(t testing.TB, l overlaytest.Layers) {
	t.Helper()
	k, err := overlaytest.Kernel.Open(l, nil)
	if err == nil {
		t.Error("the kernel mounts layers that have a guard")
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, syscall.EINVAL) {
		t.Errorf("the kernel answers %v, want EINVAL", err)
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
	r.checkUpper(b.fsys, f)
	b.close()
	r.afterClose(b, f, got)
}

// checkUpper is checkSilent but for staging: what could not be deleted there
// waits for the end, and Check says so.
func (r *faultRun) checkUpper(fsys *overlay.FS, f *fault) {
	r.t.Helper()
	for _, p := range problems(r.t, fsys) {
		if !strings.HasPrefix(p, "overdav/") {
			r.errorf(f, "check: %s", p)
		}
	}
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
	pending := moving(b.layers.Work) // a restart finishes it
	glance := ""
	if pending {
		guarded(r.t, b.layers)
	} else {
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

// startCases are what a start can find. before makes it of layers on which an
// FS was opened once.
var startCases = []struct {
	name   string
	before func(b *bench)
}{
	{"fresh layers", nil},
	{"after a clean end", func(b *bench) { b.open(); b.close() }},
	{"after the kernel", func(b *bench) { b.kernelView() }},
	{"after a crash", func(b *bench) { b.open(); b.crashWithLeftovers() }},
	{"after a crash in the middle of a move", (*bench).crashInMove},
}

const (
	startUpper = "src/\nsrc/a = up\ndst/\ndst/x = up\n"
	startLower = "src/\nsrc/b = low\ndst/\ndst/y = low\nf = low\nd/\nd/e = low\n"
)

// crashWithLeftovers leaves things in staging that took time to make.
func (b *bench) crashWithLeftovers() {
	b.t.Helper()
	if err := b.fsys.Remove("f"); err != nil {
		b.t.Fatal(err)
	}
	overlay.Crash(b.fsys)
	for _, dir := range []string{"tmp/t1/s", "trash/t2/s"} {
		path := filepath.Join(b.layers.Work, "overdav", dir)
		if err := os.MkdirAll(path, 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(path+"/file", []byte("left"), 0o400); err != nil {
			b.t.Fatal(err)
		}
		if err := os.Chmod(path, 0); err != nil {
			b.t.Fatal(err)
		}
	}
}

// crashInMove dies when the placeholder of a move is in place.
func (b *bench) crashInMove() {
	b.t.Helper()
	renames := 0
	o := b.o
	o.Hook = func(op at.Op, name string) error {
		if op == at.OpRename && name == "dst" {
			renames++
		}
		if renames > 1 {
			return errDead
		}
		return nil
	}
	fsys, err := overlay.Open(o)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := fsys.Move("src", "dst", true); err == nil {
		b.t.Fatal("the move was not interrupted")
	}
	overlay.Crash(fsys)
	if err := overlay.Unlock(b.layers.Upper, b.layers.Work); !errors.Is(err, overlay.ErrLayers) {
		b.t.Errorf("unlock in the middle of a move: %v, want that it sends to a start", err)
	}
}

// TestEveryFaultOfStart disturbs Open at each of its changes. Whatever comes
// of it, the tree is what it was, and the next start finds nothing amiss. What
// had no guard before a failed start has none after it.
func TestEveryFaultOfStart(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	for _, c := range startCases {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, dies %v", c.name, dies), func(t *testing.T) {
				r := faultRun{t: t, c: faultCase{upper: startUpper, lower: startLower}, dir: overlaytest.Within(disk)}
				want := ""
				for n := 0; ; n++ { // at 0 nothing is refused
					f := &fault{errno: errDead, dies: dies, at: n}
					b := r.build(t, &fault{})
					if c.before != nil {
						c.before(b)
					}
					got := r.start(b, f)
					if n == 0 {
						want = got
					} else if got != want {
						r.errorf(f, "in the end it shows\n%s\nwant\n%s", got, want)
					}
					if n > 0 && !f.fired() {
						break
					}
				}
			})
		}
	}
	nothingOpen(t, disk)
}

// start starts with a fault and then without, and returns what shows then.
func (r *faultRun) start(b *bench, f *fault) (view string) {
	r.t.Helper()
	o := b.o
	o.Hook = f.hook
	before := leftIn(r.t, b.layers.Work)
	f.arm(true)
	fsys, err := overlay.Open(o)
	f.arm(false)
	switch {
	case err == nil:
		r.checkUpper(fsys, f)
		if err := fsys.Close(); err != nil {
			r.errorf(f, "close: %v", err)
		}
	case !f.fired():
		r.t.Fatalf("open: %v", err)
	case moving(b.layers.Work):
		guarded(r.t, b.layers)
	case !f.dies:
		for _, name := range leftIn(r.t, b.layers.Work) {
			if !slices.Contains(before, name) {
				r.errorf(f, "(%v) left %s", err, name)
			}
		}
	}
	b.open()
	view = b.view()
	checkSilent(r.t, b.fsys)
	b.close()
	r.afterClose(b, f, view)
	return view
}

// TestEveryFaultOfEnd disturbs Close at each of its changes. It lets go of the
// layers all the same, and when it reports success nothing is left.
func TestEveryFaultOfEnd(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("dies %v", dies), func(t *testing.T) {
			r := faultRun{t: t, c: faultCase{upper: startUpper, lower: startLower}, dir: overlaytest.Within(disk)}
			for n := 1; ; n++ {
				f := &fault{errno: errDead, dies: dies, at: n}
				b := r.build(t, f)
				b.open()
				if err := b.fsys.RemoveAll("dst"); err != nil {
					t.Fatal(err)
				}
				want := b.view()
				f.arm(true)
				err := b.fsys.Close()
				f.arm(false)
				if err == nil {
					r.afterClose(b, f, want)
				} else if !f.fired() {
					t.Fatal(err)
				}
				b.open()
				if got := b.view(); got != want {
					r.errorf(f, "shows\n%s\nwant\n%s", got, want)
				}
				b.close()
				r.afterClose(b, f, want)
				if !f.fired() {
					break
				}
			}
		})
	}
	nothingOpen(t, disk)
}
