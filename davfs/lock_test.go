package davfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"pgregory.net/rapid"
)

// openTestLocks opens the lock table in file, or one in memory if that is "".
func openTestLocks(t testing.TB, file string) *Locks {
	t.Helper()
	if file == "" {
		return NewLocks(LockOptions{})
	}
	l, err := OpenLocks(file, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// mustLock makes a lock for "me".
func mustLock(t testing.TB, l *Locks, r LockRequest) Lock {
	t.Helper()
	if r.Principal == "" {
		r.Principal = "me"
	}
	lock, err := l.Create(t.Context(), r)
	if err != nil {
		t.Fatalf("lock %v: %v", r.Root, err)
	}
	return lock
}

func isLocked(err error) bool { return errors.As(err, new(*LockedError)) }

// RFC 4918, sections 6.2 and 7.4: what may stand beside what.
func TestLockConflicts(t *testing.T) {
	type lock struct {
		root             string
		shared, infinite bool
	}
	const shared, exclusive, infinite, zero = true, false, true, false
	for _, tt := range []struct {
		name     string
		old, new lock
		conflict bool
	}{
		{"itself", lock{"/a", exclusive, zero}, lock{"/a", exclusive, zero}, true},
		{"shared beside exclusive", lock{"/a", exclusive, zero}, lock{"/a", shared, zero}, true},
		{"exclusive beside shared", lock{"/a", shared, zero}, lock{"/a", exclusive, zero}, true},
		{"shared beside shared", lock{"/a", shared, zero}, lock{"/a", shared, zero}, false},
		{"below infinite", lock{"/a", exclusive, infinite}, lock{"/a/b/c", exclusive, zero}, true},
		{"below zero", lock{"/a", exclusive, zero}, lock{"/a/b", exclusive, zero}, false},
		{"below shared infinite", lock{"/a", shared, infinite}, lock{"/a/b", exclusive, zero}, true},
		{"shared below shared infinite", lock{"/a", shared, infinite}, lock{"/a/b", shared, infinite}, false},
		{"infinite above", lock{"/a/b/c", exclusive, zero}, lock{"/a", exclusive, infinite}, true},
		{"zero above", lock{"/a/b/c", exclusive, infinite}, lock{"/a", exclusive, zero}, false},
		{"shared infinite above shared", lock{"/a/b", shared, zero}, lock{"/a", shared, infinite}, false},
		{"shared infinite above exclusive", lock{"/a/b", exclusive, zero}, lock{"/a", shared, infinite}, true},
		{"root above all", lock{"/a/b", exclusive, zero}, lock{"/", exclusive, infinite}, true},
		{"all below the root", lock{"/", exclusive, infinite}, lock{"/x", shared, zero}, true},
		{"half a name", lock{"/a", exclusive, infinite}, lock{"/ab", exclusive, infinite}, false},
		{"half a name, above", lock{"/ab/c", exclusive, zero}, lock{"/a", exclusive, infinite}, false},
		{"sibling", lock{"/a/b", exclusive, infinite}, lock{"/a/c", exclusive, infinite}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLocks(LockOptions{})
			mustLock(t, l, LockRequest{Root: at(t, tt.old.root), Shared: tt.old.shared, Infinite: tt.old.infinite})
			_, err := l.Create(t.Context(), LockRequest{Root: at(t, tt.new.root), Shared: tt.new.shared, Infinite: tt.new.infinite})
			if isLocked(err) != tt.conflict || err != nil && !tt.conflict {
				t.Fatalf("err = %v, want conflict = %v", err, tt.conflict)
			}
			var e *LockedError
			if errors.As(err, &e) && !slices.Equal(e.Roots, []Path{at(t, tt.old.root)}) {
				t.Errorf("conflicts with %v, want %v", e.Roots, tt.old.root)
			}
		})
	}
}

// RFC 4918, sections 6.4, 7.4 and 7.5: which writes need which token. "mine" is
// the token of the lock, "other" that of one elsewhere.
func TestLockProtects(t *testing.T) {
	self := func(s string) Touch { return Touch{Path: at(t, s)} }
	tree := func(s string) Touch { return Touch{Path: at(t, s), Tree: true} }
	file := LockRequest{Root: at(t, "/d/f")}
	dirZero := LockRequest{Root: at(t, "/d"), Collection: true}
	dirAll := LockRequest{Root: at(t, "/d"), Collection: true, Infinite: true}
	for _, tt := range []struct {
		name    string
		lock    LockRequest
		touched []Touch
		blocked bool // without the token
	}{
		{"PUT to the locked file", file, []Touch{self("/d/f")}, true},
		{"PUT beside it", file, []Touch{self("/d/g"), self("/d")}, false},
		{"DELETE of it", file, []Touch{tree("/d/f"), self("/d")}, true},
		{"DELETE of its collection", file, []Touch{tree("/d"), self("/")}, true},
		{"DELETE of everything", file, []Touch{tree("/")}, true},
		{"MOVE over its collection", file, []Touch{tree("/e"), self("/"), tree("/d")}, true},
		{"PROPPATCH of its collection", file, []Touch{self("/d")}, false},
		{"PUT of a longer name", file, []Touch{self("/d/ff"), self("/d")}, false},

		{"PUT to a member of a collection locked alone", dirZero, []Touch{self("/d/f")}, false},
		{"a new member", dirZero, []Touch{self("/d/new"), self("/d")}, true},
		{"DELETE of a member", dirZero, []Touch{tree("/d/f"), self("/d")}, true},
		{"a new member deeper down", dirZero, []Touch{self("/d/e/new"), self("/d/e")}, false},
		{"PROPPATCH of the collection", dirZero, []Touch{self("/d")}, true},

		{"PUT deep in a locked tree", dirAll, []Touch{self("/d/e/f")}, true},
		{"a new member deep in a locked tree", dirAll, []Touch{self("/d/e/new"), self("/d/e")}, true},
		{"MOVE out of a locked tree", dirAll, []Touch{tree("/d/e"), self("/d"), tree("/x"), self("/")}, true},
		{"a sibling of a locked tree", dirAll, []Touch{self("/dd/f"), self("/dd"), self("/")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLocks(LockOptions{})
			lock := mustLock(t, l, tt.lock)
			other := mustLock(t, NewLocks(LockOptions{}), LockRequest{Root: at(t, "/elsewhere")})
			for _, c := range []struct {
				name, principal string
				tokens          []string
				blocked         bool
			}{
				{"nothing", "me", nil, tt.blocked},
				{"the token", "me", []string{lock.Token}, false},
				{"the token, from somebody else", "they", []string{lock.Token}, tt.blocked},
				{"another token", "me", []string{other.Token}, tt.blocked},
				{"a token of nobody", "me", []string{"urn:uuid:none"}, tt.blocked},
			} {
				if err := l.Check(c.principal, c.tokens, tt.touched...); isLocked(err) != c.blocked {
					t.Errorf("with %s: %v, want blocked = %v", c.name, err, c.blocked)
				}
			}
		})
	}
}

func TestSharedLockNeedsOneToken(t *testing.T) {
	l := NewLocks(LockOptions{})
	mine := mustLock(t, l, LockRequest{Root: at(t, "/f"), Shared: true})
	theirs := mustLock(t, l, LockRequest{Root: at(t, "/f"), Shared: true, Principal: "they"})
	touch := Touch{Path: at(t, "/f"), Tree: true}
	if err := l.Check("me", []string{mine.Token}, touch); err != nil {
		t.Errorf("with my token: %v", err)
	}
	if err := l.Check("me", []string{theirs.Token}, touch); !isLocked(err) {
		t.Errorf("with their token only: %v, want locked", err)
	}
	if err := l.Check("third", nil, touch); !isLocked(err) {
		t.Errorf("with none: %v, want locked", err)
	}
}

// A token for a collection alone does not stand for its members, on which
// somebody else has a lock too.
func TestSharedLockOnMembersIsNotOnesOwn(t *testing.T) {
	l := NewLocks(LockOptions{})
	mustLock(t, l, LockRequest{Root: at(t, "/d"), Collection: true, Shared: true, Infinite: true, Principal: "they"})
	mine := mustLock(t, l, LockRequest{Root: at(t, "/d"), Collection: true, Shared: true})
	if err := l.Check("me", []string{mine.Token}, Touch{Path: at(t, "/d")}); err != nil {
		t.Errorf("PROPPATCH of the collection: %v", err)
	}
	if err := l.Check("me", []string{mine.Token}, Touch{Path: at(t, "/d"), Tree: true}); !isLocked(err) {
		t.Errorf("DELETE of the collection: %v, want locked", err)
	}
	mustLock(t, l, LockRequest{Root: at(t, "/f"), Shared: true, Infinite: true, Principal: "they"})
	mine = mustLock(t, l, LockRequest{Root: at(t, "/f"), Shared: true})
	if err := l.Check("me", []string{mine.Token}, Touch{Path: at(t, "/f"), Tree: true}); err != nil {
		t.Errorf("DELETE of a file: %v", err)
	}
}

// A tagged list about one resource holds for a request to another one. It must
// not pass for that one's token: that is for the lock table to refuse.
func TestIfTagDoesNotStandForTheRequest(t *testing.T) {
	h, err := parseIf(header("If", "<http://host/mine> (<urn:mine>)"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.tokens(), []string{"urn:mine"}; !slices.Equal(got, want) {
		t.Errorf("tokens = %q, want %q", got, want)
	}
	l := openTestLocks(t, "")
	if _, err := l.Create(t.Context(), LockRequest{Root: at(t, "/theirs"), Principal: "them"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Hold("me", h.tokens(), Touch{Path: at(t, "/theirs")}); !errors.As(err, new(*LockedError)) {
		t.Errorf("a write past a foreign lock: err = %v, want a LockedError", err)
	}
}

func TestLockTokensAreRandomURIs(t *testing.T) {
	l := NewLocks(LockOptions{})
	form := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := make(map[string]bool)
	for i := range 100 {
		lock := mustLock(t, l, LockRequest{Root: Path{}.child(fmt.Sprint(i))})
		if !form.MatchString(lock.Token) || seen[lock.Token] {
			t.Errorf("token %q", lock.Token)
		}
		seen[lock.Token] = true
	}
}

func TestRefreshAndUnlockNeedOwnerAndScope(t *testing.T) {
	l := NewLocks(LockOptions{})
	lock := mustLock(t, l, LockRequest{Root: at(t, "/d"), Infinite: true})
	mustLock(t, l, LockRequest{Root: at(t, "/f")})
	for _, tt := range []struct {
		name, token, principal, path string
		want                         error
	}{
		{"another resource", lock.Token, "me", "/f", ErrNoSuchLock},
		{"above the scope", lock.Token, "me", "/", ErrNoSuchLock},
		{"an unknown token", "urn:uuid:none", "me", "/d", ErrNoSuchLock},
		{"another user", lock.Token, "they", "/d", ErrNotLockOwner},
		{"another user elsewhere", lock.Token, "they", "/f", ErrNoSuchLock},
		{"nobody", lock.Token, "", "/d", ErrNotLockOwner},
		{"a member", lock.Token, "me", "/d/e/f", nil},
	} {
		if _, err := l.Refresh(tt.token, tt.principal, at(t, tt.path), 0); !errors.Is(err, tt.want) {
			t.Errorf("refresh by %s: %v, want %v", tt.name, err, tt.want)
		}
		if err := l.Unlock(tt.token, tt.principal, at(t, tt.path)); !errors.Is(err, tt.want) {
			t.Errorf("unlock by %s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if got := l.Covering(at(t, "/d")); got != nil {
		t.Errorf("after the unlock: %v", got)
	}
}

func TestLocksExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocks(LockOptions{MaxTimeout: time.Minute})
		touch := Touch{Path: at(t, "/f")}
		lock := mustLock(t, l, LockRequest{Root: at(t, "/f"), Timeout: 10 * time.Second})
		if lock.Timeout != 10*time.Second || !lock.Expires.Equal(time.Now().Add(10*time.Second)) {
			t.Errorf("granted %v until %v", lock.Timeout, lock.Expires)
		}

		time.Sleep(9 * time.Second)
		if err := l.Check("they", nil, touch); !isLocked(err) {
			t.Errorf("after 9 s: %v, want locked", err)
		}
		if lock, err := l.Refresh(lock.Token, "me", at(t, "/f"), 0); err != nil || lock.Timeout != 10*time.Second {
			t.Errorf("refresh without a time = %v, %v; want what was granted", lock.Timeout, err)
		}
		time.Sleep(9 * time.Second)
		if err := l.Check("they", nil, touch); !isLocked(err) {
			t.Errorf("9 s after the refresh: %v, want locked", err)
		}
		time.Sleep(time.Second)
		if err := l.Check("they", nil, touch); err != nil {
			t.Errorf("10 s after the refresh: %v", err)
		}
		if _, err := l.Refresh(lock.Token, "me", at(t, "/f"), 0); !errors.Is(err, ErrNoSuchLock) {
			t.Errorf("refresh after the end: %v, want %v", err, ErrNoSuchLock)
		}
		lock = mustLock(t, l, LockRequest{Root: at(t, "/f"), Principal: "they"})
		if _, err := l.Refresh(lock.Token, "they", at(t, "/f"), time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := l.Check("me", nil, touch); err != nil {
			t.Errorf("after a refresh to a shorter time: %v", err)
		}
	})
}

func TestLockTimeoutsAreFinite(t *testing.T) {
	l := NewLocks(LockOptions{})
	for i, tt := range []struct{ asked, want time.Duration }{
		{0, time.Hour},
		{-1, time.Hour},
		{2 * time.Hour, time.Hour},
		{time.Hour, time.Hour},
		{90 * time.Second, 90 * time.Second},
		{time.Millisecond, time.Second},
		{1900 * time.Millisecond, time.Second},
	} {
		lock := mustLock(t, l, LockRequest{Root: Path{}.child(fmt.Sprint(i)), Timeout: tt.asked})
		if lock.Timeout != tt.want {
			t.Errorf("asked for %v, granted %v, want %v", tt.asked, lock.Timeout, tt.want)
		}
	}
}

func TestLockLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocks(LockOptions{MaxPerUser: 3, MaxLocks: 5})
		create := func(principal, name string) error {
			_, err := l.Create(t.Context(), LockRequest{Root: Path{}.child(name), Principal: principal, Timeout: time.Minute})
			return err
		}
		for _, name := range []string{"1", "2", "3"} {
			if err := create("me", name); err != nil {
				t.Fatal(err)
			}
		}
		if err := create("me", "4"); !errors.Is(err, ErrTooManyLocks) {
			t.Errorf("my fourth: %v, want %v", err, ErrTooManyLocks)
		}
		for _, name := range []string{"4", "5"} {
			if err := create("they", name); err != nil {
				t.Errorf("their lock %s: %v", name, err)
			}
		}
		if err := create("they", "6"); !errors.Is(err, ErrLockTableFull) {
			t.Errorf("the sixth of all: %v, want %v", err, ErrLockTableFull)
		}
		if err := create("they", "1"); !isLocked(err) {
			t.Errorf("a conflict in a full table: %v, want locked", err)
		}
		time.Sleep(time.Minute)
		if err := create("me", "4"); err != nil {
			t.Errorf("after the others expired: %v", err)
		}
		_, err := l.Create(t.Context(), LockRequest{Root: Path{}.child("7"), Owner: strings.Repeat("x", maxLockOwnerLength+1)})
		if !errors.Is(err, ErrLockOwnerTooLong) {
			t.Errorf("a long owner: %v, want %v", err, ErrLockOwnerTooLong)
		}
	})
}

func TestRemoveTreeTakesLocksAlong(t *testing.T) {
	l := NewLocks(LockOptions{})
	for _, root := range []string{"/", "/d", "/d/e/f", "/dd", "/x"} {
		mustLock(t, l, LockRequest{Root: at(t, root)})
	}
	if err := l.RemoveTree(at(t, "/d")); err != nil {
		t.Fatal(err)
	}
	var roots []string
	for _, lock := range l.All() {
		roots = append(roots, lock.Root.String())
	}
	if want := []string{"/", "/dd", "/x"}; !slices.Equal(roots, want) {
		t.Errorf("locks left at %q, want %q", roots, want)
	}
	if len(l.below) != 1 || l.below[Path{}] != 2 {
		t.Errorf("below = %v", l.below)
	}
}

func TestPruneForgetsLocksOnNothing(t *testing.T) {
	l := NewLocks(LockOptions{})
	mustLock(t, l, LockRequest{Root: at(t, "/gone")})
	kept := mustLock(t, l, LockRequest{Root: at(t, "/kept")})
	if err := l.Prune(func(lock Lock) bool { return lock.Root == kept.Root }); err != nil {
		t.Fatal(err)
	}
	if got := l.All(); len(got) != 1 || got[0] != kept {
		t.Errorf("left: %v, want %v", got, kept)
	}
}

// A write that has been let through is finished before a lock is granted.
func TestLockWaitsForWritesInItsScope(t *testing.T) {
	for _, tt := range []struct {
		name  string
		touch Touch
		lock  LockRequest
		waits bool
	}{
		{"itself", Touch{Path: at(t, "/d/f")}, LockRequest{Root: at(t, "/d/f")}, true},
		{"in the tree", Touch{Path: at(t, "/d"), Tree: true}, LockRequest{Root: at(t, "/d/f")}, true},
		{"below an infinite lock", Touch{Path: at(t, "/d/f")}, LockRequest{Root: at(t, "/d"), Infinite: true}, true},
		{"below a lock of depth 0", Touch{Path: at(t, "/d/f")}, LockRequest{Root: at(t, "/d")}, false},
		{"above", Touch{Path: at(t, "/d")}, LockRequest{Root: at(t, "/d/f")}, false},
		{"beside", Touch{Path: at(t, "/d/f"), Tree: true}, LockRequest{Root: at(t, "/d/ff")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewLocks(LockOptions{})
				release, err := l.Hold("they", nil, tt.touch)
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error)
				go func() {
					_, err := l.Create(t.Context(), tt.lock)
					done <- err
				}()
				synctest.Wait()
				select {
				case err := <-done:
					if tt.waits {
						t.Errorf("granted during the write: %v", err)
					}
					release()
				default:
					if !tt.waits {
						t.Error("not granted")
					}
					release()
					release() // twice is once
					if err := <-done; err != nil {
						t.Errorf("after the write: %v", err)
					}
				}
			})
		})
	}
}

func TestLockStopsWaitingWithItsClient(t *testing.T) {
	l := NewLocks(LockOptions{})
	release, err := l.Hold("they", nil, Touch{Path: at(t, "/f")})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Create(ctx, LockRequest{Root: at(t, "/f")}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
	if got := l.All(); got != nil {
		t.Errorf("locks: %v, want none", got)
	}
}

func TestWritesDoNotWaitForEachOther(t *testing.T) {
	l := NewLocks(LockOptions{})
	for range 3 {
		release, err := l.Hold("me", nil, Touch{Path: at(t, "/f")})
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
}

func TestLockTableSurvivesARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks")
	l, err := OpenLocks(file, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var want []Lock
	for _, r := range []LockRequest{
		{Root: at(t, "/"), Collection: true, Shared: true, Infinite: true, Principal: "\xff\u00e4", Timeout: time.Minute},
		{Root: at(t, "/%ff/%0a"), Shared: true, Owner: "\n<D:href xmlns:D=\"DAV:\">m\u00e9 &amp; you</D:href>\n"},
	} {
		want = append(want, mustLock(t, l, r))
	}
	gone := mustLock(t, l, LockRequest{Root: at(t, "/gone"), Shared: true})
	if err := l.Unlock(gone.Token, "me", gone.Root); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := openTestLocks(t, file).All()
	if len(got) != len(want) {
		t.Fatalf("after a restart: %+v, want %+v", got, want)
	}
	for i := range want {
		if !got[i].Expires.Equal(want[i].Expires) {
			t.Errorf("expires %v, want %v", got[i].Expires, want[i].Expires)
		}
		got[i].Expires = want[i].Expires
		if got[i] != want[i] {
			t.Errorf("after a restart: %+v, want %+v", got[i], want[i])
		}
	}
}

func TestLocksExpireWhileNobodyServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "locks")
		l, err := OpenLocks(file, LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mustLock(t, l, LockRequest{Root: at(t, "/short"), Timeout: time.Minute})
		mustLock(t, l, LockRequest{Root: at(t, "/long")})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if l, err = OpenLocks(file, LockOptions{MaxTimeout: 10 * time.Minute}); err != nil {
			t.Fatal(err)
		}
		got := l.All()
		if len(got) != 1 || got[0].Root != at(t, "/long") {
			t.Errorf("after a minute: %+v, want /long", got)
		}
		if left := time.Until(got[0].Expires); left != 10*time.Minute {
			t.Errorf("under a lower limit it lasts %v, want 10m", left)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestMain lets this binary be the process that is killed.
func TestMain(m *testing.M) {
	if file := os.Getenv("DAVFS_TEST_LOCK_FILE"); file != "" {
		lockAndWait(file, LockOptions{NoSync: os.Getenv("DAVFS_TEST_NO_SYNC") != ""})
	}
	os.Exit(m.Run())
}

// lockAndWait takes and releases locks, says so, and waits for its end.
func lockAndWait(file string, o LockOptions) {
	l, err := OpenLocks(file, o)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := range 20 {
		lock, err := l.Create(context.Background(), LockRequest{Root: Path{}.child(fmt.Sprint(i)), Principal: "me"})
		if err == nil && i%2 == 1 {
			err = l.Unlock(lock.Token, "me", lock.Root)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	select {}
}

func TestLocksSurviveKill9(t *testing.T) {
	t.Run("synced", func(t *testing.T) { killLocks(t) })
	t.Run("without sync", func(t *testing.T) { killLocks(t, "DAVFS_TEST_NO_SYNC=1") })
}

// killLocks kills a process that has locks, and looks for them.
func killLocks(t *testing.T, env ...string) {
	file := filepath.Join(t.TempDir(), "locks")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "DAVFS_TEST_LOCK_FILE="+file), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Errorf("the process says %q, %v", line, err)
	}
	if _, err := OpenLocks(file, LockOptions{}); !errors.Is(err, ErrLocksInUse) {
		t.Errorf("opening it beside: %v, want %v", err, ErrLocksInUse)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	l := openTestLocks(t, file)
	if got := len(l.All()); got != 10 {
		t.Errorf("%d locks after kill -9, want 10", got)
	}
	if err := l.Check("they", nil, Touch{Path: at(t, "/0")}); !isLocked(err) {
		t.Errorf("a write to what was locked: %v", err)
	}
}

// Locks that need not survive a power cut must not wait for the disk.
func TestNoSyncWaitsForNoDisk(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		l, err := OpenLocks(filepath.Join(t.TempDir(), "locks"), LockOptions{NoSync: noSync})
		if err != nil {
			t.Fatal(err)
		}
		mustLock(t, l, LockRequest{Root: treePath("a")}) // which makes the file
		if got := l.store.db.NoSync; got != noSync {
			t.Errorf("NoSync %t: bbolt has %t", noSync, got)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// When the disk fails, nobody is told of a lock that a restart would forget, and
// what was not written then is written later.
func TestLockThatCannotBeStoredIsNotGranted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks")
	l, err := OpenLocks(file, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept := mustLock(t, l, LockRequest{Root: at(t, "/kept")})
	freed := mustLock(t, l, LockRequest{Root: at(t, "/freed")})
	good := l.store
	l.store = &lockStore{db: closedDB(t)}

	if _, err := l.Create(t.Context(), LockRequest{Root: at(t, "/f")}); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Errorf("Create = %v, want %v", err, bolterrors.ErrDatabaseNotOpen)
	}
	if got := l.Covering(at(t, "/f")); got != nil {
		t.Errorf("it is there all the same: %v", got)
	}
	if err := l.Unlock(freed.Token, "me", freed.Root); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Errorf("Unlock = %v, want %v", err, bolterrors.ErrDatabaseNotOpen)
	}

	l.store = good
	later := mustLock(t, l, LockRequest{Root: at(t, "/later")})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var got []Path
	for _, lock := range openTestLocks(t, file).All() {
		got = append(got, lock.Root)
	}
	if want := []Path{kept.Root, later.Root}; !slices.Equal(got, want) {
		t.Errorf("after a restart: %v, want %v", got, want)
	}
}

func closedDB(t *testing.T) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "closed"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestForeignLockFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	db, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("locks")); return err })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{text, other} {
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLocks(file, LockOptions{}); !errors.Is(err, ErrLocksCorrupt) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %v with its name", file, err, ErrLocksCorrupt)
		}
		if after, err := os.ReadFile(file); err != nil || !slices.Equal(before, after) {
			t.Errorf("%s was changed (%v)", file, err)
		}
	}
	if _, err := OpenLocks(dir, LockOptions{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
}

// A file that lost its end, or any of whose bytes changed, gives the locks that
// were in it or a clear error, and never ends the process.
func TestDamagedLockFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "locks")
	l, err := OpenLocks(file, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var before []string
	for i := range 60 { // more than one page
		before = tokensOf(l)
		mustLock(t, l, LockRequest{Root: Path{}.child(fmt.Sprint(i)), Owner: strings.Repeat("owner", 20)})
	}
	want := tokensOf(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(what string, content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLocks(file, LockOptions{})
		if err != nil {
			if refused++; !errors.Is(err, ErrLocksCorrupt) {
				t.Errorf("%s: %v, want %v", what, err, ErrLocksCorrupt)
			}
			return
		}
		// The first two pages are a pair: without the newer one, bbolt goes back by
		// one commit.
		if got := tokensOf(l); !slices.Equal(got, want) && !slices.Equal(got, before) {
			t.Errorf("%s: %d locks, want %d or an error", what, len(got), len(want))
		}
		if err := l.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
		}
	}
	page := os.Getpagesize()
	for n := page; n < len(good); n += page {
		try(fmt.Sprintf("%d bytes of %d", n, len(good)), good[:n])
	}
	used := int(highWater(good, page)) * page
	step := max(1, used/100)
	for at := 0; at < used; at += step {
		bad := slices.Clone(good)
		bad[at] ^= 0xff
		try(fmt.Sprintf("byte %d", at), bad)
	}
	for p := range used / page { // the header of each page, in which the lies are worst
		for at := p * page; at < p*page+16; at++ {
			bad := slices.Clone(good)
			bad[at] ^= 0x11
			try(fmt.Sprintf("byte %d, in a page header", at), bad)
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// highWater returns how many pages of a bbolt file are in use, from the newer of
// its first two.
func highWater(file []byte, page int) uint64 {
	const header, pgid, txid = 16, 40, 48
	a, b := file[header:], file[page+header:]
	if binary.NativeEndian.Uint64(b[txid:]) > binary.NativeEndian.Uint64(a[txid:]) {
		a = b
	}
	return binary.NativeEndian.Uint64(a[pgid:])
}

func tokensOf(l *Locks) []string {
	var tokens []string
	for _, lock := range l.All() {
		tokens = append(tokens, lock.Token)
	}
	slices.Sort(tokens)
	return tokens
}

// Many at once: nothing is granted twice, and the file agrees with memory in the
// end, whoever committed whose changes.
func TestLocksByMany(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks")
	l, err := OpenLocks(file, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 10 {
				if err := lockContended(l, fmt.Sprint(g), i); err != nil {
					t.Error(err)
				}
				own := Path{}.child("own").child(fmt.Sprint(g)).child(fmt.Sprint(i))
				if _, err := l.Create(context.Background(), LockRequest{Root: own}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := tokensOf(l)
	if len(want) != 80 {
		t.Errorf("%d locks are left, want 80", len(want))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := tokensOf(openTestLocks(t, file)); !slices.Equal(got, want) {
		t.Errorf("%d locks after a restart, want %d", len(got), len(want))
	}
}

// lockContended takes a lock that others want, uses it and gives it up.
func lockContended(l *Locks, user string, i int) error {
	root := Path{}.child("shared").child(fmt.Sprint(i % 3))
	lock, err := l.Create(context.Background(), LockRequest{Root: root, Principal: user})
	if isLocked(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if got := l.Covering(root); len(got) != 1 || got[0].Token != lock.Token {
		return fmt.Errorf("two exclusive locks on %v: %v", root, got)
	}
	release, err := l.Hold(user, []string{lock.Token}, Touch{Path: root})
	if err != nil {
		return err
	}
	release()
	if i%2 == 0 {
		return l.Unlock(lock.Token, user, root)
	}
	return l.RemoveTree(root)
}

// The table against the definitions of RFC 4918, sections 6 and 7, applied to a
// plain list.
func TestLocksAgreeWithTheirDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLocks(LockOptions{MaxPerUser: 6, MaxLocks: 10})
		var model []Lock
		paths := []string{"", "/a", "/a/b", "/a/b/c", "/a/bc", "/ab", "/ab/c"}
		var resources []Path // each of them a collection with a member that has no lock of its own
		for _, s := range paths {
			resources = append(resources, Path{s}, Path{s}.child("member"))
		}
		drawPath := func() Path { return Path{rapid.SampledFrom(paths).Draw(t, "path")} }
		drawUser := func() string { return rapid.SampledFrom([]string{"me", "they"}).Draw(t, "user") }
		covering := func(p Path) []string {
			var tokens []string
			for _, lock := range model {
				if lock.covers(p) {
					tokens = append(tokens, lock.Token)
				}
			}
			slices.Sort(tokens)
			return tokens
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				r := LockRequest{Root: drawPath(), Principal: drawUser(), Shared: rapid.Bool().Draw(t, "shared"), Infinite: rapid.Bool().Draw(t, "infinite"), Collection: true}
				conflict, mine := false, 0
				for _, old := range model {
					overlap := old.covers(r.Root) || r.Infinite && r.Root.Contains(old.Root)
					conflict = conflict || overlap && (!old.Shared || !r.Shared)
					if old.Principal == r.Principal {
						mine++
					}
				}
				lock, err := l.Create(context.Background(), r)
				var want error
				switch {
				case conflict:
					if !isLocked(err) {
						t.Fatalf("create %+v: %v, want a conflict", r, err)
					}
					return
				case len(model) >= 10:
					want = ErrLockTableFull
				case mine >= 6:
					want = ErrTooManyLocks
				}
				if !errors.Is(err, want) {
					t.Fatalf("create %+v: %v, want %v", r, err, want)
				}
				if err == nil {
					model = append(model, lock)
				}
			},
			"unlock": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "lock")
				user, p := drawUser(), drawPath()
				var want error
				switch lock := model[i]; {
				case !lock.covers(p):
					want = ErrNoSuchLock
				case lock.Principal != user:
					want = ErrNotLockOwner
				}
				if err := l.Unlock(model[i].Token, user, p); !errors.Is(err, want) {
					t.Fatalf("unlock %v by %s at %v: %v, want %v", model[i], user, p, err, want)
				}
				if want == nil {
					model = slices.Delete(model, i, i+1)
				}
			},
			"remove": func(t *rapid.T) {
				p := drawPath()
				if err := l.RemoveTree(p); err != nil {
					t.Fatal(err)
				}
				model = slices.DeleteFunc(model, func(lock Lock) bool { return lock.Root == p || p.Contains(lock.Root) })
			},
			"write": func(t *rapid.T) {
				touch, user := Touch{drawPath(), rapid.Bool().Draw(t, "tree")}, drawUser()
				var tokens []string
				for _, lock := range model {
					if rapid.Bool().Draw(t, "submit") {
						tokens = append(tokens, lock.Token)
					}
				}
				want := false
				for _, p := range resources {
					if p != touch.Path && !(touch.Tree && touch.Path.Contains(p)) {
						continue
					}
					locked, allowed := false, false
					for _, lock := range model {
						if lock.covers(p) {
							locked = true
							allowed = allowed || lock.Principal == user && slices.Contains(tokens, lock.Token)
						}
					}
					want = want || locked && !allowed
				}
				if err := l.Check(user, tokens, touch); isLocked(err) != want {
					t.Fatalf("write of %v by %s with %q: %v, want locked = %v", touch, user, tokens, err, want)
				}
			},
			"": func(t *rapid.T) {
				for _, s := range paths {
					var got []string
					for _, lock := range l.Covering(Path{s}) {
						got = append(got, lock.Token)
					}
					slices.Sort(got)
					if want := covering(Path{s}); !slices.Equal(got, want) {
						t.Fatalf("locks on %q: %q, want %q", s, got, want)
					}
				}
				checkLockInvariant(t, l)
			},
		})
	})
}

// checkLockInvariant checks what the comment on Locks.byToken says.
func checkLockInvariant(t *rapid.T, l *Locks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	byRoot, below, perUser := make(map[Path]int), make(map[Path]int), make(map[string]int)
	for _, lock := range l.byToken {
		byRoot[lock.Root]++
		perUser[lock.Principal]++
		for p := lock.Root; !p.IsRoot(); {
			p = p.Parent()
			below[p]++
		}
	}
	for root, locks := range l.byRoot {
		if len(locks) != byRoot[root] {
			t.Fatalf("byRoot[%v] has %d locks, want %d", root, len(locks), byRoot[root])
		}
	}
	if len(l.byRoot) != len(byRoot) || !reflect.DeepEqual(l.below, below) || !reflect.DeepEqual(l.perUser, perUser) {
		t.Fatalf("below %v, want %v; perUser %v, want %v", l.below, below, l.perUser, perUser)
	}
}

// RFC 4918, sections 9.10.7, 14.1 and 15.8.
func TestLockDiscovery(t *testing.T) {
	now := time.Now()
	lock := Lock{
		Token: "urn:uuid:e71d4fae-5dec-22d6-fea5-00a0c91e6be4", Root: at(t, "/sp%20ace"), Collection: true, Infinite: true,
		Owner: `<D:href xmlns:D="DAV:">x</D:href>`, Timeout: time.Minute, Expires: now.Add(time.Minute - time.Millisecond),
	}
	const want = `<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:exclusive/></D:lockscope>` +
		`<D:depth>infinity</D:depth><D:owner><D:href xmlns:D="DAV:">x</D:href></D:owner>` +
		`<D:timeout>Second-60</D:timeout><D:locktoken><D:href>urn:uuid:e71d4fae-5dec-22d6-fea5-00a0c91e6be4</D:href></D:locktoken>` +
		`<D:lockroot><D:href>/dav/sp%20ace/</D:href></D:lockroot></D:activelock>`
	if got := string(appendActiveLock(nil, at(t, "/dav"), lock)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	lock = Lock{Token: "urn:x", Shared: true, Expires: now.Add(-time.Second)}
	const over = `<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:shared/></D:lockscope><D:depth>0</D:depth>` +
		`<D:timeout>Second-1</D:timeout><D:locktoken><D:href>urn:x</D:href></D:locktoken><D:lockroot><D:href>/</D:href></D:lockroot></D:activelock>`
	if got := string(appendActiveLock(nil, Path{}, lock)); got != over {
		t.Errorf("got %s", got)
	}
}

func BenchmarkLockCheck(b *testing.B) {
	l := NewLocks(LockOptions{MaxPerUser: 10_000})
	for i := range 10_000 {
		mustLock(b, l, LockRequest{Root: Path{}.child("locked").child(fmt.Sprint(i))})
	}
	file := Path{}.child("a").child("b").child("c").child("d")
	b.Run("file", func(b *testing.B) {
		for b.Loop() {
			if err := l.Check("me", nil, Touch{Path: file}, Touch{Path: file.Parent()}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tree", func(b *testing.B) {
		for b.Loop() {
			if err := l.Check("me", nil, Touch{Path: Path{}.child("a"), Tree: true}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a process that died had in its journal counts, up to where it is torn,
// and goes into the file, whatever the next process waits for.
func TestTornJournal(t *testing.T) {
	for _, next := range []LockOptions{{}, {NoSync: true}} {
		file := filepath.Join(t.TempDir(), "locks")
		l, err := OpenLocks(file, LockOptions{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := l.Create(context.Background(), LockRequest{Root: at(t, "/kept"), Principal: "me"})
		if err != nil {
			t.Fatal(err)
		}
		gone, err := l.Create(context.Background(), LockRequest{Root: at(t, "/gone"), Principal: "me"})
		if err == nil {
			err = l.Unlock(gone.Token, "me", gone.Root)
		}
		if err != nil {
			t.Fatal(err)
		}
		journal, err := os.ReadFile(journalName(file))
		if err != nil || len(journal) == 0 {
			t.Skip("the store was faster") // it takes over after journalDelay
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(journalName(file)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after Close there is a journal: %v", err)
		}
		mustDo(t, os.Remove(file)) // as if nothing had been taken over
		mustDo(t, os.WriteFile(journalName(file), append(journal, journal[:20]...), 0o600))
		for range 2 { // the second finds it in the file
			if l, err = OpenLocks(file, next); err != nil {
				t.Fatal(err)
			}
			if all := l.All(); len(all) != 1 || all[0].Token != kept.Token {
				t.Errorf("after a crash: %+v, want the lock on /kept", all)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Most trees never see a lock, and their tables make no file.
func TestLockFileIsMadeByTheFirstLock(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		dir := t.TempDir()
		file := filepath.Join(dir, "locks")
		open := func() *Locks {
			t.Helper()
			l, err := OpenLocks(file, LockOptions{NoSync: noSync})
			mustDo(t, err)
			return l
		}
		l := open()
		mustDo(t, l.RemoveTree(Path{}))
		mustDo(t, l.Close())
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("without a lock there is %v (%v)", left, err)
		}
		l = open()
		made, err := l.Create(t.Context(), LockRequest{Root: treePath("a"), Principal: "alice"})
		mustDo(t, err)
		if _, err := OpenLocks(file, LockOptions{NoSync: noSync}); !errors.Is(err, ErrLocksInUse) {
			t.Errorf("opened beside: %v", err)
		}
		mustDo(t, l.Close())
		l = open()
		if all := l.All(); len(all) != 1 || all[0].Token != made.Token {
			t.Errorf("opened again it has %v", all)
		}
		mustDo(t, l.Close())
	}
}
