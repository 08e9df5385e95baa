package davfs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestParentsLeadToTheShares(t *testing.T) {
	shares, err := NewPrefixes("/a/one", "/a/two", "/b%20c")
	mustDo(t, err)
	s := &share{t: t, Server: httptest.NewServer(NewParents(Site{}, shares, true, nil))}
	t.Cleanup(s.Close)
	for path, want := range map[string]string{"/": "/ /a/ /b%20c/", "/a": "/a/ /a/one/ /a/two/"} {
		for _, body := range []string{"", allprop, named("D:resourcetype", "D:getetag")} {
			got := s.want(207, "PROPFIND", path, body, "Depth: 1")
			if hrefs := parseListing(t, got.body).hrefs(); hrefs != want {
				t.Errorf("%s: got %s, want %s", path, hrefs, want)
			}
			if n := strings.Count(got.body, "<D:collection/>"); n != 3 {
				t.Errorf("%s: %d collections, want 3: %s", path, n, got.body)
			}
		}
	}
	for path, want := range map[string]int{"/a/one": 404, "/a/one/f": 404, "/x": 404, "/": 207, "/a/../a": 400} {
		if got := s.do("PROPFIND", path, "", "Depth: 0").status; got != want {
			t.Errorf("PROPFIND %s: got %d, want %d", path, got, want)
		}
	}
	for method, want := range map[string]int{"OPTIONS": 200, "GET": 404, "PUT": 405, "MKCOL": 405, "DELETE": 405, "MOVE": 405} {
		if got := s.do(method, "/a", "").status; got != want {
			t.Errorf("%s: got %d, want %d", method, got, want)
		}
	}
	s.want(403, "PROPFIND", "/", "")
}

// A browser is shown the way, too, by the page that shows collections.
func TestParentsHaveAPage(t *testing.T) {
	shares, err := NewPrefixes("/a/one", "/a/two", "/b/c")
	mustDo(t, err)
	parents := NewParents(Site{}, shares, true, func(r *http.Request, share int) bool {
		return strings.Contains(r.Header.Get("Sees"), strconv.Itoa(share))
	})
	parents.Listing = func(w http.ResponseWriter, _ *http.Request, dir string, members []Member) {
		fmt.Fprint(w, dir)
		for _, m := range members {
			fmt.Fprintf(w, " %s %t", m.Name, m.Collection && m.Info == nil)
		}
	}
	s := &share{t: t, Server: httptest.NewServer(parents)}
	t.Cleanup(s.Close)
	for _, test := range []struct {
		sees, path string
		status     int
		want       string
	}{
		{"012", "/", 200, ". a true b true"},
		{"012", "/a", 200, "a one true two true"},
		{"1", "/a/", 200, "a two true"},
		{"", "/", 200, "."},
		{"2", "/a", 404, "Not Found\n"},
		{"012", "/a/one", 404, "Not Found\n"},
	} {
		if got := s.do("GET", test.path, "", "Sees: "+test.sees); got.status != test.status || got.body != test.want {
			t.Errorf("%s, who sees %q: got %d %q, want %d %q", test.path, test.sees, got.status, got.body, test.status, test.want)
		}
	}
	if got := s.want(405, "PUT", "/", "x", "Sees: 1").header.Get("Allow"); got != "OPTIONS, GET, HEAD, PROPFIND" {
		t.Errorf("Allow: %s", got)
	}
}

// Of a share that somebody may not know of nothing is said, nor is there a way to
// it.
func TestParentsTellOfNoOtherShare(t *testing.T) {
	shares, err := NewPrefixes("/a/one", "/a/two", "/b/c")
	mustDo(t, err)
	visible := func(r *http.Request, share int) bool {
		return strings.Contains(r.Header.Get("Sees"), strconv.Itoa(share))
	}
	s := &share{t: t, Server: httptest.NewServer(NewParents(Site{}, shares, true, visible))}
	t.Cleanup(s.Close)
	for _, test := range []struct{ sees, path, want string }{
		{"012", "/", "/ /a/ /b/"},
		{"012", "/a", "/a/ /a/one/ /a/two/"},
		{"1", "/", "/ /a/"},
		{"1", "/a", "/a/ /a/two/"},
		{"2", "/", "/ /b/"},
		{"", "/", "/"},
	} {
		got := s.want(207, "PROPFIND", test.path, "", "Depth: 1", "Sees: "+test.sees)
		if hrefs := parseListing(t, got.body).hrefs(); hrefs != test.want {
			t.Errorf("%s, who sees %q: got %s, want %s", test.path, test.sees, hrefs, test.want)
		}
	}
	for _, method := range []string{"PROPFIND", "OPTIONS", "GET", "PUT", "MKCOL"} {
		hidden, none := s.do(method, "/a", "", "Sees: 2", "Depth: 1"), s.do(method, "/z", "", "Sees: 2", "Depth: 1")
		if hidden.status != none.status || hidden.body != none.body {
			t.Errorf("%s of the way to what is hidden: %d %s; of nothing: %d %s", method, hidden.status, hidden.body, none.status, none.body)
		}
	}
}

func TestHandlerAnswersAboveItsPrefix(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.Prefix = "/a/dav" })
	for _, path := range []string{"/", "/a", "/a/"} {
		got := s.want(200, "OPTIONS", path, "")
		if got.header.Get("DAV") == "" || got.header.Get("MS-Author-Via") != "DAV" {
			t.Errorf("OPTIONS %s: %v", path, got.header)
		}
		s.want(207, "PROPFIND", path, "", "Depth: 1")
		s.want(405, "PUT", path, "x")
	}
	s.want(404, "OPTIONS", "/b", "")
	s.wantMerged("f=1")
}

// net/http answers OPTIONS of "*" itself unless it is told not to.
func TestOptionsOfTheServer(t *testing.T) {
	s := serve(t, nil)
	r := httptest.NewRequest("OPTIONS", "*", nil)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("DAV"), "1, 2, 3") {
		t.Errorf("got %d, DAV %q", w.Code, w.Header().Get("DAV"))
	}
}
