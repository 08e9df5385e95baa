package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// changeALot uses every method that changes something, on names of the lower
// and on new ones.
func changeALot(s *server) {
	s.t.Helper()
	s.must(http.StatusCreated, "PUT", "new", "made")
	s.must(http.StatusNoContent, "PUT", "a", "one, changed")
	s.must(http.StatusCreated, "MKCOL", "dir", "")
	s.must(http.StatusCreated, "PUT", "dir/sp ace %41+#&é", "odd")
	s.must(http.StatusCreated, "MOVE", "docs", "", "Destination", s.url("papers"))
	s.must(http.StatusCreated, "PUT", "papers/deep/new", "in a renamed directory")
	s.must(http.StatusNoContent, "DELETE", "old", "")
	s.must(http.StatusCreated, "MKCOL", "old", "")
	s.must(http.StatusCreated, "PUT", "old/z", "3")
	s.must(http.StatusCreated, "COPY", "papers", "", "Destination", s.url("dir/copy"))
	s.must(http.StatusNoContent, "MOVE", "new", "", "Destination", s.url("papers/b"), "Overwrite", "T")
}

const demoTree = `"a" = "one"
"docs"/
"docs/b" = "two"
"docs/deep"/
"docs/deep/c" = "three"
"old"/
"old/x" = "1"
"old/y" = "2"
"sp ace %41+#&é" = "odd"
`

const changedALot = `"a" = "one, changed"
"dir"/
"dir/copy"/
"dir/copy/b" = "two"
"dir/copy/deep"/
"dir/copy/deep/c" = "three"
"dir/copy/deep/new" = "in a renamed directory"
"dir/sp ace %41+#&é" = "odd"
"old"/
"old/z" = "3"
"papers"/
"papers/b" = "made"
"papers/deep"/
"papers/deep/c" = "three"
"papers/deep/new" = "in a renamed directory"
"sp ace %41+#&é" = "odd"
`

func TestRequestsChangeTheMergedTreeAndNoLower(t *testing.T) {
	_, args := newShare(t)
	s := serve(t, args...)
	sameTree(t, "before", s.tree(), demoTree)
	changeALot(s)
	sameTree(t, "after", s.tree(), changedALot)
	s.stop()
	s = serve(t, args...)
	sameTree(t, "after a restart", s.tree(), changedALot)
	s.stop()
}

// The promise of the disk format, both ways: what was written through overdav
// the kernel shows, and what was written through the kernel overdav shows.
func TestUpperGoesToTheKernelAndBack(t *testing.T) {
	overlaytest.NeedRoot(t)
	l, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	s.stop()

	mnt, unmount := overlaytest.KernelMount(t, l)
	sameTree(t, "the kernel's view", diskTree(t, mnt), changedALot)
	rename := func(from, to string) {
		if err := os.Rename(filepath.Join(mnt, from), filepath.Join(mnt, to)); err != nil {
			t.Fatal(err)
		}
	}
	rename("papers", "dir/papers")
	rename("dir/papers/deep/c", "c")
	rename("dir/copy", "docs")
	for _, name := range []string{"old", "a"} {
		if err := os.RemoveAll(filepath.Join(mnt, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mnt, "dir/papers/b"), []byte("by the kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := diskTree(t, mnt)
	unmount()

	s = serve(t, args...)
	sameTree(t, "overdav's view of the kernel's work", s.tree(), want)
	s.must(http.StatusNoContent, "DELETE", "dir", "")
	s.must(http.StatusCreated, "MOVE", "docs", "", "Destination", s.url("dir"))
	s.must(http.StatusCreated, "PUT", "a", "again")
	want = s.tree()
	s.stop()
	mnt, _ = overlaytest.KernelMount(t, l)
	sameTree(t, "the kernel's view at the end", diskTree(t, mnt), want)
}

func TestGuardKeepsTheKernelOutWhileServing(t *testing.T) {
	overlaytest.NeedRoot(t)
	mount := func(l overlaytest.Layers) error {
		mnt := t.TempDir()
		err := syscall.Mount("overlay", mnt, "overlay", 0, "lowerdir="+l.Lowers[0]+",upperdir="+l.Upper+",workdir="+l.Work)
		if err == nil {
			if err := syscall.Unmount(mnt, 0); err != nil {
				t.Fatal(err)
			}
		}
		return err
	}
	l, args := newShare(t)
	s := serve(t, args...)
	if err := mount(l); err == nil {
		t.Error("the kernel mounted an upper that is being served")
	}
	s.must(http.StatusCreated, "PUT", "still", "works")
	s.stop()
	if err := mount(l); err != nil {
		t.Errorf("after a clean stop: %v", err)
	}

	l, args = newShare(t)
	s = serve(t, append(args, "--no-guard")...)
	if err := mount(l); err != nil {
		t.Errorf("with --no-guard: %v", err)
	}
	s.stop()
}

func TestReadOnlyChangesNothing(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	s.stop()
	overlaytest.LowersUnchanged(t, l.Upper)
	s = serve(t, append(args, "--read-only")...)
	sameTree(t, "read-only", s.tree(), changedALot)
	for _, r := range []struct{ method, name string }{
		{"PUT", "a"}, {"PUT", "fresh"}, {"DELETE", "a"}, {"MKCOL", "fresh"}, {"MOVE", "a"}, {"COPY", "a"},
	} {
		status, _ := s.do(r.method, r.name, "", "Destination", s.url("elsewhere"))
		if status != http.StatusForbidden && status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: status %d, want a refusal", r.method, r.name, status)
		}
	}
	sameTree(t, "after refusals", s.tree(), changedALot)
	s.stop()
}

func TestSeveralLowersTopmostFirst(t *testing.T) {
	l := overlaytest.NewLayers(t, openDir(t), "a = top\n", "a = bottom\nb = bottom\n")
	s := serve(t, flagsOf(l)...)
	sameTree(t, "two lowers", s.tree(), "\"a\" = \"top\"\n\"b\" = \"bottom\"\n")
	s.stop()
}

// Behind a socket stands a proxy, which says by what name clients came.
func TestUnixSocket(t *testing.T) {
	_, args := newShare(t)
	socket := filepath.Join(openDir(t), "s")
	s := serve(t, append(args, "--listen", "unix:"+socket)...)
	client := unixClient(t, socket)
	resp, err := client.Get("http://files.example.org/a")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "one" {
		t.Errorf("GET a: %s: %q, %v", resp.Status, body, err)
	}
	s.stop()
	if exists(socket) {
		t.Error("the socket is still there after a clean stop")
	}
	s = serve(t, append(args, "--listen", "unix:"+socket)...)
	s.kill()
	serve(t, append(args, "--listen", "unix:"+socket)...).stop() // takes over what the dead one left
}

func TestCheckFindsNothingInOurOwnUpperAndSomethingInADamagedOne(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	s.stop()
	check := command(t.TempDir(), append([]string{"check"}, args...)...)
	if out := run(t, check); !strings.Contains(out, "no problems") {
		t.Errorf("check says %q", out)
	}

	overlaytest.NeedRoot(t)
	// overlayfs.rst, "redirect_dir": a value is a name or an absolute path.
	if err := syscall.Setxattr(filepath.Join(l.Upper, "papers"), "trusted.overlay.redirect", []byte("x/../y"), 0); err != nil {
		t.Fatal(err)
	}
	check = command(t.TempDir(), append([]string{"check"}, args...)...)
	out, err := runFor(giveUp, check)
	if err == nil || check.ProcessState.ExitCode() != 1 || !strings.Contains(out, filepath.Join(l.Upper, "papers")) {
		t.Errorf("check of a corrupt redirect: %v\n%s", err, out)
	}
}

func TestVersion(t *testing.T) {
	if out := run(t, command(t.TempDir(), "version")); !strings.HasPrefix(out, "overdav ") {
		t.Errorf("version says %q", out)
	}
}

// Explorer and Office ask the server as a whole what it speaks.
func TestOptionsOfTheServer(t *testing.T) {
	_, args := newShare(t)
	s := serve(t, args...)
	u, err := url.Parse(s.url(""))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "OPTIONS * HTTP/1.1\r\nHost: %s\r\n\r\n", u.Host); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("DAV"); resp.StatusCode != 200 || !strings.HasPrefix(got, "1, 2, 3") {
		t.Errorf("OPTIONS *: status %d, DAV %q, want 200 and classes 1, 2, 3", resp.StatusCode, got)
	}
	s.stop()
}
