package overlay_test

import (
	"testing"

	"overdav/overlay/overlaytest"
)

// TestScripts runs every scenario on the kernel and on the engine, with the
// layers on each file system that can hold an upper.
func TestScripts(t *testing.T) {
	overlaytest.NeedRoot(t)
	for _, kind := range []string{"tmpfs", "ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind != "tmpfs" {
				t.Skip("one file system is enough for a short run")
			}
			overlaytest.Run{
				Dir:     "testdata/script",
				Engines: []overlaytest.Opener{overlaytest.Kernel, overlaytest.FS},
				Base:    overlaytest.Within(overlaytest.Filesystem(t, kind)),
			}.Scripts(t)
		})
	}
}

// TestScriptsInUserNamespace runs the scenarios with userxattr as an ordinary
// user who is root of a user namespace, where the kernel can be asked too.
func TestScriptsInUserNamespace(t *testing.T) {
	if overlaytest.InUserNamespace(t) {
		overlaytest.Run{
			Dir:     "testdata/script",
			Engines: []overlaytest.Opener{overlaytest.Kernel, overlaytest.FS},
			User:    true,
		}.Scripts(t)
	}
}

// TestScriptsAsOrdinaryUser runs the scenarios with userxattr as somebody who
// may mount nothing and give nothing away.
func TestScriptsAsOrdinaryUser(t *testing.T) {
	if overlaytest.AsOrdinaryUser(t) {
		overlaytest.Run{
			Dir:     "testdata/script",
			Engines: []overlaytest.Opener{overlaytest.FS},
			User:    true,
		}.Scripts(t)
	}
}
