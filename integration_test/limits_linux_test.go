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
	l, _ := newDisk(t, "size=8m")
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

// A disk that is nearly full takes no more uploads, but what is on it can be
// deleted: for that a whiteout is written.
func TestFullDiskCanBeClearedUp(t *testing.T) {
	overlaytest.NeedRoot(t)
	l, small := newDisk(t, "size=20m,nr_inodes=4000")
	s := serve(t, flagsOf(l)...)
	body := strings.Repeat("x", 256<<10)
	s.must(http.StatusCreated, "PUT", "first", body)
	fill(t, filepath.Join(small, "filler"), 300<<10) // a hundredth is 205 KiB
	s.must(http.StatusCreated, "PUT", "small", strings.Repeat("x", 4<<10))
	s.must(http.StatusInsufficientStorage, "PUT", "second", body)
	s.must(http.StatusInsufficientStorage, "PUT", "first", body)
	fill(t, filepath.Join(small, "filler"), 100<<10)
	for method, headers := range map[string][]string{"PUT": nil, "MKCOL": nil, "COPY": {"Destination", s.base + "/copy"}} {
		name := map[string]string{"COPY": "small"}[method]
		if name == "" {
			name = "tiny"
		}
		s.must(http.StatusInsufficientStorage, method, name, "", headers...)
	}
	s.must(http.StatusNoContent, "DELETE", "a", "")                                              // of the lower
	s.must(http.StatusInsufficientStorage, "MOVE", "docs/b", "", "Destination", s.base+"/small") // it would be copied up
	s.must(http.StatusCreated, "MOVE", "small", "", "Destination", s.base+"/moved")
	s.must(http.StatusNoContent, "DELETE", "first", "")
	s.must(http.StatusNoContent, "PUT", "moved", "there is room again")
	s.stop()
}

// fill makes name so large that its file system has room for that many bytes.
func fill(t *testing.T, name string, room uint64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(name), &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := fs.Bavail*uint64(fs.Bsize) - room
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, info.Size()+int64(size)); err != nil {
		t.Fatal(err)
	}
}
