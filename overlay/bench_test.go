package overlay_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"overdav/overlay"
	"overdav/overlay/internal/at"
	"overdav/overlay/overlaytest"
)

// Each benchmark has twins that do the same work on a bare directory, by the
// same calls, and on a kernel mount of the same layers: what counts is the
// ratio within one run.

// benchLayers makes lowers of which the topmost holds build's tree and the
// others, beneath it, hold a file of another name in each of its directories.
func benchLayers(b *testing.B, lowers int, build func(dir string)) overlaytest.Layers {
	b.Helper()
	dir := b.TempDir()
	l := overlaytest.Layers{Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	mustMkdir(b, l.Upper)
	mustMkdir(b, l.Work)
	for i := range lowers {
		lower := filepath.Join(dir, fmt.Sprintf("lower%d", i))
		mustMkdir(b, lower)
		if i == 0 {
			build(lower)
		} else {
			copyDirs(b, l.Lowers[0], lower, fmt.Sprintf("other%d", i))
		}
		l.Lowers = append(l.Lowers, lower)
	}
	return l
}

func mustMkdir(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
}

func mustWrite(tb testing.TB, name string, size int) {
	tb.Helper()
	mustMkdir(tb, filepath.Dir(name))
	if err := os.WriteFile(name, make([]byte, size), 0o644); err != nil {
		tb.Fatal(err)
	}
}

func copyDirs(tb testing.TB, from, to, file string) {
	tb.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			mustWrite(tb, filepath.Join(to, strings.TrimPrefix(path, from), file), 1)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func mustOpen(tb testing.TB, o overlay.Options) *overlay.FS {
	tb.Helper()
	fsys, err := overlay.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := fsys.Close(); err != nil {
			tb.Error(err)
		}
	})
	return fsys
}

func options(l overlaytest.Layers) overlay.Options {
	return overlay.Options{Lowers: l.Lowers, Upper: l.Upper, Work: l.Work, Durability: overlay.DurabilityNone}
}

func deepPath(depth int) string {
	parts := make([]string, depth)
	for i := range parts {
		parts[i] = fmt.Sprintf("dir%02d", i)
	}
	parts[depth-1] = "file"
	return strings.Join(parts, "/")
}

// BenchmarkLookup stats one file at a depth. In "merged" every directory on
// the way is in upper and in each lower.
func BenchmarkLookup(b *testing.B) {
	for _, depth := range []int{1, 20} {
		name := deepPath(depth)
		build := func(dir string) { mustWrite(b, filepath.Join(dir, name), 1) }
		b.Run(fmt.Sprintf("depth=%d/bare", depth), func(b *testing.B) {
			dir := b.TempDir()
			build(dir)
			root, err := at.Open(dir)
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			for b.Loop() {
				if err := bareWalk(root, strings.Split(name, "/")); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, lowers := range []int{1, 8, 32} {
			for _, state := range []string{"lower", "merged"} {
				l := benchLayers(b, lowers, build)
				if state == "merged" && depth > 1 {
					fsys, err := overlay.Open(options(l))
					if err != nil {
						b.Fatal(err)
					}
					if err := fsys.CopyUp(filepath.Dir(name)); err != nil {
						b.Fatal(err)
					}
					if err := fsys.Close(); err != nil {
						b.Fatal(err)
					}
				}
				label := fmt.Sprintf("depth=%d/lowers=%d/%s", depth, lowers, state)
				b.Run(label+"/overlay", func(b *testing.B) {
					fsys := mustOpen(b, options(l))
					for b.Loop() {
						if _, err := fsys.Lstat(name); err != nil {
							b.Fatal(err)
						}
					}
				})
				b.Run(label+"/kernel", func(b *testing.B) {
					dir, _ := overlaytest.KernelMount(b, l)
					path := filepath.Join(dir, name)
					for b.Loop() {
						if _, err := os.Lstat(path); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// bareWalk opens each directory on the way and stats the last name.
func bareWalk(root *at.Dir, names []string) error {
	d := root
	for _, name := range names[:len(names)-1] {
		inner, err := d.OpenDir(name)
		if d != root {
			d.Close()
		}
		if err != nil {
			return err
		}
		d = inner
	}
	var st at.Stat
	err := d.Stat(names[len(names)-1], &st)
	if d != root {
		d.Close()
	}
	return err
}

// BenchmarkList lists and stats a directory merged of two halves.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		l := benchLayers(b, 1, func(dir string) {
			for i := range n / 2 {
				mustWrite(b, filepath.Join(dir, fmt.Sprintf("d/lower-file-%06d", i)), 0)
			}
		})
		for i := range n / 2 {
			mustWrite(b, filepath.Join(l.Upper, fmt.Sprintf("d/upper-file-%06d", i)), 0)
		}
		b.Run(fmt.Sprintf("names=%d/overlay", n), func(b *testing.B) {
			fsys := mustOpen(b, options(l))
			b.ReportAllocs()
			for b.Loop() {
				infos, err := fsys.ReadDir("d")
				if err != nil || len(infos) != n {
					b.Fatalf("%d names, %v", len(infos), err)
				}
			}
		})
		b.Run(fmt.Sprintf("names=%d/kernel", n), func(b *testing.B) {
			dir, _ := overlaytest.KernelMount(b, l)
			root, err := at.Open(filepath.Join(dir, "d"))
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			for b.Loop() {
				if got := listBare(b, root); got != n {
					b.Fatalf("%d names", got)
				}
			}
		})
		b.Run(fmt.Sprintf("names=%d/bare", n), func(b *testing.B) {
			dir := b.TempDir()
			for i := range n {
				mustWrite(b, filepath.Join(dir, fmt.Sprintf("upper-file-%06d", i)), 0)
			}
			root, err := at.Open(dir)
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			for b.Loop() {
				if got := listBare(b, root); got != n {
					b.Fatalf("%d names", got)
				}
			}
		})
	}
}

// listBare reads and stats the names of one directory.
func listBare(b *testing.B, d *at.Dir) (n int) {
	r, err := d.Reader()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for {
		name, _, ok, err := r.Next()
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			return n
		}
		var st at.Stat
		if err := d.Stat(string(name), &st); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkCopyUp copies a file of the lower up by changing its mode; the bare
// twin copies a file beside itself.
func BenchmarkCopyUp(b *testing.B) {
	sizes := map[string]int{"1MiB": 1 << 20, "1GiB": 1 << 30}
	for _, label := range []string{"1MiB", "1GiB"} {
		size := sizes[label]
		if testing.Short() && size > 1<<20 {
			continue
		}
		l := benchLayers(b, 1, func(dir string) { mustWrite(b, filepath.Join(dir, "file"), size) })
		b.Run(label+"/overlay", func(b *testing.B) {
			fsys := mustOpen(b, options(l))
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := fsys.Chmod("file", 0o600); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.Remove(filepath.Join(l.Upper, "file")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(label+"/kernel", func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				b.StopTimer()
				dir, unmount := overlaytest.KernelMount(b, l)
				b.StartTimer()
				if err := os.Chmod(filepath.Join(dir, "file"), 0o600); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				unmount()
				if err := os.Remove(filepath.Join(l.Upper, "file")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(label+"/bare", func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				copyBare(b, filepath.Join(l.Lowers[0], "file"), filepath.Join(l.Work, "copy"))
			}
		})
	}
}

func copyBare(b *testing.B, from, to string) {
	src, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(to)
	defer dst.Close()
	if _, err := dst.ReadFrom(src); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRenameTree renames a directory of the lower with 10,000 files.
func BenchmarkRenameTree(b *testing.B) {
	l := treeLayers(b)
	b.Run("overlay", func(b *testing.B) {
		fsys := mustOpen(b, options(l))
		names := []string{"tree", "tree2"}
		for b.Loop() {
			if err := fsys.Rename(names[0], names[1]); err != nil {
				b.Fatal(err)
			}
			names[0], names[1] = names[1], names[0]
		}
	})
	l = treeLayers(b)
	b.Run("kernel", func(b *testing.B) {
		dir, _ := overlaytest.KernelMount(b, l)
		renameBare(b, dir)
	})
	b.Run("bare", func(b *testing.B) { renameBare(b, l.Lowers[0]) })
}

func renameBare(b *testing.B, dir string) {
	names := []string{filepath.Join(dir, "tree"), filepath.Join(dir, "tree2")}
	for b.Loop() {
		if err := os.Rename(names[0], names[1]); err != nil {
			b.Fatal(err)
		}
		names[0], names[1] = names[1], names[0]
	}
}

func treeLayers(b *testing.B) overlaytest.Layers {
	return benchLayers(b, 1, func(dir string) {
		for i := range 10_000 {
			mustWrite(b, filepath.Join(dir, fmt.Sprintf("tree/d%02d/file%04d", i%100, i)), 0)
		}
	})
}

// BenchmarkRemoveTree deletes a directory of the lower with 10,000 files. The
// kernel's twin removes names one by one, as rm -r must.
func BenchmarkRemoveTree(b *testing.B) {
	l := treeLayers(b)
	b.Run("overlay", func(b *testing.B) {
		fsys := mustOpen(b, options(l))
		for b.Loop() {
			if err := fsys.RemoveAll("tree"); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := os.Remove(filepath.Join(l.Upper, "tree")); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	l = treeLayers(b)
	b.Run("kernel", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			dir, unmount := overlaytest.KernelMount(b, l)
			b.StartTimer()
			if err := os.RemoveAll(filepath.Join(dir, "tree")); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			unmount()
			if err := os.Remove(filepath.Join(l.Upper, "tree")); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkCopyTree copies 10,000 files of 4 KiB in 100 directories.
func BenchmarkCopyTree(b *testing.B) {
	const dirs, files = 100, 100
	l := benchLayers(b, 1, func(dir string) {
		for d := range dirs {
			for f := range files {
				mustWrite(b, filepath.Join(dir, fmt.Sprintf("tree/d%02d/f%02d", d, f)), 4096)
			}
		}
	})
	for _, durability := range []overlay.Durability{overlay.DurabilityNone, overlay.DurabilityFull} {
		b.Run(map[overlay.Durability]string{overlay.DurabilityNone: "none", overlay.DurabilityFull: "full"}[durability], func(b *testing.B) {
			o := options(l)
			o.Durability = durability
			fsys := mustOpen(b, o)
			b.ReportAllocs()
			var spent time.Duration
			for b.Loop() {
				began := processorTime(b)
				if err := fsys.Copy("tree", "copy", overlay.CopyOptions{Overwrite: true}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				spent += processorTime(b) - began
				if err := fsys.RemoveAll("copy"); err != nil {
					b.Fatal(err)
				}
				overlay.Drain(fsys)
				b.StartTimer()
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// processorTime is what the process has used so far: on a machine that others
// use, it says more than the time that passed.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkMetacopy changes what is not content of a file of 64 MiB, and renames
// it, where metacopies are on. Each time it is a file of the lower again.
func BenchmarkMetacopy(b *testing.B) {
	l := benchLayers(b, 1, func(dir string) { mustWrite(b, filepath.Join(dir, "d/film"), 64<<20) })
	when := time.Unix(77, 0)
	for _, op := range []struct {
		name string
		do   func(fsys *overlay.FS) error
	}{
		{"time", func(fsys *overlay.FS) error { return fsys.Chtimes("d/film", when, when) }},
		{"rename", func(fsys *overlay.FS) error { return fsys.Rename("d/film", "film") }},
	} {
		b.Run(op.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				fresh := l
				dir := b.TempDir()
				fresh.Upper, fresh.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
				mustMkdir(b, fresh.Upper)
				mustMkdir(b, fresh.Work)
				o := options(fresh)
				o.Metacopy = true
				fsys, err := overlay.Open(o)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := op.do(fsys); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := fsys.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
