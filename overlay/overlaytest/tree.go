package overlaytest

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// A Tree is the objects below one directory, and the directory itself as ".".
type Tree []Entry

// An Entry is one object of a Tree.
type Entry struct {
	Name     string // slash-separated, "." for the root
	Mode     uint32 // type and permissions, as st_mode
	UID, GID int
	Rdev     uint64 // major<<32 | minor
	Mtime    time.Time
	Size     int64
	Data     []Stretch         // what is not hole, in order
	Target   string            // of a symlink
	Link     string            // another name in the tree of the same file, "" for none
	Marks    map[string]string // by name without the prefix of their Class
	Flags    uint32            // of chattr(1), as the ioctl has them
	Refused  string            // the answer to a look at it, as ErrClass has it, when it could not be seen
	Xattrs   map[string]string // all others, by whole name; "overlay.x" is an escaped one
}

// A Stretch is data in a file between holes.
type Stretch struct {
	Off  int64
	Data string
}

// Epoch is the modification time of what Build makes without one.
var Epoch = time.Unix(1_000_000_000, 0)

// testStart tells the times that a test made from those it was given.
var testStart = time.Now()

func recent(t time.Time) bool { return t.Sub(testStart).Abs() < 12*time.Hour }

// Parse reads a tree's text (see the package's comment).
func Parse(text string) (Tree, error) {
	var tree Tree
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimLeft(line, " \t"); line == "" || line[0] == '#' {
			continue
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", i+1, line, err)
		}
		tree = append(tree, e)
	}
	return tree, nil
}

// parseEntry reads one line: the name, words in any order, and the content.
func parseEntry(line string) (Entry, error) {
	e := Entry{UID: os.Geteuid(), GID: os.Getegid(), Mode: syscall.S_IFREG | 0o644}
	s := scanner{rest: line}
	name, err := s.word(" ")
	if err != nil {
		return e, err
	}
	if strings.HasSuffix(name, "/") || strings.HasPrefix(s.rest, "/") {
		e.Mode = syscall.S_IFDIR | 0o755
		s.rest = strings.TrimPrefix(s.rest, "/")
	}
	if s.rest != "" && s.rest[0] != ' ' {
		return e, fmt.Errorf("no space behind the name")
	}
	e.Name = strings.TrimSuffix(name, "/")
	for {
		s.skipSpace()
		if s.rest == "" {
			return e, nil
		}
		done, err := e.parseWord(&s)
		if err != nil || done {
			return e, err
		}
	}
}

// parseWord reads one word after the name; done when it was the last.
func (e *Entry) parseWord(s *scanner) (done bool, err error) {
	switch {
	case s.accept("->"):
		e.Mode = syscall.S_IFLNK | 0o777
		e.Target, err = s.value()
		return true, err
	case s.accept("=="):
		e.Link, err = s.value()
		return true, err
	case s.accept("="):
		content, err := s.value()
		e.Size = int64(len(content))
		e.Data = []Stretch{{0, content}}
		return true, err
	case s.accept("!"):
		e.Refused, err = s.value()
		return true, err
	case s.accept("["):
		return false, e.parseBracket(s)
	case s.accept("+"):
		return false, e.parseStretch(s)
	}
	w, err := s.word(" ")
	if err != nil {
		return false, err
	}
	return false, e.parseAttr(w, s)
}

func (e *Entry) parseAttr(w string, s *scanner) (err error) {
	size, isSize := strings.CutPrefix(w, "size=")
	flags, isFlags := strings.CutPrefix(w, "chattr=")
	uid, gid, isOwner := strings.Cut(w, ":")
	switch {
	case isFlags:
		e.Flags, err = parseFlags(flags)
	case isSize:
		e.Size, err = strconv.ParseInt(size, 10, 64)
	case w[0] == '@':
		e.Mtime, err = parseTime(w[1:])
	case w == "whiteout":
		e.Mode, e.Rdev = syscall.S_IFCHR, 0 // as the kernel makes them; a mode may follow
	case w == "whiteout-xattr":
		e.mark("whiteout", "")
	case w == "fifo":
		e.setType(syscall.S_IFIFO)
	case w == "socket":
		e.setType(syscall.S_IFSOCK)
	case w == "chr" || w == "blk":
		e.setType(map[string]uint32{"chr": syscall.S_IFCHR, "blk": syscall.S_IFBLK}[w])
		s.skipSpace()
		e.Rdev, err = parseRdev(s)
	case isOwner:
		if e.UID, err = strconv.Atoi(uid); err == nil {
			e.GID, err = strconv.Atoi(gid)
		}
	default:
		perm, perr := strconv.ParseUint(w, 8, 12)
		e.Mode, err = e.Mode&syscall.S_IFMT|uint32(perm), perr
	}
	return err
}

// inodeFlags are the flags of chattr(1) that overlays know of (linux/fs.h).
var inodeFlags = []struct {
	letter string
	bit    uint32
}{{"A", 0x80}, {"S", 0x08}, {"a", 0x20}, {"i", 0x10}}

// knownFlags are all of them.
const knownFlags = 0x80 | 0x08 | 0x20 | 0x10

func parseFlags(letters string) (flags uint32, err error) {
	for _, f := range inodeFlags {
		if strings.Contains(letters, f.letter) {
			flags |= f.bit
			letters = strings.ReplaceAll(letters, f.letter, "")
		}
	}
	if letters != "" {
		return 0, fmt.Errorf("chattr has no %q here", letters)
	}
	return flags, nil
}

func formatFlags(flags uint32) string {
	letters := ""
	for _, f := range inodeFlags {
		if flags&f.bit != 0 {
			letters += f.letter
		}
	}
	return letters
}

func (e *Entry) setType(t uint32) { e.Mode = t | e.Mode&^syscall.S_IFMT }

func (e *Entry) mark(name, value string) {
	if e.Marks == nil {
		e.Marks = map[string]string{}
	}
	e.Marks[name] = value
}

func (e *Entry) xattr(name, value string) {
	if e.Xattrs == nil {
		e.Xattrs = map[string]string{}
	}
	e.Xattrs[name] = value
}

func parseRdev(s *scanner) (uint64, error) {
	w, err := s.word(" ")
	if err != nil {
		return 0, err
	}
	var major, minor uint64
	_, err = fmt.Sscanf(w, "%d:%d", &major, &minor)
	return major<<32 | minor, err
}

func (e *Entry) parseStretch(s *scanner) error {
	off, err := s.word("=")
	if err != nil || !s.accept("=") {
		return fmt.Errorf("a stretch of data is +OFFSET=DATA")
	}
	at, err := strconv.ParseInt(off, 10, 64)
	if err != nil {
		return err
	}
	data, err := s.word(" ")
	e.Data = append(e.Data, Stretch{at, data})
	return err
}

// markValues are the values that go without saying.
var markValues = map[string]string{"opaque": "y", "impure": "y"}

func (e *Entry) parseBracket(s *scanner) error {
	for {
		s.skipSpace()
		if s.accept("]") {
			return nil
		}
		name, err := s.word(" =]")
		if err != nil {
			return err
		}
		value := markValues[name]
		if s.accept("=") {
			if value, err = s.word(" ]"); err != nil {
				return err
			}
		}
		if strings.Contains(name, ".") {
			e.xattr(name, value)
		} else {
			e.mark(name, value)
		}
	}
}

// A scanner takes words off the front of a line.
type scanner struct{ rest string }

func (s *scanner) skipSpace() { s.rest = strings.TrimLeft(s.rest, " \t") }

func (s *scanner) accept(prefix string) bool {
	rest, ok := strings.CutPrefix(s.rest, prefix)
	if ok {
		s.rest = rest
	}
	return ok
}

// word reads a Go string, or what comes before any of the characters in end.
func (s *scanner) word(end string) (string, error) {
	if strings.HasPrefix(s.rest, `"`) {
		quoted, err := strconv.QuotedPrefix(s.rest)
		if err != nil {
			return "", err
		}
		s.rest = s.rest[len(quoted):]
		return strconv.Unquote(quoted)
	}
	i := strings.IndexAny(s.rest, end)
	if i < 0 {
		i = len(s.rest)
	}
	w := s.rest[:i]
	s.rest = s.rest[i:]
	if w == "" && !strings.HasPrefix(s.rest, "]") {
		return "", fmt.Errorf("a word is missing before %q", s.rest)
	}
	return w, nil
}

// value is the rest of the line.
func (s *scanner) value() (string, error) {
	s.skipSpace()
	if strings.HasPrefix(s.rest, `"`) {
		return strconv.Unquote(strings.TrimRight(s.rest, " \t"))
	}
	return strings.TrimRight(s.rest, " \t"), nil
}

// parseTime reads seconds since 1970 with a fraction.
func parseTime(s string) (time.Time, error) {
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	nsec, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	return time.Unix(n, nsec), err
}

func formatTime(t time.Time) string {
	s := strconv.FormatInt(t.Unix(), 10)
	if ns := t.Nanosecond(); ns != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", ns), "0")
	}
	return s
}

// String is the tree's text, names in order.
func (tree Tree) String() string {
	sorted := slices.SortedFunc(slices.Values(tree), func(a, b Entry) int {
		return cmp.Compare(sortKey(a.Name), sortKey(b.Name))
	})
	var b strings.Builder
	for _, e := range sorted {
		if line := e.String(); line != "./" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// sortKey keeps a directory's members together, right behind it.
func sortKey(name string) string {
	if name == "." {
		return ""
	}
	return strings.ReplaceAll(name, "/", "\x00")
}

// String is the entry's line.
func (e Entry) String() string {
	name := quote(e.Name, " =[]")
	if e.isDir() {
		name += "/"
	}
	words := []string{name}
	switch {
	case e.Refused != "":
		return name + " !" + e.Refused
	case e.Link != "":
		return name + " == " + quote(e.Link, "")
	}
	if !e.isWhiteout() {
		words = e.appendAttrs(words)
	}
	words = e.appendType(words)
	if marks := e.formatBracket(); marks != "" {
		words = append(words, marks)
	}
	switch e.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		words = append(words, "->", quote(e.Target, ""))
	case syscall.S_IFREG:
		words = e.appendContent(words)
	}
	return strings.Join(words, " ")
}

func (e Entry) isDir() bool { return e.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// isWhiteout says whether e is a whiteout of either form.
func (e Entry) isWhiteout() bool {
	return e.Mode&syscall.S_IFMT == syscall.S_IFCHR && e.Rdev == 0 || e.isXattrWhiteout()
}

func (e Entry) isXattrWhiteout() bool {
	_, marked := e.Marks["whiteout"]
	return marked && e.Mode&syscall.S_IFMT == syscall.S_IFREG && e.Size == 0
}

func (e Entry) appendAttrs(words []string) []string {
	usual := uint32(0o644)
	switch e.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		usual = 0o755
	case syscall.S_IFLNK:
		usual = 0o777
	}
	if perm := e.Mode &^ syscall.S_IFMT; perm != usual {
		words = append(words, fmt.Sprintf("%04o", perm))
	}
	if e.UID != os.Geteuid() || e.GID != os.Getegid() {
		words = append(words, fmt.Sprintf("%d:%d", e.UID, e.GID))
	}
	if letters := formatFlags(e.Flags); letters != "" {
		words = append(words, "chattr="+letters)
	}
	if !e.Mtime.IsZero() && !e.Mtime.Equal(Epoch) && !recent(e.Mtime) {
		words = append(words, "@"+formatTime(e.Mtime))
	}
	return words
}

func (e Entry) appendType(words []string) []string {
	rdev := fmt.Sprintf("%d:%d", e.Rdev>>32, uint32(e.Rdev))
	switch {
	case e.isXattrWhiteout():
		return append(words, "whiteout-xattr")
	case e.isWhiteout():
		return append(words, "whiteout")
	}
	switch e.Mode & syscall.S_IFMT {
	case syscall.S_IFIFO:
		return append(words, "fifo")
	case syscall.S_IFSOCK:
		return append(words, "socket")
	case syscall.S_IFCHR:
		return append(words, "chr", rdev)
	case syscall.S_IFBLK:
		return append(words, "blk", rdev)
	}
	return words
}

func (e Entry) formatBracket() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(e.Marks)) {
		value := e.Marks[name]
		switch {
		case name == "whiteout" && e.isXattrWhiteout():
		case name == "origin" || value == markValues[name]:
			words = append(words, name)
		default:
			words = append(words, name+"="+quote(value, " ]"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		words = append(words, quote(name, " =]")+"="+quote(e.Xattrs[name], " ]"))
	}
	if len(words) == 0 {
		return ""
	}
	return "[" + strings.Join(words, " ") + "]"
}

func (e Entry) appendContent(words []string) []string {
	switch {
	case e.isXattrWhiteout():
		return words
	case e.Size == 0:
		return append(words, "=")
	case len(e.Data) == 1 && e.Data[0].Off == 0 && int64(len(e.Data[0].Data)) == e.Size:
		return append(words, "=", quote(e.Data[0].Data, ""))
	}
	words = append(words, "size="+strconv.FormatInt(e.Size, 10))
	for _, d := range e.Data {
		words = append(words, fmt.Sprintf("+%d=%s", d.Off, quote(d.Data, " ")))
	}
	return words
}

// quote makes s a Go string where it could not be read back as it is.
func quote(s, special string) string {
	plain := s != "" && s == strings.TrimSpace(s) && utf8.ValidString(s) &&
		!strings.ContainsAny(s, special) && !strings.ContainsAny(s[:1], `"#`)
	for _, r := range s {
		plain = plain && strconv.IsPrint(r) && r != utf8.RuneError
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}
