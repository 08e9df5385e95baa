package integration_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// A davMount is a mount by davfs2 of what a server shows.
type davMount struct {
	t   *testing.T
	dir string // holds mnt, and what the test puts beside it
}

// needDavfs2 skips or fails a test that cannot mount with davfs2.
func needDavfs2(t *testing.T) {
	t.Helper()
	needProgram(t, "mount.davfs")
	overlaytest.NeedRoot(t)
	overlaytest.Need(t, exists("/dev/fuse"), "/dev/fuse")
}

// mountDavfs2 mounts what base shows until unmount is called or the test ends.
func mountDavfs2(t *testing.T, base string) *davMount {
	t.Helper()
	m := &davMount{t, openDir(t)}
	// buf_size: Linux since 6.16 reads directories in pieces that older davfs2
	// refuse.
	conf := "ask_auth 0\nbuf_size 64\ndelay_upload 0\ncache_dir " + m.dir + "/cache\n"
	if err := os.WriteFile(filepath.Join(m.dir, "davfs2.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"mnt", "cache"} {
		if err := os.Mkdir(filepath.Join(m.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// It keeps its cache as a user of its own.
	if err := os.Chmod(filepath.Join(m.dir, "cache"), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = script(m.dir, "umount -l mnt 2>/dev/null").Run() }) // when the test fails midway
	m.run(`mount.davfs -o conf="$PWD/davfs2.conf" "$URL/" mnt </dev/null`, "URL="+base)
	return m
}

func (m *davMount) run(text string, env ...string) string {
	m.t.Helper()
	return run(m.t, script(m.dir, text, env...))
}

// unmount waits for uploads. What the server refuses is lost then, and missing in
// the tree that the test compares: the programs were told long ago that all is
// well.
func (m *davMount) unmount() {
	m.t.Helper()
	m.run("umount mnt")
}

// What programs do to files, through a file system that locks, caches and
// uploads behind their back.
func TestDavfs2(t *testing.T) {
	needDavfs2(t)
	t.Parallel() // it waits more than it works
	s, l := shareFor(t)
	m := mountDavfs2(t, s.base)
	m.run(`
		cd mnt
		test "$(cat docs/deep/c)" = three
		test "$(cat "sp ace %41+#&é")" = odd
		echo new > new
		echo more >> a
		mkdir made
		mv new made/renamed
		mv docs made/docs
		rm -r old
	`)
	m.unmount()
	s.finish(l, `"a" = "onemore\n"
"made"/
"made/docs"/
"made/docs/b" = "two"
"made/docs/deep"/
"made/docs/deep/c" = "three"
"made/renamed" = "new\n"
"sp ace %41+#&é" = "odd"
`)
}

// A file that a program has open is locked, and can be renamed, replaced,
// deleted and made again by that program all the same.
func TestDavfs2ChangesNamesOfOpenFiles(t *testing.T) {
	needDavfs2(t)
	t.Parallel() // it waits more than it works
	s, l := shareFor(t)
	m := mountDavfs2(t, s.base)
	m.run(`
		cd mnt
		exec 3> open
		echo one >&3
		mv open renamed
		echo two >&3
		exec 3>&-

		exec 3>> docs/b # a lower's
		mv docs/b a # onto another
		echo " and more" >&3
		exec 3>&-

		echo 1 > again; rm again; echo 2 > again; rm again; echo 3 > again
		sed -i s/three/four/ docs/deep/c # a temporary file, renamed over the old
		exec 3> gone
		echo nothing >&3
		rm gone
		exec 3>&-
	`)
	m.unmount()
	s.finish(l, `"a" = "two and more\n"
"again" = "3\n"
"docs"/
"docs/deep"/
"docs/deep/c" = "four"
"old"/
"old/x" = "1"
"old/y" = "2"
"renamed" = "one\ntwo\n"
"sp ace %41+#&é" = "odd"
`)
}

// git writes under lock files that it renames, and maps what it reads.
func TestDavfs2Git(t *testing.T) {
	needDavfs2(t)
	t.Parallel() // it waits more than it works
	needProgram(t, "git")
	s, l := shareFor(t)
	m := mountDavfs2(t, s.base)
	git := []string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}
	origin := m.run(`
		git init -q -b main origin
		cd origin
		mkdir -p src/deep
		for i in $(seq 30); do seq $i 100 > src/$i; done
		printf '#!/bin/sh\necho it runs\n' > src/deep/tool
		chmod +x src/deep/tool
		git add .
		git commit -qm first
		pwd
	`, git...)
	git = append(git, "ORIGIN="+strings.TrimSpace(origin))
	out := m.run(`
		git clone -q --no-hardlinks origin mnt/clone
		cd mnt/clone
		git status --porcelain
		echo changed > src/1
		git rm -q src/2
		git mv src/3 src/three
		git commit -qam second
		git gc -q
		git status --porcelain
	`, git...)
	if out != "" {
		t.Errorf("git says\n%s", out)
	}
	m.unmount()

	// Without what davfs2 remembers. The mode with which a file is made it never
	// sends, only a later chmod.
	m = mountDavfs2(t, s.base)
	out = m.run(`
		cd mnt/clone
		git config core.fileMode false
		git fsck --strict
		git status --porcelain
		git log --format=%s
		git checkout -q HEAD~
		test "$(wc -l < src/1)" = 100
		diff -r --exclude=.git . "$ORIGIN"
	`, git...)
	if out != "second\nfirst\n" {
		t.Errorf("git says\n%s", out)
	}
	m.unmount()
	s.finish(l, s.tree())
}

// A thousand small files at once, then looked at, marked and deleted.
func TestDavfs2Unzip(t *testing.T) {
	needDavfs2(t)
	t.Parallel() // it waits more than it works
	needProgram(t, "zip", "unzip")
	s, l := shareFor(t)
	m := mountDavfs2(t, s.base)
	tree := filepath.Join(m.dir, "tree")
	m.run(`
		mkdir -p tree/many
		for d in 1 2 3 4 5 6 7 8 9 10; do
			mkdir tree/many/$d
			for i in $(seq 100); do echo "$d $i" > "tree/many/$d/file $i.txt"; done
		done
		cd tree
		zip -qr ../many.zip many
		cd ../mnt
		unzip -q ../many.zip
		diff -r many ../tree/many
		chmod +x many/1/*1.txt
		rm -rf many/2 old
		test "$(find many -type f | wc -l)" = 900
		rm -rf ../tree/many/2
		cp -r docs a sp* ../tree/
	`)
	m.unmount()
	m = mountDavfs2(t, s.base)
	m.run(`
		cd mnt/many
		test "$(find . -type f -perm -100 | wc -l)" = 10 # 1, 11, ... 91
		test "$(cat 10/file\ 100.txt)" = "10 100"
	`)
	m.unmount()
	s.finish(l, diskTree(t, tree))
}

// Locks outlive the server, so that what is open while it is restarted, or
// dies, can be saved.
func TestDavfs2KeepsItsLockOverARestart(t *testing.T) {
	// Not beside other tests, which might take the port while nobody listens.
	needDavfs2(t)
	for name, end := range map[string]func(*server){"stopped": (*server).stop, "killed": (*server).kill} {
		t.Run(name, func(t *testing.T) {
			l, args := newShare(t)
			s := serve(t, args...)
			m := mountDavfs2(t, s.base)
			var open []*os.File
			for _, file := range []string{"new", "a"} {
				f, err := os.OpenFile(filepath.Join(m.dir, "mnt", file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close() // when the test fails midway
				if _, err := f.WriteString(" before"); err != nil {
					t.Fatal(err)
				}
				open = append(open, f)
			}
			end(s)
			s = serve(t, append(args, "--listen", strings.TrimPrefix(s.base, "http://"))...)
			s.must(http.StatusLocked, "PUT", "new", "somebody else's")
			s.must(http.StatusLocked, "DELETE", "a", "")
			for _, f := range open {
				_, err := f.WriteString(" after")
				if err := errors.Join(err, f.Close()); err != nil {
					t.Error(err)
				}
			}
			m.unmount()
			s.must(http.StatusNoContent, "DELETE", "old", "")
			s.finish(l, `"a" = "one before after"
"docs"/
"docs/b" = "two"
"docs/deep"/
"docs/deep/c" = "three"
"new" = " before after"
"sp ace %41+#&é" = "odd"
`)
		})
	}
}

// df of a mount is df of the disk that upper is on.
func TestDavfs2Df(t *testing.T) {
	needDavfs2(t)
	t.Parallel() // it waits more than it works
	l, _ := newDisk(t, "size=64m")
	s := serve(t, flagsOf(l)...)
	s.must(http.StatusCreated, "PUT", "ten", strings.Repeat("x", 10<<20))
	m := mountDavfs2(t, s.base)
	var got [3]uint64
	if _, err := fmt.Sscan(m.run("df -B1 --output=size,used,avail mnt | tail -n 1"), &got[0], &got[1], &got[2]); err != nil {
		t.Fatal(err)
	}
	var want syscall.Statfs_t
	if err := syscall.Statfs(l.Upper, &want); err != nil {
		t.Fatal(err)
	}
	const unit = 64 << 10 // davfs2 rounds, and the lock table grew meanwhile
	for i, w := range []uint64{want.Blocks, want.Blocks - want.Bfree, want.Bavail} {
		if w *= uint64(want.Bsize); got[i] > w+unit || w > got[i]+unit {
			t.Errorf("df tells %d of [size used avail] is %d, want %d", i, got[i], w)
		}
	}
	m.unmount()
	s.finish(l, s.tree())
}
