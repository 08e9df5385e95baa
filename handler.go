package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/rs/zerolog"

	"overdav/davfs"
	"overdav/overlay"
	"overdav/web"
)

// newHandler is what answers requests.
func newHandler(fsys *overlay.FS, share ShareConfig, locks *davfs.Locks, log zerolog.Logger) (http.Handler, error) {
	return davfs.NewHandler(davfs.NewFileSystem(fsys), davfs.Options{
		Locks:    locks,
		ReadOnly: share.ReadOnly,
		Listing:  web.Listing(fsys, web.Options{}),
		Log: func(r *http.Request, status int, err error) {
			e := log.Debug() // the client's fault: the access line has the status
			if status >= http.StatusInternalServerError {
				e = log.Error()
			}
			e.Err(err).Str(keyMethod, r.Method).Str(keyPath, r.URL.Path).Int(keyStatus, status).Msg("refused")
		},
	})
}

// openLocks returns the clients' locks, which outlive the server: they are kept
// beside the staging area, where the kernel leaves them alone. Where nothing
// can be written there is nothing to lock, and they are kept in memory.
func openLocks(share ShareConfig) (*davfs.Locks, error) {
	if share.Upper == "" || share.ReadOnly {
		return davfs.NewLocks(davfs.LockOptions{}), nil
	}
	file := filepath.Join(share.Work, "overdav", "locks")
	locks, err := davfs.OpenLocks(file, davfs.LockOptions{})
	if errors.Is(err, davfs.ErrLocksCorrupt) {
		return nil, &hintError{fmt.Errorf("%s: %w", file, err), "remove the file; what clients have locked is forgotten then"}
	}
	return locks, err
}
