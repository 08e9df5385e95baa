package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"overdav/auth"
	"overdav/overlay"
)

// stateHome is the directory below which overdav keeps the uppers that nobody
// gave a place: XDG Base Directory Specification, "$XDG_STATE_HOME"; for root,
// Filesystem Hierarchy Standard 3.0, section 5.8. It is empty when nothing says.
func stateHome(getenv func(string) string, uid int) string {
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) { // the specification says to ignore others
		return filepath.Join(dir, "overdav")
	}
	if uid == 0 {
		return "/var/lib/overdav"
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local/state/overdav")
	}
	return ""
}

// stateName names the upper of a stack of lowers: readable by the topmost one's
// last element, and different for every other stack by a hash of all of them.
// An upper belongs to its whole stack, because its redirects are only true
// above the lowers they were written over (overlayfs.rst, "Changes to
// underlying filesystems").
func stateName(lowers []string) string {
	sum := sha256.Sum256([]byte(strings.Join(lowers, "\x00")))
	base := filepath.Base(lowers[0])
	if base == "/" {
		base = "root"
	}
	const longest = 200 // of 255 bytes, the hash and ".work" must have room
	return fmt.Sprintf("%s-%x", base[:min(len(base), longest)], sum[:8])
}

// workBeside is the work directory of an upper that was given none: a sibling,
// hence as a rule on the same mount, as overlayfs demands.
func workBeside(upper string) string {
	upper = filepath.Clean(upper)
	if dir, base := filepath.Split(upper); base == "upper" {
		return filepath.Join(dir, "work")
	}
	return upper + ".work"
}

// userPart stands, in the names of upper and work, for the name of the user
// whose they are.
const userPart = "{user}"

// errUserName says that a user's name cannot be that of a directory.
var errUserName = errors.New("no name for a directory")

// isUserName says whether name, of somebody who was let in, can be the name of
// a directory: it is looked at again before it becomes one.
func isUserName(name string) bool {
	folded, ok := auth.FoldName(name)
	return ok && folded == name || name == auth.Anonymous
}

// layers are the directories of a share, every one of them named.
//
// With {user} in upper and work they are a pattern, from which of makes those
// of a user.
type layers struct {
	ShareConfig
	ofUser              bool     // and so both come and go with the user's changes
	makeUpper, makeWork bool     // nobody named them, so prepare may make them
	made                []string // by prepare, parents first
}

// readOnly says that clients can change nothing.
func (l *layers) readOnly() bool { return l.ReadOnly || l.Upper == "" }

// perUser says that each user has an upper of his own.
func (l *layers) perUser() bool { return strings.Contains(l.Upper, userPart) }

// usersDir is the directory below which each user has a directory of his own.
func (l *layers) usersDir() string {
	before, _, _ := strings.Cut(l.Upper, userPart)
	return filepath.Clean(before)
}

// of returns the layers of a user. Those that all users share are l itself.
// Errors: errUserName.
func (l *layers) of(user string) (*layers, error) {
	if !l.perUser() {
		return l, nil
	}
	if !isUserName(user) {
		return nil, fmt.Errorf("user %q: %w", user, errUserName)
	}
	own := *l
	own.Upper = strings.Replace(l.Upper, userPart, user, 1)
	own.Work = strings.Replace(l.Work, userPart, user, 1)
	own.ofUser, own.makeUpper, own.makeWork, own.made = true, true, true, nil
	if _, err := os.Stat(own.Upper); l.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		own.Upper, own.Work = "", "" // he has changed nothing
	}
	return &own, nil
}

// tryLowers looks whether an upper that nobody has made yet could be served.
func (l *layers) tryLowers() error {
	view := *l
	view.Upper, view.Work = "", ""
	fsys, err := overlay.Open(view.engineOptions())
	if err != nil {
		return err
	}
	if err := fsys.Close(); err != nil {
		return err
	}
	dir, err := realDir(l.usersDir())
	if err == nil && !l.ReadOnly {
		err = mayChange(dir)
	}
	return err
}

// What access(2) can be asked about.
const (
	accessSearch = 1
	accessWrite  = 2
)

// mayChange says whether we may make names in dir. It is asked where else only the
// first request would tell.
func mayChange(dir string) error {
	if err := syscall.Access(dir, accessSearch|accessWrite); err != nil {
		return &hintError{fmt.Errorf("nothing can be made in %s: %w", dir, err), "let overdav's user write to it, or name another"}
	}
	return nil
}

// newLayers fills in what the share leaves open, and touches nothing. home, the
// state directory, may be empty.
func newLayers(s ShareConfig, home string) (*layers, error) {
	l := &layers{ShareConfig: s}
	l.Lower = nil
	for _, dir := range s.Lower {
		dir, err := realDir(dir)
		if err != nil {
			return nil, err
		}
		l.Lower = append(l.Lower, dir)
	}
	if s.Upper == "" {
		if s.ReadOnly {
			return l, nil // a view of the lowers alone
		}
		if home == "" {
			return nil, &hintError{
				errors.New("neither XDG_STATE_HOME nor HOME says where changes can be kept"),
				"name a directory for them: --upper DIR",
			}
		}
		l.Upper, l.makeUpper = filepath.Join(home, stateName(l.Lower), "upper"), true
	}
	var err error
	if l.Upper, err = filepath.Abs(l.Upper); err != nil {
		return nil, err
	}
	if s.Work == "" {
		l.Work, l.makeWork = workBeside(l.Upper), true
	}
	if l.Work, err = filepath.Abs(l.Work); err != nil {
		return nil, err
	}
	return l, l.checkPlace()
}

// checkPlace refuses to keep changes inside what must not change.
func (l *layers) checkPlace() error {
	for _, place := range []struct{ dir, flag string }{{l.Upper, "--upper"}, {l.Work, "--work"}} {
		dir := resolve(place.dir)
		for _, lower := range l.Lower {
			if rel, err := filepath.Rel(lower, dir); err == nil && rel != "." && filepath.IsLocal(rel) {
				return &hintError{
					fmt.Errorf("%s is inside %s, which is not to change", dir, lower),
					"keep changes elsewhere: " + place.flag + " DIR",
				}
			}
		}
	}
	return nil
}

// checkApart refuses two shares of which one keeps its changes among the other's:
// it would show them there, and take changes of them for its own. {user} stands for
// the name of every user, but not for that of a directory in the state directory,
// which has a hash in it.
func (l *layers) checkApart(other *layers) error {
	ofUsers := !l.makeUpper && !other.makeUpper
	for _, mine := range l.changed() {
		for _, theirs := range other.changed() {
			if nested(resolve(mine), resolve(theirs), ofUsers) {
				return &hintError{
					fmt.Errorf("%s overlaps %s of share %s", mine, theirs, other.Path),
					"keep the changes of each share in directories of its own",
				}
			}
		}
	}
	return nil
}

// changed are the directories in which something changes.
func (l *layers) changed() []string {
	if l.readOnly() {
		return nil
	}
	return []string{l.Upper, l.Work}
}

// nested says whether two directories are one, or one is in the other; ofUsers
// that {user} stands for names.
func nested(a, b string, ofUsers bool) bool {
	stands := func(x, y string) bool { return ofUsers && x == userPart && isUserName(y) }
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		if x != y && !stands(x, y) && !stands(y, x) {
			return false
		}
	}
	return true
}

// resolve returns dir without symbolic links, as far as it exists.
func resolve(dir string) string {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		return real
	}
	if parent := filepath.Dir(dir); parent != dir {
		return filepath.Join(resolve(parent), filepath.Base(dir))
	}
	return dir
}

// realDir returns the absolute name of a directory without symbolic links, so
// that a tree has one upper however it is named.
func realDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	abs, err = filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &hintError{fmt.Errorf("there is no directory %s", dir), "name one that exists"}
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", &hintError{fmt.Errorf("%s is not a directory", dir), "name a directory"}
	}
	return abs, nil
}

// prepare makes the directories that nobody named. On an error, and when the
// engine then refuses the layers, undo removes them. What it made is on the
// disk when it returns: the engine makes last what is in upper, not upper.
//
//  1. The directories above upper.
//  2. Upper, under another name until it has the permissions of the topmost
//     lower. A crash leaves it there, empty, and the next start takes it.
//  3. Work. A crash before leaves an empty upper, which the next start takes.
func (l *layers) prepare() error {
	if l.ReadOnly {
		return nil
	}
	if err := l.makeDirs(); err != nil {
		return err
	}
	if l.Durability != "full" {
		return nil
	}
	for i, dir := range l.made {
		parent := filepath.Dir(dir)
		if i > 0 && parent == filepath.Dir(l.made[i-1]) {
			continue
		}
		if err := syncDir(parent); err != nil {
			return err
		}
	}
	return nil
}

func (l *layers) makeDirs() error {
	if l.makeUpper {
		if err := l.mkdirAll(filepath.Dir(l.Upper)); err != nil {
			return err
		}
		if err := l.mkdirLike(l.Upper, l.Lower[0]); err != nil {
			return err
		}
	}
	if !l.makeWork {
		return nil
	}
	if _, err := os.Stat(l.Upper); err != nil {
		return nil // the engine says it better, and there shall be no work without upper
	}
	return l.mkdir(l.Work, 0o700)
}

// undo removes what prepare made. Only what is still empty goes: os.Remove
// fails on the rest, and that is meant.
func (l *layers) undo() {
	for _, dir := range slices.Backward(l.made) {
		_ = os.Remove(dir)
	}
}

func (l *layers) mkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := l.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	return l.mkdir(dir, 0o700)
}

// mkdirLike makes dir with the permissions and, where we may, the owner of
// model: the root of the merged tree shows upper's.
func (l *layers) mkdirLike(dir, model string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	info, err := os.Stat(model)
	if err != nil {
		return err
	}
	coming := dir + ".new"
	if err := l.mkdir(coming, 0o700); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = os.Chown(coming, int(st.Uid), int(st.Gid)) // an ordinary user keeps what is his
	}
	if err := os.Chmod(coming, info.Mode().Perm()); err != nil { // not reduced by the umask
		return err
	}
	if err := os.Rename(coming, dir); err != nil { // nobody makes dir but us; it would have to be empty
		return err
	}
	l.made = append(slices.DeleteFunc(l.made, func(made string) bool { return made == coming }), dir)
	return nil
}

// syncDir makes the names in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // only read
	return d.Sync()
}

func (l *layers) mkdir(dir string, perm fs.FileMode) error {
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return &hintError{err, "changes need a place: name directories with --upper and --work"}
	}
	l.made = append(l.made, dir)
	return nil
}
