package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/rs/zerolog"

	"overdav/davfs"
	"overdav/overlay"
	"overdav/web"
)

// A tree is one upper over its lowers, being served.
type tree struct {
	fsys    *overlay.FS
	locks   *davfs.Locks
	handler http.Handler
	used    *layers // of a user's upper: when it was last used is remembered in it
}

// openTree opens the engine, the locks and the protocol on l. When that fails
// it leaves no directory behind that was not there.
func openTree(l *layers, s *share) (t *tree, err error) {
	t = new(tree)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
			l.undo()
			t = nil
		}
	}()
	if err = l.prepare(); err != nil {
		return t, err
	}
	o := l.engineOptions()
	o.Events = engineEvents(s.log, s.metrics, s.processors)
	o.Made = slices.Contains(l.made, l.Upper) && slices.Contains(l.made, l.Work)
	if t.fsys, err = overlay.Open(o); err != nil {
		return t, err
	}
	if l.ofUser && !l.readOnly() {
		if err = l.touch(); err != nil {
			return t, err
		}
		t.used = l
	}
	if t.locks, err = openLocks(l.ShareConfig, s.log); err != nil {
		return t, err
	}
	t.handler, err = newHandler(t, l.ShareConfig, s)
	return t, err
}

// close ends what openTree has begun, however far it came.
func (t *tree) close() (err error) {
	if t.locks != nil {
		err = t.locks.Close()
	}
	if t.used != nil {
		err = errors.Join(err, t.used.touch())
	}
	if t.fsys != nil {
		err = errors.Join(err, t.fsys.Close())
	}
	return err
}

// newHandler is what answers requests for the tree.
func newHandler(t *tree, config ShareConfig, s *share) (http.Handler, error) {
	o := config.davOptions()
	s.config.Limits.addTo(&o)
	o.Others = s.others
	o.Locks = t.locks
	o.User, o.Access, o.Challenge = userOf, accessOf, mayIdentify
	if s.config.authenticates() {
		o.Unlocks = mayUnlock
	}
	o.Archives = s.archives
	o.Listing = web.Pages{Archives: s.config.Limits.ZipsPerUser > 0}.Listing
	o.Log = s.refused
	o.Layer = func(r *http.Request, layer int) { recordOf(r.Context()).fromLayer(layer) }
	o.CopiedUp = func(r *http.Request, bytes int64) { recordOf(r.Context()).copiedUp += bytes }
	o.State = func(name string) string {
		state, err := t.fsys.State(name)
		if err != nil { // it went meanwhile, or the listing says the same of the disk
			s.log.Debug().Err(err).Str(keyPath, "/"+name).Msg("state not known")
		}
		return string(state)
	}
	var err error
	if o.Site, err = s.config.site(); err != nil {
		return nil, err
	}
	return davfs.NewHandler(davfs.NewFileSystem(t.fsys), o)
}

// refused is davfs.Options.Log: the log has the cause that the client is not
// told.
func (s *share) refused(r *http.Request, status int, err error) {
	level := zerolog.DebugLevel // the client's fault: the access line has the status
	switch {
	case isOurFault(status):
		s.errors.Add(1)
		level = zerolog.ErrorLevel
	case status == http.StatusInsufficientStorage:
		level = zerolog.WarnLevel
	}
	s.log.WithLevel(level).Err(err).Str(keyMethod, r.Method).Str(keyPath, r.URL.Path).Int(keyStatus, status).
		Uint64(keyID, recordOf(r.Context()).id).Msg("refused")
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
