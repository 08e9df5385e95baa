package overlay_test

import (
	"testing"
	"testing/fstest"

	"overdav/overlay/overlaytest"
)

// TestFS has the judge of io/fs look at a tree with everything in it but what
// cannot be opened, which that judge does not know: FIFOs and dangling links.
func TestFS(t *testing.T) {
	overlaytest.NeedRoot(t)
	l := overlaytest.NewLayers(t, overlaytest.Filesystem(t, "ext4"),
		`merged/
merged/both = middle
merged/lower = middle
merged/gone = middle
merged/sub/
merged/sub/deep = middle
opaque/
opaque/hidden = middle
file = middle
link -> merged/both
absolute -> /merged
"sp ace #1%" = x
`, `merged/
merged/bottom = bottom
old/
old/inner = bottom
covered = bottom
ümlaut = ä
`)
	overlaytest.Build(t, l.Upper, `merged/
merged/both = up
merged/gone whiteout
opaque/ [opaque]
opaque/shown = up
old whiteout
renamed/ [redirect=old]
renamed/new = up
covered = up
pure/
pure/empty/
pure/large size=300000 +299999=x
`)
	fsys := open(t, optionsOf(l))
	want := []string{
		"absolute", "covered", "file", "link", "merged/both", "merged/bottom", "merged/lower", "merged/sub/deep",
		"opaque/shown", "pure/empty", "pure/large", "renamed/inner", "renamed/new", "sp ace #1%", "ümlaut",
	}
	if err := fstest.TestFS(fsys.FS(), want...); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"merged/gone", "opaque/hidden", "old"} {
		if _, err := fsys.Lstat(name); err == nil {
			t.Errorf("%s is shown", name)
		}
	}
}
