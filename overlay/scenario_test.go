package overlay_test

import (
	"testing"

	"overdav/overlay/overlaytest"
)

// TestScripts runs every scenario on the kernel and on the engine.
func TestScripts(t *testing.T) {
	overlaytest.NeedRoot(t)
	disk := overlaytest.Filesystem(t, "tmpfs")
	overlaytest.Run{
		Dir:     "testdata/script",
		Engines: []overlaytest.Opener{overlaytest.Kernel, overlaytest.FS},
		Base:    overlaytest.Within(disk),
	}.Scripts(t)
}
