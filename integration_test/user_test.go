package integration_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// asUser makes cmd run as an ordinary user, and gives that user its files.
func asUser(t *testing.T, cmd *exec.Cmd, files ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		return cmd // we are one
	}
	for _, file := range files {
		if err := os.Lchown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	return cmd
}

// giveAway makes a tree the ordinary user's, who can then read it without
// leaving a trace in the access times.
func giveAway(t *testing.T, tree string) {
	t.Helper()
	err := filepath.WalkDir(tree, func(name string, _ os.DirEntry, err error) error {
		if err == nil && os.Geteuid() == 0 {
			err = os.Lchown(name, nobody, nobody)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// saidAfter returns what stands behind word in what the server said.
func (s *server) saidAfter(word string) string {
	s.t.Helper()
	for line := range strings.Lines(s.said) {
		if rest, ok := strings.CutPrefix(line, word+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	s.t.Fatalf("the server did not say %s: %s", word, s.said)
	return ""
}

// The first thing anybody does: overdav serve DIR, and nothing else.
func TestServeDirAlone(t *testing.T) {
	for _, who := range []string{"as an ordinary user", "as root"} {
		t.Run(who, func(t *testing.T) {
			dir, home := openDir(t), openDir(t)
			overlaytest.Build(t, dir, demo)
			if who == "as root" {
				overlaytest.NeedRoot(t)
			} else {
				giveAway(t, dir)
			}
			overlaytest.LowersUnchanged(t, dir)
			newCommand := func() *exec.Cmd {
				cmd := command(home, "serve", "--listen", "127.0.0.1:0", dir)
				if who == "as root" {
					return cmd
				}
				return asUser(t, cmd, home)
			}
			s := startServer(t, newCommand())
			upper := s.saidAfter("changes")
			if !strings.HasPrefix(upper, filepath.Join(home, "state", "overdav")+"/"+filepath.Base(dir)) {
				t.Errorf("changes go to %s, want a directory named after %s below the state directory", upper, dir)
			}
			if got := s.saidAfter("lower"); got != dir {
				t.Errorf("lower is %s, want %s", got, dir)
			}
			changeALot(s)
			sameTree(t, "what is served", s.tree(), changedALot)
			s.stop()
			s = startServer(t, newCommand())
			sameTree(t, "after a restart", s.tree(), changedALot)
			s.stop()
		})
	}
}

// An ordinary user's upper is one that a mount with userxattr shows, which the
// user can make in a namespace of his own.
func TestUserxattrMountShowsAnOrdinaryUsersUpper(t *testing.T) {
	needProgram(t, "unshare", "mount")
	dir := openDir(t)
	lower, upper, work := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	overlaytest.Build(t, lower, demo)
	for _, d := range []string{upper, work, filepath.Join(dir, "mnt"), filepath.Join(dir, "copy")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		asUser(t, new(exec.Cmd), d)
	}
	giveAway(t, lower)
	overlaytest.LowersUnchanged(t, lower)

	args := []string{"serve", "--listen", "127.0.0.1:0", lower, "--upper", upper, "--work", work}
	s := startServer(t, asUser(t, command(dir, args...)))
	changeALot(s)
	s.stop()

	script := `mount -t overlay overlay -o "lowerdir=lower,upperdir=upper,workdir=work,userxattr" mnt &&
cp -a mnt/. copy && rm -r mnt/dir && mv mnt/a mnt/papers/a && echo kernel > mnt/c && umount mnt`
	mount := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
	mount.Dir = dir
	out, err := runFor(clientGiveUp, asUser(t, mount))
	overlaytest.Need(t, err == nil, "a user namespace in which overlay can be mounted: %v: %s", err, out)
	sameTree(t, "the kernel's view", diskTree(t, filepath.Join(dir, "copy")), changedALot)

	s = startServer(t, asUser(t, command(dir, args...)))
	for name, want := range map[string]string{"papers/a": "one, changed", "c": "kernel\n", "old/z": "3"} {
		if _, got := s.do("GET", name, ""); got != want {
			t.Errorf("after the kernel's changes %s is %q, want %q", name, got, want)
		}
	}
	s.must(http.StatusNotFound, "GET", "dir", "")
	s.must(http.StatusNotFound, "GET", "a", "")
	s.stop()
}

// Root may look at an ordinary user's upper with a mount, and the user serves on.
func TestRootLooksAtAnOrdinaryUsersUpper(t *testing.T) {
	overlaytest.NeedRoot(t)
	dir := openDir(t)
	l := overlaytest.Layers{Lowers: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	overlaytest.Build(t, l.Lowers[0], demo)
	for _, d := range []string{l.Upper, l.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		asUser(t, new(exec.Cmd), d)
	}
	giveAway(t, l.Lowers[0])
	newCommand := func() *exec.Cmd {
		return asUser(t, command(dir, "serve", "--listen", "127.0.0.1:0", l.Lowers[0], "--upper", l.Upper, "--work", l.Work))
	}
	s := startServer(t, newCommand())
	changeALot(s)
	s.stop()
	kernel, err := overlaytest.Kernel.Open(l, []string{"userxattr"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = kernel.Tree()
	if err := errors.Join(err, kernel.Close()); err != nil {
		t.Fatal(err)
	}
	s = startServer(t, newCommand())
	sameTree(t, "after root's mount", s.tree(), changedALot)
	s.stop()
}

// A lower that belongs to somebody else can be served and changed as well, as
// far as it can be read.
func TestOrdinaryUserCannotReadWhatHeMayNot(t *testing.T) {
	overlaytest.NeedRoot(t) // to have a file that belongs to another
	dir, home := openDir(t), openDir(t)
	overlaytest.Build(t, dir, "open = read me\nsecret 0600 = not me\n")
	s := startServer(t, asUser(t, command(home, "serve", "--listen", "127.0.0.1:0", dir), home))
	s.must(http.StatusOK, "GET", "open", "")
	s.must(http.StatusForbidden, "GET", "secret", "")
	s.must(http.StatusNoContent, "PUT", "open", "written")
	if _, got := s.do("GET", "open", ""); got != "written" {
		t.Errorf("open is %q", got)
	}
	s.stop()
}
