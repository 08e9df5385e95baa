package overlay_test

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"overdav/overlay/overlaytest"
)

// A state is how one name can stand in the layers. In the texts, P is its path
// and N its last component.
type state struct {
	name         string
	lower, upper string
}

// sources is what can be renamed.
var sources = []state{
	{"nothing", "", ""},
	{"whiteout", "P = gone", "P whiteout"},
	{"lower file", "P = s", ""},
	{"upper file", "", "P = s"},
	{"covering file", "P = old", "P = s"},
	{"lower symlink", "P -> s", ""},
	{"upper symlink", "", "P -> s"},
	{"covering symlink", "P/old =", "P -> s"},
	{"lower fifo", "P fifo", ""},
	{"lower directory", "P/a = 1\nP/sub/b = 2", ""},
	{"empty lower directory", "P/", ""},
	{"merged directory", "P/a = 1\nP/gone = 2\nP/sub/b = 3", "P/ [origin]\nP/gone whiteout\nP/u = 4"},
	{"upper directory", "", "P/u = 1\nP/sub/v = 2"},
	{"empty upper directory", "", "P/"},
	{"opaque directory", "P/a = 1", "P/ [opaque]\nP/u = 2"},
	{"directory over file", "P = file", "P/u = 1"},
	{"moved directory", "P.was/a = 1", "P.was whiteout\nP/ [origin redirect=N.was]\nP/u = 2"},
	{"moved directory over another", "P.was/a = 1\nP/b = 2", "P.was whiteout\nP/ [origin redirect=N.was]\nP/u = 3"},
}

// targets is what can be renamed onto, besides those of the sources.
var targets = []state{
	{"nothing", "", ""},
	{"whiteout of file", "P = old", "P whiteout"},
	{"whiteout of directory", "P/old = x", "P whiteout"},
	{"useless whiteout", "", "P whiteout"},
	{"lower file", "P = d", ""},
	{"upper file", "", "P = d"},
	{"covering file", "P = old", "P = d"},
	{"file over directory", "P/old = x", "P = d"},
	{"lower symlink", "P -> d", ""},
	{"empty lower directory", "P/", ""},
	{"empty upper directory", "", "P/"},
	{"emptied directory", "P/gone = x", "P/ [origin]\nP/gone whiteout"},
	{"empty opaque directory", "P/old = x", "P/ [opaque]"},
	{"empty directory over file", "P = old", "P/"},
	{"emptied moved directory", "P.was/gone = x", "P.was whiteout\nP/ [origin redirect=N.was]\nP/gone whiteout"},
	{"lower directory", "P/a = x", ""},
	{"upper directory", "", "P/u = x"},
	{"merged directory", "P/a = x", "P/ [origin]\nP/u = x"},
	{"opaque directory", "P/a = x", "P/ [opaque]\nP/u = x"},
}

// metacopySources is what can be renamed besides where metacopies are on.
var metacopySources = []state{
	{"metacopy", "P = s", "P [metacopy origin] size=1"},
	{"moved metacopy", "P.was = s", "P.was whiteout\nP [metacopy origin redirect=N.was] size=1"},
	{"moved metacopy over another", "P.was = s\nP = t", "P.was whiteout\nP [metacopy origin redirect=N.was] size=1"},
}

// A renameCase is one rename in a directory of its own.
type renameCase struct {
	name         string
	dir          string
	from, to     string
	lower, upper string
}

// parents are where both names can stand: in merged directories, or in one
// that has no lowers.
var parents = []struct {
	name, from, to string
	fromPure       bool
	toPure         bool
	lower, upper   string
}{
	{"beside", "m", "m", false, false, "D/m/", "D/ [origin]\nD/m/ [origin]"},
	{"elsewhere", "m", "n", false, false, "D/m/\nD/n/", "D/ [origin]\nD/m/ [origin]\nD/n/ [origin]"},
	{"elsewhere not copied up", "m", "n", false, false, "D/m/\nD/n/", ""},
	{"into a new directory", "m", "u", false, true, "D/m/", "D/ [origin]\nD/m/ [origin]\nD/u/"},
	{"out of a new directory", "u", "m", true, false, "D/m/", "D/ [origin]\nD/m/ [origin]\nD/u/"},
}

func renameCases(sources []state) []renameCase {
	var cases []renameCase
	for _, p := range parents {
		for _, s := range sources {
			for _, d := range targets {
				if p.fromPure && s.lower != "" || p.toPure && d.lower != "" ||
					p.upper == "" && (s.upper != "" || d.upper != "") ||
					p.toPure && d.name == "useless whiteout" { // which the kernel lists there
					continue
				}
				cases = append(cases, newRenameCase(len(cases), s, d, p.name, p.from, p.to, p.lower, p.upper))
			}
		}
	}
	return cases
}

func newRenameCase(i int, s, d state, where, from, to, lower, upper string) renameCase {
	dir := fmt.Sprintf("c%03d", i)
	c := renameCase{
		name: fmt.Sprintf("%s onto %s %s", s.name, d.name, where),
		dir:  dir, from: path.Join(dir, from, "src"), to: path.Join(dir, to, "dst"),
	}
	at := func(text, name string) string {
		text = strings.ReplaceAll(text, "P", name)
		return strings.ReplaceAll(text, "=N.was", "="+path.Base(name)+".was")
	}
	parent := func(text string) string { return strings.ReplaceAll(text, "D/", dir+"/") }
	c.lower = dated(parent(lower), at(s.lower, c.from), at(d.lower, c.to))
	c.upper = dated(parent(upper), at(s.upper, c.from), at(d.upper, c.to))
	return c
}

// dated gives every object a time, so that it shows when it is lost.
func dated(texts ...string) string {
	var b strings.Builder
	for _, line := range strings.Split(strings.Join(texts, "\n"), "\n") {
		name, rest, _ := strings.Cut(line, " ")
		if name != "" {
			fmt.Fprintf(&b, "%s @1234567 %s\n", name, rest)
		}
	}
	return b.String()
}

// TestRenameMatrix renames everything onto everything, each in a directory of
// its own, with the kernel and with the engine, and compares answers, what is
// merged and what is on disk (overlayfs.rst, "renaming directories").
func TestRenameMatrix(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	var ideal []renameResult
	for _, test := range []struct {
		name    string
		class   overlaytest.Class
		options []string
	}{
		{"with redirects", overlaytest.Trusted, nil},
		{"without redirects", overlaytest.Trusted, []string{"redirect_dir=off"}},
		{"with metacopies", overlaytest.Trusted, []string{"metacopy=on"}},
		{"with class user", overlaytest.User, []string{"userxattr"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			what := sources
			if slices.Contains(test.options, "metacopy=on") {
				what = slices.Concat(sources, metacopySources)
			}
			cases := renameCases(what)
			base := overlaytest.Within(disk)
			kernel := renameAll(t, overlaytest.Kernel, base(t), test.class, test.options, cases)
			engine := renameAll(t, overlaytest.FS, base(t), test.class, test.options, cases)
			if ideal == nil {
				ideal = kernel
			}
			for i, c := range cases {
				want := kernel[i]
				if len(cases) == len(ideal) && want.noRedirect(ideal[i]) {
					want = ideal[i]
					want.upper = engine[i].upper // flattened
				}
				compareRename(t, c, want, engine[i])
			}
		})
	}
}

// A renameResult is what became of one case.
type renameResult struct {
	err    error
	before string // merged
	merged string
	upper  string // on disk
	kernel string // what a kernel mount of the upper shows
}

// noRedirect says whether the kernel left to mv(1) what needs a redirect. The
// engine copies then, and what it shows must be what the redirect would: ideal.
func (r renameResult) noRedirect(ideal renameResult) bool {
	return overlaytest.ErrClass(r.err) == "EXDEV" && r.before == ideal.before
}

// renameAll runs all cases on one mount.
func renameAll(t *testing.T, opener overlaytest.Opener, dir string, class overlaytest.Class, options []string, cases []renameCase) []renameResult {
	t.Helper()
	l := overlaytest.Layers{Lowers: []string{dir + "/lower"}, Upper: dir + "/upper", Work: dir + "/work"}
	var lower, upper strings.Builder
	for _, c := range cases {
		lower.WriteString(c.lower)
		upper.WriteString(c.upper)
	}
	// Moved directories need redirects, which class user has not.
	if err := errors.Join(class.Build(l.Lowers[0], lower.String()), class.Build(l.Upper, upper.String()), class.Build(l.Work, "")); err != nil {
		t.Fatal(err)
	}
	overlaytest.LowersUnchanged(t, l.Lowers...)
	e, err := opener.Open(l, options)
	if err != nil {
		t.Fatal(err)
	}
	results := make([]renameResult, len(cases))
	before := treeByCase(t, e)
	for i, c := range cases {
		results[i].before = before[c.dir]
		results[i].err = e.Rename(c.from, c.to)
	}
	merged := treeByCase(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := class.Raw(l.Upper)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := byCase(raw)
	k, err := overlaytest.Kernel.Open(l, options)
	if err != nil {
		t.Fatal(err)
	}
	shown := treeByCase(t, k)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		results[i].merged, results[i].upper, results[i].kernel = merged[c.dir], onDisk[c.dir], shown[c.dir]
	}
	return results
}

func treeByCase(t *testing.T, e overlaytest.Engine) map[string]string {
	t.Helper()
	text, err := e.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return byCase(text)
}

// byCase cuts a tree's text into those of the directories at its root.
func byCase(text string) map[string]string {
	parts := map[string]string{}
	for line := range strings.Lines(text) {
		dir, _, _ := strings.Cut(line, "/")
		parts[dir] += line
	}
	return parts
}

func compareRename(t *testing.T, c renameCase, kernel, engine renameResult) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Errorf("%s\n%s\nlower:\n%supper:\n%s", c.name, fmt.Sprintf(format, args...), c.lower, c.upper)
	}
	want, got := overlaytest.ErrClass(kernel.err), overlaytest.ErrClass(engine.err)
	switch {
	case got != want:
		fail("answers %q, the kernel %q", got, want)
	case got != "":
		if engine.merged != engine.before {
			fail("refused, and changed:\n%s", overlaytest.Diff(engine.before, engine.merged))
		}
	case engine.merged != kernel.merged:
		fail("merged (- kernel, + engine):\n%s", overlaytest.Diff(kernel.merged, engine.merged))
	case engine.upper != kernel.upper:
		fail("on disk (- kernel, + engine):\n%s", overlaytest.Diff(kernel.upper, engine.upper))
	}
	if engine.kernel != engine.merged {
		fail("the kernel shows of it (- engine, + kernel):\n%s", overlaytest.Diff(engine.merged, engine.kernel))
	}
}
