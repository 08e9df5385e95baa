package davfs_test

import (
	"errors"
	"net/http/httptest"
	"testing"

	"overdav/davfs"
	"overdav/overlay/overlaytest"
)

// TestScenarios runs the engine's scenarios over HTTP: what a client does must
// leave in upper what the kernel's own calls leave.
func TestScenarios(t *testing.T) {
	overlaytest.NeedRoot(t)
	overlaytest.Run{
		Dir:     "../overlay/testdata/script",
		Engines: []overlaytest.Opener{{Name: "http", Open: openHTTP}},
	}.Scripts(t)
}

func openHTTP(l overlaytest.Layers, options []string) (overlaytest.Engine, error) {
	fsys, err := overlaytest.OpenFS(l, options)
	if err != nil {
		return nil, err
	}
	handler, err := davfs.NewHandler(davfs.NewFileSystem(fsys), davfs.Options{ByteNames: true})
	if err != nil {
		return nil, errors.Join(err, fsys.Close())
	}
	server := httptest.NewServer(handler)
	return overlaytest.NewHTTP(server.URL, server.Client(), func() error {
		server.Close()
		return fsys.Close()
	}), nil
}
