package overlay_test

import (
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"overdav/overlay/overlaytest"
)

// drawLowers draws the texts of one to three lowers, topmost first.
func drawLowers(t *rapid.T, class overlaytest.Class) []string {
	texts := make([]string, 1+uniform(3).Draw(t, "lowers"))
	for i := range texts {
		texts[i] = drawLower(t, class, i == len(texts)-1)
	}
	return texts
}

// drawLower draws the text of a lower layer: files, directories with and
// without marks, symlinks, hard links, whiteouts.
func drawLower(t *rapid.T, class overlaytest.Class, last bool) string {
	d := lowerDraw{t: t, class: class, last: last, kinds: map[string]byte{".": 'd'}}
	for range 3 + uniform(14).Draw(t, "entries") {
		d.add()
	}
	return d.text.String()
}

type lowerDraw struct {
	t     *rapid.T
	class overlaytest.Class
	last  bool
	kinds map[string]byte // 'd' directory, 'f' file, 'o' anything else
	files []string
	text  strings.Builder
}

func (d *lowerDraw) one(of ...string) string { return of[uniform(len(of)).Draw(d.t, "one")] }

// add adds an object with the directories above it.
func (d *lowerDraw) add() {
	name := drawComponent(d.t)
	for range uniform(3).Draw(d.t, "depth") {
		name = path.Join(name, drawComponent(d.t))
	}
	if d.kinds[name] != 0 {
		return
	}
	if !d.addParents(path.Dir(name)) {
		return
	}
	d.kinds[name] = 'o'
	owner, mtime := "", d.one("@1234567890.5", "@1300000000")
	if d.class == overlaytest.Trusted {
		owner = d.one("", "1000:1000")
	}
	xattr := d.one("", "", "", "[user.color=red]")
	switch n := uniform(20).Draw(d.t, "kind"); {
	case n < 8:
		d.kinds[name] = 'f'
		d.files = append(d.files, name)
		d.line(name, d.one("", "0600", "0755"), owner, mtime, xattr, d.one("= one", "=", `size=70000 +65536="x"`))
	case n < 12:
		d.dir(name, d.one("", "0700", "1777", "2775"), owner, mtime, xattr)
	case n < 14:
		d.dir(name, mtime, "[opaque]")
	case n < 16 && d.class == overlaytest.Trusted && !d.last:
		d.redirected(name, mtime)
	case n < 18:
		d.line(name, "whiteout")
	case n < 19 && len(d.files) > 0:
		d.line(name, "==", d.files[uniform(len(d.files)).Draw(d.t, "file")])
	case n < 19 && d.class == overlaytest.Trusted:
		d.line(name, d.one("fifo", "socket", "chr 1:3"), owner, mtime)
	default:
		d.line(name, "->", drawTarget(d.t))
	}
}

// redirected adds a directory that was renamed: its old name is a whiteout,
// because no two directories may have one lower (the kernel answers ESTALE).
func (d *lowerDraw) redirected(name, mtime string) {
	redirect := drawComponent(d.t)
	old := path.Join(path.Dir(name), redirect)
	if uniform(2).Draw(d.t, "absolute") == 1 {
		old = redirect
		redirect = "/" + redirect
	}
	if d.kinds[old] != 0 {
		d.dir(name, mtime)
		return
	}
	d.dir(name, mtime, "[redirect="+redirect+"]")
	d.kinds[old] = 'o'
	d.line(old, "whiteout")
}

func (d *lowerDraw) addParents(dir string) bool {
	switch d.kinds[dir] {
	case 'd':
		return true
	case 0:
		if !d.addParents(path.Dir(dir)) {
			return false
		}
		d.dir(dir, "@1234567890.5")
		return true
	}
	return false
}

func (d *lowerDraw) dir(name string, words ...string) {
	d.kinds[name] = 'd'
	d.line(name+"/", words...)
}

func (d *lowerDraw) line(name string, words ...string) {
	words = slices.DeleteFunc(slices.Insert(words, 0, name), func(w string) bool { return w == "" })
	fmt.Fprintln(&d.text, strings.Join(words, " "))
}

// copyLayer copies a layer as it is.
func copyLayer(from, to string) error {
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("cp -a: %w: %s", err, out)
	}
	return err
}
