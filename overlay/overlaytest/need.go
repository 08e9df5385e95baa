package overlaytest

import (
	"os"
	"testing"
)

// Need skips a test that lacks what it needs, with a line that says what; ok
// is whether it is there. Where CI=true the machine is ours to equip, and the
// lack fails the test instead: a suite that skips in silence proves nothing.
func Need(t testing.TB, ok bool, format string, args ...any) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("needed under CI: "+format, args...)
	default:
		t.Skipf("needs "+format, args...)
	}
}

// NeedRoot skips a test that mounts or writes trusted.* attributes.
func NeedRoot(t testing.TB) {
	t.Helper()
	Need(t, os.Geteuid() == 0, "root")
}
