package davfs

import (
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"overdav/overlay"
)

// A name that is not UTF-8 can be used where a layer has it, as it is listed,
// but not made.
func TestNamesThatAreNotUTF8(t *testing.T) {
	s := serve(t, map[string]string{"bad\xff": "1", "f": "2"})
	for _, step := range []struct {
		method, path string
		header       string
		want         int
	}{
		{"GET", "/bad%ff", "", 200},
		{"PUT", "/new%ff", "", 400},
		{"MKCOL", "/new%ff", "", 400},
		{"MOVE", "/f", "Destination: /new%ff", 400},
		{"MOVE", "/bad%ff", "Destination: /good", 201},
		{"DELETE", "/good", "", 204},
	} {
		var headers []string
		if step.header != "" {
			headers = append(headers, step.header)
		}
		if got := s.do(step.method, step.path, "", headers...); got.status != step.want {
			t.Errorf("%s %s %s: got %d, want %d", step.method, step.path, step.header, got.status, step.want)
		}
	}
}

// Each way to write a path that is not the one canonical way is refused, in
// each field that has a path.
func TestOnlyCanonicalPathsPass(t *testing.T) {
	long := strings.Repeat("n", 256)
	s := serve(t, map[string]string{"f": "1", "d/f": "2"})
	for _, path := range []string{
		"/d/../f", "/d/%2e%2e/f", "/d/%2E./f", "/d/.%2e/f", "/./f", "/%2e/f", "/d//f", "//f", "/d%2ff", "/d%2Ff",
		"/f%00", "/%00", "/d/%2f/f", "/..", "/%2e%2e", "/%2e%2e/", "/d/..", "/d/%2e%2e%2ff",
		"/" + long, "/d/" + long + "/f",
	} {
		for _, method := range []string{"GET", "PROPFIND", "PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH", "OPTIONS", "COPY", "MOVE"} {
			got := s.do(method, path, "", "Depth: 0", "Destination: /n", "Lock-Token: <a:b>")
			if got.status != 400 && got.status != 414 {
				t.Errorf("%s %s: got %d, want 400 or 414", method, path, got.status)
			}
		}
		for _, method := range []string{"COPY", "MOVE"} {
			for _, base := range []string{"", "{base}"} {
				got := s.do(method, "/f", "", "Destination: "+base+path)
				if got.status != 400 && got.status != 414 {
					t.Errorf("%s to %s%s: got %d, want 400 or 414", method, base, path, got.status)
				}
			}
		}
		// A tag that names nothing is true of nothing.
		if got := s.do("PUT", "/f", "x", "If: <"+path+"> (Not <DAV:no-lock>)"); got.status != 412 && got.status != 400 {
			t.Errorf("If: <%s>: got %d, want 412 or 400", path, got.status)
		}
		s.wantMerged("d/ d/f=2 f=1")
	}
}

// A prefix ends with a whole name.
func TestPrefixIsOfWholeNames(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "dav": "2"}, func(o *Options) { o.Prefix = "/a%20b/dav/" })
	for path, want := range map[string]int{
		"/a%20b/dav/f": 200, "/a b/dav/f": 200, "/a%20b/dav": 200, "/a%20b/dav/": 200, "/a%20b/dav/dav": 200, "/%61%20b/dav/f": 200,
		"/a%20b/davf": 404, "/a%20b/dav2/f": 404, "/f": 404, "/": 404, "/a%20b": 404, "/A%20B/DAV/f": 404,
	} {
		r := strings.ReplaceAll(path, " ", "%20")
		if got := s.do("GET", r, "").status; got != want {
			t.Errorf("GET %s: got %d, want %d", path, got, want)
		}
	}
	s.want(404, "PUT", "/a%20b/davx", "x")
	got := parseListing(t, s.want(207, "PROPFIND", "/a%20b/dav", "", "Depth: 1").body)
	if want := "/a%20b/dav/ /a%20b/dav/dav /a%20b/dav/f"; got.hrefs() != want {
		t.Errorf("got %s, want %s", got.hrefs(), want)
	}
	for dst, want := range map[string]int{"/a%20b/dav/n1": 201, "/n": 502, "/a%20b/davx": 502, "/a%20b": 502, "/": 502, "/a%20b/dav": 403} {
		if got := s.do("COPY", "/a%20b/dav/f", "", "Destination: "+dst).status; got != want {
			t.Errorf("COPY to %s: got %d, want %d", dst, got, want)
		}
	}
	s.wantMerged("dav=2 f=1 n1=1")
}

// What stands before a Destination depends on who is in front of us, and never
// on who says to be.
func TestDestinationThroughProxies(t *testing.T) {
	public, err := url.Parse("https://files.example.org/share")
	mustDo(t, err)
	trusting := Site{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for _, test := range []struct {
		name    string
		site    Site
		headers []string
		want    int
	}{
		{"our own host", Site{}, []string{"Destination: {base}/n"}, 201},
		{"a path", Site{}, []string{"Destination: /n"}, 201},
		{"another scheme", Site{}, []string{"Destination: {https}/n"}, 201},
		{"another host", Site{}, []string{"Destination: http://other.example/n"}, 502},
		{"another host, that a stranger forwards", Site{}, []string{"Destination: http://other.example/n", "X-Forwarded-Host: other.example"}, 502},
		{"another host, that our proxy forwards", trusting, []string{"Destination: https://other.example/n", "X-Forwarded-Host: other.example"}, 201},
		{"in another case and with its port", trusting, []string{"Destination: https://OTHER.example:443/n", "X-Forwarded-Host: other.example"}, 201},
		{"Forwarded", trusting, []string{"Destination: https://other.example/n", "Forwarded: for=1.2.3.4;host=other.example;proto=https"}, 201},
		{"the public address", Site{PublicURL: public}, []string{"Destination: https://files.example.org/share/n"}, 201},
		{"the public host without its path", Site{PublicURL: public}, []string{"Destination: https://files.example.org/n"}, 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.Site = test.site })
			var headers []string
			for _, header := range test.headers {
				headers = append(headers, strings.ReplaceAll(header, "{https}", strings.Replace(s.URL, "http:", "https:", 1)))
			}
			s.want(test.want, "MOVE", "/f", "", headers...)
		})
	}
}

func TestHrefsAreThoseOfThePublicAddress(t *testing.T) {
	public, err := url.Parse("https://files.example.org/share")
	mustDo(t, err)
	s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.Site.PublicURL, o.Prefix = public, "/dav" })
	got := parseListing(t, s.want(207, "PROPFIND", "/dav/", "", "Depth: 1").body)
	if want := "/share/dav/ /share/dav/f"; got.hrefs() != want {
		t.Errorf("got %s, want %s", got.hrefs(), want)
	}
}

// RFC 4918, section 10.4, on entity tags: they count in all methods.
func TestIfWithEntityTags(t *testing.T) {
	for _, method := range []string{"PUT", "DELETE", "PROPPATCH", "MOVE", "COPY", "LOCK", "GET", "PROPFIND"} {
		for ifs, passes := range map[string]bool{
			"([TAG])": true, `(["wrong"])`: false, "(Not [TAG])": false, `(Not ["wrong"])`: true,
			"(<DAV:no-lock>)": false, "(Not <DAV:no-lock>)": true, `(["wrong"]) ([TAG])`: true, `([TAG] ["wrong"])`: false,
			"</g> ([TAG])": false, "</f> ([TAG])": true,
		} {
			s := serve(t, map[string]string{"f": "1", "g": "22"})
			tag := s.want(200, "HEAD", "/f", "").header.Get("ETag")
			body := map[string]string{"PUT": "x", "PROPPATCH": patchSet("<x:a>1</x:a>"), "LOCK": lockExclusive}[method]
			got := s.do(method, "/f", body, "If: "+strings.ReplaceAll(ifs, "TAG", tag), "Destination: /n", "Depth: 0")
			if method == "MOVE" {
				got = s.do("HEAD", "/n", "")
				if (got.status == 200) != passes {
					t.Errorf("MOVE with If: %s: the destination answers %d", ifs, got.status)
				}
				continue
			}
			if (got.status != 412) != passes || got.status >= 500 || passes && got.status >= 400 {
				t.Errorf("%s with If: %s: got %d", method, ifs, got.status)
			}
		}
	}
}

func TestMkcol(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		headers          []string
		want             int
		tree             string
	}{
		{"new", "/n", "", nil, 201, "d/ f=1 n/"},
		{"new, with a slash", "/n/", "", nil, 201, "d/ f=1 n/"},
		{"of what exists", "/d", "", nil, 405, "d/ f=1"},
		{"of a file", "/f", "", nil, 405, "d/ f=1"},
		{"of the root", "/", "", nil, 405, "d/ f=1"},
		{"without a parent", "/no/n", "", nil, 409, "d/ f=1"},
		{"in a file", "/f/n", "", nil, 409, "d/ f=1"},
		{"with a body", "/n", "x", nil, 415, "d/ f=1"},
		{"with a condition that fails", "/n", "", []string{"If-Match: *"}, 412, "d/ f=1"},
		{"with an If that fails", "/n", "", []string{`If: (["x"])`}, 412, "d/ f=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"d/": "", "f": "1"})
			s.want(test.want, "MKCOL", test.path, test.body, test.headers...)
			s.wantMerged(test.tree)
		})
	}
}

// A body that would be ignored is refused (RFC 4918, section 8.4): it may be an
// extension, without which the request means something else.
func TestBodiesThatNobodyReads(t *testing.T) {
	s := serve(t, map[string]string{"d/e/g": "2", "f": "1"})
	for _, method := range []string{"DELETE", "MKCOL", "COPY", "MOVE", "UNLOCK"} {
		s.want(415, method, "/d", "<x/>", "Destination: /n", "Lock-Token: <urn:x>")
	}
	s.wantMerged("d/ d/e/ d/e/g=2 f=1")
}

func TestDelete(t *testing.T) {
	for _, test := range []struct {
		name, path string
		headers    []string
		want       int
		tree       string
	}{
		{"a file", "/f", nil, 204, "d/ d/e/ d/e/g=2 l~"},
		{"a collection", "/d", nil, 204, "f=1 l~"},
		{"a collection, with a slash", "/d/", []string{"Depth: infinity"}, 204, "f=1 l~"},
		{"a link, not what it leads to", "/l", nil, 204, "d/ d/e/ d/e/g=2 f=1"},
		{"a collection without its members", "/d", []string{"Depth: 0"}, 400, "d/ d/e/ d/e/g=2 f=1 l~"},
		{"a file as a collection", "/f/", nil, 404, "d/ d/e/ d/e/g=2 f=1 l~"},
		{"nothing", "/no", nil, 404, "d/ d/e/ d/e/g=2 f=1 l~"},
		{"the root", "/", nil, 403, "d/ d/e/ d/e/g=2 f=1 l~"},
		{"what has changed", "/f", []string{`If-Match: "x"`}, 412, "d/ d/e/ d/e/g=2 f=1 l~"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"d/e/g": "2", "f": "1", "l": "-> d"})
			s.want(test.want, "DELETE", test.path, "", test.headers...)
			s.wantMerged(test.tree)
		})
	}
}

func TestNamesThatMayNotBeMade(t *testing.T) {
	for _, test := range []struct {
		path     string
		portable bool
		want     int
	}{
		{"/a%0ab", false, 403}, {"/a%7f", false, 403}, {"/con", false, 201}, {"/con", true, 403}, {"/a%3Ab", true, 403}, {"/a.", true, 403},
	} {
		for _, method := range []string{"PUT", "MKCOL", "LOCK", "MOVE", "COPY"} {
			s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.PortableNames = test.portable })
			path, headers, body := test.path, []string{}, ""
			switch method {
			case "MOVE", "COPY":
				path, headers = "/f", []string{"Destination: " + test.path}
			case "LOCK":
				body = lockExclusive
			}
			if got := s.do(method, path, body, headers...).status; got != test.want {
				t.Errorf("%s %s, portable %v: got %d, want %d", method, test.path, test.portable, got, test.want)
			}
		}
	}
}

// What is found under a name is reached through symlinks of the tree, and
// never out of it.
func TestSymlinksStayInTheTree(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "inside", "up": "-> ../../../../../../etc", "abs": "-> /d", "out": "-> ../d/f"})
	for path, want := range map[string]string{"/abs/f": "inside", "/out": "inside"} {
		if got := s.want(200, "GET", path, "").body; got != want {
			t.Errorf("%s: got %q", path, got)
		}
	}
	for _, path := range []string{"/up/passwd", "/up/hostname"} {
		if got := s.do("GET", path, ""); got.status != 404 {
			t.Errorf("%s: got %d %.50q, want 404", path, got.status, got.body)
		}
		s.want(409, "PUT", path, "x")
	}
}

func TestHiddenSymlinks(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "1", "l": "-> d", "m": "-> d/f", "o": "-> o"}, func(o *Options) { o.HideSymlinks = true })
	for _, path := range []string{"/l", "/m", "/l/f", "/l/new", "/o", "/o/x"} {
		for _, method := range []string{"GET", "PUT", "DELETE", "PROPFIND", "LOCK", "MOVE", "MKCOL", "PROPPATCH"} {
			if got := s.do(method, path, "", "Depth: 0", "Destination: /n").status; got != 404 {
				t.Errorf("%s %s: got %d, want 404", method, path, got)
			}
		}
		s.want(403, "COPY", "/d/f", "", "Destination: "+path)
	}
	got := parseListing(t, s.want(207, "PROPFIND", "/", "", "Depth: 1").body)
	if got.hrefs() != "/ /d/" {
		t.Errorf("the listing has %s", got.hrefs())
	}
	s.wantMerged("d/ d/f=1 l~ m~ o~")
}

// A change waits for what concerns it, and for nothing else.
func TestNameLocksKeepFamiliesApart(t *testing.T) {
	var l nameLocks
	unlock := l.lock("a/b/c")
	for _, names := range [][]string{{"a/b/d"}, {"x"}, {"a/bb"}, {"a/b/cc/d"}, {"x", "y/z"}} {
		l.lock(names...)() // would hang
	}
	var held atomic.Bool
	held.Store(true)
	var wg sync.WaitGroup
	for _, names := range [][]string{{"a/b/c"}, {"a/b"}, {"a"}, {"."}, {"a/b/c/d"}, {"x", "a/b/c"}, {"a/b/c/d", "."}} {
		wg.Go(func() {
			release := l.lock(names...)
			if held.Load() {
				t.Errorf("%v is not held off by a/b/c", names)
			}
			release()
		})
	}
	for range 1000 {
		runtime.Gosched() // time to do wrong
	}
	held.Store(false)
	unlock()
	wg.Wait()
	if len(l.held) != 0 {
		t.Errorf("%d names are held by nobody", len(l.held))
	}
}

// A tree without an upper layer is read as any other, and changed by nobody.
func TestTreeWithoutAnUpperRefusesEveryChange(t *testing.T) {
	s := serveOn(t, map[string]string{"f": "1", "d/": ""}, func(o *overlay.Options) { o.Upper, o.Work = "", "" })
	for _, request := range [][]string{
		{"PUT", "/f", "x"},
		{"PUT", "/n", "x"},
		{"DELETE", "/f", ""},
		{"MKCOL", "/n", ""},
		{"LOCK", "/n", lockExclusive},
		{"MOVE", "/f", "", "Destination: /n"},
		{"COPY", "/f", "", "Destination: /n"},
		{"COPY", "/d", "", "Destination: /f"},
		{"PROPPATCH", "/f", patchSet("<x:a>1</x:a>")},
	} {
		s.want(403, request[0], request[1], request[2], request[3:]...)
	}
	s.want(200, "GET", "/f", "")
	s.want(207, "PROPFIND", "/", named("D:quota-available-bytes", "D:quota-used-bytes", "D:getetag"), "Depth: 1")
	if left := s.handler.locks.Below(Path{}); len(left) > 0 {
		t.Errorf("locks are left: %v", left)
	}
}
