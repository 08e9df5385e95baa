package davfs

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestParentsLeadToTheShares(t *testing.T) {
	shares, err := NewPrefixes("/a/one", "/a/two", "/b%20c")
	mustDo(t, err)
	s := &share{t: t, Server: httptest.NewServer(NewParents(Site{}, shares, true))}
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
