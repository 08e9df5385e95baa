package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"overdav/davfs"
	"overdav/overlay"
	"overdav/web"
)

// newHandler is what answers requests for the share.
func newHandler(fsys *overlay.FS, c Config, locks *davfs.Locks, log zerolog.Logger) (http.Handler, error) {
	share := c.Shares[0]
	o := share.davOptions()
	o.Locks = locks
	o.Listing = web.Listing
	o.Log = func(r *http.Request, status int, err error) {
		e := log.Debug() // the client's fault: the access line has the status
		if status >= http.StatusInternalServerError {
			e = log.Error()
		}
		e.Err(err).Str(keyMethod, r.Method).Str(keyPath, r.URL.Path).Int(keyStatus, status).Msg("refused")
	}
	o.State = func(name string) string {
		state, err := fsys.State(name)
		if err != nil { // it went meanwhile, or the listing says the same of the disk
			log.Debug().Err(err).Str(keyPath, "/"+name).Msg("state not known")
		}
		return string(state)
	}
	var err error
	if o.Site, err = c.site(); err != nil {
		return nil, err
	}
	return davfs.NewHandler(davfs.NewFileSystem(fsys), o)
}

// openLocks returns the clients' locks, which outlive the server: they are kept
// beside the staging area, where the kernel leaves them alone. Where nothing
// can be written there is nothing to lock, and they are kept in memory.
func openLocks(share ShareConfig, log zerolog.Logger) (*davfs.Locks, error) {
	o := share.lockOptions()
	if share.Upper == "" || share.ReadOnly {
		return davfs.NewLocks(o), nil
	}
	file := filepath.Join(share.Work, "overdav", "locks")
	locks, err := davfs.OpenLocks(file, o)
	if !errors.Is(err, davfs.ErrLocksCorrupt) {
		return locks, err
	}
	if !o.NoSync {
		return nil, &hintError{fmt.Errorf("%s: %w", file, err), "remove the file; what clients have locked is forgotten then"}
	}
	// The share was promised no more than this after a power cut.
	log.Warn().Err(err).Msg("locks are damaged and forgotten")
	if err := os.Remove(file); err != nil {
		return nil, err
	}
	return davfs.OpenLocks(file, o)
}
