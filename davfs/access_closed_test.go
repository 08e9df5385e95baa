package davfs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// withRights lets the header X-User say who makes a request: those that rights does
// not list may do everything.
func withRights(rights map[string]Access) func(*Options) {
	return func(o *Options) {
		o.User = func(r *http.Request) string { return r.Header.Get("X-User") }
		o.Access = func(r *http.Request) Access { return rights[r.Header.Get("X-User")] }
	}
}

const alice = "X-User: alice"

// closedFiles are what alice may see; closedSecrets what she may not.
var closedFiles, closedSecrets = map[string]string{
	"a/f": "1", "a/g/h": "2", "a/up": "-> ../zzz", "b/f": "3", "b/-/f": "4", "r": "5",
}, map[string]string{
	"hush": "secret", "a/hush": "secret", "a/g/hush/hushed": "secret", "a/hushlink": "-> f", "b/hush/": "", "b/link": "-> ../hush", "a/dir": "-> ../b/hush",
	"b/-/hush": "|",
}

var closedRules = rules{
	{"hush", 0},
	{"a/hush", 0},
	{"a/g/hush", 0},
	{"a/hushlink", 0},
	{"b/hush", 0},
	{"b/-/hush", 0},
	{"r", RightRead | RightList},
	{".", allRights},
}

// volatile is what differs between any two servers.
var volatile = regexp.MustCompile(`urn:uuid:[-0-9a-f]+|Second-\d+|"[^" ]{8,}"|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [0-9:]+ GMT|\d{4}-\d\d-\d\dT[0-9:]+Z|127\.0\.0\.1:\d+`)

// steady is an answer as text, without what differs between any two servers.
func (a answer) steady() string {
	header := a.header.Clone()
	header.Del("Date")
	header.Del("Content-Length") // of what volatile takes away
	var lines []string
	for name, values := range header {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(lines)
	return volatile.ReplaceAllString(fmt.Sprint(a.status, "\n", strings.Join(lines, "\n"), "\n", a.body), "~")
}

// Two trees differ in what is closed to alice alone. She cannot tell them apart,
// whatever she asks for: there is no name, no count, no size, no status and no
// header that tells.
func TestWhatIsClosedMakesNoDifference(t *testing.T) {
	listing := func(w http.ResponseWriter, _ *http.Request, _ string, members []Member) {
		for _, m := range members {
			fmt.Fprintln(w, m.Name, m.Collection)
		}
	}
	full := make(map[string]string)
	for _, files := range []map[string]string{closedFiles, closedSecrets} {
		for name, content := range files {
			full[name] = content
		}
	}
	with := serve(t, full, withRights(map[string]Access{"alice": closedRules}), func(o *Options) { o.InfiniteDepth, o.Listing = 9, listing }, withArchives(&Archives{}))
	without := serve(t, closedFiles, withRights(map[string]Access{"alice": closedRules}), func(o *Options) { o.InfiniteDepth, o.Listing = 9, listing }, withArchives(&Archives{}))
	for _, name := range []string{"/hush", "/a/g/hush/hushed", "/b/hush"} {
		with.want(200, "LOCK", name, lockExclusive, "X-User: bob")
	}
	etag := with.want(200, "HEAD", "/hush", "", "X-User: bob").header.Get("ETag")
	paths := []string{
		"/", "/a", "/a/", "/a/f", "/a/g", "/b", "/b/f", "/b/-", "/r", "/free", "/a/free", "/a/up",
		"/hush", "/hush/", "/hush/x", "/a/hush", "/a/hush/x", "/a/g/hush", "/a/g/hush/hushed", "/a/g/hush/new", "/a/g/hush/hushed/x",
		"/a/hushlink", "/b/hush", "/b/hush/new", "/b/-/hush",
	}
	reads := [][]string{ // method, body, headers
		{"GET", ""},
		{"HEAD", ""},
		{"OPTIONS", ""},
		{"UNLOCK", "", "Lock-Token: <urn:uuid:x>"},
		{"TRACE", ""},
		{"PROPFIND", "", "Depth: 0"},
		{"PROPFIND", "", "Depth: 1"},
		{"PROPFIND", "", "Depth: infinity"},
		{"PROPFIND", named("D:lockdiscovery D:supportedlock O:checksums V:state", ""), "Depth: 1"},
		{"GET", "", "If-Match: " + etag},
		{"GET", "", "If-None-Match: " + etag},
		{"GET", "", "If: </hush> ([" + etag + "])"},
		{"GET", "", "If: </hush> (Not [" + etag + "])"},
		{"GET", "", "If: </b/hush> (Not <DAV:no-lock>)"},
	}
	// Those that would change what is closed, and what is not alice's.
	writes := [][]string{
		{"PUT", "x"},
		{"PUT", "x", "If-None-Match: *"},
		{"PUT", "x", "Content-Range: bytes 0-0/1"},
		{"MKCOL", ""},
		{"DELETE", ""},
		{"PATCH", "x", "Content-Type: " + patchType, "X-Update-Range: append"},
		{"LOCK", lockExclusive, "Depth: 0"},
		{"PROPPATCH", patchSet("<x:a>1</x:a>")},
		{"COPY", "", "Destination: /new"},
		{"MOVE", "", "Destination: /new"},
		{"LOCK", "", "If: (<urn:uuid:x>)"},
	}
	ask := func(path string, q []string) {
		headers := append(slices.Clone(q[2:]), alice)
		a, b := with.do(q[0], path, q[1], headers...), without.do(q[0], path, q[1], headers...)
		if a.steady() != b.steady() {
			t.Errorf("%s %s %v tells:\n%s\nand without it:\n%s", q[0], path, headers, a.steady(), b.steady())
		}
		if strings.Contains(a.body, "hush") {
			t.Errorf("%s %s %v: %s", q[0], path, headers, a.body)
		}
	}
	askArchive := func(path string) {
		a, b := with.do("GET", path+"?zip", "", alice), without.do("GET", path+"?zip", "", alice)
		if a.header.Get("Content-Type") == "application/zip" && b.header.Get("Content-Type") == "application/zip" {
			if strings.Contains(a.body, "hush") || strings.Contains(a.body, "secret") || len(a.body) != len(b.body) {
				t.Errorf("the archive of %s has %d bytes, and %d without what is closed: %q", path, len(a.body), len(b.body), a.body)
			}
			a.body, b.body = archived(t, a.body), archived(t, b.body) // the times differ
		}
		if a.steady() != b.steady() {
			t.Errorf("the archive of %s tells:\n%s\nand without it:\n%s", path, a.steady(), b.steady())
		}
	}
	for _, path := range paths {
		askArchive(path)
		for _, q := range reads {
			ask(path, q)
		}
		if strings.Contains(path, "hush") || path == "/r" {
			for _, q := range writes {
				ask(path, q)
			}
			for _, method := range []string{"COPY", "MOVE"} {
				for _, overwrite := range []string{"T", "F"} {
					ask("/a/f", []string{method, "", "Destination: " + path, "Overwrite: " + overwrite})
					ask("/nothing", []string{method, "", "Destination: " + path, "Overwrite: " + overwrite})
				}
			}
		}
	}
	for name, content := range closedSecrets {
		if !strings.HasSuffix(name, "/") && content == "secret" && with.content(name) != "secret" {
			t.Errorf("%s has become %q", name, with.content(name))
		}
	}
}

// A symlink gives no right that there is not on what it leads to. The link
// itself can be moved and deleted by who may do that to it.
func TestRightsThroughSymlinks(t *testing.T) {
	files := map[string]string{
		"hush/f": "secret", "hush/g/h": "secret", "mine/link": "-> ../hush/f", "mine/dir": "-> /hush", "mine/f": "1", "mine/new": "-> ../hush/new",
		"mine/in": "-> f", "mine/two": "-> in", "mine/round/": "", "mine/round/l": "-> ../dir/g",
	}
	s := serve(t, files, withRights(map[string]Access{"alice": rules{{"hush", 0}, {".", allRights}}}), withArchives(&Archives{}))
	before := s.merged()
	for _, path := range []string{"/mine/link", "/mine/dir", "/mine/dir/", "/mine/dir/f", "/mine/dir/g/h", "/mine/dir/free", "/mine/round/l", "/mine/round/l/h", "/mine/new"} {
		for _, q := range [][]string{
			{"GET", ""},
			{"PROPFIND", "", "Depth: 0"},
			{"PROPFIND", "", "Depth: 1"},
			{"PUT", "x"},
			{"PUT", "x", "Content-Range: bytes 0-0/1"},
			{"PATCH", "x", "Content-Type: " + patchType, "X-Update-Range: bytes=0-0"},
			{"PROPPATCH", patchSet("<x:a>1</x:a>")},
			{"LOCK", lockExclusive},
			{"COPY", "", "Destination: /mine/copy"},
		} {
			if got := s.do(q[0], path, q[1], append(slices.Clone(q[2:]), alice)...); got.status != 404 {
				t.Errorf("%s %s: got %d %s, want 404", q[0], path, got.status, got.body)
			}
		}
	}
	if got := archived(t, s.want(200, "GET", "/?zip", "", alice).body); got != "mine/ mine/f=1 mine/in=1 mine/round/ mine/two=1" {
		t.Errorf("the archive has %s", got)
	}
	s.want(404, "GET", "/mine/dir?zip", "", alice)
	for _, path := range []string{"/mine/dir/f", "/mine/dir/new", "/mine/round/l/h"} {
		for _, method := range []string{"DELETE", "MOVE", "MKCOL"} {
			if got := s.do(method, path, "", "Destination: /mine/gone", alice); got.status != 404 {
				t.Errorf("%s %s: got %d, want 404", method, path, got.status)
			}
		}
		for _, method := range []string{"COPY", "MOVE"} {
			s.want(403, method, "/mine/f", "", "Destination: "+path, alice)
		}
	}
	if s.merged() != before {
		t.Errorf("the tree is %s, was %s", s.merged(), before)
	}
	listed := s.want(207, "PROPFIND", "/mine/", "", "Depth: 1", alice).body
	for _, name := range []string{"link", "dir", "new"} {
		if strings.Contains(listed, "/mine/"+name+"<") || strings.Contains(listed, "/mine/"+name+"/<") {
			t.Errorf("%s is listed: %s", name, listed)
		}
	}
	s.want(200, "GET", "/mine/two", "", alice)
	s.want(204, "PUT", "/mine/two", "2", alice)
	if s.content("mine/f") != "2" {
		t.Error("what a link leads to inside one's own is not written")
	}
	old, err := os.Stat(filepath.Join(s.lower, "hush/f"))
	mustDo(t, err)
	s.want(201, "MOVE", "/mine/link", "", "Destination: /mine/moved", "X-OC-Mtime: 1000000000", alice)
	if now, err := s.tree.Stat("hush/f"); err != nil || !now.ModTime().Equal(old.ModTime()) {
		t.Error("the time of what a moved link leads to has changed")
	}
	s.want(404, "GET", "/mine/moved", "", alice)
	s.want(204, "DELETE", "/mine/dir", "", alice)
	s.want(200, "GET", "/hush/f", "", "X-User: bob")
}

// While alice's requests are under way, somebody moves a link to what is closed
// in the place of a directory of hers, and back. Whatever she then gets, it is
// nothing of what is closed, and that stays as it is.
func TestRightsWhileLinksMove(t *testing.T) {
	const rounds = 60
	files := map[string]string{
		"hush/f": "secret", "hush/d/f": "secret", "hush/whisper": "secret", "mine/link": "-> ../hush", "mine/dir/f": "1", "mine/dir/d/f": "2", "mine/x": "3",
	}
	s := serve(t, files, withRights(map[string]Access{"alice": rules{{"hush", 0}, {".", allRights}}}), func(o *Options) { o.Log = nil }, withArchives(&Archives{PerUser: 9}))
	before := snapshotOf(s, "hush")
	do := func(method, path, body string, headers ...string) string {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for _, h := range append(headers, alice) {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { // an archive whose members were moved
				panic(p)
			}
		}()
		s.handler.ServeHTTP(w, r)
		return w.Body.String()
	}
	var done atomic.Bool
	var moves, clients sync.WaitGroup
	moves.Go(func() {
		defer done.Store(true)
		for range rounds {
			for _, m := range [][2]string{{"dir", "aside"}, {"link", "dir"}, {"dir", "link"}, {"aside", "dir"}} {
				do("MOVE", "/mine/"+m[0], "", "Destination: /mine/"+m[1])
			}
		}
	})
	ask := func(q []string) {
		body := do(q[0], q[1], q[2], q[3:]...)
		if strings.Contains(body, "secret") || q[0] == "PROPFIND" && strings.Contains(body, "whisper</D:displayname>") ||
			strings.HasSuffix(q[1], "?zip") && strings.Contains(body, "whisper") {
			t.Errorf("%s %s: %s", q[0], q[1], body)
		}
	}
	for _, queries := range [][][]string{
		{{"GET", "/mine/dir/f", ""}, {"GET", "/mine/dir/whisper", ""}},
		{{"GET", "/mine?zip", ""}, {"GET", "/mine/dir?zip", ""}},
		{{"PROPFIND", "/mine/dir", "", "Depth: 1"}, {"PROPFIND", "/mine/dir/whisper", "", "Depth: 0"}},
		{{"PUT", "/mine/dir/f", "4"}, {"PUT", "/mine/dir/made", "5"}, {"PROPPATCH", "/mine/dir/f", patchSet("<x:a>1</x:a>")}},
		{{"DELETE", "/mine/dir/whisper", ""}, {"MOVE", "/mine/dir/whisper", "", "Destination: /mine/taken"}, {"COPY", "/mine/x", "", "Destination: /mine/dir/d/f"}},
		{{"COPY", "/mine/dir", "", "Destination: /mine/copy"}, {"COPY", "/mine/dir/d", "", "Destination: /mine/copy2"}},
	} {
		clients.Go(func() {
			for !done.Load() {
				for _, q := range queries {
					ask(q)
				}
			}
		})
	}
	moves.Wait()
	clients.Wait()
	if after := snapshotOf(s, "hush"); after != before {
		t.Errorf("what is closed has become\n%s\nwas\n%s", after, before)
	}
	for _, name := range []string{"mine/copy/f", "mine/copy/whisper", "mine/copy/d/f", "mine/copy2/f", "mine/taken"} {
		if s.content(name) == "secret" {
			t.Errorf("%s is a copy of what is closed", name)
		}
	}
}

// snapshotOf is a directory of the merged tree in text, with its dead
// properties.
func snapshotOf(s *share, dir string) string {
	s.t.Helper()
	var b strings.Builder
	infos, err := s.tree.ReadDir(dir)
	mustDo(s.t, err)
	for _, info := range infos {
		name := join(dir, info.Name())
		props, _ := s.tree.Getxattr(name, deadPropAttr) // most have none
		fmt.Fprintf(&b, "%s %v %q\n", name, info.Mode(), props)
		if info.IsDir() {
			b.WriteString(snapshotOf(s, name))
		} else {
			fmt.Fprintf(&b, "%v %s\n", info.ModTime(), s.content(name))
		}
	}
	return b.String()
}

// What is written in a symlink is told to nobody, in an answer about its lock
// neither.
func TestLocksDoNotTellWhereLinksLead(t *testing.T) {
	s := serve(t, map[string]string{"nowhere": "-> /srv/release/f", "d/f": "1", "l": "-> d/f"})
	if got := s.do("LOCK", "/nowhere", lockExclusive); got.status != 409 || strings.Contains(got.body, "srv") {
		t.Errorf("LOCK of a link that leads nowhere: got %d %s", got.status, got.body)
	}
	s.locked("/l")
	if got := s.want(423, "PUT", "/l", "2"); !strings.Contains(got.body, "<D:href>/l</D:href>") {
		t.Errorf("PUT by way of a link to what is locked: %s", got.body)
	}
	s.want(423, "PUT", "/d/f", "2")
}
