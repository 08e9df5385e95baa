package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// A Problem is something in a layer that is not as it should be.
type Problem struct {
	Layer int    // 0 is upper
	Path  string // within the layer, of the workdir for what is left in staging
	What  string // what is wrong and what it does
}

// Check looks through the marks of upper and reports what neither an overlay
// of ours nor a kernel mount with our options writes: marks with impossible
// values or on objects that cannot have them, marks of the other namespace, two
// directories that show one lower directory, directories that cannot be read,
// and what was left in staging. It changes nothing, may run while others
// change the tree, and says nothing about needless marks, which are legal: a
// whiteout or an opaque directory over nothing, a redirect to where the
// directory is anyway.
//
// Errors are only of Check itself; what cannot be read is a Problem.
func (fsys *FS) Check(report func(Problem)) error {
	if fsys.root.upper == nil {
		return nil
	}
	c := checker{fsys: fsys, report: report, shown: map[lowerID]string{}}
	if err := c.tree("."); err != nil {
		return err
	}
	if fsys.readOnly() {
		return nil
	}
	return c.staging()
}

// A checker is one Check under way.
type checker struct {
	fsys   *FS
	report func(Problem)
	shown  map[lowerID]string // the directory that shows each lower one
}

// A lowerID is a directory of a lower layer.
type lowerID struct {
	layer    int
	dev, ino uint64
}

func (c *checker) problem(path, format string, args ...any) {
	c.report(Problem{Layer: 0, Path: path, What: fmt.Sprintf(format, args...)})
}

// tree checks the directory of upper at path and everything in it. What is no
// longer there is no problem.
func (c *checker) tree(path string) error {
	dirs, err := c.dir(path)
	for _, name := range dirs {
		if err == nil {
			err = c.tree(joinPath(path, name))
		}
	}
	return err
}

// dir checks one directory and what it holds, and returns the directories
// among that.
func (c *checker) dir(path string) (dirs []string, err error) {
	t, err := c.fsys.look()
	if err != nil {
		return nil, err
	}
	d, err := c.fsys.root.upper.OpenPath(path)
	if err != nil {
		c.unreadable(path, err)
		return nil, t.end(nil) // reported
	}
	defer d.Close()
	if path == "." {
		c.object(d, path, ".")
	}
	names, err := readNames(d)
	if err != nil {
		c.unreadable(path, err)
	}
	slices.SortFunc(names, func(a, b rawName) int { return strings.Compare(a.name, b.name) })
	for _, n := range names {
		if c.object(d, joinPath(path, n.name), n.name) {
			dirs = append(dirs, n.name)
		}
	}
	return dirs, t.end(nil)
}

func (c *checker) unreadable(path string, err error) {
	if !at.IsMissing(err) {
		c.problem(path, "cannot be read: %v", err)
	}
}

// object checks one object of upper, name in d, and says whether it is a
// directory.
func (c *checker) object(d *at.Dir, path, name string) (isDir bool) {
	var st at.Stat
	if err := d.Stat(name, &st); err != nil {
		c.unreadable(path, err)
		return false
	}
	attrs, err := d.Listxattr(name)
	if err != nil && err != syscall.EOPNOTSUPP {
		c.unreadable(path, err)
	}
	for _, attr := range attrs {
		if mark, ok := c.fsys.marks.cut(attr); ok {
			value, err := d.Getxattr(name, attr)
			if err == nil {
				c.mark(path, mark, value, &st)
			} else if err != syscall.ENODATA {
				c.unreadable(path, err)
			}
		} else {
			c.foreign(path, attr)
		}
	}
	if st.IsDir() && name != "." {
		c.lowersOf(path)
	}
	return st.IsDir() && name != "."
}

// foreign reports a mark of the other namespace. The names alone do not tell
// it from what an overlay nested in the tree wrote.
func (c *checker) foreign(path, attr string) {
	other := newMarks(userPrefix)
	if c.fsys.marks.prefix == userPrefix {
		other = newMarks(trustedPrefix)
	}
	if mark, ok := other.cut(attr); ok && slices.Contains(knownMarks, mark) {
		c.problem(path, "has the mark %s, which is not read: the marks of this upper are in %s*", attr, c.fsys.marks.prefix)
	}
}

// cut is the bare name of a mark; false for whatever is none of ours.
func (m *marks) cut(attr string) (mark string, ok bool) {
	if !m.private(attr) {
		return "", false
	}
	return strings.CutPrefix(attr, m.prefix)
}

// knownMarks are the marks there are (compare enum ovl_xattr,
// fs/overlayfs/overlayfs.h).
var knownMarks = []string{
	"opaque", "redirect", "whiteout", "metacopy", "origin", "impure", "uuid", "protattr", "nlink", "upper",
}

// mark checks one mark of one object: first whether such an object can have
// it, then its value.
func (c *checker) mark(path, mark string, value []byte, st *at.Stat) {
	root := path == "."
	switch mark {
	case "opaque":
		c.fits(path, mark, st.IsDir() && !root) // a root is merged whatever it says
		if v := string(value); v != "y" && v != "x" {
			c.problem(path, "the opaque mark is %q, which hides nothing", value)
		}
	case "redirect":
		// A file keeps the one it had as a metacopy.
		c.fits(path, mark, (st.IsDir() || st.IsRegular()) && !root)
		c.redirect(path, value)
	case "whiteout":
		c.fits(path, mark, st.IsRegular())
		if st.IsRegular() && st.Size > 0 {
			c.problem(path, "has the whiteout mark and content: it is shown, not deleted")
		}
	case "metacopy":
		c.fits(path, mark, st.IsRegular())
		if st.IsRegular() {
			c.metacopy(path, value, st)
		}
	case "origin":
		if _, err := parseOrigin(value); err != nil {
			c.problem(path, "%v", err)
		}
	case "impure":
		c.fits(path, mark, st.IsDir())
		if string(value) != "y" {
			c.problem(path, "the impure mark is %q, which means nothing", value)
		}
	case "uuid":
		c.fits(path, mark, root)
		if len(value) != 16 {
			c.problem(path, "the uuid mark has %d bytes instead of 16", len(value))
		}
	case "protattr":
		c.fits(path, mark, st.IsDir() || st.IsRegular())
		if strings.Trim(string(value), "ai") != "" {
			c.problem(path, "the protattr mark is %q; of its letters only a and i are known", value)
		}
	case "nlink": // of an upper that was mounted with index=on
		c.fits(path, mark, !st.IsDir())
	case "upper": // of entries of the index
		c.fits(path, mark, false)
	default:
		c.problem(path, "has the mark %s, which nobody knows", mark)
	}
}

func (c *checker) fits(path, mark string, ok bool) {
	if !ok {
		c.problem(path, "has the mark %s, which means nothing there", mark)
	}
}

func (c *checker) redirect(path string, value []byte) {
	if _, err := parseRedirect(value); err != nil {
		c.problem(path, "%v; it cannot be opened", err)
	} else if !c.fsys.followRedirects {
		c.problem(path, "has a redirect, which is not followed with marks in %s*", c.fsys.marks.prefix)
	}
}

// metacopy reports a metacopy that cannot be opened.
func (c *checker) metacopy(path string, value []byte, st *at.Stat) {
	if !c.fsys.metacopy {
		c.problem(path, "%v; it was written by a mount with metacopy=on", errMetacopy)
		return
	}
	if err := checkMetacopy(value); err != nil {
		c.problem(path, "%v; it cannot be opened", err)
		return
	}
	parent, name := splitLast(path)
	d, err := c.fsys.mergedDir(parent)
	if err != nil || d == nil {
		return // as in lowersOf
	}
	defer d.close()
	content, err := c.fsys.openContent(d, name, st)
	if err != nil {
		if !errors.Is(err, ErrCorruptMark) { // which is reported for itself
			c.unreadable(path, err)
		}
		return
	}
	_ = content.Close() // only read
}

// lowersOf reports the directory of upper at path if another directory shows
// the same lower one: the kernel answers ESTALE for either of them.
func (c *checker) lowersOf(path string) {
	d, err := c.fsys.mergedDir(path)
	if err != nil || d == nil {
		return // it does not show, or what keeps it from showing is reported
	}
	defer d.close()
	id, ok := topLower(d)
	if !ok {
		return
	}
	if other, ok := c.shown[id]; ok && other != path {
		c.sameLower(path, other, d)
		return
	}
	c.shown[id] = path
	if d.marks.redirect == "" {
		return
	}
	// Where it was redirected away from, nothing may show it.
	from, absolute := strings.CutPrefix(d.marks.redirect, "/")
	if !absolute {
		parent, _ := splitLast(path)
		from = joinPath(parent, from)
	}
	natural, err := c.fsys.mergedDir(from)
	if err != nil || natural == nil {
		return
	}
	defer natural.close()
	if same, ok := topLower(natural); ok && same == id && natural.path != path {
		c.shown[id] = natural.path
		c.sameLower(path, natural.path, d)
	}
}

func (c *checker) sameLower(path, other string, d *dir) {
	c.problem(path, "shows the same directory of lower %d as %s does; a kernel mount answers ESTALE for one of them",
		d.lowers[0].layer.index, strconv.Quote(other))
}

func topLower(d *dir) (id lowerID, ok bool) {
	if !d.isMerged() {
		return id, false
	}
	var st at.Stat
	if err := d.lowers[0].Stat(".", &st); err != nil {
		return id, false // it was just opened; a lower that fails is no mark's fault
	}
	return lowerID{d.lowers[0].layer.index, st.Dev, st.Ino}, true
}

// mergedDir is the merged directory at path, through no symlink; nil when
// that shows no directory.
func (fsys *FS) mergedDir(path string) (*dir, error) {
	components, err := splitName(path)
	if err != nil {
		return nil, err
	}
	d := fsys.root
	for _, name := range components {
		e, err := fsys.lookup(d, name, true)
		d.close()
		if err != nil || !e.isDir() {
			return nil, err
		}
		d = e.dir
	}
	return d, nil
}

// staging reports what stands in <workdir>/overdav though nothing is under
// way. While something is, it reports nothing.
func (c *checker) staging() error {
	t, err := c.fsys.changeTree()
	if err != nil {
		return err
	}
	s := c.fsys.staging
	seq, busy := s.seq.Load(), s.busy.Load()
	left, err := s.leftovers()
	if busy == 0 && s.busy.Load() == 0 && s.seq.Load() == seq {
		for _, name := range left {
			c.problem(stagingDir+"/"+name, "was left over; it goes with the next start")
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.problem(stagingDir, "cannot be read: %v", err)
	}
	return t.end(nil) // reported
}

// leftovers are the names in staging that need not be there. What stands beside
// tmp and trash is not the engine's alone: of that, the note of a move that was
// cut short.
func (s *staging) leftovers() (left []string, err error) {
	for _, d := range []struct {
		dir    *at.RWDir
		prefix string
		left   func(name string) bool
	}{
		{s.dir, "", func(name string) bool { return name == moveNoteName }},
		{s.tmp, "tmp/", func(name string) bool { return name != sharedWhiteout }},
		{s.trash, "trash/", func(string) bool { return true }},
	} {
		names, err := readNames(&d.dir.Dir)
		if err != nil {
			return left, err
		}
		for _, n := range names {
			if d.left(n.name) {
				left = append(left, d.prefix+n.name)
			}
		}
	}
	return left, nil
}
