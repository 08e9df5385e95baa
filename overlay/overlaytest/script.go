package overlaytest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"overdav/overlay"
)

var update = flag.Bool("update", false, "accept as wanted what the kernel shows (the engine, where a script skips the kernel)")

// A Run says how scripts are to be run.
type Run struct {
	Dir     string                    // of the scripts, *.txtar
	Engines []Opener                  // each runs each script
	Base    func(t testing.TB) string // a new empty directory for layers; t.TempDir if nil
	// User runs every script with userxattr, as somebody who is not root. What
	// takes root is skipped; of scripts that were written for class Trusted only
	// what is merged is compared, and those with redirects in their layers are
	// skipped: with userxattr there are none.
	User bool
}

// Scripts runs the scripts with each engine, as subtests named engine/script.
//
// A script is a txtar archive. Its sections lower, lower.2, lower.3 (topmost
// first) and upper are trees from which the layers are made; options are words
// as mount(8) has them for overlay, or lower=squashfs and lower=erofs, which
// put the lowers into an image. Its lines are verbs (see verbs in this
// package), before which may stand a condition, [kernel], [!fs] or [user] (see
// Run), and an answer that must come: "!ENOENT rm gone", or "! rm gone" for any error.
//
// At the end, what the sections want.merged and want.upper say must be so; a
// script that leaves one out does not care. Unasked it is checked that the
// lowers are as they were, that overlay.FS.Check finds nothing wrong with the
// layers but what the section want.check says, and that a kernel mount of them
// shows what the engine showed.
func (r Run) Scripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(r.Dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", r.Dir, err)
	}
	for _, engine := range r.Engines {
		t.Run(engine.Name, func(t *testing.T) {
			for _, file := range files {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
					r.script(t, engine, file)
				})
			}
		})
	}
}

// A script is one run of one script by one engine.
type script struct {
	t       *testing.T
	file    string
	archive *txtar.Archive
	opener  Opener
	options []string
	dir     string // holds the layers and what else a script names
	layers  Layers
	class   Class
	lowers  Snapshot
	engine  Engine // nil while unmounted
	line    string // what failures name
	rotated int
	built   []string
	touched bool // layers were changed from outside
	user    bool // see Run
	foreign bool // written for class Trusted and run with userxattr
}

func (r Run) script(t *testing.T, engine Opener, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	base := testing.TB.TempDir
	if r.Base != nil {
		base = r.Base
	}
	s := &script{t: t, file: file, archive: archive, opener: engine, class: Trusted, dir: base(t), user: r.User}
	s.options = strings.Fields(s.section("options"))
	if s.user {
		s.becomeUser()
	}
	if slices.Contains(s.options, "userxattr") {
		s.class = User
	}
	s.buildLayers()
	s.mount(nil)
	defer s.close()
	for i, line := range strings.Split(string(archive.Comment), "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			s.line = fmt.Sprintf("%s:%d: %s", file, i+1, line)
			s.run(line)
		}
	}
	s.line = file + ": end"
	s.finish()
}

// becomeUser makes the script one with userxattr.
func (s *script) becomeUser() {
	if slices.Contains(s.options, "userxattr") {
		return
	}
	if slices.Contains(s.options, "metacopy=on") {
		s.t.Skip("with userxattr there are no metacopies")
	}
	s.foreign = true
	s.options = append(s.options, "userxattr")
	s.options = slices.DeleteFunc(s.options, func(o string) bool { return o == "redirect_dir=off" })
	for _, f := range s.archive.Files {
		if !strings.HasPrefix(f.Name, "want.") && bytes.Contains(f.Data, []byte("redirect=")) {
			s.t.Skip("with userxattr there are no redirects")
		}
	}
}

// needsRoot says whether nobody but root can do what a line says.
func needsRoot(words []string) bool {
	return words[0] == "chown" || slices.ContainsFunc(words, func(w string) bool {
		return strings.HasPrefix(w, "trusted.")
	})
}

// build makes the tree of a section in dir.
func (s *script) build(dir, text string) {
	s.built = append(s.built, dir)
	err := s.class.Build(dir, text)
	if errors.Is(err, errNoFlags) {
		s.t.Skip(err)
	}
	if s.user && (errors.Is(err, fs.ErrPermission) || ErrClass(err) == "EINVAL") {
		s.t.Skipf("making the layers takes root: %v", err)
	}
	s.check(err)
}

// section is the text of a section, "" when there is none.
func (s *script) section(name string) string {
	for _, f := range s.archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func (s *script) hasSection(name string) bool {
	return slices.ContainsFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == name })
}

func (s *script) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s: %s", s.line, fmt.Sprintf(format, args...))
}

func (s *script) check(err error) {
	s.t.Helper()
	if errors.Is(err, errors.ErrUnsupported) && ErrClass(err) != "EOPNOTSUPP" {
		s.t.Skipf("%s: %s has no words for it", s.line, s.opener.Name)
	}
	if err != nil {
		s.fatalf("%v", err)
	}
}

func (s *script) buildLayers() {
	s.t.Cleanup(s.unprotect)
	s.line = s.file
	if s.opener.Name == "http" && !s.fitHTTP() {
		s.t.Skip("http has no words for what this tree holds")
	}
	image := ""
	s.options = slices.DeleteFunc(s.options, func(o string) bool {
		kind, ok := strings.CutPrefix(o, "lower=")
		if ok {
			image = kind
		}
		return ok
	})
	for _, f := range s.archive.Files {
		if f.Name != "lower" && !strings.HasPrefix(f.Name, "lower.") {
			continue
		}
		dir := filepath.Join(s.dir, f.Name)
		s.build(dir, string(f.Data))
		if image != "" {
			dir = Image(s.t, image, dir)
		}
		s.layers.Lowers = append(s.layers.Lowers, dir)
	}
	if len(s.layers.Lowers) == 0 {
		dir := filepath.Join(s.dir, "lower")
		s.build(dir, "")
		s.layers.Lowers = []string{dir}
	}
	s.newUpper("upper", "work")
	s.build(s.layers.Upper, s.section("upper"))
	s.snapshot()
}

// unprotect takes away what keeps layers from being deleted.
func (s *script) unprotect() {
	for _, dir := range s.built {
		if err := s.class.Unprotect(dir); err != nil {
			s.t.Errorf("%s: %v", dir, err)
		}
	}
}

func (s *script) newUpper(upper, work string) {
	s.layers.Upper, s.layers.Work = filepath.Join(s.dir, upper), filepath.Join(s.dir, work)
	s.check(makeDir(s.layers.Upper))
	s.check(makeDir(s.layers.Work))
}

// fitHTTP takes from the trees that are wanted what a client cannot see.
func (s *script) fitHTTP() bool {
	for i, f := range s.archive.Files {
		if strings.HasPrefix(f.Name, "want.merged") {
			reduced, ok := AsHTTP(string(f.Data))
			if !ok {
				return false
			}
			s.archive.Files[i].Data = []byte(reduced)
		}
	}
	return true
}

func (s *script) snapshot() {
	var err error
	s.lowers, err = TakeSnapshot(s.layers.Lowers...)
	s.check(err)
}

func (s *script) mount(options []string) {
	if s.engine != nil {
		s.fatalf("mounted already")
	}
	if len(options) > 0 {
		s.options = options
	}
	l := s.layers
	if slices.Contains(s.options, "ro") && s.opener.Name == "kernel" && s.section("upper") == "" {
		l.Upper, l.Work = "", ""
	}
	engine, err := s.opener.Open(l, s.options)
	if errors.Is(err, fs.ErrPermission) && s.opener.Name == "kernel" {
		Need(s.t, false, "the right to mount an overlay: %v", err)
	}
	s.check(err)
	s.engine = engine
}

func (s *script) umount() {
	engine := s.engine
	s.engine = nil
	if engine != nil {
		s.check(engine.Close())
	}
}

// close is for scripts that failed on the way.
func (s *script) close() {
	if s.engine != nil {
		if err := s.engine.Close(); err != nil {
			s.t.Errorf("%s: close: %v", s.line, err)
		}
	}
}

// run runs one line.
func (s *script) run(line string) {
	s.t.Helper()
	words, err := splitWords(line)
	s.check(err)
	for strings.HasPrefix(words[0], "[") {
		cond := strings.Trim(words[0], "[]")
		name, not := strings.CutPrefix(cond, "!")
		if (name == s.opener.Name || name == "user" && s.user) == not {
			return
		}
		words = words[1:]
	}
	class, fails := strings.CutPrefix(words[0], "!")
	if fails {
		words = words[1:]
	}
	if s.foreign && words[0] == "mark" {
		return
	}
	if s.user && needsRoot(words) {
		s.t.Skipf("%s: takes root", s.line)
	}
	v, ok := verbs[words[0]]
	args := words[1:]
	if !ok || len(args) < v.min || v.max >= 0 && len(args) > v.max {
		s.fatalf("usage: %s %s", words[0], v.usage)
	}
	err = v.run(s, args)
	if !fails {
		s.check(err)
		return
	}
	s.checkFailure(class, err)
}

func (s *script) checkFailure(class string, err error) {
	s.t.Helper()
	if errors.Is(err, errors.ErrUnsupported) && ErrClass(err) != "EOPNOTSUPP" {
		s.check(err)
	}
	if class == "ENOTEMPTY" {
		class = "EEXIST"
	}
	got := ErrClass(err)
	switch {
	case got == "":
		s.fatalf("succeeded, want an error")
	case class == "" || s.opener.Name == "http": // whose statuses are not errnos
	case !slices.Contains(strings.Split(class, "|"), got):
		s.fatalf("got %s (%v), want %s", got, err, class)
	}
}

// splitWords splits a line into words, Go strings among them.
func splitWords(line string) (words []string, err error) {
	s := scanner{rest: line}
	for s.skipSpace(); s.rest != ""; s.skipSpace() {
		w, err := s.word(" \t")
		if err != nil {
			return nil, err
		}
		words = append(words, w)
	}
	return words, nil
}

// compare holds a tree against a section and, when asked to, accepts it.
func (s *script) compare(got, section string) {
	s.t.Helper()
	if s.foreign && section != "want.merged" {
		return
	}
	want := s.section(section)
	if tree, err := Parse(want); err != nil {
		s.fatalf("section %s: %v", section, err)
	} else {
		want = tree.String() // the writer's spacing and defaults
	}
	if got == want {
		return
	}
	if *update && !s.user && s.opener.Name == s.judge() {
		s.accept(section, got)
		return
	}
	s.t.Errorf("%s: %s differs (- want, + got):\n%s", s.line, section, Diff(want, got))
}

// judge is the engine whose answers -update accepts: the kernel, except where
// a script says that the kernel does otherwise.
func (s *script) judge() string {
	if bytes.Contains(s.archive.Comment, []byte("[kernel] skip")) {
		return "fs"
	}
	return "kernel"
}

func (s *script) accept(section, text string) {
	archive, err := txtar.ParseFile(s.file)
	s.check(err)
	for i, f := range archive.Files {
		if f.Name == section {
			archive.Files[i].Data = []byte(text)
		}
	}
	s.check(os.WriteFile(s.file, txtar.Format(archive), 0o644))
}

// Diff shows the lines that only one of two texts has: - of want, + of got.
func Diff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range w {
		if !slices.Contains(g, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}

// tree is the text of a layer by the name that the script has for it, or of
// what is merged.
func (s *script) tree(name string) (string, error) {
	switch name {
	case "merged":
		if s.engine == nil {
			return "", errors.New("not mounted")
		}
		return s.engine.Tree()
	case "upper":
		return s.class.Raw(s.layers.Upper)
	case "upper!":
		return s.class.Exact(s.layers.Upper)
	}
	return s.class.Raw(filepath.Join(s.dir, name))
}

// finish checks what every script promises.
func (s *script) finish() {
	t := s.t
	merged := ""
	if s.engine != nil {
		var err error
		merged, err = s.tree("merged")
		s.check(err)
		if s.hasSection("want.merged") {
			s.compare(merged, "want.merged")
		}
		s.checkEngine()
	}
	if s.hasSection("want.upper") {
		upper, err := s.tree("upper")
		s.check(err)
		s.compare(upper, "want.upper")
	}
	mounted := s.engine != nil
	s.umount()
	if err := s.lowers.Unchanged(s.layers.Lowers...); err != nil {
		t.Errorf("%s: %v", s.line, err)
	}
	if mounted && s.opener.Name == "fs" {
		s.checkKernelAgrees(merged)
	}
}

// checkEngine asks the engine what it finds wrong with its layers.
func (s *script) checkEngine() {
	checker, ok := s.engine.(interface {
		Check() ([]overlay.Problem, error)
	})
	if !ok {
		return
	}
	problems, err := checker.Check()
	s.check(err)
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&b, "%d/%s: %s\n", p.Layer, p.Path, p.What)
	}
	got, want := b.String(), s.section("want.check")
	switch {
	case got == want || s.foreign:
	case *update && !s.user && s.hasSection("want.check"):
		s.accept("want.check", got)
	default:
		s.t.Errorf("%s: check differs (- want, + got):\n%s", s.line, Diff(want, got))
	}
}

// kernelOptionSets are the ways in which somebody may mount an upper that the
// engine wrote. Each but the first, which is a script's own, gets a workdir of
// its own, for some leave things in it that forbid the next.
var kernelOptionSets = [][]string{
	nil,
	{"redirect_dir=off"}, // which still follows
	{"redirect_dir=follow"},
	{"index=on"},
	{"index=on", "nfs_export=on"},
	{"metacopy=on"},
	{"xino=on"},
	{"xino=off"},
	{"uuid=null"},
	{"fsync=strict"},
	{"volatile"},
}

// checkKernelAgrees mounts what the engine left and compares the views, in
// every way that the script allows: its own options exclude others.
func (s *script) checkKernelAgrees(merged string) {
	for i, set := range kernelOptionSets {
		l, options := s.layers, slices.Concat(s.options, set)
		if i > 0 && (len(s.options) > 0 || s.refusesOption(set)) {
			continue
		}
		if i > 0 {
			l.Work = filepath.Join(s.dir, fmt.Sprintf("work.check%d", i))
			s.check(makeDir(l.Work))
		}
		if s.showsOther(l, options, merged) {
			return // the others would say the same
		}
	}
}

// refusesOption says whether the layers, as a script wrote them, keep the
// kernel from showing them under some option: with nfs_export it refuses to
// merge where origin is empty, and Build writes no other.
func (s *script) refusesOption(set []string) bool {
	return slices.Contains(set, "nfs_export=on") &&
		(strings.Contains(s.section("upper"), "origin") || s.touched)
}

func (s *script) showsOther(l Layers, options []string, merged string) bool {
	k, err := Kernel.Open(l, options)
	if errors.Is(err, fs.ErrPermission) {
		s.t.Logf("not compared with the kernel: %v", err)
		return true
	}
	if err != nil {
		s.t.Errorf("%s: mount with %v: %v", s.line, options, err)
		return true
	}
	defer func() { s.check(k.Close()) }()
	got, err := k.Tree()
	s.check(err)
	if got != merged {
		s.t.Errorf("%s: the kernel with %v shows another tree (- engine, + kernel):\n%s", s.line, options, Diff(merged, got))
	}
	return got != merged
}
