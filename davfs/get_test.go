package davfs

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGet(t *testing.T) {
	s := serve(t, map[string]string{"f.txt": "0123456789", "d/": "", "fifo": "|", "dangling": "-> no", "link": "-> f.txt", "empty": "", "long": strings.Repeat("x", 100)})
	for _, test := range []struct {
		name, method, path string
		headers            []string
		want               int
		body               string
	}{
		{"a file", "GET", "/f.txt", nil, 200, "0123456789"},
		{"its head", "HEAD", "/f.txt", nil, 200, ""},
		{"a symlink", "GET", "/link", nil, 200, "0123456789"},
		{"a range", "GET", "/f.txt", []string{"Range: bytes=2-3"}, 206, "23"},
		{"a suffix", "GET", "/f.txt", []string{"Range: bytes=-2"}, 206, "89"},
		{"beyond the end", "GET", "/f.txt", []string{"Range: bytes=20-"}, 416, ""},
		{"the last 0 bytes", "GET", "/f.txt", []string{"Range: bytes=-0"}, 416, ""},
		{"the last 0 bytes and the last one", "GET", "/f.txt", []string{"Range: bytes=-00, -1"}, 206, "9"},
		{"an end that no number holds", "GET", "/f.txt", []string{"Range: bytes=8-99999999999999999999"}, 206, "89"},
		{"a suffix that no number holds", "GET", "/f.txt", []string{"Range: bytes=-99999999999999999999"}, 206, "0123456789"},
		{"a start that no number holds", "GET", "/f.txt", []string{"Range: bytes=99999999999999999999-, 9-"}, 206, "9"},
		{"a range's head", "HEAD", "/f.txt", []string{"Range: bytes=2-3"}, 200, ""},
		{"a unit in capitals", "GET", "/f.txt", []string{"Range: Bytes=2-3"}, 206, "23"},
		{"another unit", "GET", "/f.txt", []string{"Range: lines=2-3"}, 200, "0123456789"},
		{"a suffix of an empty file", "GET", "/empty", []string{"Range: bytes=-1"}, 200, ""},
		{"as many ranges as may be", "GET", "/long", []string{"Range: bytes=0-0" + strings.Repeat(",0-0", maxRanges-1)}, 206, ""},
		{"one more", "GET", "/long", []string{"Range: bytes=0-0" + strings.Repeat(",0-0", maxRanges)}, 200, ""},
		{"a thousand ranges", "GET", "/f.txt", []string{"Range: bytes=0-0" + strings.Repeat(",0-0", 999)}, 200, "0123456789"},
		{"nothing", "GET", "/no", nil, 404, ""},
		{"a file as a collection", "GET", "/f.txt/", nil, 404, ""},
		{"something in a file", "GET", "/f.txt/x", nil, 404, ""},
		{"a FIFO", "GET", "/fifo", nil, 403, ""},
		{"a dangling symlink", "GET", "/dangling", nil, 403, ""},
		{"a collection's head", "HEAD", "/d", nil, 200, ""},
		{"If-Match that fails", "GET", "/f.txt", []string{`If-Match: "x"`}, 412, ""},
		{"a date that is ours not", "GET", "/f.txt", []string{"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"}, 200, "0123456789"},
		{"If-Range of another date", "GET", "/f.txt", []string{"Range: bytes=2-3", "If-Range: Fri, 01 Jan 2100 00:00:00 GMT"}, 200, "0123456789"},
		{"If-Range of another tag", "GET", "/f.txt", []string{"Range: bytes=2-3", `If-Range: "x"`}, 200, "0123456789"},
		{"an unknown method", "BREW", "/f.txt", nil, 405, ""},
		{"POST", "POST", "/f.txt", nil, 405, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.want(test.want, test.method, test.path, "", test.headers...)
			if test.want < 300 && test.body != "" && got.body != test.body {
				t.Errorf("got %q, want %q", got.body, test.body)
			}
			if test.want == 405 && got.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	head := s.want(200, "HEAD", "/f.txt", "")
	for name, want := range map[string]string{
		"Content-Type": "text/plain; charset=utf-8", "Accept-Ranges": "bytes", "Content-Length": "10",
	} {
		if got := head.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	s.want(304, "GET", "/f.txt", "", "If-None-Match: "+head.header.Get("ETag"))
	s.want(304, "GET", "/f.txt", "", "If-Modified-Since: "+head.header.Get("Last-Modified"))
	same := s.want(304, "HEAD", "/f.txt", "", "If-None-Match: "+head.header.Get("ETag"))
	for _, name := range []string{"ETag", "Last-Modified", "Cache-Control"} {
		if got, want := same.header.Get(name), head.header.Get(name); got != want || want == "" {
			t.Errorf("%s of a 304: got %q, want %q, as of a 200", name, got, want)
		}
	}
}

// Whatever clients store, a browser that opens it may not act on the pages'
// origin; and it is shown, not downloaded, by the browsers that can.
func TestWhatBrowsersAreToldOfFiles(t *testing.T) {
	s := serve(t, map[string]string{
		"a.html": "<script>", "a.svg": "<svg>", "a.xml": "<a>", "a.xhtml": "<a>", "a.txt": "a", "a.png": "a", "a.mp4": "a",
		"a.js": "a", "a.css": "a", "a.json": "{}", "a": "<script>", "a.unknown": "<script>", "a.HTML": "<script>", "a.pdf": "a",
	})
	for _, test := range []struct{ name, kind string }{
		{"a.html", "text/html; charset=utf-8"},
		{"a.HTML", "text/html; charset=utf-8"},
		{"a.xhtml", "application/xhtml+xml"},
		{"a.svg", "image/svg+xml"},
		{"a.xml", "text/xml; charset=utf-8"},
		{"a.txt", "text/plain; charset=utf-8"},
		{"a.png", "image/png"},
		{"a.mp4", "video/mp4"},
		{"a.js", "text/javascript; charset=utf-8"},
		{"a.css", "text/css; charset=utf-8"},
		{"a.json", "application/json"},
		{"a", "application/octet-stream"},
		{"a.unknown", "application/octet-stream"},
		{"a.pdf", "application/pdf"},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			got := s.want(200, method, "/"+test.name, "").header
			want := map[string]string{
				"Content-Type": test.kind, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
				"Cache-Control":                "no-cache", // or old copies are shown
				"Cross-Origin-Resource-Policy": "same-origin", "Content-Disposition": "", "Access-Control-Allow-Origin": "",
				"Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'",
			}
			for name, want := range want {
				if got := got.Get(name); got != want {
					t.Errorf("%s %s: %s is %q, want %q", method, test.name, name, got, want)
				}
			}
		}
	}
}

// A file whose date goes back, or changes twice in a second, is not taken for
// the one that a client has.
func TestDatesProveLittle(t *testing.T) {
	s := serve(t, nil)
	first := s.want(201, "PUT", "/f", "one")
	if got := s.want(200, "GET", "/f", "", "If-Modified-Since: "+first.header.Get("Last-Modified")); got.body != "one" {
		t.Error("304 within the second of the change")
	}
	s.want(204, "PUT", "/f", "two", "X-OC-Mtime: 1000000000")
	if got := s.want(200, "GET", "/f", "", "If-Modified-Since: "+first.header.Get("Last-Modified")); got.body != "two" {
		t.Error("304 though the date went back")
	}
	s.want(204, "PUT", "/f", "3", "X-OC-Mtime: 4000000000")
	said, err := http.ParseTime(s.want(200, "HEAD", "/f", "").header.Get("Last-Modified"))
	mustDo(t, err)
	if time.Until(said) > time.Second {
		t.Errorf("Last-Modified lies in the future: %v", said)
	}
}

// The date of a collection says nothing of its members, which its page and its
// archive are made of.
func TestCollectionsHaveNoDateToBeCurrentBy(t *testing.T) {
	s := serve(t, map[string]string{"d/f": "1"})
	old := time.Unix(1_000_000_000, 0)
	mustDo(t, s.tree.Chtimes("d", old, old))
	s.want(200, "GET", "/d/", "", "If-Modified-Since: "+old.UTC().Format(http.TimeFormat))
	got := s.want(304, "GET", "/d/", "", "If-None-Match: *")
	for _, name := range []string{"ETag", "Last-Modified"} {
		if got.header.Values(name) != nil {
			t.Errorf("%s: %q of what has none", name, got.header.Get(name))
		}
	}
	s.want(412, "DELETE", "/d/", "", "If-Unmodified-Since: Sat, 08 Sep 2001 00:00:00 GMT")
}

// RFC 9110, section 5.6.7: a date has four digits for the year.
func TestEveryTimeHasADate(t *testing.T) {
	for _, seconds := range []int64{-9_999_999_999_999, -62_135_596_801, 0, 9_999_999_999_999} {
		date := string(appendHTTPDate(nil, lastModified(time.Unix(seconds, 0))))
		if _, err := http.ParseTime(date); err != nil {
			t.Errorf("%d: %v", seconds, err)
		}
	}
}

func TestListingHookAnswersForCollections(t *testing.T) {
	var asked []string
	s := serve(t, map[string]string{"d/e/": ""}, func(o *Options) {
		o.Listing = func(w http.ResponseWriter, r *http.Request, dir string, _ []Member) { asked = append(asked, dir) }
	})
	s.want(200, "GET", "/", "")
	s.want(200, "GET", "/d/e/", "")
	if got := strings.Join(asked, " "); got != ". d/e" {
		t.Errorf("asked for %q, want %q", got, ". d/e")
	}
}

func TestOptions(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "d/": ""})
	for path, want := range map[string]string{
		"/f":   "OPTIONS, GET, HEAD, PROPFIND, PUT, PATCH, DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK",
		"/d/":  "OPTIONS, GET, HEAD, PROPFIND, DELETE, COPY, MOVE, PROPPATCH, LOCK, UNLOCK",
		"/new": "OPTIONS, PUT, MKCOL, LOCK",
	} {
		got := s.want(200, "OPTIONS", path, "")
		if allow := got.header.Get("Allow"); allow != want {
			t.Errorf("%s: Allow is %q, want %q", path, allow, want)
		}
		if dav := got.header.Get("DAV"); !strings.HasPrefix(dav, "1, 2, 3") {
			t.Errorf("%s: DAV is %q", path, dav)
		}
		if all := got.header.Values("DAV"); !slices.Contains(all, "<http://apache.org/dav/propset/fs/1>") {
			t.Errorf("%s: DAV is %q, want Apache's class of the executable bit", path, all)
		}
		if via := got.header.Get("MS-Author-Via"); via != "DAV" {
			t.Errorf("%s: MS-Author-Via is %q", path, via)
		}
	}
}

// A tag is one content's: the same wherever it is told, another after every
// change of content, even to the same size and the same time, and the old one
// after whatever changes none.
func TestEntityTagsAreOfTheContent(t *testing.T) {
	s := serve(t, map[string]string{"f": "one", "d/": ""})
	tag := func(path string) string {
		t.Helper()
		got := s.want(200, "GET", path, "").header.Get("ETag")
		listing := parseListing(t, s.want(207, "PROPFIND", path, named("D:getetag"), "Depth: 0").body)
		if found, _ := listing.value(path, davName("getetag")); found != got || got == "" {
			t.Errorf("%s: GET says %s, PROPFIND %s", path, got, found)
		}
		return got
	}
	first := tag("/f")
	for _, change := range [][]string{
		{"PROPPATCH", "/f", patchSet("<x:a>1</x:a>")},
		{"PROPPATCH", "/f", patchSet("<D:lastmodified>1577934245</D:lastmodified>")},
		{"PROPPATCH", "/f", patchSet("<A:executable>T</A:executable>")},
		{"LOCK", "/d/other", lockExclusive},
		{"MOVE", "/f", "", "Destination: /d/f"},
		{"MOVE", "/d/f", "", "Destination: /f"},
		{"COPY", "/f", "", "Destination: /copy"},
	} {
		if got := s.do(change[0], change[1], change[2], change[3:]...); got.status/100 != 2 {
			t.Fatalf("%v: got %d %s", change, got.status, got.body)
		}
		path := "/f"
		if len(change) > 3 && strings.HasSuffix(change[3], "/d/f") {
			path = "/d/f"
		}
		if got := tag(path); got != first {
			t.Errorf("%s %s: the tag became %s, was %s, and no content changed", change[0], change[1], got, first)
		}
	}
	seen := map[string]bool{first: true}
	for _, content := range []string{"two", "tri", "one", "one"} {
		put := s.want(204, "PUT", "/f", content, "X-OC-Mtime: 1577934245")
		if got := tag("/f"); got != put.header.Get("ETag") || seen[got] {
			t.Errorf("%s: PUT says %s, GET %s, seen before: %v", content, put.header.Get("ETag"), got, seen[got])
		}
		seen[tag("/f")] = true
	}
}
