package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"overdav/auth"
	"overdav/overlay"
)

// reset throws away what was changed in a share, of one user if each has an
// upper of his own: "overdav reset SHARE [--user NAME]". It does so itself; what
// a running server has open only the server can reset.
func reset(e env, args []string) error {
	path, user, rest, err := resetArgs(args)
	if err != nil {
		return err
	}
	user = foldUser(user)
	c, err := configure("reset", rest, e.getenv, e.stdout)
	if err != nil {
		return err
	}
	all, err := newShares(c, stateHome(e.getenv, os.Geteuid()), newLog(c.Log, e.stderr))
	if err != nil {
		return err
	}
	s := all.at(path)
	if s == nil {
		return &usageError{fmt.Errorf("no share is at %s", path), "overdav reset SHARE --config FILE, where SHARE is the path of a share"}
	}
	if err := s.checkReset(user); err != nil {
		return &usageError{err, "overdav reset SHARE [--user NAME] --config FILE"}
	}
	l, err := s.layers.of(user)
	if err != nil {
		return err
	}
	err = l.discard()
	if err == nil {
		fmt.Fprintf(e.stdout, "share %s: what was changed is gone\n", s.layers.Path)
		err = l.clear(context.Background())
	}
	if errors.Is(err, overlay.ErrInUse) {
		return &hintError{s.named(err), "or have the running server do it: POST " + resetPath + " with {\"share\": ..., \"user\": ...} as JSON"}
	}
	if err != nil {
		return s.named(err)
	}
	return nil
}

// resetArgs takes the share and --user out of args; the rest is as for serve.
func resetArgs(args []string) (path, user string, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--user" && i+1 < len(args):
			i++
			user = args[i]
		case strings.HasPrefix(args[i], "--user="):
			user = strings.TrimPrefix(args[i], "--user=")
		case path == "" && args[i] != "" && args[i][0] == '/':
			path = args[i]
		default:
			rest = append(rest, args[i])
			if len(args[i]) > 1 && args[i][0] == '-' && i+1 < len(args) && takesValue(args[i]) {
				i++
				rest = append(rest, args[i])
			}
		}
	}
	for _, arg := range rest {
		if isHelp(arg) {
			return "", "", rest, nil
		}
	}
	if path == "" {
		err = &usageError{errors.New("reset wants to know which share"), "overdav reset SHARE [--user NAME] --config FILE, as in overdav reset / --config config.yaml"}
	}
	return path, user, rest, err
}

// takesValue says whether the flag's value is the next argument.
func takesValue(flag string) bool {
	if flag == "--config" || flag == "-config" {
		return true
	}
	for _, s := range settings {
		if flag == "--"+s.flag || flag == "-"+s.flag {
			return !s.isBool()
		}
	}
	return false
}

// at returns the share at path, nil for none.
func (all shares) at(path string) *share {
	for _, s := range all {
		if samePath(s.layers.Path, path) {
			return s
		}
	}
	return nil
}

// checkReset refuses what cannot be reset.
func (s *share) checkReset(user string) error {
	switch {
	case s.layers.readOnly():
		return fmt.Errorf("share %s is read-only", s.layers.Path)
	case s.layers.perUser() && user == "":
		return fmt.Errorf("share %s has an upper for each user; name one", s.layers.Path)
	case !s.layers.perUser() && user != "":
		return fmt.Errorf("share %s has one upper for all users; name none", s.layers.Path)
	}
	return nil
}

// discard throws away what was changed: takes it out of sight, for clear to
// delete. An upper of a user's own goes with it, and is made anew by his next
// request.
func (l *layers) discard() error {
	if _, err := os.Stat(l.Upper); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was changed, or all is thrown away already
	}
	if _, err := os.Stat(l.Work); errors.Is(err, fs.ErrNotExist) && l.makeWork {
		if err := os.Mkdir(l.Work, 0o700); err != nil {
			return err
		}
	}
	return l.discarding().Discard()
}

func (l *layers) discarding() overlay.Discarding {
	return overlay.Discarding{Upper: l.Upper, Work: l.Work, Anew: !l.ofUser}
}

// clear deletes what was discarded, however long that takes, and then what
// belonged to an upper of a user's own.
func (l *layers) clear(ctx context.Context) error {
	if err := l.discarding().Delete(ctx); err != nil {
		return err
	}
	return l.clearWork()
}

// clearWork removes the work directory, and the one above, of a user who has no
// upper.
func (l *layers) clearWork() error {
	if !l.ofUser {
		return nil
	}
	if err := l.discarding().RemoveWork(); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(l.Work))  // it stays where another share
	_ = os.Remove(filepath.Dir(l.Upper)) // has something in it, or he has come meanwhile
	return nil
}

// isDiscarded says whether something waits to be deleted.
func (l *layers) isDiscarded() bool {
	_, err := os.Stat(filepath.Join(l.Work, "overdav/discarded"))
	return err == nil
}

// A clearer deletes in the background what was discarded in the uppers of a
// share, one after the other: nobody waits for it.
type clearer struct {
	running sync.WaitGroup
	turn    sync.Mutex
	ctx     context.Context
	stop    context.CancelFunc
}

func newClearer() *clearer {
	c := new(clearer)
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// clearLater has what was discarded of a user, or of what all users share,
// deleted.
func (s *share) clearLater(user string) {
	c := s.clearer
	c.running.Go(func() {
		c.turn.Lock()
		defer c.turn.Unlock()
		s.processors.job(true)
		defer s.processors.job(false)
		if err := s.clearNow(c.ctx, user); err != nil && c.ctx.Err() == nil {
			s.log.Error().Err(s.named(err)).Str(keyUser, user).Msg("what was discarded is not deleted")
		}
	})
}

// clearNow deletes what was discarded. Meanwhile the user may come again: his work
// directory is looked at when nobody can, and stays if he has.
func (s *share) clearNow(ctx context.Context, user string) error {
	l, err := s.layers.of(user)
	if err != nil {
		return err
	}
	if err := l.discarding().Delete(ctx); err != nil || !l.ofUser {
		return err
	}
	if _, err := os.Stat(l.Upper); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = s.trees.whileClosed(ctx, user, l.clearWork)
	if errors.Is(err, errInUse) {
		return nil // he has come, and has an upper
	}
	return err
}

// clearLeft deletes what servers before this one discarded and did not delete: of
// users who have no upper, since those who have are looked at when they come.
func (s *share) clearLeft() {
	users, err := s.layers.usersWith(func(l *layers) bool {
		_, noUpper := os.Stat(l.Upper)
		_, err := os.Stat(filepath.Join(l.Work, "overdav"))
		return errors.Is(noUpper, fs.ErrNotExist) && err == nil
	})
	if err != nil {
		s.log.Error().Err(s.named(err)).Msg("what was discarded is not looked for")
	}
	for _, user := range users {
		s.clearLater(user)
	}
}

// reset throws away what was changed, of a user or in the share, while it is
// being served.
func (s *share) reset(ctx context.Context, user string) error {
	if err := s.checkReset(user); err != nil {
		return err
	}
	l, err := s.layers.of(user)
	if err != nil {
		return err
	}
	if err := s.trees.whileClosed(ctx, user, l.discard); err != nil {
		return err
	}
	s.clearLater(user)
	return nil
}

// resetPath is where a server is asked to reset.
const resetPath = ownPath + "/api/v1/reset"

// resetAPI resets for users what is theirs, and for admins everything.
type resetAPI struct {
	shares shares
	door   *door
}

// addTo puts the API on mux.
func (api *resetAPI) addTo(mux *http.ServeMux) { mux.HandleFunc("POST "+resetPath, api.serve) }

// resetJSON says what is to be reset. Without user it is the upper that all
// users of the share have in common.
type resetJSON struct {
	Share string `json:"share"`
	User  string `json:"user"`
}

// about is what the audit says of it.
func (j *resetJSON) about() string {
	if j.User == "" {
		return j.Share
	}
	return j.Share + " of " + j.User
}

// foldUser is name as users are called; what no user can be called stays as it is.
func foldUser(name string) string {
	if folded, ok := auth.FoldName(name); ok || folded == auth.Anonymous {
		return folded
	}
	return name
}

func (api *resetAPI) serve(w http.ResponseWriter, r *http.Request) {
	var wanted resetJSON
	if !readJSON(w, r, &wanted, `the body has to be {"share": "/path", "user": "name"}`) {
		return
	}
	wanted.User = foldUser(wanted.User)
	recordOf(r.Context()).about = wanted.about()
	if !api.door.mayReset(r, wanted.User) {
		if mayIdentify(w.Header(), r) {
			writeError(w, http.StatusUnauthorized, "say who you are to reset something")
			return
		}
		writeError(w, http.StatusForbidden, "only the user himself and admins may do that")
		return
	}
	s := api.shares.at(wanted.Share)
	place := slices.Index(api.shares, s)
	if s == nil || !api.door.mayKnow(r, place) {
		writeError(w, http.StatusNotFound, "no such share")
		return
	}
	if err := s.checkReset(wanted.User); err != nil {
		writeError(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if !api.door.mayThrowAway(r, place, s.layers.perUser(), wanted.User) {
		writeError(w, http.StatusForbidden, "who may not delete there may throw nothing away")
		return
	}
	switch err := s.reset(r.Context(), wanted.User); {
	case errors.Is(err, errUserName):
		writeError(w, http.StatusUnprocessableEntity, "no such user")
	case errors.Is(err, errInUse), errors.Is(err, errStopped):
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, "requests still run; try again")
	case err != nil:
		s.log.Error().Err(s.named(err)).Str(keyUser, wanted.User).Msg("not reset")
		writeError(w, http.StatusInternalServerError, "not reset; the log says why")
	default:
		s.log.Info().Str(keyPath, s.layers.Path).Str(keyUser, wanted.User).Msg("reset")
		w.WriteHeader(http.StatusNoContent)
	}
}

// usedFile is in a user's work directory; its modification time is that of the
// last use.
const usedFile = "overdav/used"

// touch remembers that the upper is used.
func (l *layers) touch() error {
	name, now := filepath.Join(l.Work, usedFile), time.Now()
	err := os.Chtimes(name, now, now)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(name, nil, 0o600)
	}
	return err
}

// lastUse is when the upper was last used; now if nothing says, from when on it
// is remembered.
func (l *layers) lastUse() (time.Time, error) {
	info, err := os.Stat(filepath.Join(l.Work, usedFile))
	if err == nil {
		return info.ModTime(), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, err
	}
	if _, err := os.Stat(filepath.Dir(filepath.Join(l.Work, usedFile))); err != nil {
		return time.Now(), nil // never served, or gone meanwhile
	}
	return time.Now(), l.touch()
}

// users are those who have an upper.
func (l *layers) users() (users []string, err error) {
	return l.usersWith(func(own *layers) bool {
		_, err := os.Stat(own.Upper)
		return err == nil
	})
}

// usersWith are those who have a directory, and layers of which that is true.
func (l *layers) usersWith(is func(own *layers) bool) (users []string, err error) {
	entries, err := os.ReadDir(l.usersDir())
	for _, e := range entries {
		if !isUserName(e.Name()) {
			continue
		}
		if own, err := l.of(e.Name()); err == nil && own.Upper != "" && is(own) {
			users = append(users, e.Name())
		}
	}
	return users, err
}

// expire removes the uppers that nobody has used for ttl, and remembers that
// those which are open are used.
func (s *share) expire(ctx context.Context, ttl time.Duration) error {
	for _, user := range s.trees.users() {
		if l, err := s.layers.of(user); err == nil {
			if err := l.touch(); err != nil && !errors.Is(err, fs.ErrNotExist) { // closed and gone meanwhile
				return err
			}
		}
	}
	users, err := s.layers.users()
	if err != nil {
		return err
	}
	var errs []error
	for _, user := range users {
		l, err := s.layers.of(user)
		if err != nil || !l.isOlder(ttl) {
			continue
		}
		err = s.trees.whileClosed(ctx, user, func() error {
			if !l.isOlder(ttl) { // he came meanwhile
				return nil
			}
			s.log.Info().Str(keyPath, s.layers.Path).Str(keyUser, user).Msg("upper expired")
			return l.discard()
		})
		if err == nil {
			s.clearLater(user)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (l *layers) isOlder(ttl time.Duration) bool {
	last, err := l.lastUse()
	return err == nil && time.Since(last) > ttl
}

// expireNowAndThen looks for uppers that have expired, at once and then ten times
// in each share's ttl, until stop is called.
func (all shares) expireNowAndThen() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	for _, s := range all {
		if !s.layers.perUser() || s.layers.readOnly() {
			continue
		}
		looking.Go(func() {
			for {
				ttl := time.Duration(s.ttl.Load())
				wait := time.Minute // for a reload that sets one
				if ttl > 0 {
					wait = min(max(ttl/10, time.Second), time.Hour)
					if err := s.expire(ctx, ttl); err != nil && ctx.Err() == nil {
						s.log.Error().Err(s.named(err)).Msg("uppers not expired")
					}
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
		})
	}
	return func() { cancel(); looking.Wait() }
}

// mayKnow says whether who makes r may know of the share of that number: admins
// know of all.
func (d *door) mayKnow(r *http.Request, place int) bool {
	return d.policy.Load().admins[auth.From(r.Context()).Name] || d.sees(r, place)
}

// mayReset says whether who makes r may reset what is user's, or, with "", what
// all users have in common, as far as it is a matter of names.
func (d *door) mayReset(r *http.Request, user string) bool {
	p, id := d.policy.Load(), auth.From(r.Context())
	switch {
	case !p.asks:
		return true // nobody is anybody: the rules decide
	case id.IsAnonymous(), id.Scope != nil:
		return false
	}
	return id.Name == user || p.isAdmin(id)
}

// mayThrowAway says whether the rules of the share of that number let who makes r
// throw away what was changed there: all that can be there, or, where each user has
// an upper of his own, what he has made himself, and so could delete. To reset is to
// delete: who may only read, or only add, may not. Admins may whatever rules say.
// Without users, what belongs to a name is nobody's.
func (d *door) mayThrowAway(r *http.Request, place int, ofUsers bool, user string) bool {
	p, id := d.policy.Load(), auth.From(r.Context())
	if p.asks && p.isAdmin(id) {
		return true
	}
	view := p.rules[place].rules.For(id, p.rules[place].path)
	if ofUsers {
		return id.Name == user && view.Somewhere(auth.RightDelete)
	}
	return view.Rights(".") == auth.RightsAll && view.Uniform(".")
}
