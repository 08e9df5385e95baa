package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// An upload that fits is taken, also one that leaves less room than it needed:
// it is not counted once more when its content already lies in staging.
func TestUploadOfMoreThanHalfOfWhatIsFree(t *testing.T) {
	overlaytest.NeedRoot(t)
	small := openDir(t)
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	l := overlaytest.NewLayers(t, small, demo)
	s := serve(t, flagsOf(l)...)
	body := strings.Repeat("x", 5<<20)
	s.must(http.StatusCreated, "PUT", "large", body)
	if got, want := size(t, filepath.Join(l.Upper, "large")), int64(len(body)); got != want {
		t.Errorf("size in upper: got %d, want %d", got, want)
	}
	s.must(http.StatusInsufficientStorage, "PUT", "a", body)
	if _, content := s.do("GET", "a", ""); content != "one" {
		t.Errorf("after an upload that did not fit: got %q, want the old content", content)
	}
	s.stop()
}

func size(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Directories that are kept open leave descriptors for the requests: a tree of
// more directories than the process may have files open can be walked.
func TestTreeLargerThanTheLimitOfOpenFiles(t *testing.T) {
	const directories, limit = 300, 128
	var lower strings.Builder
	for i := range directories {
		fmt.Fprintf(&lower, "d%d/\nd%d/e/\nd%d/e/f = %d\n", i, i, i, i)
	}
	l := overlaytest.NewLayers(t, openDir(t), lower.String())
	args := append([]string{"serve", "--listen", "127.0.0.1:0"}, flagsOf(l)...)
	cmd := command(openDir(t), args...)
	limited := exec.Command("sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`, fmt.Sprint(limit), cmd.Path}, args...)...)
	limited.Dir, limited.Env, limited.SysProcAttr = cmd.Dir, cmd.Env, cmd.SysProcAttr
	s := startServer(t, limited)
	for i := range directories {
		if status, content := s.do("GET", fmt.Sprintf("d%d/e/f", i), ""); status != http.StatusOK || content != fmt.Sprint(i) {
			t.Fatalf("file in directory %d of %d: got %d %q, want its content", i, directories, status, content)
		}
	}
	s.must(http.StatusCreated, "PUT", "d0/e/new", "new")
	s.stop()
}
