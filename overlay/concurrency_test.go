package overlay_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// allAtOnce runs each function rounds times, all functions at once, each with
// randomness of its own, and fails the test when they do not end.
func allAtOnce(t *testing.T, rounds int, functions ...func(r *rand.Rand)) {
	t.Helper()
	var wg sync.WaitGroup
	for i, fn := range functions {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range rounds {
				fn(r)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Minute): // a hundred times what it takes
		buf := make([]byte, 1<<20)
		t.Fatalf("they hang:\n%s", buf[:runtime.Stack(buf, true)])
	}
}

// nothingLeft fails the test when, in the end, more goroutines run than now or
// something below dir is open.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		// What ends does so soon after it said that it would.
		for range 1000 {
			if runtime.NumGoroutine() <= before {
				break
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
		if now := runtime.NumGoroutine(); now > before {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines, there were %d:\n%s", now, before, buf[:runtime.Stack(buf, true)])
		}
		nothingOpen(t, dir)
	})
}

// raced says that an operation lost against another, as it may.
func raced(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.EAGAIN, syscall.EPERM, syscall.ELOOP, syscall.ENXIO,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return err == nil
}

// crowdLower has directories to be fought over, and tokens that are moved about
// and must all be there in the end.
func crowdLower() (text string, tokens []string) {
	var b strings.Builder
	for _, dir := range []string{"a", "b", "c", "d"} {
		fmt.Fprintf(&b, "%s/\n%s/s/\n%s/s/deep/\n", dir, dir, dir)
		for i := range 6 {
			fmt.Fprintf(&b, "%s/f%d = %s\n%s/s/f%d = %s\n", dir, i, strings.Repeat("l", 100), dir, i, strings.Repeat("m", 100))
		}
		fmt.Fprintf(&b, "tokens/%s/\n", dir)
		for i := range 5 {
			token := fmt.Sprintf("%s-%d", dir, i)
			fmt.Fprintf(&b, "tokens/%s/%s = %s\n", dir, token, token)
			tokens = append(tokens, token)
		}
	}
	return b.String(), tokens
}

const crowdUpper = "a/\na/f0 = uuuuuuuuuu\na/f1 whiteout\nb/ [opaque]\nb/f0 = uuuuuuuuuu\nc/s whiteout\nn/\nn/f0 = uuuuuuuuuu\n"

// A crowd is many clients of one FS.
type crowd struct {
	t    *testing.T
	fsys *overlay.FS
}

func (c *crowd) dir(r *rand.Rand) string {
	dir := string("abcdn"[r.IntN(5)])
	if r.IntN(3) == 0 {
		dir += "/s"
	}
	return dir
}

func (c *crowd) name(r *rand.Rand) string { return fmt.Sprintf("%s/f%d", c.dir(r), r.IntN(7)) }

func (c *crowd) check(op string, err error) {
	if !raced(err) {
		c.t.Errorf("%s: %v", op, err)
	}
}

// put replaces a file by a number of equal bytes, so that a part of it, or a
// mixture of two, is seen to be one.
func (c *crowd) put(r *rand.Rand) {
	s, err := c.fsys.Stage(c.name(r), 0o644)
	if err != nil {
		c.check("stage", err)
		return
	}
	defer s.Abort()
	content := strings.Repeat(string(rune('A'+r.IntN(26))), 100+r.IntN(100))
	for _, half := range []string{content[:50], content[50:]} {
		if _, err := s.Write([]byte(half)); err != nil {
			c.t.Error(err)
		}
	}
	_, err = s.Commit()
	c.check("commit", err)
}

func (c *crowd) get(r *rand.Rand) {
	f, err := c.fsys.Open(c.name(r))
	if err != nil {
		c.check("open", err)
		return
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if errors.Is(err, syscall.EISDIR) {
		return
	}
	if err != nil {
		c.t.Errorf("read: %v", err)
	}
	if s := string(content); s != "" && strings.Trim(s, s[:1]) != "" {
		c.t.Errorf("torn content %q", s)
	}
}

func (c *crowd) list(r *rand.Rand) {
	dir := c.dir(r)
	infos, err := c.fsys.ReadDir(dir)
	c.check("list", err)
	seen := map[string]bool{}
	for _, info := range infos {
		if seen[info.Name()] {
			c.t.Errorf("%s lists %s twice", dir, info.Name())
		}
		seen[info.Name()] = true
	}
}

func (c *crowd) remove(r *rand.Rand) {
	switch r.IntN(10) {
	case 0:
		c.check("removeall", c.fsys.RemoveAll(c.dir(r)))
	case 1:
		c.check("remove", c.fsys.Remove(c.dir(r)))
	default:
		c.check("remove", c.fsys.Remove(c.name(r)))
	}
}

func (c *crowd) make(r *rand.Rand) {
	switch r.IntN(4) {
	case 0:
		c.check("mkdir", c.fsys.Mkdir(c.dir(r), 0o755))
	case 1:
		c.check("symlink", c.fsys.Symlink("f0", c.name(r)))
	case 2:
		c.check("link", c.fsys.Link(c.name(r), c.name(r)))
	case 3:
		c.check("mkdirall", c.fsys.MkdirAll(c.dir(r)+"/deep/er", 0o755))
	}
}

func (c *crowd) rename(r *rand.Rand) {
	switch r.IntN(4) {
	case 0:
		c.check("rename", c.fsys.Rename(c.dir(r), c.dir(r)))
	case 1:
		c.check("move", c.fsys.Move(c.dir(r), c.dir(r), true))
	case 2:
		c.check("move", c.fsys.Move(c.name(r), c.name(r), r.IntN(2) == 0))
	case 3:
		c.check("rename", c.fsys.Rename(c.name(r), c.name(r)))
	}
}

func (c *crowd) copy(r *rand.Rand) {
	o := overlay.CopyOptions{Overwrite: true, Shallow: r.IntN(4) == 0}
	if r.IntN(3) == 0 {
		c.check("copy", c.fsys.Copy(c.dir(r), c.dir(r), o))
	} else {
		c.check("copy", c.fsys.Copy(c.name(r), c.name(r), o))
	}
}

func (c *crowd) attribute(r *rand.Rand) {
	switch r.IntN(4) {
	case 0:
		c.check("chmod", c.fsys.Chmod(c.name(r), 0o600))
	case 1:
		c.check("chtimes", c.fsys.Chtimes(c.dir(r), time.Time{}, time.Now()))
	case 2:
		c.check("setxattr", c.fsys.Setxattr(c.name(r), "user.k", []byte("v")))
	case 3:
		c.check("copy up", c.fsys.CopyUp(c.name(r)))
	}
}

// moveTokens moves tokens, and the directories they are in, about.
func (c *crowd) moveTokens(r *rand.Rand) {
	dir := func() string { return "tokens/" + string("abcd"[r.IntN(4)]) }
	if r.IntN(4) == 0 {
		from, to := dir(), dir()+"/moved"
		c.check("rename", c.fsys.RenameNoReplace(from, to))
		c.check("rename", c.fsys.RenameNoReplace(to, from))
		return
	}
	from := dir()
	infos, err := c.fsys.ReadDir(from)
	c.check("list", err)
	if len(infos) > 0 {
		name := infos[r.IntN(len(infos))].Name()
		if strings.Contains(name, "-") {
			c.check("rename", c.fsys.RenameNoReplace(from+"/"+name, dir()+"/"+name))
		}
	}
}

// countTokens finds every token once, with its own content.
func (c *crowd) countTokens(tokens []string) {
	c.t.Helper()
	found := map[string]int{}
	err := fs.WalkDir(c.fsys.FS(), "tokens", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(c.fsys.FS(), name)
		if err == nil && string(content) != path.Base(name) {
			err = fmt.Errorf("%s holds %q", name, content)
		}
		found[path.Base(name)]++
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	for _, token := range tokens {
		if found[token] != 1 {
			c.t.Errorf("token %s is there %d times", token, found[token])
		}
	}
}

// TestCrowd has everything done at once on one tree. Nothing is lost, torn or
// seen twice, and in the end the kernel sees what the engine shows.
func TestCrowd(t *testing.T) {
	overlaytest.NeedRoot(t)
	for _, noRedirect := range []bool{false, true} {
		t.Run(fmt.Sprintf("redirects %v", !noRedirect), func(t *testing.T) {
			disk := overlaytest.Filesystem(t, "tmpfs")
			nothingLeft(t, disk)
			lower, tokens := crowdLower()
			l := overlaytest.NewLayers(t, disk, lower)
			overlaytest.Build(t, l.Upper, crowdUpper)
			overlaytest.LowersUnchanged(t, l.Lowers...)
			o := optionsOf(l)
			o.NoRedirect = noRedirect
			fsys, err := overlay.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			c := &crowd{t, fsys}
			allAtOnce(t, 150, c.put, c.put, c.get, c.list, c.list, c.remove, c.make, c.rename, c.rename, c.copy, c.attribute,
				c.moveTokens, c.moveTokens, c.moveTokens)
			c.countTokens(tokens)
			overlay.Drain(fsys)
			checkSilent(t, fsys)
			want, err := overlaytest.MergedFS(fsys)
			if err != nil {
				t.Error(err)
			}
			if err := fsys.Close(); err != nil {
				t.Error(err)
			}
			stagingEmpty(t, l.Work)
			dir, unmount := overlaytest.KernelMount(t, l)
			if got := overlaytest.Merged(t, dir); got != want {
				t.Errorf("the kernel shows\n%s\nand the engine\n%s", got, want)
			}
			unmount()
		})
	}
}

// TestCopyUpHappensOnce has many ask for it, by several names.
func TestCopyUpHappensOnce(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	nothingLeft(t, disk)
	l := overlaytest.NewLayers(t, disk, "d/\nd/big size=8388608 +0=x +5000000=y\nlink -> d\nd/again -> big\n")
	var copied atomic.Int64
	o := optionsOf(l)
	o.Events.CopiedUp = func(name string, bytes int64, _ time.Duration) {
		if name != "d/big" || bytes != 8388608 {
			t.Errorf("copied up %s, %d bytes", name, bytes)
		}
		copied.Add(1)
	}
	fsys, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	var ask []func(*rand.Rand)
	for i := range 16 {
		name := []string{"d/big", "link/big", "d/again"}[i%3]
		ask = append(ask, func(*rand.Rand) {
			var err error
			if i%2 == 0 {
				err = fsys.CopyUp(name)
			} else {
				err = fsys.Chmod(name, 0o600)
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	allAtOnce(t, 1, ask...)
	if n := copied.Load(); n != 1 {
		t.Errorf("copied up %d times", n)
	}
	checkSilent(t, fsys)
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
	stagingEmpty(t, l.Work)
}

// TestCloseWaitsForACopy has Close come while a copy is being made, which holds
// no lock.
func TestCloseWaitsForACopy(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	nothingLeft(t, disk)
	l := overlaytest.NewLayers(t, disk, "d/\nd/a = one\nd/b = two\n")
	var fsys *overlay.FS
	closed := make(chan error, 1)
	o := optionsOf(l)
	var once sync.Once
	closeNow := func() {
		go func() { closed <- fsys.Close() }()
		select {
		case err := <-closed:
			t.Errorf("Close returned (%v) while a copy was made", err)
			closed <- err
		case <-time.After(100 * time.Millisecond): // long enough for one that does not wait
		}
	}
	o.Hook = func(op at.Op, name string) error {
		if op == at.OpCreate && name == "b" { // in the copy; the upper has no b
			once.Do(closeNow)
		}
		return nil
	}
	fsys, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsys.Copy("d", "e", overlay.CopyOptions{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("copy: %v, want ErrClosed", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	stagingEmpty(t, l.Work)
}

// TestCloseWaits has Close come in the middle: what runs is finished, what
// comes later is refused.
func TestCloseWaits(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	nothingLeft(t, disk)
	lower, _ := crowdLower()
	l := overlaytest.NewLayers(t, disk, lower)
	fsys, err := overlay.Open(optionsOf(l))
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	work := func(r *rand.Rand) {
		if calls.Add(1) == 200 {
			if err := fsys.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		name := fmt.Sprintf("%c/f%d", "abcd"[r.IntN(4)], r.IntN(6))
		var err error
		switch r.IntN(4) {
		case 0:
			err = stage(fsys, name)
		case 1:
			err = fsys.RemoveAll(path.Dir(name))
		case 2:
			err = fsys.Copy(name, "a/copy", overlay.CopyOptions{Overwrite: true})
		case 3:
			_, err = fsys.ReadDir(path.Dir(name))
		}
		if !raced(err) && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	}
	allAtOnce(t, 60, work, work, work, work, work, work, work, work)
	if _, err := fsys.Stat("a"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("stat after close: %v, want ErrClosed", err)
	}
	if err := fsys.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	stagingEmpty(t, l.Work)
	dir, unmount := overlaytest.KernelMount(t, l)
	overlaytest.Merged(t, dir)
	unmount()
}

// A vandal changes layers underneath: it renames, deletes and replaces things,
// and puts symlinks to what lies outside in the place of directories. It
// follows none itself.
type vandal struct {
	layers  []*at.RWDir
	pit     *at.RWDir // where it throws things
	outside string
	thrown  atomic.Int64
}

// pick opens a directory of a layer and names something in it.
func (v *vandal) pick(r *rand.Rand) (dir *at.RWDir, name string, err error) {
	layer, name := v.layers[r.IntN(len(v.layers))], string("abcdn"[r.IntN(5)])
	switch r.IntN(3) {
	case 0:
		dir, err = layer.OpenRWPath(name)
		return dir, "s", err
	case 1:
		dir, err = layer.OpenRWPath(name)
		return dir, fmt.Sprintf("f%d", r.IntN(7)), err
	}
	dir, err = layer.OpenRWDir(".")
	return dir, name, err
}

// strike does one thing; that it may come to nothing lies in its nature.
func (v *vandal) strike(r *rand.Rand) error {
	dir, name, err := v.pick(r)
	if err != nil {
		return err
	}
	defer dir.Close()
	throw := func() error {
		return dir.Rename(name, v.pit, fmt.Sprint(v.thrown.Add(1)), at.RenamePlain)
	}
	instead := func(make func() error) error { return errors.Join(throw(), make()) }
	switch r.IntN(8) {
	case 0:
		return throw()
	case 1:
		return dir.Unlink(name)
	case 2:
		return instead(func() error { return dir.Symlink(v.outside, name) })
	case 3:
		return instead(func() error { return dir.Symlink("../../../outside/secret", name) })
	case 4:
		return instead(func() error { return dir.Mknod(name, syscall.S_IFIFO|0o644, 0) })
	case 5:
		return instead(func() error { return dir.Mkdir(name, 0o755) })
	case 6:
		to, toName, err := v.pick(r)
		if err != nil {
			return err
		}
		defer to.Close()
		return dir.Rename(name, to, toName, at.RenameExchange)
	}
	link := name + ".link"
	return errors.Join(dir.Symlink(v.outside, link),
		dir.Rename(name, dir, link, at.RenameExchange), dir.Rename(name, dir, link, at.RenameExchange), dir.Unlink(link))
}

const secret = "nobody may read this through the tree"

// TestVandal serves layers that somebody changes underneath. Clients may get
// any answer, but there is no panic, no hang, nothing of outside the layers is
// shown, and nothing there is changed.
func TestVandal(t *testing.T) {
	for _, who := range []struct {
		name string
		am   func(t *testing.T) bool
	}{
		{"root", func(t *testing.T) bool { overlaytest.NeedRoot(t); return true }},
		{"user", overlaytest.AsOrdinaryUser}, // who has no read-only clones of the lowers
	} {
		t.Run(who.name, func(t *testing.T) {
			if who.am(t) {
				vandalism(t)
			}
		})
	}
}

func vandalism(t *testing.T) {
	base := t.TempDir()
	nothingLeft(t, base)
	class, xattr := overlaytest.Trusted, overlay.XattrTrusted
	if os.Geteuid() != 0 {
		class, xattr = overlaytest.User, overlay.XattrUser
	}
	lower, _ := crowdLower()
	l := overlaytest.Layers{Upper: base + "/layers/upper", Work: base + "/layers/work"}
	for i := range 2 {
		l.Lowers = append(l.Lowers, fmt.Sprintf("%s/layers/lower%d", base, i))
		if err := class.Build(l.Lowers[i], lower); err != nil {
			t.Fatal(err)
		}
	}
	outside := base + "/outside"
	for dir, text := range map[string]string{l.Upper: crowdUpper, l.Work: "", outside: "f0 = " + secret + "\nsecret = " + secret + "\ns/\ns/f1 = " + secret + "\n"} {
		if err := class.Build(dir, text); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshot(t, outside)
	o := optionsOf(l)
	o.Xattr = xattr
	fsys, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{t, fsys}
	v := &vandal{outside: outside}
	if err := os.Mkdir(base+"/pit", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append([]string{base + "/pit", l.Upper}, l.Lowers...) {
		d, err := at.OpenRW(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		v.layers = append(v.layers, d)
	}
	v.pit, v.layers = v.layers[0], v.layers[1:]
	var functions []func(*rand.Rand)
	for _, fn := range []func(*rand.Rand) error{c.ravage, c.ravage, c.ravage, c.ravage, c.ravage, c.ravage, c.ravage, c.ravage, v.strike, v.strike} {
		functions = append(functions, func(r *rand.Rand) { _ = fn(r) }) // any answer is right
	}
	allAtOnce(t, 250, functions...)
	_ = fsys.Check(func(overlay.Problem) {}) // it may find anything
	if err := fsys.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	unchanged(t, before, outside)
	// And the layers, whatever they became, can be served again.
	open(t, o)
}

// ravage does one thing of any kind; what it reads is nothing of outside.
func (c *crowd) ravage(r *rand.Rand) error {
	name := c.name(r)
	switch r.IntN(10) {
	case 0, 1:
		return c.peek(name)
	case 2:
		return stage(c.fsys, name)
	case 3:
		return c.fsys.RemoveAll(name)
	case 4:
		return c.fsys.Copy(c.dir(r), c.dir(r), overlay.CopyOptions{Overwrite: true})
	case 5:
		return c.fsys.Move(c.dir(r), c.dir(r), true)
	case 6:
		return c.fsys.Chmod(name, 0o640)
	case 7:
		return c.fsys.MkdirAll(c.dir(r), 0o755)
	case 8:
		return c.fsys.Rename(name, c.name(r))
	default:
		infos, err := c.fsys.ReadDir(c.dir(r))
		for _, info := range infos {
			if info.Name() == "secret" {
				c.t.Error("lists what is outside")
			}
		}
		return err
	}
}

func (c *crowd) peek(name string) error {
	f, err := c.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if strings.Contains(string(content), secret) {
		c.t.Errorf("%s shows what is outside", name)
	}
	return err
}
