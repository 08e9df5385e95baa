package overlay_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// openMeddled opens the engine so that meddle is called, once, at the first
// change to the disk of the kind op: a second hand, at the worst moment.
func openMeddled(t *testing.T, l overlaytest.Layers, op at.Op, meddle func(fsys *overlay.FS)) *overlay.FS {
	t.Helper()
	overlaytest.LowersUnchanged(t, l.Lowers...)
	var fsys *overlay.FS
	armed := false
	fsys, err := overlay.Open(overlay.Options{
		Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Xattr: overlay.XattrTrusted,
		Durability: overlay.DurabilityNone,
		Hook: func(o at.Op, _ string) error {
			if armed && o == op {
				armed = false
				meddle(fsys)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	armed = true
	t.Cleanup(func() {
		if armed {
			t.Errorf("no %s was seen", op)
		}
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	})
	return fsys
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Who deletes a file never deletes the directory that takes its name meanwhile.
func TestRemoveSparesDirectoryMadeMeanwhile(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nd/x = file\n")
	fsys := openMeddled(t, l, at.OpMkdir, func(fsys *overlay.FS) {
		f, err := fsys.Create("d/other")
		must(t, err, f.Close(), fsys.Remove("d/x"), fsys.Mkdir("d/x", 0o755), fsys.Rename("d/other", "d/x/a"))
	})
	if err := fsys.Remove("d/x"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove: got %v, want ENOTEMPTY", err)
	}
	if _, err := fsys.Stat("d/x/a"); err != nil {
		t.Errorf("what was made meanwhile: %v", err)
	}
}

// A link to a file that is deleted meanwhile is no link to its whiteout.
func TestLinkOfFileRemovedMeanwhile(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "d/\nf = lower\n", "")
	must(t, os.WriteFile(filepath.Join(l.Upper, "f"), []byte("upper"), 0o644))
	fsys := openMeddled(t, l, at.OpMkdir, func(fsys *overlay.FS) { must(t, fsys.Remove("f")) })
	if err := fsys.Link("f", "d/n"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link: got %v, want ErrNotExist", err)
	}
	if _, err := os.Lstat(filepath.Join(l.Upper, "d/n")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("d/n in upper: got %v, want ErrNotExist", err)
	}
}

// RENAME_NOREPLACE does not take two names of one file for nothing to do.
func TestRenameNoReplaceOfHardLinks(t *testing.T) {
	overlaytest.NeedRoot(t)
	fsys := openFS(t, overlaytest.NewLayers(t, t.TempDir(), "f = x\n"))
	must(t, fsys.Link("f", "g"))
	if err := fsys.RenameNoReplace("f", "g"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("got %v, want EEXIST", err)
	}
}

// Unlock takes our guard away and nothing that a kernel mount left beside it.
func TestUnlockLeavesWhatIsNotOurs(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f = x\n")
	fsys, err := overlaytest.OpenFS(l, nil)
	must(t, err)
	overlay.Crash(fsys)
	foreign := filepath.Join(l.Work, "work/incompat/volatile")
	must(t, os.Mkdir(foreign, 0o700), overlay.Unlock(l.Upper, l.Work))
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("the mark of a volatile mount: %v", err)
	}
	if _, err := os.Stat(filepath.Join(l.Work, "work/incompat/overdav")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the guard: got %v, want ErrNotExist", err)
	}
}

// The kernel is asked about the very directory, whatever its name needs escaped.
func TestProbeOverlayOfAwkwardPath(t *testing.T) {
	overlaytest.NeedRoot(t)
	base := filepath.Join(t.TempDir(), `a:b,c\d=e\`)
	must(t, os.Mkdir(base, 0o755))
	if err := at.ProbeOverlay(base); err != syscall.EINVAL {
		t.Skipf("the kernel does not tell: %v", err)
	}
	busy := filepath.Join(base, "upper")
	work := filepath.Join(base, "work")
	lower := t.TempDir()
	point := t.TempDir()
	must(t, os.Mkdir(busy, 0o755), os.Mkdir(work, 0o755))
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	options := "index=on,lowerdir=" + lower + ",upperdir=" + escape.Replace(busy) + ",workdir=" + escape.Replace(work)
	if err := syscall.Mount("overlay", point, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{busy, work} {
		if err := at.ProbeOverlay(path); err != syscall.EBUSY {
			t.Errorf("%s: got %v, want EBUSY", path, err)
		}
	}
}

// A file that may not be read hides nothing from whoever cannot ask whether it
// is a whiteout or a metacopy: it is listed, moved and deleted.
func TestUnreadableFilesOfOrdinaryUser(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "empty 0600 1000:1000 =\nfull 0600 1000:1000 = x\nd/\n")
	must(t, os.WriteFile(filepath.Join(l.Upper, "own"), []byte("x"), 0o200))
	must(t, os.Chown(filepath.Join(l.Upper, "own"), 1000, 0))
	fsys := openFS(t, l, "userxattr")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, putCapabilities(false))
	defer func() { must(t, putCapabilities(true)) }()
	infos, err := fsys.ReadDir(".")
	if err != nil || len(infos) != 4 {
		t.Errorf("readdir: got %d names, %v, want 4", len(infos), err)
	}
	for _, step := range []struct {
		name string
		err  error
	}{
		{"rename", fsys.Rename("own", "d/own")},
		{"remove what is in upper", fsys.Remove("d/own")},
		{"remove an empty file", fsys.Remove("empty")},
		{"remove a file", fsys.Remove("full")},
	} {
		if step.err != nil {
			t.Errorf("%s: %v", step.name, step.err)
		}
	}
}

// What could not be stripped of its rights is not written to at the second
// attempt either.
func TestWriteRefusedWhileRightsStay(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "")
	suid := filepath.Join(l.Upper, "f")
	must(t, os.WriteFile(suid, []byte("old"), 0o755), os.Chmod(suid, 0o755|fs.ModeSetuid))
	refused := false
	fsys, err := overlay.Open(overlay.Options{
		Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Xattr: overlay.XattrTrusted,
		Hook: func(op at.Op, _ string) error {
			if op == at.OpChmod && !refused {
				refused = true
				return syscall.EIO
			}
			return nil
		},
	})
	must(t, err)
	f, err := fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	for i := range 2 {
		if _, err := f.Write([]byte("new")); !errors.Is(err, syscall.EIO) {
			t.Errorf("write %d: got %v, want EIO", i+1, err)
		}
	}
	must(t, f.Close(), fsys.Close())
	if _, err := f.Seek(0, io.SeekStart); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("seek after close: got %v, want ErrClosed", err)
	}
}

// A file that is shorter than its size says is no file filled up with zeros.
func TestCopyOfFileShorterThanItSays(t *testing.T) {
	dir, err := at.Open("/sys/kernel")
	if err != nil {
		t.Skip(err)
	}
	defer dir.Close()
	src, err := dir.OpenFile("uevent_seqnum")
	if err != nil {
		t.Skip(err)
	}
	defer src.Close()
	to, err := at.OpenRW(t.TempDir(), nil)
	must(t, err)
	defer to.Close()
	dst, err := to.Create("f", 0o600)
	must(t, err)
	defer dst.Close()
	var st at.Stat
	must(t, src.Stat(&st))
	if copied, err := dst.CopyFrom(src, st.Size, nil); copied >= st.Size || err != nil {
		t.Errorf("copied %d of %d bytes, %v, want fewer", copied, st.Size, err)
	}
}

// No name with a slash reaches the kernel as a path.
func TestNamesAreSingle(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "d"), 0o755), os.WriteFile(filepath.Join(base, "d/f"), nil, 0o644))
	d, err := at.OpenRW(base, nil)
	must(t, err)
	defer d.Close()
	var st at.Stat
	_, getErr := d.Getxattr("d/f", "user.x")
	_, listErr := d.Listxattr("d/f")
	_, openErr := d.OpenFile("d/f")
	for name, err := range map[string]error{
		"stat": d.Stat("d/f", &st), "getxattr": getErr, "listxattr": listErr, "open": openErr,
		"rename": d.Rename("d/f", d, "g", at.RenamePlain), "link": d.Link("d/f", d, "g"), "unlink": d.Unlink("d/f"),
	} {
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: got %v, want EINVAL", name, err)
		}
	}
}

// What is durable at once can be changed also where it cannot be opened for
// writing: a program that runs, and a directory that its owner may not list.
func TestSyncOfWhatCannotBeOpened(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "")
	program, err := os.ReadFile("/bin/sleep")
	must(t, err, os.WriteFile(filepath.Join(l.Upper, "sleep"), program, 0o755))
	must(t, os.Mkdir(filepath.Join(l.Upper, "box"), 0o300))
	running := exec.Command(filepath.Join(l.Upper, "sleep"), "600")
	must(t, running.Start())
	defer func() {
		if err := running.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = running.Wait() // it was killed
	}()
	fsys, err := overlay.Open(overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Xattr: overlay.XattrUser})
	must(t, err)
	defer func() { must(t, fsys.Close()) }()
	if err := fsys.Chmod("sleep", 0o700); err != nil {
		t.Errorf("a program that runs: %v", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, putCapabilities(false))
	defer func() { must(t, putCapabilities(true)) }()
	if err := fsys.Mkdir("box/d", 0o755); err != nil {
		t.Errorf("a directory that may not be listed: %v", err)
	}
}

// The tags that are written down take room for the files there are, not for
// the changes there were, and the last one of each survives.
func TestTagsDoNotGrowWithChanges(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, t.TempDir(), "f = x\n")
	fsys, err := overlaytest.OpenFS(l, nil)
	must(t, err)
	before, err := fsys.Stat("f")
	must(t, err)
	const changes = 3000
	for i := range changes {
		must(t, fsys.Chmod("f", fs.FileMode(0o600+i%2)))
	}
	must(t, fsys.Close())
	info, err := os.Stat(filepath.Join(l.Work, "overdav/tags"))
	must(t, err)
	if got, limit := info.Size(), int64(changes/2*36); got > limit {
		t.Errorf("%d changes of one file left %d bytes of tags, want %d at most", changes, got, limit)
	}
	after, err := openFS(t, l).Stat("f")
	must(t, err)
	if after.ETag() != before.ETag() {
		t.Errorf("tag after a restart: got %s, want %s", after.ETag(), before.ETag())
	}
}

// TestTheFirstMomentOfTheYearOne: what is copied up keeps that time, which
// programs write that know none, as it keeps any other.
func TestTheFirstMomentOfTheYearOne(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "tmpfs"), "f = 1\n")
	const first = int64(-62_135_596_800)
	if out, err := exec.Command("touch", "-d", fmt.Sprint("@", first), l.Lowers[0]+"/f").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fsys := open(t, optionsOf(l))
	if err := fsys.Rename("f", "g"); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(l.Upper+"/g", &st); err != nil || int64(st.Mtim.Sec) != first {
		t.Errorf("modified at %d, %v, want %d", st.Mtim.Sec, err, first)
	}
}

// TestDeletedButMountedOn: likewise what is mounted in a directory of upper, of which
// nothing is touched.
func TestDeletedButMountedOn(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Within(overlaytest.Filesystem(t, "ext4"))(t), "")
	overlaytest.Build(t, l.Upper, "d/\nd/mnt/\n")
	mount := l.Upper + "/d/mnt"
	must(t, syscall.Mount("tmpfs", mount, "tmpfs", 0, ""))
	defer func() { must(t, syscall.Unmount(mount, 0)) }()
	must(t, os.WriteFile(mount+"/f", []byte("kept"), 0o600))
	fsys, err := overlay.Open(optionsOf(l))
	must(t, err)
	must(t, fsys.RemoveAll("d"))
	err = fsys.Close()
	aside, globErr := filepath.Glob(l.Work + "/overdav/*/*/mnt")
	if globErr != nil || len(aside) != 1 {
		t.Fatalf("mounted now at %q", aside)
	}
	mount = aside[0]
	must(t, err)
	if content, err := os.ReadFile(mount + "/f"); string(content) != "kept" {
		t.Errorf("what was mounted has %q, %v", content, err)
	}
	open(t, optionsOf(l))
}

// TestDeletedButProtected: what chattr protects inside a directory that was
// deleted keeps neither the end nor the next start waiting, nor the kernel, and
// is removed when it can be.
func TestDeletedButProtected(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Within(overlaytest.Filesystem(t, "ext4"))(t), "d/\nd/low = 1\n")
	overlaytest.Build(t, l.Upper, "d/\nd/in/\nd/in/kept chattr=i = 1\nd/in/other = 2\n")
	o := optionsOf(l)
	var warnings []string
	o.Events.Warning = func(message string) { warnings = append(warnings, message) }
	remove := func() {
		fsys, err := overlay.Open(o)
		must(t, err)
		must(t, fsys.RemoveAll("d"), fsys.Mkdir("d", 0o755), fsys.Close())
	}
	remove()
	kernel, err := overlaytest.Kernel.Open(l, nil)
	must(t, err)
	names, err := kernel.Ls(".")
	must(t, err, kernel.Close())
	if strings.Join(names, " ") != "d" {
		t.Errorf("the kernel shows %q", names)
	}
	if warnings != nil {
		t.Errorf("warned before: %q", warnings)
	}
	overlaytest.Build(t, l.Upper, "d/\nd/kept chattr=i = 1\n")
	remove() // what is set aside now has the same name
	if len(warnings) != 1 || !strings.Contains(warnings[0], "undeletable") {
		t.Errorf("warnings: %q", warnings)
	}
	aside := filepath.Join(l.Work, "overdav", "undeletable")
	if left, err := filepath.Glob(aside + "/*/in/*"); err != nil || len(left) != 1 {
		t.Errorf("set aside: %q, %v, want the protected file alone", left, err)
	}
	out, err := exec.Command("chattr", "-R", "-i", aside).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	remove()
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after chattr -i: %v", err)
	}
}
