package integration_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// An imageConfig is what an image says of how it is run.
type imageConfig struct {
	User, StopSignal     string
	Env, Entrypoint, Cmd []string
}

// The image is built by the Makefile and run by an engine, as far as there is one
// that needs no daemon: under its user, with its environment and its command, a
// root directory that has nothing else, and with what operations.md says to mount.
func TestImageServes(t *testing.T) {
	overlaytest.NeedRoot(t)
	needProgram(t, "buildah", "make")
	dir := openDir(t)
	overlaytest.Build(t, dir, "conf/\nfilms/\nfilms/a = one\n")
	overlaytest.LowersUnchanged(t, dir+"/films")
	const user = 65532
	writeFile(t, dir+"/conf/config.yaml", "listen: 127.0.0.1:0\nshares: [{ lower: [/srv/films] }]\n")
	if err := os.Chmod(dir+"/conf/config.yaml", 0o644); err != nil {
		t.Fatal(err)
	}
	// vfs: other drivers mount what a container may not.
	engine := []string{"buildah", "--root", dir + "/storage", "--runroot", dir + "/run", "--storage-driver", "vfs"}
	buildah := func(args ...string) *exec.Cmd { return exec.Command(engine[0], slices.Concat(engine[1:], args)...) }
	run(t, exec.Command("make", "-C", "..", "image", "IMAGE="+dir+"/image", "ENGINE="+strings.Join(engine, " ")))

	var image struct {
		OCIv1 struct{ Config imageConfig }
	}
	if err := json.Unmarshal([]byte(run(t, buildah("inspect", "--type", "image", "overdav"))), &image); err != nil {
		t.Fatal(err)
	}
	config := image.OCIv1.Config
	if config.StopSignal != "SIGTERM" || !strings.HasPrefix(config.User, strconv.Itoa(user)) {
		t.Errorf("the image says %+v", config)
	}
	container := strings.TrimSpace(run(t, buildah("from", "--pull-never", "overdav")))
	// Changes stay in the container: a volume for them begins as what is there.
	args := []string{"run", "--isolation", "chroot", "-v", dir + "/conf:/etc/overdav:ro", "-v", dir + "/films:/srv/films:ro", container, "--"}
	s := startServer(t, buildah(slices.Concat(args, config.Entrypoint, config.Cmd)...)) // "run" leaves these two to its caller
	pid := descendant(t, s.cmd.Process.Pid, config.Entrypoint[0])
	info, err := os.Stat("/proc/" + strconv.Itoa(pid))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != user {
		t.Errorf("the program runs as user %d, %v", info.Sys().(*syscall.Stat_t).Uid, err)
	}
	if certs, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/root/etc/ssl/certs/*"); err != nil || len(certs) == 0 {
		t.Errorf("the image knows no authorities: %v", err)
	}
	s.must(http.StatusOK, "GET", "a", "")
	s.must(http.StatusCreated, "PUT", "new", "made")
	s.must(http.StatusNoContent, "DELETE", "a", "")
	if made, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/root/var/lib/overdav/films-*/upper/new"); err != nil || len(made) != 1 {
		t.Errorf("the container has %q, %v", made, err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil { // as the engine's stop, which buildah does not have
		t.Fatal(err)
	}
	if state := s.wait(); !state.Success() {
		t.Errorf("stopped: %v", state)
	}
}

// descendant returns the process below pid that runs the program of that name.
func descendant(t *testing.T, pid int, name string) int {
	t.Helper()
	below := []int{pid}
	for len(below) > 0 {
		pid, below = below[0], below[1:]
		args, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.HasPrefix(string(args), name+"\x00") {
			return pid
		}
		tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			children, err := os.ReadFile(task)
			if err != nil {
				continue // the thread has ended
			}
			for _, child := range strings.Fields(string(children)) {
				if n, err := strconv.Atoi(child); err == nil {
					below = append(below, n)
				}
			}
		}
	}
	t.Fatalf("nobody runs %s", name)
	return 0
}
