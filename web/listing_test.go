package web

import (
	"encoding/json"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"overdav/davfs"
	"overdav/overlay"
)

// serve serves a lower layer made of files through davfs, with our listing.
func serve(t *testing.T, prefix string, files map[string]string) *httptest.Server {
	t.Helper()
	return serveWith(t, davfs.Options{Prefix: prefix}, files)
}

// serveWith is serve with options; a content that begins with "->" is the target
// of a symlink.
func serveWith(t *testing.T, o davfs.Options, files map[string]string) *httptest.Server {
	t.Helper()
	o.Listing = Pages{}.Listing
	return serveListed(t, o, files)
}

// serveListed is serveWith with a listing of the options'.
func serveListed(t *testing.T, o davfs.Options, files map[string]string) *httptest.Server {
	t.Helper()
	lower := t.TempDir()
	for name, content := range files {
		path := filepath.Join(lower, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "->"); ok {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		mtime := time.Unix(1_600_000_000-int64(len(content)), 0)
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := overlay.Open(overlay.Options{Lowers: []string{lower}})
	if err != nil {
		t.Fatal(err)
	}
	handler, err := davfs.NewHandler(davfs.NewFileSystem(tree), o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(func() {
		s.Close()
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(header) == 2 {
		r.Header.Set(header[0], header[1])
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

var hrefs = regexp.MustCompile(`<td><a href="([^"]*)"`)

// Every entry of a page, however odd its name, leads to its file, from the
// path with and without the slash.
func TestLinksLeadToTheirFiles(t *testing.T) {
	names := []string{"a b", "a:b", "a%b", "a?b", "a#b", "a&b", `a"b`, "a'b", "a<b>", "javascript:alert(1)", "ü", "\xff", "a+b", "..a", "a\\b"}
	files := make(map[string]string)
	for _, name := range names {
		files["d e/"+name] = "x"
	}
	s := serve(t, "/dav", files)
	for _, path := range []string{"/dav/d%20e", "/dav/d%20e/"} {
		_, page := get(t, "GET", s.URL+path)
		base, err := url.Parse(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range hrefs.FindAllStringSubmatch(page, -1) {
			ref, err := base.Parse(html.UnescapeString(m[1]))
			if err != nil {
				t.Errorf("%s: link %q: %v", path, m[1], err)
				continue
			}
			response, body := get(t, "GET", ref.String())
			if body == "x" && response.StatusCode == 200 {
				found++
			}
		}
		if found != len(names) {
			t.Errorf("%s: %d of %d links lead to a file:\n%s", path, found, len(names), page)
		}
		if strings.Contains(page, "<b>\"") || strings.Contains(page, "a<b>") {
			t.Errorf("%s: a name is not escaped:\n%s", path, page)
		}
	}
}

func TestParentAndCrumbs(t *testing.T) {
	s := serve(t, "/dav", map[string]string{"a/b/c": "x"})
	for path, want := range map[string][]string{
		"/dav/a/b/": {`<a href="../../">/</a>`, `<a href="../">a</a>`, `<b aria-current="page">b</b>`, `<a href="../" rel="up"`},
		"/dav/a/b":  {`<a href="../">/</a>`, `<a href="./">a</a>`, `<b aria-current="page">b</b>`, `<a href="./" rel="up"`},
	} {
		_, page := get(t, "GET", s.URL+path)
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("%s: no %s in\n%s", path, w, page)
			}
		}
	}
	if _, page := get(t, "GET", s.URL+"/dav/"); strings.Contains(page, `rel="up"`) {
		t.Error("the root of the share has a parent")
	}
}

func TestSorting(t *testing.T) {
	s := serve(t, "", map[string]string{"b": "1", "a": "22", "C": "333", "z/f": "x"})
	for order, want := range map[string]string{
		"": "z/ a b C", "name": "z/ a b C", "-name": "z/ C b a", "size": "z/ b a C", "-size": "z/ C a b",
		"time": "z/ C a b", "-time": "z/ b a C", "nonsense": "z/ a b C",
	} {
		_, page := get(t, "GET", s.URL+"/?sort="+order)
		var got []string
		for _, m := range hrefs.FindAllStringSubmatch(page, -1) {
			got = append(got, strings.TrimPrefix(m[1], "./"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("sort=%s: got %v, want %s", order, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	s := serve(t, "", map[string]string{"d/f": "123"})
	response, body := get(t, "GET", s.URL+"/d", "Accept", "application/json, text/html;q=0.5")
	if kind := response.Header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("got %s", kind)
	}
	var got listing
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if got.Path != "/d/" || len(got.Entries) != 1 || got.Entries[0].Name != "f" || got.Entries[0].Size != 3 || got.Entries[0].Collection {
		t.Errorf("got %+v", got)
	}
	response, _ = get(t, "GET", s.URL+"/d", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if kind := response.Header.Get("Content-Type"); kind != "text/html; charset=utf-8" {
		t.Errorf("a browser gets %s", kind)
	}
}

func TestPageRunsNothing(t *testing.T) {
	s := serve(t, "", map[string]string{"f": "1"})
	response, page := get(t, "GET", s.URL+"/")
	if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("the policy is %q", policy)
	}
	if strings.Contains(page, "<script") {
		t.Error("the page has a script")
	}
	head, body := get(t, "HEAD", s.URL+"/")
	if head.StatusCode != 200 || body != "" || head.ContentLength != int64(len(page)) {
		t.Errorf("HEAD: got %d, %d bytes announced, %d sent, the page has %d", head.StatusCode, head.ContentLength, len(body), len(page))
	}
}

// No name may turn the text around it, or break its line.
func TestNamesAreShownForPeople(t *testing.T) {
	for name, want := range map[string]string{
		"plain": "plain", "new\nline": "new\ufffdline", "a\x7fb": "a\ufffdb", "\u202egnp.exe": "\ufffdgnp.exe",
		"a\u2067b": "a\ufffdb", "\u009b31m": "\ufffd31m", "\u65e5\u672c \u05e2": "\u65e5\u672c \u05e2",
	} {
		if got := visible(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	s := serve(t, "", map[string]string{"a\nb": "x"})
	if _, page := get(t, "GET", s.URL+"/"); !strings.Contains(page, ">a\ufffdb</a>") || !strings.Contains(page, `href="./a%0Ab"`) {
		t.Errorf("got\n%s", page)
	}
}

func TestSymlinks(t *testing.T) {
	files := map[string]string{"f": "1234", "to-file": "->f", "to-nothing": "->none"}
	for _, hide := range []bool{false, true} {
		s := serveWith(t, davfs.Options{HideSymlinks: hide}, files)
		_, body := get(t, "GET", s.URL+"/", "Accept", "application/json")
		var got listing
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		sizes := make(map[string]int64)
		for _, e := range got.Entries {
			sizes[e.Name] = e.Size
		}
		want := map[string]int64{"f": 4, "to-file": 4, "to-nothing": 0}
		if hide {
			want = map[string]int64{"f": 4}
		}
		if !maps.Equal(sizes, want) {
			t.Errorf("hide %t: got %v, want %v", hide, sizes, want)
		}
	}
}

func TestAnEmptyDirectorySaysSo(t *testing.T) {
	if _, page := get(t, "GET", serve(t, "", nil).URL+"/"); !strings.Contains(page, "<p>This directory is empty.</p>") {
		t.Errorf("got\n%s", page)
	}
	if _, page := get(t, "GET", serve(t, "", map[string]string{"f": ""}).URL+"/"); strings.Contains(page, "<p>") {
		t.Errorf("got\n%s", page)
	}
}

// deny is rights for tests: all but to read what is called "no".
type deny struct{}

func (deny) Rights(name string) davfs.Right {
	if name == "all/no" || name == "some/no" {
		return davfs.RightList
	}
	return davfs.RightList | davfs.RightRead
}

func (deny) Uniform(string) bool { return false }

// The page of a directory in which there is something to read leads to an
// archive of it, where the server makes any.
func TestLinkToTheArchive(t *testing.T) {
	archive := regexp.MustCompile(`<a href="([^"]*)" rel="nofollow">Download as zip</a>`)
	files := map[string]string{"all/no": "1", "some/no": "1", "some/f": "2", "dirs/d/f": "3", "f": "4"}
	for _, offered := range []bool{false, true} {
		o := davfs.Options{
			Prefix: "/dav", Listing: Pages{Archives: offered}.Listing, Archives: &davfs.Archives{PerUser: 1},
			Access: func(*http.Request) davfs.Access { return deny{} },
		}
		s := serveListed(t, o, files)
		for path, want := range map[string]bool{
			"/dav": offered, "/dav/": offered, "/dav/some": offered, "/dav/some/": offered, "/dav/dirs": offered, "/dav/all": false, "/dav/all/": false,
		} {
			_, page := get(t, "GET", s.URL+path)
			link := archive.FindStringSubmatch(page)
			if (link != nil) != want {
				t.Errorf("%s: the page has a link %t, want %t:\n%s", path, link != nil, want, page)
			}
			if link == nil {
				continue
			}
			base, err := url.Parse(s.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := base.Parse(html.UnescapeString(link[1]))
			if err != nil {
				t.Fatal(err)
			}
			response, body := get(t, "GET", ref.String())
			if response.StatusCode != 200 || response.Header.Get("Content-Type") != "application/zip" || !strings.HasPrefix(body, "PK") {
				t.Errorf("%s leads to %s: %d, %q", path, ref, response.StatusCode, body)
			}
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1500: "1.5 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 1 << 62: "4.6 EB",
	} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// Some file systems hold times that JSON cannot say, and one such file must not
// take the listing from all others.
func TestTimesThatJSONCannotSay(t *testing.T) {
	for _, seconds := range []int64{-9_999_999_999_999, -62_167_219_201, 0, 253_402_300_800, 9_999_999_999_999} {
		at := inFourDigits(time.Unix(seconds, 0).UTC())
		if _, err := at.MarshalJSON(); err != nil {
			t.Errorf("%d: %v", seconds, err)
		}
		if seconds == 0 && at.Unix() != 0 {
			t.Errorf("1970 became %v", at)
		}
	}
}
