package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"overdav/overlay"
)

// sightTree is a tree with a file, a directory and links in its lower.
func sightTree(t *testing.T) (fsys *overlay.FS, upper string) {
	t.Helper()
	dir := t.TempDir()
	lower, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	mustMkdir(t, upper)
	mustMkdir(t, filepath.Join(dir, "work"))
	mustWrite(t, filepath.Join(lower, "d/f"), 3)
	for _, name := range []string{"e/n", "g/n", "h/m"} {
		mustWrite(t, filepath.Join(lower, name), 3)
	}
	for link, target := range map[string]string{"to-d": "d", "d/to-f": "f", "lost": "d/gone", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(lower, link)); err != nil {
			t.Fatal(err)
		}
	}
	return mustOpen(t, overlay.Options{Lowers: []string{lower}, Upper: upper, Work: filepath.Join(dir, "work")}), upper
}

func TestLook(t *testing.T) {
	fsys, _ := sightTree(t)
	for _, test := range []struct {
		name        string
		follow      bool
		path        string
		links       int
		here, shown bool
	}{
		{"d/f", true, "d/f", 0, true, true},
		{"to-d/f", false, "d/f", 1, true, true},
		{"to-d/to-f", false, "d/to-f", 1, true, true},
		{"to-d/to-f", true, "d/f", 2, true, true},
		{"to-d/new", true, "d/new", 1, false, false},
		{"d/f/no", true, "d/f/no", 0, false, false},
		{"gone/x/y", true, "gone/x/y", 0, false, false},
		{"lost", false, "lost", 0, true, true},
		{"lost", true, "d/gone", 1, false, true},
		{"loop", true, "loop", 0, true, true},
		{".", true, ".", 0, true, true},
	} {
		got, err := fsys.Look(test.name, test.follow)
		if err != nil || got.Path != test.path || got.Links != test.links || (got.Here != nil) != test.here || (got.Shown != nil) != test.shown {
			t.Errorf("Look(%q, %v) = %+v, %v; want path %q, %d links, here %v, shown %v",
				test.name, test.follow, got, err, test.path, test.links, test.here, test.shown)
		}
	}
	if _, err := fsys.Look("loop/x", true); err == nil {
		t.Error("Look through a loop of symlinks has no error")
	}
}

// A change on condition is refused, having done nothing, when something else is
// there, whoever put it there; and made when one has looked again.
func TestChangesKeepToWhatWasSeen(t *testing.T) {
	changes := map[string]func(fsys *overlay.FS, seen overlay.Sight) error{
		"remove": func(fsys *overlay.FS, seen overlay.Sight) error { return fsys.RemoveSeen(seen) },
		"move": func(fsys *overlay.FS, seen overlay.Sight) error {
			_, err := fsys.MoveSeen(seen, mustLook(t, fsys, "moved"), false)
			return err
		},
		"move over": func(fsys *overlay.FS, seen overlay.Sight) error {
			if err := fsys.Symlink("x", "source"); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			_, err := fsys.MoveSeen(mustLook(t, fsys, "source"), seen, true)
			return err
		},
		"replace": func(fsys *overlay.FS, seen overlay.Sight) error {
			s, err := fsys.StageSeen(seen, 0o644)
			if err != nil {
				return err
			}
			defer s.Abort()
			_, err = s.CommitOver(seen)
			return err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			fsys, upper := sightTree(t)
			old := mustLook(t, fsys, "d/f")
			if err := fsys.Chmod("d/f", 0o600); err != nil {
				t.Fatal(err)
			}
			up := mustLook(t, fsys, "d/f")
			mustWrite(t, filepath.Join(upper, "d/f"), 4) // behind our back
			for _, seen := range []overlay.Sight{old, up, {Path: "d/f"}, {Path: "to-d/f", Here: up.Here}} {
				if err := change(fsys, seen); !errors.Is(err, overlay.ErrChanged) {
					t.Errorf("by what is no longer true at %s: %v, want ErrChanged", seen.Path, err)
				}
			}
			if now := mustLook(t, fsys, "d/f"); now.Here == nil || now.Here.Size() != 4 {
				t.Fatalf("refused changes left %+v", now)
			}
			if err := change(fsys, mustLook(t, fsys, "d/f")); err != nil {
				t.Errorf("by what is true: %v", err)
			}
			if now := mustLook(t, fsys, "d/f"); now.Here != nil && now.Here.Size() == 4 {
				t.Errorf("the change is not there: %+v", now)
			}
		})
	}
}

func mustLook(t *testing.T, fsys *overlay.FS, name string) overlay.Sight {
	t.Helper()
	s, err := fsys.Look(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is made where nothing was seen is made only there: not over what came
// since, by whomever, and not in a directory that took the seen one's place.
func TestMakingWhereNothingWasSeen(t *testing.T) {
	makes := map[string]func(fsys *overlay.FS, seen overlay.Sight) error{
		"mkdir":  func(fsys *overlay.FS, seen overlay.Sight) error { return fsys.MkdirSeen(seen, 0o755) },
		"create": func(fsys *overlay.FS, seen overlay.Sight) error { return fsys.CreateSeen(seen, 0o644) },
		"stage": func(fsys *overlay.FS, seen overlay.Sight) error {
			s, err := fsys.StageSeen(seen, 0o644)
			if err != nil {
				return err
			}
			defer s.Abort()
			_, err = s.CommitOver(seen)
			return err
		},
	}
	spoilt := map[string]func(t *testing.T, fsys *overlay.FS, upper string) error{
		"a file": func(_ *testing.T, fsys *overlay.FS, _ string) error { return fsys.Symlink("x", "d/n") },
		"from under": func(t *testing.T, _ *overlay.FS, upper string) error {
			mustWrite(t, filepath.Join(upper, "d/n"), 4)
			return nil
		},
		"another directory": func(t *testing.T, fsys *overlay.FS, _ string) error {
			if err := fsys.Rename("d", "old"); err != nil {
				return err
			}
			return fsys.Rename("e", "d") // in whose lower there is n
		},
	}
	for name, make := range makes {
		for by, spoil := range spoilt {
			t.Run(name+" spoilt by "+by, func(t *testing.T) {
				fsys, upper := sightTree(t)
				if err := fsys.Chmod("d/f", 0o600); err != nil { // upper has d
					t.Fatal(err)
				}
				mustLook(t, fsys, "d/n") // d is kept open
				seen := mustLook(t, fsys, "d/n")
				if err := spoil(t, fsys, upper); err != nil {
					t.Fatal(err)
				}
				before := mustLook(t, fsys, "d/n")
				if before.Here == nil {
					t.Fatal("nothing was put there")
				}
				if err := make(fsys, seen); !errors.Is(err, overlay.ErrChanged) {
					t.Errorf("%v, want ErrChanged", err)
				}
				if after := mustLook(t, fsys, "d/n"); after.Here == nil || after.Here.ETag() != before.Here.ETag() {
					t.Errorf("what was there is %+v now", after.Here)
				}
				if err := make(fsys, mustLook(t, fsys, "d/free")); err != nil {
					t.Errorf("where nothing is: %v", err)
				}
			})
		}
	}
}

// A file of a lower is changed by what was seen, unless upper has got something
// of its name since.
func TestChangingALowerFileThatWasSeen(t *testing.T) {
	for name, change := range map[string]func(fsys *overlay.FS, seen overlay.Sight) error{
		"remove": func(fsys *overlay.FS, seen overlay.Sight) error { return fsys.RemoveSeen(seen) },
		"move": func(fsys *overlay.FS, seen overlay.Sight) error {
			_, err := fsys.MoveSeen(seen, mustLook(t, fsys, "d/moved"), false)
			return err
		},
		"move over": func(fsys *overlay.FS, seen overlay.Sight) error {
			_, err := fsys.MoveSeen(mustLook(t, fsys, "d/other"), seen, true)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			fsys, upper := sightTree(t)
			if err := fsys.Symlink("x", "d/other"); err != nil { // upper has d
				t.Fatal(err)
			}
			mustLook(t, fsys, "d/f") // d is kept open
			seen := mustLook(t, fsys, "d/f")
			mustWrite(t, filepath.Join(upper, "d/f"), 4)
			if err := change(fsys, seen); !errors.Is(err, overlay.ErrChanged) {
				t.Errorf("with another file over it: %v, want ErrChanged", err)
			}
			if now := mustLook(t, fsys, "d/f"); now.Here == nil || now.Here.Size() != 4 {
				t.Errorf("what came since is %+v now", now.Here)
			}
			if now := mustLook(t, fsys, "d/moved"); now.Here != nil {
				t.Errorf("moved, and refused: %+v", now.Here)
			}
			if err := os.Remove(filepath.Join(upper, "d/f")); err != nil {
				t.Fatal(err)
			}
			if err := change(fsys, mustLook(t, fsys, "d/f")); err != nil {
				t.Error(err)
			}
			now := mustLook(t, fsys, "d/f")
			if name == "move over" && (now.Here == nil || now.Here.Mode().IsRegular()) || name != "move over" && now.Here != nil {
				t.Errorf("changed, and there: %+v", now.Here)
			}
		})
	}
}

// A file of a lower that is moved by what was seen is copied once, keeps its
// entity tag, and leaves nothing in staging; so it is when something came to the
// new name meanwhile, and then nothing has moved.
func TestMovingALowerFileThatWasSeen(t *testing.T) {
	fsys, upper := sightTree(t)
	if err := fsys.Symlink("x", "d/other"); err != nil { // upper has d
		t.Fatal(err)
	}
	mustLook(t, fsys, "d/f") // d is kept open
	src, dst := mustLook(t, fsys, "d/f"), mustLook(t, fsys, "d/moved")
	mustWrite(t, filepath.Join(upper, "d/moved"), 5)
	if _, err := fsys.MoveSeen(src, dst, true); !errors.Is(err, overlay.ErrChanged) {
		t.Errorf("onto what came since: %v, want ErrChanged", err)
	}
	if now := mustLook(t, fsys, "d/f"); now.Here == nil || now.Here.ETag() != src.Here.ETag() {
		t.Errorf("refused, and what was to move is %+v", now.Here)
	}
	if now := mustLook(t, fsys, "d/moved"); now.Here == nil || now.Here.Size() != 5 {
		t.Errorf("refused, and what came since is %+v", now.Here)
	}
	copied, err := fsys.MoveSeen(mustLook(t, fsys, "e/n"), mustLook(t, fsys, "d/n"), false)
	if err != nil || copied != 3 {
		t.Errorf("copied %d bytes, %v; want 3", copied, err)
	}
	// Over a directory it goes by way of a placeholder, and is copied up before:
	// then it is no longer what was seen, and somebody must look again.
	_, err = fsys.MoveSeen(mustLook(t, fsys, "g/n"), mustLook(t, fsys, "h"), true)
	if !errors.Is(err, overlay.ErrChanged) {
		t.Errorf("over a directory: %v, want ErrChanged", err)
	}
	if _, err = fsys.MoveSeen(mustLook(t, fsys, "g/n"), mustLook(t, fsys, "h"), true); err != nil {
		t.Errorf("over a directory, looked at again: %v", err)
	}
	moved := mustLook(t, fsys, "d/n")
	if gone := mustLook(t, fsys, "e/n"); gone.Here != nil || moved.Here == nil || moved.Here.Size() != 3 {
		t.Errorf("moved: %+v, left: %+v", moved.Here, gone.Here)
	}
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	stagingEmpty(t, filepath.Join(filepath.Dir(upper), "work"))
}
