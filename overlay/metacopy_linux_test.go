package overlay_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// metacopyOptions are options with metacopies on.
func metacopyOptions(l overlaytest.Layers) overlay.Options {
	o := optionsOf(l)
	o.Metacopy = true
	return o
}

// Metacopies are refused where the kernel refuses them.
func TestMetacopyOptionConflicts(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "a = one\n")
	for _, test := range []struct {
		name   string
		change func(*overlay.Options)
		want   string
	}{
		{"class user", func(o *overlay.Options) { o.Xattr = overlay.XattrUser }, "xattr: trusted"},
		{"without redirects", func(o *overlay.Options) { o.NoRedirect = true }, "redirect_dir"},
	} {
		o := metacopyOptions(l)
		test.change(&o)
		fsys, err := overlay.Open(o)
		if err == nil {
			fsys.Close()
		}
		if !errors.Is(err, overlay.ErrLayers) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want a refusal that says %q", test.name, err, test.want)
		}
	}
}

// An upper that we wrote with metacopies is refused without them, until it has
// none.
func TestMetacopiesOfOursAreRefusedLater(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/a = one\n")
	fsys := open(t, metacopyOptions(l))
	must(t, fsys.Chmod("d/a", 0o600))
	must(t, fsys.Close())
	if fsys, err := overlay.Open(optionsOf(l)); !errors.Is(err, overlay.ErrLayers) || !strings.Contains(err.Error(), "d/a") {
		if err == nil {
			fsys.Close()
		}
		t.Fatalf("without metacopies: %v, want a refusal that names the file", err)
	}
	fsys = open(t, metacopyOptions(l))
	must(t, fsys.CopyUp("d/a"))
	must(t, fsys.Close())
	note := filepath.Join(l.Work, "overdav/metacopies")
	if _, err := os.Stat(note); err != nil {
		t.Errorf("the note: %v", err)
	}
	fsys = open(t, optionsOf(l))
	if got := read(t, fsys, "d/a"); got != "one" {
		t.Errorf("got %q", got)
	}
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note, when there is no metacopy: %v", err)
	}
}

// Whatever becomes of a metacopy, it is read as the file it is a copy of, with
// attributes of its own, and its entity tag tells of its content alone.
func TestMetacopyReadsBelow(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/a @5 = content\ne/x = x\n")
	o := metacopyOptions(l)
	o.Events.CopiedUp = func(name string, bytes int64, _ time.Duration) {
		if name != "e/b" {
			t.Errorf("copied up %s, %d bytes", name, bytes)
		}
	}
	fsys := open(t, o)
	tag := etag(t, fsys, "d/a")
	when := time.Unix(77, 0)
	for _, step := range []struct {
		name, path string
		do         func() error
		state      overlay.State
	}{
		{"chmod", "d/a", func() error { return fsys.Chmod("d/a", 0o600) }, overlay.StateAttributes},
		{"chtimes", "d/a", func() error { return fsys.Chtimes("d/a", when, when) }, overlay.StateAttributes},
		{"rename", "d/b", func() error { return fsys.Rename("d/a", "d/b") }, overlay.StateRenamed},
		{"move", "e/b", func() error { return fsys.Move("d/b", "e/b", false) }, overlay.StateRenamed},
		{"copy up", "e/b", func() error { return fsys.CopyUp("e/b") }, overlay.StateRenamed},
	} {
		must(t, step.do())
		f, err := fsys.Open(step.path)
		must(t, err)
		end, err := f.Seek(0, io.SeekEnd)
		must(t, err)
		part := make([]byte, 4)
		_, err = f.ReadAt(part, 3)
		must(t, err)
		info, err := f.Info()
		must(t, err, f.Close())
		if end != 7 || string(part) != "tent" || info.Size() != 7 || info.Mode() != 0o600 {
			t.Errorf("after %s: ends at %d, reads %q, %d bytes, %v", step.name, end, part, info.Size(), info.Mode())
		}
		if got := etag(t, fsys, step.path); got != tag || info.ETag() != tag {
			t.Errorf("after %s the tag is %s, open %s, want %s", step.name, got, info.ETag(), tag)
		}
		if s, err := fsys.State(step.path); s != step.state {
			t.Errorf("after %s the state is %q, %v, want %q", step.name, s, err, step.state)
		}
	}
	if info, err := fsys.Stat("e/b"); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("in the end: %v, modified %v, want %v", err, info.ModTime(), when)
	}
	must(t, stageText(fsys, "e/b", "content"))
	if etag(t, fsys, "e/b") == tag {
		t.Error("new content has the old tag")
	}
}

func stageText(fsys *overlay.FS, name, text string) error {
	s, err := fsys.Stage(name, 0o644)
	if err != nil {
		return err
	}
	defer s.Abort()
	if _, err := s.Write([]byte(text)); err != nil {
		return err
	}
	_, err = s.Commit()
	return err
}

func etag(t *testing.T, fsys *overlay.FS, name string) string {
	t.Helper()
	info, err := fsys.Stat(name)
	must(t, err)
	return info.ETag()
}

// A file that was opened goes on showing the content and telling the attributes
// it had, though its content is brought up and written to meanwhile.
func TestMetacopyOpenWhileWritten(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "a @5 = content\n")
	fsys := open(t, metacopyOptions(l))
	must(t, fsys.Chmod("a", 0o600))
	f, err := fsys.Open("a")
	must(t, err)
	defer f.Close()
	tag := etag(t, fsys, "a")
	w, err := fsys.OpenFile("a", os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	_, err = w.Write([]byte("more"))
	must(t, err, w.Close())
	content, err := io.ReadAll(f)
	must(t, err)
	info, err := f.Info()
	must(t, err)
	if string(content) != "content" || info.Size() != 7 || info.ETag() != tag {
		t.Errorf("reads %q, %d bytes with tag %s, want what was opened", content, info.Size(), info.ETag())
	}
	if got := read(t, fsys, "a"); got != "contentmore" {
		t.Errorf("now reads %q", got)
	}
	if etag(t, fsys, "a") == tag {
		t.Error("new content has the old tag")
	}
}

// Of content that is longer than its metacopy, as much is shown as that says;
// content that is missing, or too short, is an error, and no reason not to
// delete the file.
func TestMetacopyOfOtherSize(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "long = content\nshort = content\ndir/x = x\nloop = content\n")
	overlaytest.Build(t, l.Upper, `long [metacopy] size=4
short [metacopy] size=8
gone [metacopy] size=3
dir2 [metacopy redirect=/dir] size=3
escape [metacopy redirect=/../../etc/passwd] size=3
odd [metacopy=ab] size=3
`)
	fsys := open(t, metacopyOptions(l))
	if got := read(t, fsys, "long"); got != "cont" {
		t.Errorf("the longer: got %q", got)
	}
	f, err := fsys.Open("long")
	must(t, err)
	end, err := f.Seek(-1, io.SeekEnd)
	must(t, err)
	rest, err := io.ReadAll(f)
	must(t, err)
	part := make([]byte, 5)
	n, err := f.ReadAt(part, 2)
	must(t, f.Close())
	if end != 3 || string(rest) != "t" || n != 2 || err != io.EOF {
		t.Errorf("the longer: from %d %q, at 2 %d bytes and %v", end, rest, n, err)
	}
	for name, want := range map[string]syscall.Errno{
		"short": syscall.EIO, "gone": syscall.EIO, "dir2": syscall.EIO, "escape": syscall.EACCES, "odd": syscall.EIO,
	} {
		if f, err := fsys.Open(name); !errors.Is(err, want) {
			if err == nil {
				f.Close()
			}
			t.Errorf("%s: opened with %v, want %v", name, err, want)
		}
		if info, err := fsys.Stat(name); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: stat: %v", name, err)
		}
	}
	if got := problems(t, fsys); len(got) != 5 {
		t.Errorf("check: %q, want a problem of each but the longer", got)
	}
	for _, name := range []string{"short", "gone", "dir2", "escape", "odd"} {
		if err := fsys.Remove(name); err != nil {
			t.Errorf("%s: remove: %v", name, err)
		}
	}
}

// Writers through several names of one metacopy, and who sets its times while
// its content is on the way, lose nothing to each other.
func TestMetacopyCompletedByMany(t *testing.T) {
	overlaytest.NeedRoot(t)
	const size = 4 << 20
	l := overlaytest.NewLayers(t, t.TempDir(), fmt.Sprintf("a @5 size=%d +0=begin +%d=end\n", size, size-3))
	// Readable data all over: holes would be no work.
	must(t, os.WriteFile(filepath.Join(l.Lowers[0], "a"), []byte(strings.Repeat("data", size/4)), 0o644))
	o := metacopyOptions(l)
	o.Durability = overlay.DurabilityNone
	fsys := open(t, o)
	must(t, fsys.Link("a", "b"), fsys.Link("a", "c"))
	when := time.Unix(77, 0)
	var wg sync.WaitGroup
	for i, name := range []string{"a", "b", "c"} {
		wg.Go(func() {
			f, err := fsys.OpenFile(name, os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{byte('A' + i)}, int64(i))
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Errorf("write %s: %v", name, err)
			}
		})
		wg.Go(func() {
			if err := fsys.Setxattr(name, "user.set."+name, []byte("v")); err != nil {
				t.Errorf("set on %s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if got := read(t, fsys, "b"); len(got) != size || !strings.HasPrefix(got, "ABCa") || !strings.HasSuffix(got, "data") {
		t.Errorf("reads %d bytes that begin with %q", len(got), got[:min(8, len(got))])
	}
	must(t, fsys.Chtimes("c", when, when))
	attrs, err := fsys.Listxattr("a")
	if info, serr := fsys.Stat("b"); err != nil || serr != nil || len(attrs) != 3 || !info.ModTime().Equal(when) {
		t.Errorf("attributes %q, %v; %v", attrs, err, serr)
	}
}

// While content is on its way to a metacopy, whoever sets its times waits for
// it, and they stay.
func TestMetacopyTimesSetWhileCompleted(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "a @5 = content\n")
	o := metacopyOptions(l)
	copying, set := make(chan bool), make(chan bool)
	var once sync.Once
	o.Hook = func(op at.Op, _ string) error {
		if op == at.OpClone {
			once.Do(func() { close(copying); <-set })
		}
		return nil
	}
	fsys := open(t, o)
	must(t, fsys.Chmod("a", 0o600))
	var wg sync.WaitGroup
	when := time.Unix(77, 0)
	wg.Go(func() {
		if err := fsys.CopyUp("a"); err != nil {
			t.Error(err)
		}
	})
	<-copying
	tag := etag(t, fsys, "a")
	wg.Go(func() {
		if err := fsys.Chtimes("a", when, when); err != nil {
			t.Error(err)
		}
	})
	close(set)
	wg.Wait()
	info, err := fsys.Stat("a")
	must(t, err)
	if !info.ModTime().Equal(when) || info.ETag() != tag {
		t.Errorf("modified %v, tag %s, want %v and %s", info.ModTime(), info.ETag(), when, tag)
	}
}
