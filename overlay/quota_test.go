package overlay_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"overdav/overlay"
)

// quotaFS opens fresh layers, with files a (5000 bytes) and d/b in the lower,
// and what upper has already.
func quotaFS(t *testing.T, quota int64, upper ...string) (fsys *overlay.FS, reopen func() *overlay.FS) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		mustMkdir(t, filepath.Dir(filepath.Join(dir, name)))
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("lower/a", 5000)
	write("lower/d/e/b", 100)
	write("lower/d/e/c", 100)
	mustMkdir(t, filepath.Join(dir, "work"))
	mustMkdir(t, filepath.Join(dir, "upper"))
	for _, name := range upper {
		write("upper/"+name, 10)
	}
	open := func() *overlay.FS {
		t.Helper()
		fsys, err := overlay.Open(overlay.Options{
			Lowers: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Quota: quota,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fsys.Close() })
		return fsys
	}
	now := open()
	return now, func() *overlay.FS {
		t.Helper()
		if err := now.Close(); err != nil {
			t.Fatal(err)
		}
		now = open()
		return now
	}
}

func usedBy(t *testing.T, fsys *overlay.FS) int64 {
	t.Helper()
	_, used, ok, err := fsys.Quota(1 << 60) // waits for all that is being deleted
	if !ok || err != nil {
		t.Fatalf("quota: %t, %v", ok, err)
	}
	return used
}

// stage replaces a file with size bytes, in pieces.
func stageSize(fsys *overlay.FS, name string, size int) error {
	s, err := fsys.Stage(name, 0o600)
	if err != nil {
		return err
	}
	defer s.Abort()
	for left := size; left > 0; left -= 1000 {
		if _, err := s.Write(make([]byte, min(left, 1000))); err != nil {
			return err
		}
	}
	_, err = s.Commit()
	return err
}

func TestQuotaCountsWhatUpperTakes(t *testing.T) {
	fsys, _ := quotaFS(t, 1<<20, "x", "dir/y")
	steps := []struct {
		name string
		do   func() error
		want int64 // units of 4 KiB
	}{
		{"what was there", func() error { return nil }, 3},
		{"a new file", func() error { return stageSize(fsys, "new", 9000) }, 6},
		{"replaced by a shorter one", func() error { return stageSize(fsys, "new", 1) }, 4},
		{"an empty one", func() error { return stageSize(fsys, "empty", 0) }, 5},
		{"copied up", func() error { return fsys.Chmod("a", 0o644) }, 7},
		{"a copy", func() error { return fsys.Copy("a", "copy", overlay.CopyOptions{}) }, 9},
		{"renamed", func() error { return fsys.Move("copy", "a", true) }, 7},
		{"a directory", func() error { return fsys.Mkdir("made", 0o700) }, 8},
		{"a link", func() error { return fsys.Symlink("a", "made/link") }, 9},
		{"a file of the lower deleted", func() error { return fsys.Remove("d/e/b") }, 11}, // d and d/e were copied up
		{"deleted", func() error { return fsys.Remove("a") }, 9},
		{"a tree deleted", func() error { return fsys.RemoveAll("made") }, 7},
		{"a tree of the lower deleted", func() error { return fsys.RemoveAll("d") }, 5},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := usedBy(t, fsys); got != step.want*4096 {
			t.Fatalf("%s: uses %d, want %d", step.name, got, step.want*4096)
		}
	}
}

// Whatever was done, also what failed: what was counted is what a new measuring
// finds.
func TestQuotaIsWhatIsMeasuredAnew(t *testing.T) {
	const quota = 150_000
	fsys, reopen := quotaFS(t, quota, "x", "dir/y")
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "d", "d/e", "d/e/b", "x", "dir", "dir/y", "n1", "n2", "dir/n3", "d/n4", "d/e/n5"}
	pick := func() string { return names[random.IntN(len(names))] }
	refused, done := 0, 0
	for i := range 2000 {
		name, size := pick(), random.IntN(40_000)
		var err error
		switch random.IntN(9) {
		case 0, 1:
			err = stageSize(fsys, name, size)
		case 2:
			err = fsys.Mkdir(name, 0o700)
		case 3:
			err = fsys.RemoveAll(name)
		case 4:
			err = fsys.Copy(name, pick(), overlay.CopyOptions{Overwrite: true})
		case 5:
			err = fsys.Move(name, pick(), true)
		case 6:
			err = writeInto(fsys, name, size, random.IntN(3))
		case 7:
			err = fsys.Symlink("a", name)
		case 8:
			var s *overlay.Staged
			if s, err = fsys.Stage(name, 0o600); err == nil {
				_, err = s.Write(make([]byte, size))
				s.Abort()
			}
		}
		switch {
		case errors.Is(err, syscall.EDQUOT):
			refused++
		case err == nil:
			done++
		}
		if used := usedBy(t, fsys); used > quota+16*4096 || used < 0 { // directories are not refused
			t.Fatalf("step %d: uses %d", i, used)
		}
		if i%200 == 0 {
			counted := usedBy(t, fsys)
			fsys = reopen()
			if measured := usedBy(t, fsys); measured != counted {
				t.Fatalf("step %d: %d was counted, %d is there", i, counted, measured)
			}
		}
	}
	if refused < 50 || done < 500 {
		t.Errorf("%d steps refused by the quota, %d done: this tests nothing", refused, done)
	}
}

// writeInPlace writes into a file as os.File would.
func writeInto(fsys *overlay.FS, name string, size, how int) (err error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	switch how {
	case 0:
		_, err = f.Write(make([]byte, size))
	case 1:
		_, err = f.WriteAt(make([]byte, size/2), int64(size))
	case 2:
		err = f.Truncate(int64(size))
	}
	return err
}

func TestQuotaRefuses(t *testing.T) {
	fsys, _ := quotaFS(t, 40960) // ten units
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("%s: got %v, want EDQUOT", what, err)
		}
	}
	if err := stageSize(fsys, "big", 36864); err != nil {
		t.Fatal(err)
	}
	full("an upload", stageSize(fsys, "more", 4097))
	full("its copy", fsys.Copy("big", "more", overlay.CopyOptions{}))
	full("a copy-up", fsys.Chmod("a", 0o644))
	full("a rename that copies up", fsys.Move("a", "more", false))
	if got := usedBy(t, fsys); got != 36864 {
		t.Errorf("what was refused left %d used, want 36864", got)
	}
	if err := stageSize(fsys, "exactly", 4096); err != nil {
		t.Errorf("what just fits: %v", err)
	}
	full("an empty file", stageSize(fsys, "empty", 0))
	full("a link", fsys.Symlink("a", "link"))
	for _, name := range []string{"a", "d/e/b", "d", "exactly", "big"} {
		if err := fsys.RemoveAll(name); err != nil {
			t.Errorf("delete %s when full: %v", name, err)
		}
	}
	// The room is there at once, though the disk takes its time.
	if err := stageSize(fsys, "new", 36864); err != nil {
		t.Errorf("after deleting: %v", err)
	}
	if !fsys.SetQuota(1 << 20) {
		t.Error("the quota cannot be changed")
	}
	if err := stageSize(fsys, "more", 100_000); err != nil {
		t.Errorf("after the quota was raised: %v", err)
	}
}

// A tree that was deleted is in the trash for a while: who needs its room waits
// for it.
func TestQuotaWaitsForWhatIsBeingDeleted(t *testing.T) {
	var upper []string
	for i := range 300 {
		upper = append(upper, fmt.Sprintf("tree/%03d", i))
	}
	fsys, _ := quotaFS(t, 310*4096, upper...)
	for range 3 {
		if err := fsys.RemoveAll("tree"); err != nil {
			t.Fatal(err)
		}
		if err := stageSize(fsys, "big", 300*4096); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Remove("big"); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Mkdir("tree", 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			if err := stageSize(fsys, fmt.Sprintf("tree/%03d", i), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
}
