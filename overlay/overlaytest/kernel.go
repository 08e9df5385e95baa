package overlaytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Layers are the directories of an overlay.
type Layers struct {
	Lowers []string // topmost first
	Upper  string
	Work   string
}

// NewLayers makes a lower from each text, topmost first, and an empty upper
// and work, beside each other in dir.
func NewLayers(t testing.TB, dir string, lowers ...string) Layers {
	t.Helper()
	l := Layers{Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for i, text := range lowers {
		lower := filepath.Join(dir, "lower"+string(rune('1'+i)))
		Build(t, lower, text)
		l.Lowers = append(l.Lowers, lower)
	}
	for _, d := range []string{l.Upper, l.Work} {
		if err := makeDir(d); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// kernelDefaults are the options under which the kernel does what the engine
// does when it is asked nothing.
var kernelDefaults = []string{"redirect_dir=on", "index=off", "metacopy=off", "nfs_export=off"}

// KernelMount mounts the layers as the kernel's overlay, with options over the
// defaults, until unmount is called or the test ends.
func KernelMount(t testing.TB, l Layers, options ...string) (dir string, unmount func()) {
	t.Helper()
	k, err := openKernel(l, options...)
	if os.IsPermission(err) {
		Need(t, false, "the right to mount: %v", err)
	}
	if err != nil {
		t.Fatalf("kernel mount: %v", err)
	}
	unmount = func() {
		if err := k.Close(); err != nil {
			t.Errorf("kernel: %v", err)
		}
	}
	t.Cleanup(unmount)
	return k.dir, unmount
}

// kernelOptions is the option string of mount(2).
func kernelOptions(l Layers, options []string) string {
	var words []string
	userxattr := slices.Contains(options, "userxattr")
	for _, word := range kernelDefaults {
		key, _, _ := strings.Cut(word, "=")
		given := slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, key+"=") })
		// With userxattr there are no redirects to ask for, and what is off
		// already may not be asked for in a user namespace.
		if !given && !userxattr {
			words = append(words, word)
		}
	}
	words = append(words, options...)
	lowers := make([]string, len(l.Lowers))
	for i, dir := range l.Lowers {
		lowers[i] = escapeOption(dir)
	}
	words = append(words, "lowerdir="+strings.Join(lowers, ":"))
	if l.Upper != "" {
		words = append(words, "upperdir="+escapeOption(l.Upper), "workdir="+escapeOption(l.Work))
	}
	return strings.Join(words, ",")
}

var escapeOption = strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace

// nobody is an ordinary user of every machine.
const nobody = 65534

const rerunVar = "OVERLAYTEST_RERUN"

// InUserNamespace runs the test again as root of a user namespace, an ordinary
// user outside, who may mount an overlay with userxattr. It returns true there
// and false in the process that has waited for it and must do nothing more.
func InUserNamespace(t *testing.T) bool {
	t.Helper()
	return rerun(t, "namespace")
}

// AsOrdinaryUser runs the test again as an ordinary user, who may mount
// nothing; see InUserNamespace.
func AsOrdinaryUser(t *testing.T) bool {
	t.Helper()
	return rerun(t, "user")
}

func rerun(t *testing.T, how string) bool {
	t.Helper()
	if os.Getenv(rerunVar) == how {
		return true
	}
	NeedRoot(t) // to become somebody else
	// Not t.TempDir, which is below a directory that is closed to others.
	tmp, err := os.MkdirTemp("", "overlaytest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	// The program by its link in /proc, because the directory that go test
	// puts it into is closed to others.
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$",
		"-test.v="+map[bool]string{true: "true", false: "false"}[testing.Verbose()])
	cmd.Env = append(os.Environ(), rerunVar+"="+how, "TMPDIR="+tmp, "HOME="+tmp)
	cmd.SysProcAttr = asUser(nobody)
	if how == "namespace" {
		cmd.SysProcAttr = newNamespaces(nobody)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as %s: %v\n%s", how, err, out)
	}
	if testing.Verbose() {
		t.Logf("as %s:\n%s", how, out)
	}
	return false
}
