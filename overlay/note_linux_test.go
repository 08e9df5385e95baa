package overlay_test

import (
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// A note names the entity tag that the file has from then on, after a restart
// too, until its content changes; it costs no sync beside that of the content
// and that of the directory.
func TestNoteNamesTheTag(t *testing.T) {
	overlaytest.NeedRoot(t)
	syncs := 0
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "ext4"), "d/\nd/f = low\n")
	o := optionsOf(l)
	o.Durability = overlay.DurabilityFull
	o.Hook = func(op at.Op, _ string) error {
		if op == at.OpSync {
			syncs++
		}
		return nil
	}
	put := func(fsys *overlay.FS, name string) *overlay.Info {
		s, err := fsys.Stage(name, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Abort()
		s.SetNote("user.note", func(etag string) []byte { return []byte(etag) })
		info, err := s.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	fsys, err := overlay.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	put(fsys, "d/f") // d is in upper now
	syncs = 0
	committed := put(fsys, "d/f")
	if syncs != 2 {
		t.Errorf("%d syncs, want 2", syncs)
	}
	check := func(fsys *overlay.FS, when string) {
		note, err := fsys.Getxattr("d/f", "user.note")
		if got := etag(t, fsys, "d/f"); err != nil || got != string(note) || got != committed.ETag() {
			t.Errorf("%s: the tag is %q, at commit %q, and the note names %q, %v", when, got, committed.ETag(), note, err)
		}
	}
	check(fsys, "after commit")
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	fsys = open(t, o)
	check(fsys, "after a restart")
	if put(fsys, "d/f").ETag() == committed.ETag() {
		t.Error("another content has the tag")
	}
}
