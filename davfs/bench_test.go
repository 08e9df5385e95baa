package davfs

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// benchTree is a lower layer with one directory of n files.
func benchTree(b *testing.B, n int, durability overlay.Durability) (tree *overlay.FS, lower string) {
	base := b.TempDir()
	lower = filepath.Join(base, "lower")
	for _, dir := range []string{lower, filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(lower, "d")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(lower, "d", fmt.Sprintf("file %06d.txt", i)), []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	tree, err := overlay.Open(overlay.Options{
		Lowers: []string{lower}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
		Durability: durability,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tree.Close() }) // nothing was written
	return tree, lower
}

type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

// Each of the listings of a collection of 10,000 files has a twin: x/net's
// Handler over the bare directory.
func BenchmarkPropfind(b *testing.B) {
	tree, lower := benchTree(b, 10_000, overlay.DurabilityNone)
	handler, err := NewHandler(NewFileSystem(tree), Options{})
	if err != nil {
		b.Fatal(err)
	}
	bare := &webdav.Handler{FileSystem: webdav.Dir(lower), LockSystem: webdav.NewMemLS()}
	for _, body := range []struct{ name, xml string }{
		{"none", ""},
		{"allprop", allprop},
		{"davfs2", named("D:resourcetype", "D:getcontentlength", "D:getetag", "D:getlastmodified", "A:executable")},
	} {
		for _, server := range []struct {
			name string
			http.Handler
		}{{"overdav", handler}, {"xnet-dir", bare}} {
			b.Run(body.name+"/"+server.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest("PROPFIND", "/d/", strings.NewReader(body.xml))
					r.Header.Set("Depth", "1")
					server.ServeHTTP(nowhere{make(http.Header)}, r)
				}
			})
		}
	}
}

// A GET and a PUT of a small file, through a connection.
func BenchmarkSmallFile(b *testing.B) {
	tree, lower := benchTree(b, 1, overlay.DurabilityNone)
	handler, err := NewHandler(NewFileSystem(tree), Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, server := range []struct {
		name string
		http.Handler
	}{{"overdav", handler}, {"xnet-dir", &webdav.Handler{FileSystem: webdav.Dir(lower), LockSystem: webdav.NewMemLS()}}} {
		s := httptest.NewServer(server)
		b.Cleanup(s.Close)
		for _, method := range []string{"GET", "PUT"} {
			b.Run(method+"/"+server.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r, err := http.NewRequest(method, s.URL+"/d/file%20000000.txt", strings.NewReader("content"))
					if err != nil {
						b.Fatal(err)
					}
					response, err := http.DefaultClient.Do(r)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
			})
		}
	}
}

// One look at a file, and one at a name that is free, without a connection.
func BenchmarkPropfindOne(b *testing.B) {
	tree, _ := benchTree(b, 1, overlay.DurabilityNone)
	handler, err := NewHandler(NewFileSystem(tree), Options{})
	if err != nil {
		b.Fatal(err)
	}
	body := named("D:resourcetype", "D:getcontentlength", "D:getetag", "D:getlastmodified", "A:executable")
	for _, target := range []string{"/d/file%20000000.txt", "/d/none"} {
		b.Run(target, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("PROPFIND", target, strings.NewReader(body))
				r.Header.Set("Depth", "0")
				handler.ServeHTTP(nowhere{make(http.Header)}, r)
			}
		})
	}
}
