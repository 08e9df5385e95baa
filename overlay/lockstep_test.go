package overlay_test

import (
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"overdav/overlay/overlaytest"
)

// A lockstepVariant is one way to run random operations on the kernel and on
// the engine at once.
type lockstepVariant struct {
	name      string
	disk      string   // the file system that holds all layers
	options   []string // of both, as mount(8) has them
	sequences int
	// atEnd looks at the layers when a sequence went well. Then our upper is
	// one that only the engine had.
	atEnd func(l *lockstep)
	plain bool // operations are run without capabilities
}

var lockstepVariants = []lockstepVariant{
	{name: "ext4", disk: "ext4", sequences: 30},
	{name: "xfs", disk: "xfs", sequences: 25},
	{name: "btrfs", disk: "btrfs", sequences: 20},
	{name: "tmpfs", disk: "tmpfs", sequences: 40},
	{name: "tmpfs-without-redirects", disk: "tmpfs", options: []string{"redirect_dir=off"}, sequences: 30},
	{name: "ext4-without-redirects", disk: "ext4", options: []string{"redirect_dir=off"}, sequences: 15},
	{name: "tmpfs-metacopy", disk: "tmpfs", options: []string{"metacopy=on"}, sequences: 40},
	{name: "ext4-metacopy", disk: "ext4", options: []string{"metacopy=on"}, sequences: 20},
	{name: "xfs-metacopy", disk: "xfs", options: []string{"metacopy=on"}, sequences: 15},
	{name: "btrfs-metacopy", disk: "btrfs", options: []string{"metacopy=on"}, sequences: 10},
	{name: "tmpfs-class-user", disk: "tmpfs", options: []string{"userxattr"}, sequences: 20},
	{name: "xfs-class-user", disk: "xfs", options: []string{"userxattr"}, sequences: 15},
}

// meanLength is how many operations a sequence has on average.
const meanLength = 110

// TestLockstep runs random operations on a kernel mount and on the engine, over
// the same lowers and uppers of their own, and holds their answers, their
// merged trees and their raw uppers against each other. Now and then the two
// exchange their uppers, or one of those becomes the topmost lower. With
// OVERDAV_SOAK set to a number there are so many times as many sequences.
func TestLockstep(t *testing.T) {
	overlaytest.NeedRoot(t)
	soak := soakFactor(t)
	setRapidFlags(t)
	for _, v := range lockstepVariants {
		v.sequences *= soak
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			v.run(t, overlaytest.Within(overlaytest.Filesystem(t, v.disk))(t))
		})
	}
}

// unprivilegedVariants are those of TestLockstepUnprivileged.
var unprivilegedVariants = []lockstepVariant{
	{name: "tmpfs", disk: "tmpfs", options: []string{"userxattr"}, sequences: 20},
	{name: "ext4", disk: "ext4", options: []string{"userxattr"}, sequences: 10},
	{name: "xfs", disk: "xfs", options: []string{"userxattr"}, sequences: 10},
	{name: "btrfs", disk: "btrfs", options: []string{"userxattr"}, sequences: 10},
	{name: "tmpfs-plain-user", disk: "tmpfs", options: []string{"userxattr"}, sequences: 20, plain: true},
	{name: "ext4-plain-user", disk: "ext4", options: []string{"userxattr"}, sequences: 10, plain: true},
}

// TestLockstepUnprivileged is TestLockstep by an ordinary user, who is root of
// a user namespace in order to mount the kernel's overlay; or was, and has put
// its capabilities away.
func TestLockstepUnprivileged(t *testing.T) {
	overlaytest.NeedRoot(t)
	soak := soakFactor(t)
	setRapidFlags(t)
	for _, v := range unprivilegedVariants {
		v.sequences *= soak
		t.Run(v.name, func(t *testing.T) {
			const diskVar = "OVERDAV_LOCKSTEP_DISK" // tells the second run of the test that there is one
			if os.Getenv(diskVar) == "" {
				disk := overlaytest.Filesystem(t, v.disk)
				t.Setenv(diskVar, disk)
				t.Setenv("TMPDIR", disk)
			}
			if !overlaytest.InUserNamespace(t) {
				return
			}
			if v.plain {
				runtime.LockOSThread() // for good: capabilities are a thread's
				if err := putCapabilities(false); err != nil {
					t.Fatal(err)
				}
			}
			v.run(t, os.TempDir())
		})
	}
}

func soakFactor(t *testing.T) int {
	t.Helper()
	text := os.Getenv("OVERDAV_SOAK")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("OVERDAV_SOAK=%q: want a number, by which the sequences are multiplied", text)
	}
	return n
}

// setRapidFlags has each rapid.Check run one sequence. Their number and length
// are the variants' affair; rapid takes both from flags alone.
func setRapidFlags(t *testing.T) {
	t.Helper()
	set := func(name, value string) {
		t.Helper()
		old := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := flag.Set(name, old); err != nil {
				t.Error(err)
			}
		})
	}
	checks := 1
	if testing.Short() {
		checks = 5 // of which rapid then leaves out four
	}
	set("rapid.checks", strconv.Itoa(checks))
	set("rapid.steps", strconv.Itoa(meanLength))
	set("rapid.shrinktime", "0s")   // see sequence.shrink
	set("rapid.nofailfile", "true") // the scenario says more
	set("rapid.seed", "0")          // see seed
}

// seed draws the i-th sequence of a variant from its own number, the same in
// every run, so that a change is judged by what it changes; a soak draws anew.
func (v lockstepVariant) seed(t *testing.T, i int) {
	t.Helper()
	if os.Getenv("OVERDAV_SOAK") != "" {
		return
	}
	number := uint64(crc32.ChecksumIEEE([]byte(v.name)))<<16 + uint64(i) + 1
	if err := flag.Set("rapid.seed", strconv.FormatUint(number, 10)); err != nil {
		t.Fatal(err)
	}
}

func (v lockstepVariant) run(t *testing.T, base string) {
	var sequences, operations int
	var failed *sequence
	defer func() {
		if failed != nil {
			failed.shrink(time.Now().Add(shrinkTime))
			t.Errorf("%v\nscenario:\n%s", failed.err, failed)
		}
		t.Logf("%d sequences, %d operations", sequences, operations)
	}()
	for i := range v.sequences {
		v.seed(t, i)
		rapid.Check(t, func(rt *rapid.T) {
			s := &sequence{variant: v, base: base, lowers: drawLowers(rt, v.class())}
			s.run(func(l *lockstep) {
				rt.Repeat(map[string]func(*rapid.T){"op": func(rt *rapid.T) {
					if o := l.draw(rt); l.isTelling(o) {
						s.ops = append(s.ops, o)
						l.step(o)
					}
				}})
			})
			if s.err != nil {
				failed = s
				rt.Fatalf("the kernel and the engine differ")
			}
			sequences++
			operations += len(s.ops)
		})
	}
}

func (v lockstepVariant) class() overlaytest.Class {
	if slices.Contains(v.options, "userxattr") {
		return overlaytest.User
	}
	return overlaytest.Trusted
}

// A sequence is what was run over some lowers.
type sequence struct {
	variant lockstepVariant
	base    string   // where layers may be made
	lowers  []string // texts, topmost first
	ops     []op
	err     error // the difference that was found
}

// String is the sequence as a script that overlaytest runs.
func (s *sequence) String() string {
	var b strings.Builder
	for _, o := range s.ops {
		fmt.Fprintln(&b, o)
	}
	if len(s.variant.options) > 0 {
		fmt.Fprintf(&b, "-- options --\n%s\n", strings.Join(s.variant.options, " "))
	}
	for i, text := range s.lowers {
		name := "lower"
		if i > 0 {
			name = fmt.Sprintf("lower.%d", i+1)
		}
		fmt.Fprintf(&b, "-- %s --\n%s\n", name, strings.TrimSpace(text))
	}
	return b.String()
}

// run runs what drive does with the layers, to the first difference.
func (s *sequence) run(drive func(l *lockstep)) {
	l := &lockstep{variant: s.variant}
	defer l.close()
	defer func() {
		switch d := recover().(type) {
		case nil:
		case difference:
			s.err = d
		default:
			panic(d)
		}
	}()
	l.begin(s.base, s.lowers)
	drive(l)
	l.compare()
	if l.variant.atEnd != nil {
		l.variant.atEnd(l)
	}
	l.shut()
}

// replay runs the sequence again.
func (s *sequence) replay() {
	s.err = nil
	s.run(func(l *lockstep) {
		for _, o := range s.ops {
			if l.isTelling(o) {
				l.step(o)
			}
		}
	})
}

const shrinkTime = time.Minute

// shrink leaves out of a sequence what is not needed for a difference. What
// rapid does to that end, it does to what was drawn, which means something else
// after each change.
func (s *sequence) shrink(deadline time.Time) {
	lines := func(i int) []string { return slices.Collect(strings.Lines(s.lowers[i])) }
	for smaller := true; smaller && time.Now().Before(deadline); {
		smaller = false
		for n := max(1, len(s.ops)/2); n > 0; n /= 2 {
			for at := 0; at+n <= len(s.ops) && time.Now().Before(deadline); {
				try := *s
				try.ops = slices.Delete(slices.Clone(s.ops), at, at+n)
				if !s.accept(try) {
					at += n
					continue
				}
				smaller = true
			}
		}
		for i := range s.lowers {
			for at := len(lines(i)) - 1; at >= 0 && time.Now().Before(deadline); at-- {
				try := *s
				try.lowers = slices.Clone(s.lowers)
				try.lowers[i] = strings.Join(slices.Delete(lines(i), at, at+1), "")
				smaller = s.accept(try) || smaller
			}
		}
	}
}

// accept takes a smaller sequence that differs too.
func (s *sequence) accept(try sequence) bool {
	try.replay()
	if try.err == nil || strings.Contains(try.err.Error(), "ESTALE") && !strings.Contains(s.err.Error(), "ESTALE") {
		return false // or a whiteout is gone that a redirect needs
	}
	*s = try
	return true
}

// A difference is one between the kernel and the engine.
type difference struct{ error }

// A lockstep is one sequence under way.
type lockstep struct {
	variant lockstepVariant
	dir     string // holds all layers
	before  overlaytest.Snapshot
	kernel  side
	ours    side
	turns   int      // how many uppers there were
	steps   int      // operations that were run
	names   []string // that the merged tree had when it was last compared, and since
}

// A side is an engine and the layers that it has.
type side struct {
	opener overlaytest.Opener
	engine overlaytest.Engine // nil while closed
	layers overlaytest.Layers
}

func (l *lockstep) begin(base string, lowers []string) {
	var err error
	l.dir, err = os.MkdirTemp(base, "")
	l.check(err)
	l.kernel.opener, l.ours.opener = overlaytest.Kernel, overlaytest.FS
	var dirs []string
	for i, text := range lowers {
		dir := filepath.Join(l.dir, fmt.Sprintf("lower.%d", i+1))
		l.check(l.variant.class().Build(dir, text))
		dirs = append(dirs, dir)
	}
	l.newUppers(dirs)
	l.compare()
}

// newUppers begins anew, with an empty upper for each side.
func (l *lockstep) newUppers(lowers []string) {
	l.turns++
	for _, s := range []*side{&l.kernel, &l.ours} {
		s.layers = overlaytest.Layers{
			Lowers: lowers,
			Upper:  filepath.Join(l.dir, fmt.Sprintf("upper.%d.%s", l.turns, s.opener.Name)),
			Work:   filepath.Join(l.dir, fmt.Sprintf("work.%d.%s", l.turns, s.opener.Name)),
		}
		l.check(os.Mkdir(s.layers.Upper, 0o755))
		l.check(os.Mkdir(s.layers.Work, 0o755))
	}
	var err error
	l.before, err = overlaytest.TakeSnapshot(lowers...)
	l.check(err)
	l.open()
}

func (l *lockstep) open() {
	for _, s := range []*side{&l.kernel, &l.ours} {
		var err error
		l.asMounter(s, func() { s.engine, err = s.opener.Open(s.layers, l.variant.options) })
		if err != nil {
			s.engine = nil
			l.differ("%s: open: %v", s.opener.Name, err)
		}
	}
}

func (l *lockstep) shut() {
	for _, s := range []*side{&l.kernel, &l.ours} {
		engine := s.engine
		s.engine = nil
		l.asMounter(s, func() { l.check(engine.Close()) })
	}
	if err := l.before.Unchanged(l.kernel.layers.Lowers...); err != nil {
		l.differ("%v", err)
	}
}

// close ends the sequence, also one that failed.
func (l *lockstep) close() {
	for _, s := range []*side{&l.kernel, &l.ours} {
		if s.engine != nil {
			l.asMounter(s, func() { _ = s.engine.Close() }) // the difference that led here says more
		}
	}
	l.asMounter(&l.kernel, func() { l.check(os.RemoveAll(l.dir)) })
}

// asMounter calls with the capabilities that the kernel's side takes.
func (l *lockstep) asMounter(s *side, call func()) {
	if l.variant.plain && s == &l.kernel {
		l.check(putCapabilities(true))
		defer func() { l.check(putCapabilities(false)) }()
	}
	call()
}

func (l *lockstep) check(err error) {
	if err != nil {
		panic(err)
	}
}

// differ ends the sequence.
func (l *lockstep) differ(format string, args ...any) {
	panic(difference{fmt.Errorf(format, args...)})
}

// compareEvery is how many operations pass between comparisons of everything.
const compareEvery = 10

// compare holds the merged trees and the raw uppers against each other.
func (l *lockstep) compare() {
	kernel, err := l.kernel.engine.Tree()
	l.check(err)
	ours, err := l.ours.engine.Tree()
	l.check(err)
	if kernel != ours {
		l.differ("merged trees differ (- kernel, + ours):\n%s", overlaytest.Diff(kernel, ours))
	}
	l.compareUppers()
	tree, err := overlaytest.Parse(kernel)
	l.check(err)
	l.names = nil
	for _, e := range tree {
		if e.Name != "." {
			l.names = append(l.names, e.Name)
		}
	}
}

func (l *lockstep) compareUppers() {
	kernel, err := l.variant.class().Raw(l.kernel.layers.Upper)
	l.check(err)
	ours, err := l.variant.class().Raw(l.ours.layers.Upper)
	l.check(err)
	if kernel != ours {
		l.differ("uppers differ (- kernel, + ours):\n%s", overlaytest.Diff(kernel, ours))
	}
}
