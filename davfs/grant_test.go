package davfs

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const lockExclusive = `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype>` +
	`<D:owner><D:href>http://example.org/~alice</D:href></D:owner></D:lockinfo>`

const lockShared = `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`

// asUser lets a test say who it is, in a header of its own.
func asUser(o *Options) { o.User = func(r *http.Request) string { return r.Header.Get("Test-User") } }

// locked locks a path and returns the token.
func (s *share) locked(path string, headers ...string) string {
	s.t.Helper()
	got := s.do("LOCK", path, lockExclusive, headers...)
	if got.status/100 != 2 {
		s.t.Fatalf("LOCK %s: got %d %s", path, got.status, got.body)
	}
	return strings.Trim(got.header.Get("Lock-Token"), "<>")
}

// A foreign lock stops every method that would change what it covers: the
// resource, its members, its membership (RFC 4918, section 7).
func TestLockStopsWhatItCovers(t *testing.T) {
	dst := func(path string) []string { return []string{"Destination: " + path} }
	for _, test := range []struct {
		name, lock, depth, method, path string
		headers                         []string
		want                            int
	}{
		{"the file", "/d/f", "0", "PUT", "/d/f", nil, 423},
		{"the file", "/d/f", "0", "PATCH", "/d/f", []string{"Content-Type: " + patchType, "X-Update-Range: append"}, 423},
		{"the file", "/d/f", "0", "DELETE", "/d/f", nil, 423},
		{"the file", "/d/f", "0", "PROPPATCH", "/d/f", nil, 423},
		{"the file", "/d/f", "0", "MOVE", "/d/f", dst("/n"), 423},
		{"the file", "/d/f", "0", "COPY", "/g", dst("/d/f"), 423},
		{"the file", "/d/f", "0", "MOVE", "/g", dst("/d/f"), 423},
		{"the file, which is only read", "/d/f", "0", "COPY", "/d/f", dst("/n"), 201},
		{"the file, which is only read", "/d/f", "0", "GET", "/d/f", nil, 200},
		{"a neighbour", "/d/f", "0", "PUT", "/d/h", nil, 201},
		{"a file whose name begins alike", "/d/f", "0", "PUT", "/d/ff", nil, 201},
		{"a member", "/d/f", "0", "DELETE", "/d", nil, 423},
		{"a member", "/d/f", "0", "MOVE", "/d", dst("/n"), 423},
		{"a member of what is replaced", "/d/f", "0", "MOVE", "/e", dst("/d"), 423},
		{"a member of what is replaced", "/d/f", "0", "COPY", "/e", dst("/d"), 423},
		{"the membership, depth 0", "/d", "0", "PUT", "/d/new", nil, 423},
		{"the membership, depth 0", "/d", "0", "MKCOL", "/d/new", nil, 423},
		{"the membership, depth 0", "/d", "0", "DELETE", "/d/f", nil, 423},
		{"the membership, depth 0", "/d", "0", "MOVE", "/d/f", dst("/n"), 423},
		{"the membership, depth 0", "/d", "0", "MOVE", "/g", dst("/d/n"), 423},
		{"the membership, depth 0", "/d", "0", "COPY", "/g", dst("/d/n"), 423},
		{"the membership, depth 0", "/d", "0", "LOCK", "/d/new", nil, 423},
		{"a member's content, depth 0", "/d", "0", "PUT", "/d/f", nil, 204},
		{"a member's content, depth infinity", "/d", "infinity", "PUT", "/d/f", nil, 423},
		{"a deep member, depth infinity", "/d", "infinity", "PUT", "/d/s/deep", nil, 423},
		{"everything", "/", "infinity", "PUT", "/new", nil, 423},
	} {
		for _, ifs := range []string{"", `(Not <DAV:no-lock>)`} {
			t.Run(fmt.Sprintf("%s %s %q", test.method, test.name, ifs), func(t *testing.T) {
				s := serve(t, map[string]string{"d/f": "1", "d/s/deep": "2", "e/": "", "g": "3"}, asUser)
				s.locked(test.lock, "Depth: "+test.depth, "Test-User: alice")
				before := s.merged()
				headers := append([]string{"Test-User: bob"}, test.headers...)
				if ifs != "" {
					headers = append(headers, "If: "+ifs)
				}
				body := "x"
				switch test.method {
				case "PROPPATCH":
					body = patchSet("<x:a>1</x:a>")
				case "LOCK":
					body = lockExclusive
				case "GET", "MKCOL", "DELETE", "MOVE", "COPY":
					body = ""
				}
				got := s.want(test.want, test.method, test.path, body, headers...)
				if test.want == 423 {
					if after := s.merged(); after != before {
						t.Errorf("refused, and yet the tree is %q, was %q", after, before)
					}
					if !strings.Contains(got.body, "lock-token-submitted") || !strings.Contains(got.body, "<D:href>"+test.lock) {
						t.Errorf("the refusal does not name the lock: %s", got.body)
					}
				}
			})
		}
	}
}

// The holder may do all of it with the token, which must be submitted.
func TestHolderPassesWithTheToken(t *testing.T) {
	for _, test := range []struct {
		lock, depth, method, path, ifs string
		headers                        []string
		want                           int
	}{
		{"/d/f", "0", "PUT", "/d/f", "(<T>)", nil, 204},
		{"/d/f", "0", "PUT", "/d/f", "<{base}/d/f> (<T>)", nil, 204},
		{"/d/f", "0", "PUT", "/d/f", "</d/f> (<T>)", nil, 204},
		{"/d/f", "0", "PUT", "/d/f", "<{base}/d/f> (<T>) (Not <DAV:no-lock>)", nil, 204},
		{"/d/f", "0", "DELETE", "/d/f", "(<T>)", nil, 204},
		{"/d/f", "0", "DELETE", "/d", "<{base}/d/f> (<T>)", nil, 204},
		{"/d/f", "0", "MOVE", "/d/f", "<{base}/d/f> (<T>)", []string{"Destination: /n"}, 201},
		{"/d/f", "0", "MOVE", "/d/f", "(<T>)", []string{"Destination: /g"}, 204},
		{"/d", "0", "PUT", "/d/new", "</d> (<T>)", nil, 201},
		{"/d", "infinity", "PUT", "/d/s/deep", "(<T>)", nil, 204},
		{"/d/f", "0", "PUT", "/d/f", "", nil, 423},
		{"/d/f", "0", "PUT", "/d/f", "(Not <T>)", nil, 412},
		{"/d/f", "0", "PUT", "/d/f", `(<T> ["wrong"])`, nil, 412},
		{"/d/f", "0", "PUT", "/d/f", "(<T> <urn:uuid:other>)", nil, 412},
		{"/d/f", "0", "PUT", "/d/f", "(<urn:uuid:other>) (<T>)", nil, 204},
		{"/d/f", "0", "PUT", "/d/f", "<http://other.example/d/f> (<T>)", nil, 412},
		{"/d/f", "0", "PUT", "/d/h", "(<T>)", nil, 412},
	} {
		t.Run(fmt.Sprintf("%s %s %s", test.method, test.path, test.ifs), func(t *testing.T) {
			s := serve(t, map[string]string{"d/f": "1", "d/h": "2", "d/s/deep": "3", "g": "4"})
			token := s.locked(test.lock, "Depth: "+test.depth)
			headers := test.headers
			if test.ifs != "" {
				headers = append(headers, "If: "+strings.ReplaceAll(test.ifs, "<T>", "<"+token+">"))
			}
			body := "x"
			if test.method != "PUT" {
				body = ""
			}
			s.want(test.want, test.method, test.path, body, headers...)
		})
	}
}

// Whoever has learnt a token is not let through with it, and no lock of one's
// own opens another's.
func TestTokensAreBoundToTheirUserAndResource(t *testing.T) {
	s := serve(t, map[string]string{"mine": "1", "theirs": "2"}, asUser)
	theirs := s.locked("/theirs", "Test-User: alice")
	mine := s.locked("/mine", "Test-User: bob")
	for _, ifs := range []string{
		"(<" + theirs + ">)", "<{base}/mine> (<" + mine + ">)", "</mine> (<" + mine + ">) </theirs> (<" + theirs + ">)",
		"(Not <" + mine + ">)",
	} {
		for _, method := range []string{"PUT", "DELETE"} {
			s.want(423, method, "/theirs", "", "Test-User: bob", "If: "+ifs)
		}
	}
	s.want(403, "UNLOCK", "/theirs", "", "Test-User: bob", "Lock-Token: <"+theirs+">")
	s.want(409, "UNLOCK", "/mine", "", "Test-User: alice", "Lock-Token: <"+theirs+">")
	s.want(412, "LOCK", "/mine", "", "Test-User: bob", "If: (<"+theirs+">)")
	s.want(412, "LOCK", "/mine", "", "Test-User: bob", "If: </theirs> (<"+theirs+">)")
	s.want(204, "UNLOCK", "/theirs", "", "Test-User: alice", "Lock-Token: <"+theirs+">")
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4`).MatchString(mine) || mine[:18] == theirs[:18] {
		t.Errorf("tokens %s and %s are no random URNs", mine, theirs)
	}
}

func TestWhoMayUnlocksForOthers(t *testing.T) {
	s := serve(t, map[string]string{"theirs": "1", "other": "2", "kept/f": ""}, asUser, func(o *Options) {
		o.Unlocks = func(r *http.Request, root string, own bool) bool {
			return own && root != "kept" || r.Header.Get("Test-User") == "admin"
		}
	})
	kept := s.locked("/kept", "Depth: infinity", "Test-User: alice")
	s.want(403, "UNLOCK", "/kept/f", "", "Test-User: alice", "Lock-Token: <"+kept+">")
	s.want(204, "UNLOCK", "/kept/f", "", "Test-User: admin", "Lock-Token: <"+kept+">")
	theirs := s.locked("/theirs", "Test-User: alice")
	s.want(403, "UNLOCK", "/theirs", "", "Test-User: bob", "Lock-Token: <"+theirs+">")
	s.want(409, "UNLOCK", "/other", "", "Test-User: admin", "Lock-Token: <"+theirs+">")
	s.want(423, "PUT", "/theirs", "", "Test-User: admin", "If: (<"+theirs+">)") // to end it is not to have it
	s.want(204, "UNLOCK", "/theirs", "", "Test-User: admin", "Lock-Token: <"+theirs+">")
	s.want(204, "PUT", "/theirs", "", "Test-User: bob")
	s.want(409, "UNLOCK", "/theirs", "", "Test-User: admin", "Lock-Token: <"+theirs+">")
}

func TestLockAnswer(t *testing.T) {
	s := serve(t, map[string]string{"d&é/f": "1"}, func(o *Options) { o.Prefix = "/dav" })
	got := s.want(200, "LOCK", "/dav/d%26%C3%A9/", lockExclusive, "Timeout: Infinite, Second-4100000000", "Depth: infinity")
	for _, want := range []string{
		"<D:timeout>Second-3600</D:timeout>", "<D:depth>infinity</D:depth>", ">http://example.org/~alice</D:href></D:owner>",
		"<D:lockroot><D:href>/dav/d%26%C3%A9/</D:href></D:lockroot>", strings.Trim(got.header.Get("Lock-Token"), "<>"),
	} {
		if !strings.Contains(got.body, want) {
			t.Errorf("LOCK: no %s in %s", want, got.body)
		}
	}
	found := s.want(207, "PROPFIND", "/dav/d%26%C3%A9/f", named("D:lockdiscovery"), "Depth: 0")
	if !strings.Contains(found.body, "<D:lockroot><D:href>/dav/d%26%C3%A9/</D:href>") {
		t.Errorf("lockdiscovery of a member does not tell of the lock: %s", found.body)
	}
	for header, want := range map[string]string{"Second-60": "Second-60", "Second-0": "Second-3600", "infinite": "Second-3600", "soon": "Second-3600"} {
		got := s.want(201, "LOCK", "/dav/"+header, lockShared, "Timeout: "+header)
		if !strings.Contains(got.body, "<D:timeout>"+want+"<") {
			t.Errorf("Timeout: %s: got %s, want %s", header, got.body, want)
		}
	}
}

func TestLockRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		path, body string
		headers    []string
		want       int
	}{
		"a missing parent":              {"/no/f", lockExclusive, nil, 409},
		"a parent that is a file":       {"/f/x", lockExclusive, nil, 409},
		"a free collection":             {"/new/", lockExclusive, nil, 409},
		"Depth 1":                       {"/f", lockExclusive, []string{"Depth: 1"}, 400},
		"no lockinfo":                   {"/f", "<a/>", nil, 400},
		"no scope":                      {"/f", `<D:lockinfo xmlns:D="DAV:"><D:locktype><D:write/></D:locktype></D:lockinfo>`, nil, 400},
		"neither body nor token":        {"/f", "", nil, 400},
		"If-None-Match: * of a file":    {"/f", lockExclusive, []string{"If-None-Match: *"}, 412},
		"If-Match: * of nothing":        {"/new", lockExclusive, []string{"If-Match: *"}, 412},
		"an owner that is too long":     {"/f", strings.Replace(lockExclusive, "alice", strings.Repeat("a", 5000), 1), nil, 413},
		"a body that is too long":       {"/f", lockExclusive + strings.Repeat(" ", maxLockBody), nil, 413},
		"a refresh of what is no token": {"/f", "", []string{"If: (<urn:uuid:none>)"}, 412},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "1"})
			s.want(test.want, "LOCK", test.path, test.body, test.headers...)
			s.wantMerged("f=1")
			if left := s.handler.locks.Below(Path{}); len(left) > 0 {
				t.Errorf("a refused LOCK left %v", left)
			}
		})
	}
}

func TestLocksThatGoTogether(t *testing.T) {
	for _, test := range []struct {
		name, first, second string
		firstPath, path     string
		depth               string
		want                int
	}{
		{"two exclusive", lockExclusive, lockExclusive, "/f", "/f", "0", 423},
		{"two shared", lockShared, lockShared, "/f", "/f", "0", 200},
		{"shared, then exclusive", lockShared, lockExclusive, "/f", "/f", "0", 423},
		{"exclusive, then shared", lockExclusive, lockShared, "/f", "/f", "0", 423},
		{"infinite over a member's", lockExclusive, lockExclusive, "/d/x", "/d", "infinity", 207},
		{"depth 0 over a member's", lockExclusive, lockExclusive, "/d/x", "/d", "0", 200},
		{"infinite shared over a member's shared", lockShared, lockShared, "/d/x", "/d", "infinity", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "1", "d/x": "2"}, asUser)
			s.want(200, "LOCK", test.firstPath, test.first, "Test-User: alice")
			got := s.want(test.want, "LOCK", test.path, test.second, "Test-User: bob", "Depth: "+test.depth)
			if test.want == 423 && !strings.Contains(got.body, "<D:no-conflicting-lock><D:href>"+test.firstPath) {
				t.Errorf("the refusal does not name the lock: %s", got.body)
			}
			if test.want == 207 && !strings.Contains(got.body, "<D:response><D:href>/d/x</D:href><D:status>HTTP/1.1 423 Locked</D:status></D:response>"+
				"<D:response><D:href>/d/</D:href><D:status>HTTP/1.1 424 Failed Dependency</D:status></D:response>") {
				t.Errorf("the answer does not say what failed: %s", got.body)
			}
			if test.want != 200 && got.header.Get("Lock-Token") != "" {
				t.Error("a token, and no lock")
			}
		})
	}
}

func TestRefreshAndUnlock(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "1"})
	token := s.locked("/d", "Timeout: Second-60", "Depth: infinity")
	for _, path := range []string{"/d", "/d/f"} {
		got := s.want(200, "LOCK", path, "", "If: (<"+token+">)", "Timeout: Second-120")
		if !strings.Contains(got.body, "Second-120") || got.header.Get("Lock-Token") != "" {
			t.Errorf("refresh by %s: %s", path, got.body)
		}
	}
	if got := s.want(200, "LOCK", "/d", "", "If: (<"+token+">)"); !strings.Contains(got.body, "Second-120") {
		t.Errorf("a refresh without a time changed it: %s", got.body)
	}
	s.want(400, "UNLOCK", "/d", "")
	s.want(409, "UNLOCK", "/d", "", "Lock-Token: <urn:uuid:none>")
	s.want(409, "UNLOCK", "/other", "", "Lock-Token: <"+token+">")
	s.want(204, "UNLOCK", "/d/f", "", "Lock-Token: "+token) // without brackets, as some send it
	s.want(204, "PUT", "/d/f", "free")
}

func TestLocksEndWithTheirResource(t *testing.T) {
	s := serve(t, map[string]string{"a": "1", "b": "2", "d/x": "3"})
	ifs := func(path, token string) string { return "If: <" + path + "> (<" + token + ">)" }

	token := s.locked("/a")
	s.want(204, "DELETE", "/a", "", ifs("/a", token))
	s.want(201, "PUT", "/a", "again")

	token = s.locked("/d/x")
	s.want(204, "DELETE", "/d", "", ifs("/d/x", token))
	s.want(201, "MKCOL", "/d", "")
	s.want(201, "PUT", "/d/x", "again")

	token = s.locked("/b")
	s.want(201, "MOVE", "/b", "", ifs("/b", token), "Destination: /c")
	s.want(204, "PUT", "/c", "the lock did not travel")
	s.want(201, "PUT", "/b", "nor stay")

	if left := s.handler.locks.Below(Path{}); len(left) > 0 {
		t.Errorf("locks are left: %v", left)
	}
}

func TestLockOfAFreeNameMakesAnEmptyFile(t *testing.T) {
	s := serve(t, nil)
	token := s.locked("/new")
	s.wantMerged("new=")
	s.want(423, "PUT", "/new", "x")
	s.want(204, "PUT", "/new", "x", "If: (<"+token+">)")
	s.want(204, "UNLOCK", "/new", "", "Lock-Token: <"+token+">")
	s.wantMerged("new=x")
}

// What could not be looked at is not taken for a free name, and never emptied.
func TestLockNeverEmptiesAFile(t *testing.T) {
	s := serve(t, map[string]string{"f": "content"})
	s.want(200, "LOCK", "/f", lockExclusive)
	s.wantMerged("f=content")
}

func TestHandlerKeepsLocksOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks")
	open := func() *Locks {
		locks, err := OpenLocks(file, LockOptions{})
		mustDo(t, err)
		return locks
	}
	locks := open()
	s := serve(t, map[string]string{"f": "1", "gone": "2"}, func(o *Options) { o.Locks = locks })
	token := s.locked("/f")
	s.locked("/gone")
	mustDo(t, s.tree.Remove("gone")) // as if the server had died before it forgot the lock
	mustDo(t, locks.Close())

	locks = open()
	defer func() { mustDo(t, locks.Close()) }()
	handler, err := NewHandler(s.fs, Options{Locks: locks})
	mustDo(t, err)
	s.restart(handler)
	s.want(423, "PUT", "/f", "x")
	s.want(204, "PUT", "/f", "x", "If: (<"+token+">)")
	s.want(201, "PUT", "/gone", "x")
}

// Requests do not stand in each other's way without a lock of a client.
func TestWithoutALockNobodyIsLockedOut(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "1"})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			path := fmt.Sprintf("/d/f%d", i%4)
			if got := s.do("PUT", path, "x").status; got != 201 && got != 204 {
				t.Errorf("PUT %s: got %d", path, got)
			}
		})
	}
	wg.Wait()
}

// Who comes through a symlink meets the same locks.
func TestNoLinkLeadsAroundALock(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "1", "d/e/x": "2", "to": "-> d", "back": "-> /d/e/../f", "loop": "-> loop"}, asUser)
	token := s.locked("/to/f", "Test-User: alice")
	for _, path := range []string{"/d/f", "/to/f", "/back"} {
		s.want(423, "PUT", path, "x", "Test-User: bob")
		s.want(423, "PROPPATCH", path, patchSet("<x:a>1</x:a>"), "Test-User: bob")
		s.want(423, "LOCK", path, lockExclusive, "Test-User: bob")
		if got := s.want(207, "PROPFIND", path, named("D:lockdiscovery"), "Depth: 0"); !strings.Contains(got.body, token) {
			t.Errorf("%s does not tell of its lock", path)
		}
	}
	for _, path := range []string{"/d", "/to/"} {
		if got := s.want(207, "PROPFIND", path, named("D:lockdiscovery"), "Depth: 1"); !strings.Contains(got.body, token) {
			t.Errorf("the listing of %s does not tell of the lock", path)
		}
	}
	s.want(423, "DELETE", "/to/f", "", "Test-User: bob")
	s.want(423, "DELETE", "/d", "", "Test-User: bob")
	s.want(423, "MOVE", "/d/e/x", "", "Destination: /to/f", "Test-User: bob")
	s.want(423, "COPY", "/d/e/x", "", "Destination: /to/f", "Test-User: bob")
	s.want(204, "PUT", "/back", "x", "If: (<"+token+">)", "Test-User: alice")
	s.want(204, "DELETE", "/back", "", "Test-User: bob") // the link is nobody's
	s.want(403, "LOCK", "/loop/x", lockExclusive, "Test-User: bob")
	s.want(204, "UNLOCK", "/d/f", "", "Lock-Token: <"+token+">", "Test-User: alice")
	s.wantMerged("d/ d/e/ d/e/x=2 d/f=x loop~ to~")
}

// Several requests under one token at once all pass.
func TestHolderMayDoSeveralThingsAtOnce(t *testing.T) {
	s := serve(t, map[string]string{"d/": ""})
	token := s.locked("/d", "Depth: infinity")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if got := s.do("PUT", fmt.Sprintf("/d/%d", i), "x", "If: </d> (<"+token+">)"); got.status != 201 {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
	wg.Wait()
	s.want(204, "UNLOCK", "/d", "", "Lock-Token: <"+token+">")
}

// A lock taken while somebody uploads stops the upload at its commit.
func TestLockTakenDuringAnUploadHolds(t *testing.T) {
	s := serve(t, map[string]string{"f": "old"})
	body, feed := io.Pipe()
	done := make(chan answer, 1)
	r, err := http.NewRequest("PUT", s.URL+"/f", body)
	mustDo(t, err)
	go func() { done <- s.send(r) }()
	_, err = io.WriteString(feed, "late")
	mustDo(t, err)
	s.locked("/f")
	mustDo(t, feed.Close())
	if got := <-done; got.status != http.StatusLocked {
		t.Errorf("got %d, want 423", got.status)
	}
	s.wantMerged("f=old")
}

func TestLocksOfOneUserAreLimited(t *testing.T) {
	s := serve(t, nil, asUser, func(o *Options) { o.Locks = NewLocks(LockOptions{MaxPerUser: 2, MaxLocks: 3}) })
	s.locked("/1", "Test-User: alice")
	s.locked("/2", "Test-User: alice")
	s.want(507, "LOCK", "/3", lockExclusive, "Test-User: alice")
	s.locked("/3", "Test-User: bob")
	s.want(503, "LOCK", "/4", lockExclusive, "Test-User: carol")
	s.wantMerged("1= 2= 3=")
}

func TestJunkIsLockedWithoutBeingMade(t *testing.T) {
	s := serve(t, nil, func(o *Options) { o.Junk = JunkDrop })
	s.want(201, "PUT", "/._f", "")
	token := s.locked("/._f")
	s.want(201, "PUT", "/._f", "x", "If: (<"+token+">)")
	s.want(204, "UNLOCK", "/._f", "", "Lock-Token: <"+token+">")
	s.wantMerged("")
}

// A body of a hundred megabytes of start tags costs what its limit costs.
func TestHugeBodiesAreCut(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for _, method := range []string{"PROPFIND", "PROPPATCH", "LOCK"} {
		r, err := http.NewRequest(method, s.URL+"/f", bufio.NewReader(io.LimitReader(tags{}, 100<<20)))
		mustDo(t, err)
		started := time.Now()
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			continue // the server had answered and hung up
		}
		_ = response.Body.Close() // its status is what counts
		if response.StatusCode != http.StatusRequestEntityTooLarge || time.Since(started) > 10*time.Second {
			t.Errorf("%s: got %d after %v, want 413 soon", method, response.StatusCode, time.Since(started))
		}
	}
	s.want(200, "GET", "/f", "")
}

type tags struct{}

func (tags) Read(p []byte) (int, error) {
	n := copy(p, "<a>")
	for i := n; i < len(p); i++ {
		p[i] = "<a>"[i%3]
	}
	return len(p) - len(p)%3, nil
}
