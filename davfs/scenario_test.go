package davfs

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/net/webdav"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// TestScenarios runs the engine's scenarios through HTTP: what a client does by
// way of the server leaves the same tree and the same upper as the engine and
// the kernel do. Both handlers are servers.
func TestScenarios(t *testing.T) {
	overlaytest.NeedRoot(t)
	for name, serve := range map[string]func(*FileSystem) (http.Handler, error){
		"Handler": func(fsys *FileSystem) (http.Handler, error) { return NewHandler(fsys, Options{ByteNames: true}) },
		"bare": func(fsys *FileSystem) (http.Handler, error) {
			return &webdav.Handler{FileSystem: fsys, LockSystem: webdav.NewMemLS()}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "bare" {
				t.Skip("one server is enough for a short run")
			}
			overlaytest.Run{
				Dir:     "../overlay/testdata/script",
				Engines: []overlaytest.Opener{{Name: "http", Open: openHTTP(serve)}},
			}.Scripts(t)
		})
	}
}

func openHTTP(serve func(*FileSystem) (http.Handler, error)) func(overlaytest.Layers, []string) (overlaytest.Engine, error) {
	return func(l overlaytest.Layers, options []string) (overlaytest.Engine, error) {
		var tree *overlay.FS
		tree, err := overlaytest.OpenFS(l, options)
		if err != nil {
			return nil, err
		}
		handler, err := serve(NewFileSystem(tree))
		if err != nil {
			return nil, errors.Join(err, tree.Close())
		}
		s := httptest.NewServer(handler)
		stop := func() error {
			s.CloseClientConnections()
			s.Close()
			return tree.Close()
		}
		return overlaytest.NewHTTP(s.URL, s.Client(), stop), nil
	}
}
