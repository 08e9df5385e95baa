package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"overdav/auth"
)

// The answer comes when the old upper is out of sight, not when it is deleted; and
// what a server left of it the next one deletes, whether or not the user comes.
func TestResetDoesNotWaitForTheDeleting(t *testing.T) {
	s, users := userShare(t, nil)
	h := resetServer(s, true)
	discarded := func(user string) string { return filepath.Join(users, user, "work/overdav/discarded") }
	s.clearer.turn.Lock() // as if it had much to delete
	for _, user := range []string{"alice", "bob"} {
		wantAs(t, h, 204, user, "PUT", "/a", user, "")
		wantAs(t, h, 204, user, "POST", resetPath, `{"share": "/", "user": "`+user+`"}`, "", "Content-Type", "application/json")
		if entries, err := os.ReadDir(discarded(user)); err != nil || len(entries) != 1 {
			t.Errorf("of %s waits %v (%v), want one tree", user, entries, err)
		}
	}
	wantAs(t, h, 200, "alice", "GET", "/a", "", "lower")
	wantAs(t, h, 204, "alice", "PUT", "/a", "anew", "")
	wantAs(t, h, 204, "alice", "POST", resetPath, `{"share": "/", "user": "alice"}`, "", "Content-Type", "application/json")
	wantAs(t, h, 204, "alice", "PUT", "/a", "once more", "")
	s.clearer.stop()
	s.clearer.turn.Unlock()
	s.clearer.running.Wait()

	for _, user := range []string{"alice", "bob"} { // a server that ended left all
		if _, err := os.Stat(discarded(user)); err != nil {
			t.Errorf("of %s nothing is left: %v", user, err)
		}
	}
	s.clearer = newClearer()
	s.clearLeft()
	s.clearer.running.Wait()
	if _, err := os.Stat(filepath.Join(users, "bob")); !os.IsNotExist(err) {
		t.Errorf("of bob is left: %v", err)
	}
	if err := s.trees.whileClosed(t.Context(), "alice", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	wantAs(t, s, 200, "alice", "GET", "/a", "", "once more")
	s.clearer.running.Wait()
	if _, err := os.Stat(discarded("alice")); !os.IsNotExist(err) {
		t.Errorf("of alice is left: %v", err)
	}
	wantAs(t, s, 200, "alice", "GET", "/a", "", "once more")
}

// resetServer is a share with the API before it; who is not "" gives a name.
func resetServer(s *share, asks bool, access ...auth.Rule) http.Handler {
	d := &door{log: discardLog()}
	rules := shareRules{path: "/", anonymous: true}
	if access != nil {
		var err error
		if rules.rules, err = auth.NewRules(access); err != nil {
			panic(err)
		}
	}
	d.policy.Store(&policy{asks: asks, admins: map[string]bool{"boss": true}, rules: []shareRules{rules}})
	mux := http.NewServeMux()
	(&resetAPI{shares{s}, d}).addTo(mux)
	mux.Handle("/", s)
	return mux
}

func TestResetThrowsAwayWhatAUserChanged(t *testing.T) {
	s, users := userShare(t, nil)
	h := resetServer(s, true)
	for _, user := range []string{"alice", "bob"} {
		wantAs(t, h, 204, user, "PUT", "/a", user, "")
		wantAs(t, h, 201, user, "MKCOL", "/dir", "", "")
	}
	wantAs(t, h, 200, "alice", "LOCK", "/a", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`, "")
	const ofAlice = `{"share": "/", "user": "alice"}`
	for _, test := range []struct {
		user, body, kind string
		want             int
	}{
		{"bob", ofAlice, "application/json", 403},
		{"", ofAlice, "application/json", 403},
		{"alice", ofAlice, "text/plain", 415},
		{"alice", ofAlice, "application/x-www-form-urlencoded", 415},
		{"alice", `{"shares": "/"}`, "application/json", 400},
		{"alice", `{"share": "/"} x`, "application/json", 400},
		{"alice", `{"share": "/none", "user": "alice"}`, "application/json", 404},
		{"boss", `{"share": "/", "user": ""}`, "application/json", 422},
		{"boss", `{"share": "/", "user": "../x"}`, "application/json", 422},
		{"alice", `{"share": "/", "user": "bob"}`, "application/json", 403},
	} {
		wantAs(t, h, test.want, test.user, "POST", resetPath, test.body, "", "Content-Type", test.kind)
	}
	wantAs(t, h, 200, "alice", "GET", "/a", "", "alice")

	wantAs(t, h, 204, "alice", "POST", resetPath, ofAlice, "", "Content-Type", "application/json")
	if _, err := os.Stat(filepath.Join(users, "alice/upper")); !os.IsNotExist(err) {
		t.Errorf("of alice's upper is left: %v", err)
	}
	s.clearer.running.Wait()
	if _, err := os.Stat(filepath.Join(users, "alice")); !os.IsNotExist(err) {
		t.Errorf("of alice is left: %v", err)
	}
	wantAs(t, h, 200, "alice", "GET", "/a", "", "lower")
	wantAs(t, h, 404, "alice", "GET", "/dir", "", "")
	wantAs(t, h, 204, "alice", "PUT", "/a", "the lock is gone", "")
	wantAs(t, h, 200, "bob", "GET", "/a", "", "bob")
	wantAs(t, h, 204, "boss", "POST", resetPath, `{"share": "/", "user": "bob"}`, "", "Content-Type", "application/json")
	wantAs(t, h, 200, "bob", "GET", "/a", "", "lower")
}

func TestResetOfWhatAllShare(t *testing.T) {
	s, users := userShare(t, func(c *ShareConfig) {
		c.Upper = filepath.Join(filepath.Dir(c.Lower[0]), "users", "upper")
		if err := os.Mkdir(c.Upper, 0o751); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.Upper, 0o751); err != nil {
			t.Fatal(err)
		}
	})
	h := resetServer(s, false)
	wantAs(t, h, 204, "", "PUT", "/a", "changed", "")
	wantAs(t, h, 422, "", "POST", resetPath, `{"share": "/", "user": "alice"}`, "one upper for all", "Content-Type", "application/json")
	wantAs(t, h, 204, "", "POST", resetPath, `{"share": "/"}`, "", "Content-Type", "application/json")
	wantAs(t, h, 200, "", "GET", "/a", "", "lower")
	info, err := os.Stat(filepath.Join(users, "upper"))
	if err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("upper is %v (%v), want the permissions it had", info.Mode(), err)
	}
	wantAs(t, resetServer(s, true), 403, "alice", "POST", resetPath, `{"share": "/"}`, "", "Content-Type", "application/json")
	wantAs(t, resetServer(s, true), 204, "boss", "POST", resetPath, `{"share": "/"}`, "", "Content-Type", "application/json")
}

// To reset is to delete: it is nothing for who may not delete by the rules, nor,
// without users, for anybody with what belongs to a name.
func TestResetIsForThoseWhoMayDelete(t *testing.T) {
	everybody := []string{"*", auth.Anonymous}
	readOnly := auth.Rule{Users: everybody, Allow: auth.RightsRead}
	addOnly := auth.Rule{Users: everybody, Allow: auth.RightsRead | auth.RightCreate}
	writable := auth.Rule{Users: everybody, Allow: auth.RightsAll}
	closed := auth.Rule{Users: everybody, Paths: []string{"/docs/closed"}, Allow: 0}
	const json = "application/json"

	own, _ := userShare(t, nil)
	wantAs(t, own, 204, "alice", "PUT", "/a", "alice", "")
	wantAs(t, own, 204, "", "PUT", "/a", "nobody", "")
	for _, test := range []struct {
		user, whose string
		asks        bool
		want        int
		rules       []auth.Rule
	}{
		{"alice", "alice", true, 403, []auth.Rule{readOnly}},
		{"alice", "alice", true, 403, []auth.Rule{addOnly}},
		{"", "alice", false, 403, nil},
		{"", "anonymous", false, 403, []auth.Rule{readOnly}},
	} {
		wantAs(t, resetServer(own, test.asks, test.rules...), test.want, test.user, "POST", resetPath, `{"share": "/", "user": "`+test.whose+`"}`, "", "Content-Type", json)
	}
	wantAs(t, own, 200, "alice", "GET", "/a", "", "alice")
	wantAs(t, own, 200, "", "GET", "/a", "", "nobody")
	wantAs(t, resetServer(own, true, closed, writable), 204, "alice", "POST", resetPath, `{"share": "/", "user": "Alice"}`, "", "Content-Type", json)
	wantAs(t, own, 200, "alice", "GET", "/a", "", "lower")
	wantAs(t, resetServer(own, false, closed, writable), 204, "", "POST", resetPath, `{"share": "/", "user": "anonymous"}`, "", "Content-Type", json)
	wantAs(t, own, 200, "", "GET", "/a", "", "lower")

	common, _ := userShare(t, func(c *ShareConfig) {
		c.Upper = filepath.Join(filepath.Dir(c.Lower[0]), "users", "upper")
		mustMkdir(t, filepath.Dir(c.Upper), "upper")
	})
	wantAs(t, common, 204, "", "PUT", "/a", "changed", "")
	for _, rules := range [][]auth.Rule{{readOnly}, {addOnly}, {closed, writable}} {
		wantAs(t, resetServer(common, false, rules...), 403, "", "POST", resetPath, `{"share": "/"}`, "", "Content-Type", json)
	}
	wantAs(t, common, 200, "", "GET", "/a", "", "changed")
	wantAs(t, resetServer(common, true, readOnly), 204, "boss", "POST", resetPath, `{"share": "/"}`, "", "Content-Type", json)
	wantAs(t, common, 200, "", "GET", "/a", "", "lower")
}

func TestUppersThatNobodyUsesExpire(t *testing.T) {
	s, users := userShare(t, func(c *ShareConfig) { c.MaxOpen = 1 })
	for _, user := range []string{"alice", "bob", "carol"} { // of whom the last one's stays open
		wantAs(t, s, 204, user, "PUT", "/a", user, "")
	}
	age := func(user string) {
		t.Helper()
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(users, user, "work", usedFile), old, old); err != nil {
			t.Fatal(err)
		}
	}
	age("alice")
	age("carol")
	if err := s.expire(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	left, err := s.layers.users()
	if err != nil || strings.Join(left, " ") != "bob carol" {
		t.Errorf("left are %q (%v), want bob and carol, who is in", left, err)
	}
	wantAs(t, s, 200, "carol", "GET", "/a", "", "carol")
	wantAs(t, s, 200, "alice", "GET", "/a", "", "lower") // and carol's is closed
	age("carol")
	wantAs(t, s, 200, "carol", "GET", "/a", "", "carol") // a use, which counts from now
	if err := s.expire(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wantAs(t, s, 200, "carol", "GET", "/a", "", "carol")
}

func TestResetOnTheCommandLine(t *testing.T) {
	s, _ := userShare(t, nil)
	wantAs(t, s, 204, "alice", "PUT", "/a", "alice", "")
	args := []string{"reset", "/", "--user", "alice", "--lower", s.layers.Lower[0], "--upper", s.layers.Upper}
	try := func(want int, words string, args ...string) {
		t.Helper()
		var out strings.Builder
		if status := run(env{getenv: getenv(), stdout: &out, stderr: &out}, args); status != want || !strings.Contains(out.String(), words) {
			t.Errorf("%q: status %d, said %q, want %d and %q", args, status, &out, want, words)
		}
	}
	try(1, "have the running server do it", args...)
	wantAs(t, s, 200, "alice", "GET", "/a", "", "alice")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	try(2, "name one", "reset", "/", "--lower", s.layers.Lower[0], "--upper", s.layers.Upper)
	try(2, "no share is at /x", "reset", "/x", "--user", "alice", "--lower", s.layers.Lower[0], "--upper", s.layers.Upper)
	try(2, "which share", "reset", "--user", "alice")
	wrong := slices.Clone(args)
	wrong[3] = "no/name"
	try(1, "no name for a directory", wrong...)
	args[3] = "Alice" // as she may write it when she logs in
	try(0, "is gone", args...)
	if left, err := s.layers.users(); err != nil || len(left) > 0 {
		t.Errorf("left are %q (%v)", left, err)
	}
	try(0, "is gone", args...) // there is nothing: that is what was asked for
	try(0, "is gone", "reset", "/", "--user=alice", "--lower", s.layers.Lower[0], "--upper", s.layers.Upper)
}
