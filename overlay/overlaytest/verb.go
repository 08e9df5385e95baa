package overlaytest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"overdav/overlay/internal/at"
)

// A verb is a word of the scripts' language.
type verb struct {
	usage    string
	min, max int // number of arguments; max -1 for any
	run      func(s *script, args []string) error
}

// verbs are the language of scripts. Those that read name the answer they
// want, and fail on another.
var verbs = map[string]verb{
	// Changes of the merged tree.
	"put":      {"NAME CONTENT", 2, 2, func(s *script, a []string) error { return s.engine.Put(a[0], a[1]) }},
	"write":    {"NAME CONTENT", 2, 2, func(s *script, a []string) error { return s.engine.Write(a[0], a[1]) }},
	"append":   {"NAME CONTENT", 2, 2, func(s *script, a []string) error { return s.engine.Append(a[0], a[1]) }},
	"writeat":  {"NAME OFFSET CONTENT", 3, 3, verbWriteAt},
	"truncate": {"NAME SIZE", 2, 2, verbTruncate},
	"mkdir":    {"NAME...", 1, -1, each(Engine.Mkdir)},
	"rm":       {"NAME...", 1, -1, each(Engine.Rm)},
	"rmdir":    {"NAME...", 1, -1, each(Engine.Rmdir)},
	"rmtree":   {"NAME...", 1, -1, each(Engine.Rmtree)},
	"mkfifo":   {"NAME...", 1, -1, each(Engine.Mkfifo)},
	"mv":       {"FROM TO", 2, 2, func(s *script, a []string) error { return s.engine.Mv(a[0], a[1]) }},
	"cp":       {"FROM TO", 2, 2, func(s *script, a []string) error { return s.engine.Cp(a[0], a[1]) }},
	"ln":       {"FROM TO", 2, 2, func(s *script, a []string) error { return s.engine.Ln(a[0], a[1]) }},
	"symlink":  {"TARGET NAME", 2, 2, func(s *script, a []string) error { return s.engine.Symlink(a[0], a[1]) }},
	"chmod":    {"PERM NAME", 2, 2, verbChmod},
	"chown":    {"UID:GID NAME", 2, 2, verbChown},
	"touch":    {"@SECONDS NAME", 2, 2, verbTouch},
	"setxattr": {"NAME ATTR VALUE", 3, 3, func(s *script, a []string) error { return s.engine.Setxattr(a[0], a[1], a[2]) }},
	"rmxattr":  {"NAME ATTR", 2, 2, func(s *script, a []string) error { return s.engine.Rmxattr(a[0], a[1]) }},

	// What the merged tree must show.
	"cat":       {"NAME [CONTENT]", 1, 2, verbCat},
	"ls":        {"NAME [MEMBER...]", 1, -1, verbLs},
	"readlink":  {"NAME TARGET", 2, 2, verbReadlink},
	"getxattr":  {"NAME ATTR [VALUE]", 2, 3, verbGetxattr},
	"listxattr": {"NAME [ATTR...]", 1, -1, verbListxattr},
	"tree":      {"merged|LAYER SECTION", 2, 2, verbTree},

	// What lies on disk, by names like upper/docs/a or lower.2/docs.
	"mark":     {"LAYER/NAME MARK [VALUE]", 2, 3, verbMark},
	"samefile": {"LAYER/NAME LAYER/NAME", 2, 2, verbSameFile},
	"sparse":   {"LAYER/NAME KIBIBYTES", 2, 2, verbSparse},

	// Changes of the layers, and of who serves them.
	"umount": {"", 0, 0, func(s *script, _ []string) error { s.umount(); return nil }},
	"mount":  {"[OPTION...]", 0, -1, func(s *script, a []string) error { s.mount(a); return nil }},
	"reopen": {"[OPTION...]", 0, -1, func(s *script, a []string) error { s.umount(); s.mount(a); return nil }},
	"rotate": {"", 0, 0, func(s *script, _ []string) error { s.rotate(); return nil }},
	"build":  {"LAYER SECTION", 2, 2, verbBuild},
	"wipe":   {"LAYER/NAME...", 1, -1, verbWipe},

	"skip": {"REASON...", 1, -1, func(s *script, a []string) error { s.t.Skip(strings.Join(a, " ")); return nil }},
}

// each makes a verb of many names out of one for one.
func each(change func(e Engine, name string) error) func(s *script, args []string) error {
	return func(s *script, args []string) error {
		for _, name := range args {
			if err := change(s.engine, name); err != nil {
				return err
			}
		}
		return nil
	}
}

func verbWriteAt(s *script, a []string) error {
	off, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	return s.engine.WriteAt(a[0], off, a[2])
}

func verbTruncate(s *script, a []string) error {
	size, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	return s.engine.Truncate(a[0], size)
}

func verbChmod(s *script, a []string) error {
	perm, err := strconv.ParseUint(a[0], 8, 12)
	if err != nil {
		return err
	}
	return s.engine.Chmod(a[1], uint32(perm))
}

func verbChown(s *script, a []string) error {
	var uid, gid int
	if _, err := fmt.Sscanf(a[0], "%d:%d", &uid, &gid); err != nil {
		return err
	}
	return s.engine.Chown(a[1], uid, gid)
}

func verbTouch(s *script, a []string) error {
	t, err := parseTime(strings.TrimPrefix(a[0], "@"))
	if err != nil {
		return err
	}
	return s.engine.Touch(a[1], t)
}

// errWant is an answer that was not the one wanted.
func errWant(got, want any) error { return fmt.Errorf("got %q, want %q", got, want) }

func verbCat(s *script, a []string) error {
	got, err := s.engine.Cat(a[0])
	if err == nil && len(a) > 1 && got != a[1] {
		return errWant(got, a[1])
	}
	return err
}

func verbLs(s *script, a []string) error {
	got, err := s.engine.Ls(a[0])
	if want := a[1:]; err == nil && !slices.Equal(got, want) {
		return errWant(got, want)
	}
	return err
}

func verbReadlink(s *script, a []string) error {
	got, err := s.engine.Readlink(a[0])
	if err == nil && got != a[1] {
		return errWant(got, a[1])
	}
	return err
}

func verbGetxattr(s *script, a []string) error {
	got, err := s.engine.Getxattr(a[0], a[1])
	if err == nil && len(a) > 2 && got != a[2] {
		return errWant(got, a[2])
	}
	return err
}

func verbListxattr(s *script, a []string) error {
	got, err := s.engine.Listxattr(a[0])
	if want := a[1:]; err == nil && !slices.Equal(got, want) {
		return errWant(got, want)
	}
	return err
}

func verbTree(s *script, a []string) error {
	if !s.hasSection(a[1]) {
		return fmt.Errorf("no section %s", a[1])
	}
	got, err := s.tree(a[0])
	if err == nil {
		s.compare(got, a[1])
	}
	return err
}

// inLayer calls with the open directory of a LAYER/NAME and its last component.
func (s *script) inLayer(name string, call func(dir *at.Dir, name string) error) error {
	layer, rest, ok := strings.Cut(name, "/")
	if !ok {
		rest = "."
	}
	root, err := at.Open(s.layerDir(layer))
	if err != nil {
		return err
	}
	defer root.Close()
	return hostView{root: root}.in(rest, call)
}

func (s *script) layerDir(layer string) string {
	if layer == "upper" {
		return s.layers.Upper
	}
	return filepath.Join(s.dir, layer)
}

// verbMark fails like getxattr(2) where there is no such mark.
func verbMark(s *script, a []string) error {
	return s.inLayer(a[0], func(dir *at.Dir, name string) error {
		got, err := dir.Getxattr(name, string(s.class)+a[1])
		if err == nil && len(a) > 2 && string(got) != a[2] {
			return errWant(string(got), a[2])
		}
		return err
	})
}

func verbSameFile(s *script, a []string) error {
	var st [2]at.Stat
	for i := range st {
		err := s.inLayer(a[i], func(dir *at.Dir, name string) error { return dir.Stat(name, &st[i]) })
		if err != nil {
			return err
		}
	}
	if !st[0].Same(&st[1]) {
		return errors.New("are two files")
	}
	return nil
}

// verbSparse says how much room a file may take at most.
func verbSparse(s *script, a []string) error {
	limit, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	return s.inLayer(a[0], func(dir *at.Dir, name string) error {
		var st at.Stat
		if err := dir.Stat(name, &st); err != nil {
			return err
		}
		if got := st.Blocks / 2; got > limit {
			return fmt.Errorf("takes %d KiB, want at most %d", got, limit)
		}
		return nil
	})
}

// rotate makes the upper the topmost lower, under a new upper.
func (s *script) rotate() {
	s.umount()
	s.check(s.lowers.Unchanged(s.layers.Lowers...))
	s.rotated++
	s.layers.Lowers = slices.Insert(s.layers.Lowers, 0, s.layers.Upper)
	s.newUpper(fmt.Sprintf("upper.%d", s.rotated+1), fmt.Sprintf("work.%d", s.rotated+1))
	s.snapshot()
	s.mount(nil)
}

func verbBuild(s *script, a []string) error {
	if !s.hasSection(a[1]) {
		return fmt.Errorf("no section %s", a[1])
	}
	s.touched = true
	s.build(s.layerDir(a[0]), s.section(a[1]))
	s.snapshot()
	return nil
}

func verbWipe(s *script, a []string) error {
	s.touched = true
	for _, name := range a {
		layer, rest, _ := strings.Cut(name, "/")
		if err := os.RemoveAll(filepath.Join(s.layerDir(layer), rest)); err != nil {
			return err
		}
	}
	s.snapshot()
	return nil
}
