package davfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// What a lock table refuses, by the answer that it asks for.
var (
	// ErrNoSuchLock means that no lock has the token, or that it does not cover
	// the resource named beside it: 412 for a refresh and 409 for an UNLOCK,
	// with lock-token-matches-request-uri (RFC 4918, sections 9.10.9 and 9.11.1).
	ErrNoSuchLock = errors.New("no such lock")
	// ErrNotLockOwner means that the lock is somebody else's: 403
	// (RFC 4918, section 6.4).
	ErrNotLockOwner = errors.New("lock of another user")
	// ErrTooManyLocks means that the user has as many as one may have: 507.
	ErrTooManyLocks = errors.New("too many locks of one user")
	// ErrLockTableFull means that all users together have: 503.
	ErrLockTableFull = errors.New("too many locks")
	// ErrLockOwnerTooLong means that the text about the owner is: 413.
	ErrLockOwnerTooLong = errors.New("lock owner too long")
)

// A LockedError names the roots of the locks that stand in the way: 423, with
// lock-token-submitted for a write and no-conflicting-lock for a LOCK
// (RFC 4918, section 16).
type LockedError struct {
	Roots []Path // at least one, at most maxLockedRoots
}

const maxLockedRoots = 16

func (e *LockedError) Error() string { return fmt.Sprintf("locked at %v", e.Roots[0]) }

// Defaults of LockOptions, and what has no option.
const (
	defaultMaxTimeout  = time.Hour
	defaultMaxPerUser  = 1000
	defaultMaxLocks    = 10_000
	maxLockOwnerLength = 4 << 10 // bytes of XML
)

// LockOptions are the limits of a lock table; zero is the default.
type LockOptions struct {
	MaxTimeout time.Duration // no lock lasts longer unless refreshed; 1 hour
	MaxPerUser int           // 1,000
	MaxLocks   int           // 10,000

	// NoSync leaves it to the system when changes reach the disk. Locks survive
	// a crash of the process then, by a journal, but a crash of the machine may
	// lose them and damage the file (ErrLocksCorrupt). Close waits for the disk.
	NoSync bool
}

// A Lock is one write lock (RFC 4918, section 6).
type Lock struct {
	Token      string // a URI: "urn:uuid:…"
	Root       Path
	Collection bool // the root was a collection; its href has a slash
	Infinite   bool // everything below the root is locked too
	Shared     bool
	Principal  string        // who made it, and alone may use it
	Owner      string        // what stands inside DAV:owner, as XML that stands alone
	Timeout    time.Duration // as granted
	Expires    time.Time
}

// covers reports whether p is in the scope of the lock.
func (l *Lock) covers(p Path) bool { return l.Root == p || l.Infinite && l.Root.Contains(p) }

// A LockRequest asks for a lock. The zero timeout is the longest.
type LockRequest struct {
	Root       Path
	Collection bool
	Infinite   bool
	Shared     bool
	Principal  string
	Owner      string
	Timeout    time.Duration
}

// A Touch is one resource that a write changes. Whoever adds or removes a member
// touches its collection as well (RFC 4918, section 7.4).
type Touch struct {
	Path Path
	Tree bool // and everything below it
}

// Locks is the lock table of one tree. It knows names only: that what is locked
// exists, and comes into being by LOCK, is for its callers to see to.
//
// A table with a file answers no call that changed something before the change
// is on disk, so that locks survive a crash of the process and of the machine;
// but see LockOptions.NoSync.
//
// Lock order: commitMu, then mu. Nothing is done under mu but memory access.
type Locks struct {
	options LockOptions

	// commitMu serializes writing to store. Changes gather in dirty meanwhile
	// and go with the next commit all together.
	commitMu sync.Mutex
	store    *lockStore // nil if the table lives in memory only
	// journal takes changes before store does; nil unless NoSync.
	// +checklocks:commitMu
	journal *lockJournal
	// stored are the tokens that store has.
	// +checklocks:commitMu
	stored map[string]struct{}

	mu sync.Mutex

	// byToken holds all locks, the expired that nobody has noticed among them.
	// INVARIANT: byRoot has the same ones; below counts, for each path, those
	// rooted strictly below it; perUser those of each principal.
	// +checklocks:mu
	byToken map[string]*Lock
	// +checklocks:mu
	byRoot map[Path][]*Lock
	// +checklocks:mu
	below map[Path]int
	// +checklocks:mu
	perUser map[string]int

	// nextExpiry is not later than the first expiry of any lock.
	// +checklocks:mu
	nextExpiry time.Time

	// holds are the writes that are being carried out.
	// +checklocks:mu
	holds map[*lockHold]struct{}

	// dirty are the tokens of which store does not know the state.
	// +checklocks:mu
	dirty map[string]struct{}
}

// A lockHold is a write that locks have let through and that is not done yet.
type lockHold struct {
	touched []Touch
	done    chan struct{} // closed by release
}

// NewLocks returns an empty lock table that is forgotten with the process.
func NewLocks(o LockOptions) *Locks {
	if o.MaxTimeout == 0 {
		o.MaxTimeout = defaultMaxTimeout
	}
	if o.MaxPerUser == 0 {
		o.MaxPerUser = defaultMaxPerUser
	}
	if o.MaxLocks == 0 {
		o.MaxLocks = defaultMaxLocks
	}
	return &Locks{
		options: o,
		byToken: make(map[string]*Lock),
		byRoot:  make(map[Path][]*Lock),
		below:   make(map[Path]int),
		perUser: make(map[string]int),
		holds:   make(map[*lockHold]struct{}),
		dirty:   make(map[string]struct{}),
	}
}

// OpenLocks returns the lock table that is kept in file, which is made by the
// first lock. One process at a time can have it; see ErrLocksInUse and
// ErrLocksCorrupt.
func OpenLocks(file string, o LockOptions) (*Locks, error) {
	l := NewLocks(o)
	store, locks, err := openLockStore(file, o.NoSync)
	if err != nil {
		return nil, err
	}
	l.store, l.stored = store, make(map[string]struct{})
	if locks, err = l.openJournal(file, locks); err != nil {
		return nil, errors.Join(err, store.close())
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lock := range locks {
		// The clock may have been set back since.
		if latest := now.Add(l.options.MaxTimeout); lock.Expires.After(latest) {
			lock.Expires = latest
		}
		l.insertLocked(lock)
	}
	l.expireLocked(now)
	return l, nil
}

// Close lets go of the file.
func (l *Locks) Close() error {
	if l.store == nil {
		return nil
	}
	if l.journal != nil {
		l.journal.halt()
	}
	err := l.commit() // what failed before gets its last chance, expired locks go
	if l.journal != nil {
		l.commitMu.Lock()
		defer l.commitMu.Unlock()
		if err = errors.Join(err, l.takeOverLocked()); err == nil {
			err = l.journal.remove()
		}
	}
	return errors.Join(err, l.store.close())
}

// openJournal has store take over what a process that died left in the journal
// of file, and begins a new one with NoSync. It returns all locks.
func (l *Locks) openJournal(file string, locks []*Lock) ([]*Lock, error) {
	for _, lock := range locks {
		l.stored[lock.Token] = struct{}{}
	}
	left, err := replayJournal(file)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		locks = slices.DeleteFunc(locks, func(lock *Lock) bool { _, newer := left[lock.Token]; return newer })
		for _, lock := range left {
			if lock != nil {
				locks = append(locks, lock)
			}
		}
		if err := l.writeStore(left); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(journalName(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if l.options.NoSync {
		l.journal = newJournal(file)
		l.journal.run(l.takeOver)
	}
	return locks, nil
}

// takeOver has store take what is in the journal. What it cannot take stays
// there, to be tried again with the next change.
func (l *Locks) takeOver() {
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	_ = l.takeOverLocked()
}

// Preconditions: commitMu is held.
func (l *Locks) takeOverLocked() error {
	if err := l.writeStore(l.journal.pending); err != nil {
		return err
	}
	return l.journal.takenOver()
}

// writeStore writes states, but for locks that came and went since store was
// last written.
//
// Preconditions: commitMu is held, or nobody else has l.
func (l *Locks) writeStore(states map[string]*Lock) error {
	known := make(map[string]*Lock, len(states))
	for token, lock := range states {
		if _, has := l.stored[token]; has || lock != nil {
			known[token] = lock
		}
	}
	if len(known) == 0 {
		return nil
	}
	if err := l.store.write(known); err != nil {
		return err
	}
	for token, lock := range known {
		if lock != nil {
			l.stored[token] = struct{}{}
		} else {
			delete(l.stored, token)
		}
	}
	return nil
}

// MaxTimeout returns the longest that a lock lasts without a refresh.
func (l *Locks) MaxTimeout() time.Duration { return l.options.MaxTimeout }

// Create makes a lock, or returns a *LockedError that says which locks conflict
// with it: an exclusive one with any, a shared one with exclusive ones, on the
// resource itself, above it with infinite depth, and below it if the new one has
// that (RFC 4918, section 6.2 and 7.4).
//
// It waits, until ctx is done, for writes in the scope of the lock that have
// passed Hold, and so must not be called by one.
func (l *Locks) Create(ctx context.Context, r LockRequest) (Lock, error) {
	if len(r.Owner) > maxLockOwnerLength {
		return Lock{}, ErrLockOwnerTooLong
	}
	for {
		lock, wait, err := l.tryCreate(r)
		if err != nil {
			return Lock{}, err
		}
		if wait == nil {
			if err := l.commit(); err != nil {
				l.forget(lock.Token)
				return Lock{}, err
			}
			return lock, nil
		}
		select {
		case <-wait.done:
		case <-ctx.Done():
			return Lock{}, context.Cause(ctx)
		}
	}
}

// tryCreate makes the lock in memory, or returns the write to wait for.
func (l *Locks) tryCreate(r LockRequest) (Lock, *lockHold, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.expireLocked(now)
	timeout := l.clamp(r.Timeout)
	lock := &Lock{
		Root: r.Root, Collection: r.Collection, Infinite: r.Infinite, Shared: r.Shared,
		Principal: r.Principal, Owner: r.Owner, Timeout: timeout, Expires: now.Add(timeout),
	}
	switch conflicts := l.conflictsLocked(lock); {
	case len(conflicts) > 0:
		return Lock{}, nil, &LockedError{conflicts}
	case len(l.byToken) >= l.options.MaxLocks:
		return Lock{}, nil, ErrLockTableFull
	case l.perUser[r.Principal] >= l.options.MaxPerUser:
		return Lock{}, nil, ErrTooManyLocks
	}
	for h := range l.holds {
		if h.overlaps(lock) {
			return Lock{}, h, nil
		}
	}
	lock.Token = newLockToken()
	l.insertLocked(lock)
	l.dirty[lock.Token] = struct{}{}
	return *lock, nil, nil
}

// newLockToken returns a random URI (RFC 9562, section 5.4). Whoever knows it
// could use it, were it not for the principal.
func newLockToken() string {
	var u [16]byte
	rand.Read(u[:]) // never fails: it ends the program instead
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// clamp returns the timeout that is granted: whole seconds, one at least, since
// the answer says it in seconds and Second-0 would mean that it is over.
func (l *Locks) clamp(timeout time.Duration) time.Duration {
	if timeout <= 0 || timeout > l.options.MaxTimeout {
		return l.options.MaxTimeout
	}
	return max(timeout.Truncate(time.Second), time.Second)
}

// conflictsLocked returns the roots of the locks that new cannot stand beside.
//
// Preconditions: mu is held, and expired locks are gone.
func (l *Locks) conflictsLocked(new *Lock) []Path {
	var roots []Path
	add := func(old *Lock) {
		if (!new.Shared || !old.Shared) && len(roots) < maxLockedRoots && !slices.Contains(roots, old.Root) {
			roots = append(roots, old.Root)
		}
	}
	for _, old := range l.coveringLocked(new.Root) {
		add(old)
	}
	if new.Infinite {
		for _, old := range l.belowLocked(new.Root) {
			add(old)
		}
	}
	return roots
}

// coveringLocked returns the locks in whose scope p is.
func (l *Locks) coveringLocked(p Path) []*Lock {
	covering := slices.Clip(l.byRoot[p])
	for at := p; !at.IsRoot(); {
		at = at.Parent()
		for _, lock := range l.byRoot[at] {
			if lock.Infinite {
				covering = append(covering, lock)
			}
		}
	}
	return covering
}

// belowLocked returns the locks that are rooted below p, in no order. Most trees
// have none, which is known at once.
func (l *Locks) belowLocked(p Path) []*Lock {
	n := l.below[p]
	if n == 0 {
		return nil
	}
	found := make([]*Lock, 0, n)
	for root, locks := range l.byRoot {
		if p.Contains(root) {
			found = append(found, locks...)
		}
	}
	return found
}

// insertLocked and removeLocked keep the invariant of byToken.
func (l *Locks) insertLocked(lock *Lock) {
	l.byToken[lock.Token] = lock
	l.byRoot[lock.Root] = append(l.byRoot[lock.Root], lock)
	for p := lock.Root; !p.IsRoot(); {
		p = p.Parent()
		l.below[p]++
	}
	l.perUser[lock.Principal]++
	if l.nextExpiry.IsZero() || lock.Expires.Before(l.nextExpiry) {
		l.nextExpiry = lock.Expires
	}
}

func (l *Locks) removeLocked(lock *Lock) {
	delete(l.byToken, lock.Token)
	// A new slice: coveringLocked may have given the old one away.
	rest := slices.DeleteFunc(slices.Clone(l.byRoot[lock.Root]), func(other *Lock) bool { return other == lock })
	if l.byRoot[lock.Root] = rest; len(rest) == 0 {
		delete(l.byRoot, lock.Root)
	}
	for p := lock.Root; !p.IsRoot(); {
		p = p.Parent()
		if l.below[p]--; l.below[p] == 0 {
			delete(l.below, p)
		}
	}
	if l.perUser[lock.Principal]--; l.perUser[lock.Principal] == 0 {
		delete(l.perUser, lock.Principal)
	}
	l.dirty[lock.Token] = struct{}{}
}

// expireLocked forgets the locks whose time is over. The store learns of it with
// the next commit; until then it says itself when they expire.
func (l *Locks) expireLocked(now time.Time) {
	if l.nextExpiry.IsZero() || now.Before(l.nextExpiry) {
		return
	}
	l.nextExpiry = time.Time{}
	for _, lock := range l.byToken {
		switch {
		case !now.Before(lock.Expires):
			l.removeLocked(lock)
		case l.nextExpiry.IsZero() || lock.Expires.Before(l.nextExpiry):
			l.nextExpiry = lock.Expires
		}
	}
}

// forget takes back a lock whose making was not completed.
func (l *Locks) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock := l.byToken[token]; lock != nil {
		l.removeLocked(lock)
	}
}

// Refresh starts the time of a lock anew; p is the resource that the request
// names. The zero timeout is the one granted before.
func (l *Locks) Refresh(token, principal string, p Path, timeout time.Duration) (Lock, error) {
	lock, err := l.refresh(token, principal, p, timeout)
	if err == nil {
		err = l.commit()
	}
	if err != nil {
		return Lock{}, err
	}
	return lock, nil
}

func (l *Locks) refresh(token, principal string, p Path, timeout time.Duration) (Lock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	lock, err := l.findLocked(now, token, principal, p)
	if err != nil {
		return Lock{}, err
	}
	if timeout > 0 {
		lock.Timeout = l.clamp(timeout)
	}
	lock.Expires = now.Add(lock.Timeout)
	l.nextExpiry = minTime(l.nextExpiry, lock.Expires)
	l.dirty[token] = struct{}{}
	return *lock, nil
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Unlock removes a lock; p is the resource that the request names, which any in
// the scope of the lock may be (RFC 4918, section 9.11).
func (l *Locks) Unlock(token, principal string, p Path) error {
	if err := l.unlock(token, principal, p); err != nil {
		return err
	}
	return l.commit()
}

func (l *Locks) unlock(token, principal string, p Path) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock, err := l.findLocked(time.Now(), token, principal, p)
	if err != nil {
		return err
	}
	l.removeLocked(lock)
	return nil
}

// Break is Unlock, whoever has the lock.
func (l *Locks) Break(token string, p Path) error {
	if err := l.breakLock(token, p); err != nil {
		return err
	}
	return l.commit()
}

func (l *Locks) breakLock(token string, p Path) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	lock := l.byToken[token]
	if lock == nil || !lock.covers(p) {
		return ErrNoSuchLock
	}
	l.removeLocked(lock)
	return nil
}

// findLocked returns the lock that the principal may change by way of p.
func (l *Locks) findLocked(now time.Time, token, principal string, p Path) (*Lock, error) {
	l.expireLocked(now)
	switch lock := l.byToken[token]; {
	case lock == nil, !lock.covers(p):
		return nil, ErrNoSuchLock
	case lock.Principal != principal:
		return nil, ErrNotLockOwner
	default:
		return lock, nil
	}
}

// Covering returns the locks in whose scope p is: its lockdiscovery, and the
// state tokens that an If header may name. The nearest come first.
func (l *Locks) Covering(p Path) []Lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	return copyLocks(l.coveringLocked(p))
}

// none reports whether there are no locks at all.
func (l *Locks) none() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byToken) == 0
}

// anyWithin reports whether some resource below p is in the scope of a lock.
func (l *Locks) anyWithin(p Path) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	return l.below[p] > 0 || slices.ContainsFunc(l.coveringLocked(p), func(lock *Lock) bool { return lock.Infinite })
}

// Below returns the locks that are rooted below p, ordered by root.
func (l *Locks) Below(p Path) []Lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	locks := copyLocks(l.belowLocked(p))
	slices.SortStableFunc(locks, func(a, b Lock) int { return cmpPath(a.Root, b.Root) })
	return locks
}

// Count is how many locks there are; some of them may have expired.
func (l *Locks) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byToken)
}

// All returns all locks, ordered by root.
func (l *Locks) All() []Lock { return append(l.Covering(Path{}), l.Below(Path{})...) }

func copyLocks(locks []*Lock) []Lock {
	if len(locks) == 0 {
		return nil
	}
	copies := make([]Lock, len(locks))
	for i, lock := range locks {
		copies[i] = *lock
	}
	return copies
}

// Check returns a *LockedError if a write by principal, who submitted these
// tokens, would change something that is locked against it. Of the locks that a
// resource is in the scope of, one must be the principal's and its token among
// those submitted: there is one only, unless they are shared (RFC 4918, section
// 7.5 and 6.2).
func (l *Locks) Check(principal string, tokens []string, touched ...Touch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	return l.checkLocked(principal, tokens, touched)
}

// Hold is Check for the moment of the commit: until release is called, nobody is
// granted a lock on what was checked, so that a write cannot slip in behind a
// lock that was granted after its check. Writes do not wait for each other, and
// unlocking waits for nobody. Between Hold and release there is to be nothing
// that waits for a client.
func (l *Locks) Hold(principal string, tokens []string, touched ...Touch) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expireLocked(time.Now())
	if err := l.checkLocked(principal, tokens, touched); err != nil {
		return nil, err
	}
	h := &lockHold{touched: slices.Clone(touched), done: make(chan struct{})}
	l.holds[h] = struct{}{}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.holds, h)
		close(h.done)
	}), nil
}

// overlaps reports whether the lock would be on something that is being written.
func (h *lockHold) overlaps(lock *Lock) bool {
	return slices.ContainsFunc(h.touched, func(t Touch) bool {
		return lock.covers(t.Path) || t.Tree && t.Path.Contains(lock.Root)
	})
}

// checkLocked is Check under mu. In a tree, only the roots of locks and their
// members can differ from the resource above them in what protects them.
func (l *Locks) checkLocked(principal string, tokens []string, touched []Touch) error {
	var blocked []Path
	check := func(covering []*Lock) {
		mine := func(lock *Lock) bool {
			return lock.Principal == principal && slices.Contains(tokens, lock.Token)
		}
		if len(covering) == 0 || slices.ContainsFunc(covering, mine) {
			return
		}
		for _, lock := range covering {
			if len(blocked) < maxLockedRoots && !slices.Contains(blocked, lock.Root) {
				blocked = append(blocked, lock.Root)
			}
		}
	}
	for _, t := range touched {
		covering := l.coveringLocked(t.Path)
		check(covering)
		if !t.Tree {
			continue
		}
		check(coveringMembers(covering))
		for _, lock := range l.belowLocked(t.Path) {
			covering := l.coveringLocked(lock.Root)
			check(covering)
			check(coveringMembers(covering))
		}
	}
	if len(blocked) == 0 {
		return nil
	}
	slices.SortFunc(blocked, cmpPath)
	return &LockedError{blocked}
}

// coveringMembers returns those of the locks on a collection that are on each of
// its members as well. A file may be locked with infinite depth and has none.
func coveringMembers(covering []*Lock) []*Lock {
	return slices.DeleteFunc(slices.Clone(covering), func(lock *Lock) bool { return !lock.Infinite || !lock.Collection })
}

// RemoveTree removes the locks on p and on everything below it, after these
// have been deleted or moved away: locks do not outlive their resource, and do
// not travel (RFC 4918, sections 6.6 and 7.5). Locks above p stay.
func (l *Locks) RemoveTree(p Path) error {
	l.mu.Lock()
	gone := slices.Concat(l.byRoot[p], l.belowLocked(p))
	for _, lock := range gone {
		l.removeLocked(lock)
	}
	l.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	return l.commit()
}

// Prune removes the locks on which keep is false. A process that died between a
// DELETE and RemoveTree left a lock on nothing; the next one finds it so.
func (l *Locks) Prune(keep func(Lock) bool) error {
	for _, lock := range l.All() {
		if !keep(lock) {
			l.forget(lock.Token)
		}
	}
	return l.commit()
}

// commit brings the store up to the state of the table, whoever changed it. What
// cannot be written stays dirty, for the next commit to try again; each caller
// learns of its own failure that way.
func (l *Locks) commit() error {
	if l.store == nil {
		return nil
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	states := l.takeDirty()
	if len(states) == 0 {
		return nil // the commit that we waited for took ours along
	}
	err := l.store.make() // also for the journal's sake: it is whose the store is
	switch {
	case err != nil:
	case l.journal != nil:
		err = l.journal.write(states)
	default:
		err = l.writeStore(states)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for token := range states {
			l.dirty[token] = struct{}{}
		}
	}
	return err
}

// takeDirty returns what is to be written: the locks by token, nil for those
// that are gone.
func (l *Locks) takeDirty() map[string]*Lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	states := make(map[string]*Lock, len(l.dirty))
	for token := range l.dirty {
		states[token] = nil
		if lock := l.byToken[token]; lock != nil {
			lockCopy := *lock
			states[token] = &lockCopy
		}
	}
	clear(l.dirty)
	return states
}
