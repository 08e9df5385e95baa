package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// uniform draws a number below n, each as likely as the other: rapid's own
// generators prefer the small ones.
func uniform(n int) *rapid.Generator[int] {
	bit := rapid.Bool()
	return rapid.Custom(func(t *rapid.T) int {
		v := 0
		for range 10 {
			v <<= 1
			if bit.Draw(t, "bit") {
				v++
			}
		}
		return v * n >> 10
	})
}

// An op is one operation with its arguments, as a line of a script has them.
type op struct {
	*opKind
	args []string
}

func (o op) String() string {
	line := o.verb
	for _, a := range o.args {
		if a == "" || strings.ContainsAny(a, " \t\"") {
			a = strconv.Quote(a)
		}
		line += " " + a
	}
	return line
}

// An opKind is one of the verbs of scripts, what may follow it and what it does.
type opKind struct {
	percent int
	verb    string
	draw    func(l *lockstep, t *rapid.T) []string
	run     func(e overlaytest.Engine, a []string) error
}

// The first is what a failing sequence shrinks to.
var opKinds = []opKind{
	{6, "mkdir", drawNew, func(e overlaytest.Engine, a []string) error { return e.Mkdir(a[0]) }},
	{6, "write", drawContent, func(e overlaytest.Engine, a []string) error { return e.Write(a[0], a[1]) }},
	{8, "rm", drawOld, func(e overlaytest.Engine, a []string) error { return e.Rm(a[0]) }},
	{8, "rmdir", drawOld, func(e overlaytest.Engine, a []string) error { return e.Rmdir(a[0]) }},
	{24, "mv", drawTwo, func(e overlaytest.Engine, a []string) error { return e.Rename(a[0], a[1]) }},
	{5, "append", drawContent, func(e overlaytest.Engine, a []string) error { return e.Append(a[0], a[1]) }},
	{3, "truncate", drawOldAnd("0", "3", "5000"), func(e overlaytest.Engine, a []string) error {
		size, err := strconv.ParseInt(a[1], 10, 64)
		return errors.Join(err, e.Truncate(a[0], size))
	}},
	{4, "chmod", drawAndOld("0600", "0555", "0755", "1777", "2775"), func(e overlaytest.Engine, a []string) error {
		perm, err := strconv.ParseUint(a[0], 8, 12)
		return errors.Join(err, e.Chmod(a[1], uint32(perm)))
	}},
	{3, "chown", drawAndOld("0:0", "1000:1000", "0:1000"), func(e overlaytest.Engine, a []string) error {
		var uid, gid int
		_, err := fmt.Sscanf(a[0], "%d:%d", &uid, &gid)
		return errors.Join(err, e.Chown(a[1], uid, gid))
	}},
	{2, "touch", drawAndOld("@1400000000.5", "@1500000000"), func(e overlaytest.Engine, a []string) error {
		sec, err := strconv.ParseFloat(a[0][1:], 64)
		return errors.Join(err, e.Touch(a[1], time.Unix(0, int64(sec*1e9))))
	}},
	{4, "setxattr", drawXattr, func(e overlaytest.Engine, a []string) error { return e.Setxattr(a[0], a[1], a[2]) }},
	{2, "rmxattr", drawOldAnd("user.color"), func(e overlaytest.Engine, a []string) error { return e.Rmxattr(a[0], a[1]) }},
	{4, "symlink", drawSymlink, func(e overlaytest.Engine, a []string) error { return e.Symlink(a[0], a[1]) }},
	{4, "ln", drawTwo, func(e overlaytest.Engine, a []string) error { return e.Ln(a[0], a[1]) }},
	{3, "rmtree", drawOld, func(e overlaytest.Engine, a []string) error { return e.Rmtree(a[0]) }},
	{6, "put", drawContent, func(e overlaytest.Engine, a []string) error { return e.Put(a[0], a[1]) }},
	{5, "cp", drawTwo, func(e overlaytest.Engine, a []string) error { return e.Cp(a[0], a[1]) }},
	{2, "reopen", nil, nil}, // with uppers exchanged
	{1, "rotate", nil, nil},
}

// components are what names are made of: few, so that operations meet. The
// long one makes redirects that are too long to be written.
var components = []string{"a", "b", "c", "d", "e", strings.Repeat("long", 32)}

func drawComponent(t *rapid.T) string {
	i := uniform(26).Draw(t, "component")
	return components[min(i/5, len(components)-1)]
}

// drawOldName draws a name that was there when last seen, most of the time.
func (l *lockstep) drawOldName(t *rapid.T) string {
	if len(l.names) > 0 && uniform(10).Draw(t, "old") < 9 {
		return l.names[uniform(len(l.names)).Draw(t, "name")]
	}
	return path.Join(drawComponent(t), drawComponent(t))
}

// drawNewName draws a name that is likely to be free, half of the time.
func (l *lockstep) drawNewName(t *rapid.T) string {
	switch n := uniform(10).Draw(t, "new"); {
	case n < 2:
		return drawComponent(t)
	case n < 7:
		return path.Join(l.drawOldName(t), drawComponent(t))
	}
	return l.drawOldName(t)
}

func drawNew(l *lockstep, t *rapid.T) []string { return []string{l.drawNewName(t)} }
func drawOld(l *lockstep, t *rapid.T) []string { return []string{l.drawOldName(t)} }
func drawTwo(l *lockstep, t *rapid.T) []string {
	return []string{l.drawOldName(t), l.drawNewName(t)}
}

func drawContent(l *lockstep, t *rapid.T) []string {
	return []string{l.drawNewName(t), fmt.Sprintf("content-%d", l.steps)}
}

func drawSymlink(l *lockstep, t *rapid.T) []string {
	return []string{drawTarget(t), l.drawNewName(t)}
}

// drawTarget draws the target of a symlink, which leads nowhere outside of the
// tree wherever the link goes: there the kernel's mount would end, and ours not.
func drawTarget(t *rapid.T) string {
	target := drawComponent(t)
	if uniform(2).Draw(t, "deep") == 1 {
		target = path.Join(target, drawComponent(t))
	}
	return target
}

func drawOldAnd(values ...string) func(l *lockstep, t *rapid.T) []string {
	return func(l *lockstep, t *rapid.T) []string {
		return []string{l.drawOldName(t), values[uniform(len(values)).Draw(t, "value")]}
	}
}

func drawAndOld(values ...string) func(l *lockstep, t *rapid.T) []string {
	return func(l *lockstep, t *rapid.T) []string {
		name := l.drawOldName(t)
		if uniform(10).Draw(t, "root") == 9 {
			name = "."
		}
		return []string{values[uniform(len(values)).Draw(t, "value")], name}
	}
}

func drawXattr(l *lockstep, t *rapid.T) []string {
	attrs := []string{"user.color", "user.overlay.x", "trusted.overlay.x"}
	return []string{l.drawOldName(t), attrs[uniform(len(attrs)).Draw(t, "attr")], "value"}
}

// draw draws the next operation.
func (l *lockstep) draw(t *rapid.T) op {
	n := uniform(100).Draw(t, "op")
	for i := range opKinds {
		k := &opKinds[i]
		if n -= k.percent; n < 0 {
			if k.draw == nil {
				return op{k, nil}
			}
			return op{k, k.draw(l, t)}
		}
	}
	panic("the percentages of opKinds are not 100")
}

// step runs one operation on both sides.
func (l *lockstep) step(o op) {
	l.steps++
	switch o.verb {
	case "reopen":
		l.exchange()
	case "rotate":
		l.rotate()
	case "mv":
		l.rename(o)
	default:
		l.both(o)
	}
	if l.steps%compareEvery == 0 {
		l.compare()
	}
}

// A look is what the sequence asks of our engine about the tree.
type look interface {
	State(name string) (overlay.State, error)
	Stat(name string) (*overlay.Info, error)
	Lstat(name string) (*overlay.Info, error)
}

func (l *lockstep) look() look { return l.ours.engine.(look) }

// isTelling says whether an operation means the same to both sides. The scripts'
// verbs follow symlinks in different places, and the kernel waits for somebody
// at the other end of a FIFO.
func (l *lockstep) isTelling(o op) bool {
	switch o.verb {
	case "chmod":
		info, err := l.look().Stat(o.args[1])
		if err != nil {
			return true
		}
		// Unlike the kernel with root's writes, we take setgid from a file whose
		// content changes; and an ordinary user neither lists here what may not be
		// looked at nor copies up into a directory that may not be written to.
		if info.IsDir() {
			return !l.variant.plain || o.args[0] != "0600" && o.args[0] != "0555"
		}
		return o.args[0] != "2775"
	case "put":
		info, err := l.look().Lstat(o.args[0])
		return !l.hasLink(o.args[0]) && (err != nil || info.IsDir() || info.Mode().IsRegular())
	case "write", "append", "truncate":
		info, err := l.look().Stat(o.args[0])
		if err == nil && o.verb == "truncate" && o.args[1] == strconv.FormatInt(info.Size(), 10) {
			return false // a new mtime comes from ftruncate(2) alone
		}
		return err != nil || info.IsDir() || info.Mode().IsRegular()
	case "setxattr", "rmxattr":
		info, err := l.look().Lstat(o.args[0])
		if err == nil && l.variant.plain && info.Mode().Perm()&0o200 == 0 {
			return false // here an ordinary user may, though it may not write to the content
		}
		return !l.hasLink(o.args[0]) && (err != nil || info.IsDir() || info.Mode().IsRegular())
	case "cp":
		from, to := o.args[0], o.args[1]
		if overlap(from, to) || l.variant.plain { // as above
			return false
		}
		// os.RemoveAll opens what is above its argument, and waits if that is a FIFO.
		if parent, err := l.look().Lstat(path.Dir(to)); err == nil && !parent.IsDir() {
			return false
		}
		info, err := l.look().Lstat(from)
		return !l.hasLink(from) && !l.hasLink(to) && (err != nil || info.IsDir() || info.Mode().IsRegular())
	case "mv":
		// Two names by way of a link may be one.
		from, to := o.args[0], o.args[1]
		return !l.meetsFullDir(from, to) || !l.hasLink(path.Dir(from)) && !l.hasLink(path.Dir(to))
	case "ln":
		// Of what was copied up and linked under one mount that writes no origin,
		// with userxattr of a symlink and in a user namespace of anything, the
		// kernel takes the names for two objects, and answers ESTALE to the
		// rename of one to the other.
		if l.variant.class() == overlaytest.Trusted {
			return true
		}
		state, err := l.look().State(o.args[0])
		return err != nil || state == overlay.StateAdded
	case "rmtree":
		return !l.variant.plain // who may not empty a directory may still remove it here
	case "reopen":
		return l.variant.atEnd == nil
	case "rotate":
		return l.variant.atEnd == nil && len(l.ours.layers.Lowers) < 6
	}
	return true
}

// overlap says whether one of two names is the other or in it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// hasLink says whether a symlink is in name.
func (l *lockstep) hasLink(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if info, err := l.look().Lstat(name); err == nil && info.Mode().Type() == os.ModeSymlink {
			return true
		}
	}
	return false
}

// both runs an operation and compares the answers.
func (l *lockstep) both(o op) {
	kernel := o.run(l.kernel.engine, o.args)
	ours := o.run(l.ours.engine, o.args)
	l.compareAnswers(o, kernel, ours)
	switch {
	case kernel == nil:
		l.learn(o)
	case o.verb == "chown":
		l.raiseInKernel(o.args[1])
	case slices.Contains([]string{"setxattr", "write", "append", "truncate"}, o.verb) && isDenied(kernel):
		l.raiseInKernel(o.args[0])
	}
}

// raiseInKernel has the kernel copy up what a change was refused for: we find
// that out from upper, when it is there.
func (l *lockstep) raiseInKernel(name string) {
	info, err := l.look().Stat(name)
	if err != nil {
		return
	}
	perm := uint32(info.Mode().Perm())
	for bit, mode := range map[uint32]fs.FileMode{0o1000: fs.ModeSticky, 0o2000: fs.ModeSetgid} {
		if info.Mode()&mode != 0 {
			perm |= bit
		}
	}
	l.check(l.kernel.engine.Chmod(name, perm))
}

func (l *lockstep) compareAnswers(o op, kernel, ours error) {
	if overlaytest.ErrClass(kernel) == overlaytest.ErrClass(ours) {
		return
	}
	if o.verb == "cp" && kernel != nil && ours != nil {
		return // no system call: what is wrong may be found in any order
	}
	if l.variant.plain && kernel != nil && ours != nil && (isDenied(kernel) || isDenied(ours)) {
		return // two reasons, of which each side finds one first
	}
	l.differ("%s: the kernel says %v, ours %v", o, kernel, ours)
}

func isDenied(err error) bool { return errors.Is(err, fs.ErrPermission) }

// learn adds what an operation made to the names that are there.
func (l *lockstep) learn(o op) {
	made := o.args[len(o.args)-1]
	switch o.verb {
	case "mv", "cp":
		for _, name := range slices.Clone(l.names) {
			if rest, ok := strings.CutPrefix(name, o.args[0]+"/"); ok {
				l.names = append(l.names, path.Join(made, rest))
			}
		}
	case "mkdir", "write", "put":
		made = o.args[0]
	case "symlink", "ln":
	default:
		return
	}
	l.names = append(l.names, made)
}

// rename runs a mv, of which the kernel refuses a part that we do.
func (l *lockstep) rename(o op) {
	if l.meetsFullDir(o.args[0], o.args[1]) {
		// The kernel finds out when it has marked the source (what it leaves
		// then has no meaning); we do not.
		if err := o.run(l.ours.engine, o.args); overlaytest.ErrClass(err) != "EEXIST" {
			l.differ("%s: onto a full directory: ours says %v", o, err)
		}
		return
	}
	kernel := o.run(l.kernel.engine, o.args)
	ours := o.run(l.ours.engine, o.args)
	if overlaytest.ErrClass(kernel) == "EXDEV" && ours == nil {
		if !l.hasLink(path.Dir(o.args[0])) && !l.hasLink(path.Dir(o.args[1])) {
			l.expectMoved(o.args[0], o.args[1])
		}
		l.copyUpper()
		l.learn(o)
		return
	}
	l.compareAnswers(o, kernel, ours)
	if kernel == nil {
		l.learn(o)
	}
}

// meetsFullDir says whether from is a directory and to is one that has members.
func (l *lockstep) meetsFullDir(from, to string) bool {
	if overlap(from, to) {
		return false
	}
	for _, name := range []string{from, to} {
		if info, err := l.look().Lstat(name); err != nil || !info.IsDir() {
			return false
		}
	}
	names, err := l.ours.engine.Ls(to)
	l.check(err)
	return len(names) > 0
}

// expectMoved checks that our tree is the one before, which the kernel still
// shows, but that from is to.
func (l *lockstep) expectMoved(from, to string) {
	before, err := l.kernel.engine.Tree()
	l.check(err)
	tree, err := overlaytest.Parse(before)
	l.check(err)
	tree = slices.DeleteFunc(tree, func(e overlaytest.Entry) bool { return e.Name == to })
	for i := range tree {
		name := tree[i].Name
		if rest, ok := strings.CutPrefix(name, from); ok && (rest == "" || rest[0] == '/') {
			tree[i].Name = to + rest
		}
		if name == path.Dir(from) || name == path.Dir(to) {
			tree[i].Mtime = time.Now()
		}
		if info, err := l.look().Lstat(to); err == nil && name == from && l.variant.disk == "xfs" {
			tree[i].Mtime = info.ModTime() // new, where it changed places with a whiteout
		}
	}
	ours, err := l.ours.engine.Tree()
	l.check(err)
	if want := tree.String(); ours != want {
		l.differ("after mv %s %s: tree differs (- want, + got):\n%s", from, to, overlaytest.Diff(want, ours))
	}
}

// copyUpper has the kernel go on with a copy of our upper.
func (l *lockstep) copyUpper() {
	l.shut()
	l.turns++
	upper := filepath.Join(l.dir, fmt.Sprintf("upper.%d.kernel", l.turns))
	l.check(copyLayer(l.ours.layers.Upper, upper))
	l.kernel.layers.Upper = upper
	l.open()
}

// exchange has each side go on with the other's upper.
func (l *lockstep) exchange() {
	l.compare()
	l.shut()
	l.kernel.layers, l.ours.layers = l.ours.layers, l.kernel.layers
	l.open()
	l.compare()
}

// rotate makes one of the uppers the topmost lower of both.
func (l *lockstep) rotate() {
	l.compare()
	l.shut()
	upper := l.ours.layers.Upper
	if l.turns%2 == 0 {
		upper = l.kernel.layers.Upper
	}
	l.newUppers(slices.Insert(slices.Clone(l.ours.layers.Lowers), 0, upper))
	l.compare()
}
