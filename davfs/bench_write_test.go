package davfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"overdav/overlay"
)

const benchLockInfo = `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>` +
	`<D:locktype><D:write/></D:locktype><D:owner>bench</D:owner></D:lockinfo>`

// A writeBench is one kind of change, as a client asks for it and as a program
// without WebDAV would make it on a bare directory.
type writeBench struct {
	name string
	ask  func(c *benchClient, i int)
	bare func(b *testing.B, dir string, i int)
}

var writeBenches = []writeBench{
	{"PUT/new", func(c *benchClient, i int) { c.put(fmt.Sprintf("/d/new%d", i)) }, func(b *testing.B, dir string, i int) {
		bareReplace(b, filepath.Join(dir, fmt.Sprintf("new%d", i)))
	}},
	{"PUT/over", func(c *benchClient, _ int) { c.put("/d/over") }, func(b *testing.B, dir string, _ int) {
		bareReplace(b, filepath.Join(dir, "over"))
	}},
	{"MKCOL+DELETE", func(c *benchClient, _ int) {
		c.do("MKCOL", "/d/made", nil)
		c.do("DELETE", "/d/made", nil)
	}, func(b *testing.B, dir string, _ int) {
		must(b, os.Mkdir(filepath.Join(dir, "made"), 0o755))
		must(b, os.Remove(filepath.Join(dir, "made")))
	}},
	{"PUT+DELETE", func(c *benchClient, _ int) {
		c.put("/d/short")
		c.do("DELETE", "/d/short", nil)
	}, func(b *testing.B, dir string, _ int) {
		bareReplace(b, filepath.Join(dir, "short"))
		must(b, os.Remove(filepath.Join(dir, "short")))
	}},
	{"MOVE", func(c *benchClient, i int) {
		names := []string{"/d/there", "/d/back"}
		if i == 0 {
			c.put(names[0])
		}
		c.do("MOVE", names[i%2], nil, "Destination", names[1-i%2])
	}, func(b *testing.B, dir string, i int) {
		names := []string{filepath.Join(dir, "there"), filepath.Join(dir, "back")}
		if i == 0 {
			bareReplace(b, names[0])
		}
		must(b, os.Rename(names[i%2], names[1-i%2]))
	}},
	{"LOCK+PUT+UNLOCK", func(c *benchClient, _ int) {
		token := c.do("LOCK", "/d/locked", strings.NewReader(benchLockInfo)).Get("Lock-Token")
		c.put("/d/locked", "If", "("+token+")")
		c.do("UNLOCK", "/d/locked", nil, "Lock-Token", token)
	}, nil},
}

// BenchmarkWrite makes each kind of change through the Handler, without a
// connection, and bare.
func BenchmarkWrite(b *testing.B) {
	for _, bench := range writeBenches {
		b.Run(bench.name+"/overdav", func(b *testing.B) {
			c := newBenchClient(b, overlay.DurabilityNone)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				bench.ask(c, i)
			}
		})
		if bench.bare == nil {
			continue
		}
		b.Run(bench.name+"/bare", func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				bench.bare(b, dir, i)
			}
		})
	}
}

var benchContent = bytes.Repeat([]byte("y"), 4096)

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// bareReplace writes a file as a careful program does that syncs nothing.
func bareReplace(b *testing.B, name string) {
	b.Helper()
	must(b, os.WriteFile(name+".new", benchContent, 0o644))
	must(b, os.Rename(name+".new", name))
}

type benchClient struct {
	b       *testing.B
	handler http.Handler
}

func newBenchClient(b *testing.B, durability overlay.Durability) *benchClient {
	tree, _ := benchTree(b, 1, durability)
	locks, err := OpenLocks(filepath.Join(b.TempDir(), "locks"), LockOptions{NoSync: true})
	must(b, err)
	b.Cleanup(func() { _ = locks.Close() }) // nobody reads them again
	handler, err := NewHandler(NewFileSystem(tree), Options{Locks: locks})
	must(b, err)
	return &benchClient{b, handler}
}

func (c *benchClient) put(path string, header ...string) {
	c.do("PUT", path, bytes.NewReader(benchContent), header...)
}

// answerHead takes the head of an answer.
type answerHead struct {
	header http.Header
	status int
}

func (w *answerHead) Header() http.Header         { return w.header }
func (w *answerHead) Write(p []byte) (int, error) { return len(p), nil }
func (w *answerHead) WriteHeader(status int)      { w.status = status }

func (c *benchClient) do(method, path string, body io.Reader, header ...string) http.Header {
	c.b.Helper()
	r := httptest.NewRequest(method, path, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := answerHead{header: make(http.Header)}
	c.handler.ServeHTTP(&w, r)
	if w.status >= 300 {
		c.b.Errorf("%s %s: %d", method, path, w.status) // from any goroutine
	}
	return w.header
}

// BenchmarkDurablePut has one and many at once upload small files, each of which
// lasts when it is answered, and does bare what a program does for that.
func BenchmarkDurablePut(b *testing.B) {
	for _, hands := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("%d/overdav", hands), func(b *testing.B) {
			c := newBenchClient(b, overlay.DurabilityFull)
			c.put("/d/first") // the collection is in upper from here on
			handsOn(b, hands, func(i int64) error {
				c.put(fmt.Sprintf("/d/new%d", i))
				return nil
			})
		})
		b.Run(fmt.Sprintf("%d/bare", hands), func(b *testing.B) {
			dir := b.TempDir()
			handsOn(b, hands, func(i int64) error { return bareDurable(dir, fmt.Sprintf("new%d", i)) })
		})
	}
}

// handsOn has a number of goroutines share the iterations of b.
func handsOn(b *testing.B, hands int, do func(i int64) error) {
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for range hands {
		group.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

// bareDurable writes a file as a program does that loses nothing it has told of.
func bareDurable(dir, name string) error {
	path := filepath.Join(dir, name)
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(benchContent)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
