package davfs

import (
	"compress/gzip"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A listing is a multistatus as a client reads it.
type listing struct {
	Responses []struct {
		Href      string `xml:"href"`
		Status    string `xml:"status"`
		Propstats []struct {
			Status string `xml:"status"`
			Prop   struct {
				Any []prop `xml:",any"`
			} `xml:"prop"`
		} `xml:"propstat"`
	} `xml:"response"`
}

type prop struct {
	XMLName xml.Name
	Inner   string `xml:",innerxml"`
}

func parseListing(t *testing.T, body string) listing {
	t.Helper()
	var l listing
	if err := xml.Unmarshal([]byte(body), &l); err != nil {
		t.Fatalf("not XML: %v:\n%s", err, body)
	}
	return l
}

func (l listing) hrefs() string {
	var hrefs []string
	for _, r := range l.Responses {
		hrefs = append(hrefs, r.Href)
	}
	slices.Sort(hrefs)
	return strings.Join(hrefs, " ")
}

// value is a property of a resource that has status 200; ok is false without.
func (l listing) value(href string, name xml.Name) (string, bool) {
	for _, r := range l.Responses {
		for _, ps := range r.Propstats {
			for _, p := range ps.Prop.Any {
				if r.Href == href && p.XMLName == name && strings.Contains(ps.Status, " 200 ") {
					return p.Inner, true
				}
			}
		}
	}
	return "", false
}

const allprop = `<D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>`

func named(names ...string) string {
	return `<D:propfind xmlns:D="DAV:" xmlns:A="http://apache.org/dav/props/" xmlns:O="http://owncloud.org/ns" xmlns:V="urn:overdav">` +
		`<D:prop><` + strings.Join(names, `/><`) + `/></D:prop></D:propfind>`
}

func TestPropfindDepth(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "d/a": "2", "d/e/b": "3"})
	for _, test := range []struct {
		path string
		d    string
		want string
	}{
		{"/f", "0", "/f"},
		{"/f", "1", "/f"},
		{"/f", "infinity", "/f"},
		{"/d", "0", "/d/"},
		{"/d", "1", "/d/ /d/a /d/e/"},
		{"/d/", "1,noroot", "/d/a /d/e/"},
		{"/", "1", "/ /d/ /f"},
	} {
		got := s.want(207, "PROPFIND", test.path, "", "Depth: "+test.d)
		if hrefs := parseListing(t, got.body).hrefs(); hrefs != test.want {
			t.Errorf("%s, depth %s: got %s, want %s", test.path, test.d, hrefs, test.want)
		}
	}
	for _, headers := range [][]string{{"Depth: infinity"}, nil} {
		got := s.want(403, "PROPFIND", "/d", "", headers...)
		if !strings.Contains(got.body, "<D:propfind-finite-depth/>") {
			t.Errorf("%v: the refusal does not say why: %s", headers, got.body)
		}
	}
	s.want(404, "PROPFIND", "/no", "", "Depth: 0")
	s.want(404, "PROPFIND", "/f/x", "", "Depth: 0")
	s.want(404, "PROPFIND", "/f/", "", "Depth: 0")
	s.want(400, "PROPFIND", "/f", "", "Depth: 2")
}

// Of a collection whose names alone take long to read, the client hears before
// they are read.
func TestLongListingBeginsAtOnce(t *testing.T) {
	s := serve(t, map[string]string{"d/": ""})
	for i := range 14_000 { // long on every file system
		mustDo(t, os.WriteFile(filepath.Join(s.upper, fmt.Sprintf("d-%05d-with-a-long-name", i)), nil, 0o666))
	}
	if info, err := os.Stat(s.upper); err != nil || info.Size() < longDirectory {
		t.Skipf("the file system says that a directory with 14,000 names has %d bytes", info.Size())
	}
	w := &writes{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest("PROPFIND", "/", nil)
	r.Header.Set("Depth", "1")
	s.handler.ServeHTTP(w, r)
	if w.flushed != 1 {
		t.Errorf("sent after %d writes, want 1", w.flushed)
	}
	if len(w.sizes) < 2 || strings.Count(w.Body.String()[:w.sizes[0]], "<D:response>") != 1 {
		t.Errorf("writes of %v bytes: the first has not the collection alone", w.sizes)
	}
	if got := len(parseListing(t, w.Body.String()).Responses); got != 14_002 {
		t.Errorf("%d entries, want 14002", got)
	}
}

// writes records how long each write was, and after how many it was told to send
// them.
type writes struct {
	*httptest.ResponseRecorder
	sizes   []int
	flushed int
}

func (w *writes) Flush() { w.flushed = len(w.sizes) }

func (w *writes) Write(p []byte) (int, error) {
	w.sizes = append(w.sizes, len(p))
	return w.ResponseRecorder.Write(p)
}

func TestPropfindOfInfiniteDepthIsBounded(t *testing.T) {
	files := map[string]string{"d/a": "", "d/e/b": "", "d/loop": "-> ."}
	s := serve(t, files, func(o *Options) { o.InfiniteDepth = 100 })
	got := parseListing(t, s.want(207, "PROPFIND", "/d/", "", "Depth: infinity").body)
	if want := "/d/ /d/a /d/e/ /d/e/b /d/loop/"; got.hrefs() != want {
		t.Errorf("got %s, want %s", got.hrefs(), want)
	}
	s = serve(t, files, func(o *Options) { o.InfiniteDepth = 2 })
	got = parseListing(t, s.want(207, "PROPFIND", "/d/", "", "Depth: infinity").body)
	last := got.Responses[len(got.Responses)-1]
	if len(got.Responses) != 4 || !strings.Contains(last.Status, "507") {
		t.Errorf("got %d responses, the last with status %q, want 4 and 507", len(got.Responses), last.Status)
	}
}

func TestPropfindBodies(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for name, test := range map[string]struct {
		body string
		want int
	}{
		"an empty namespace prefix": {`<D:propfind xmlns:D="DAV:"><D:prop><bar:foo xmlns:bar=""/></D:prop></D:propfind>`, 400},
		"not well-formed":           {`<D:propfind xmlns:D="DAV:"><D:prop>`, 400},
		"another root":              {`<D:multistatus xmlns:D="DAV:"/>`, 400},
		"a document type":           {`<!DOCTYPE x [<!ENTITY a "b">]>` + allprop, 400},
		"too deep":                  {strings.Repeat("<a>", 10000), 413},
		"too many names":            {named(slices.Repeat([]string{"D:x"}, 5000)...), 413},
		"too large":                 {allprop + strings.Repeat(" ", maxPropfindBody), 413},
		"white space":               {" \n", 207},
		"ISO 8859-1":                {`<?xml version="1.0" encoding="iso-8859-1"?>` + allprop, 207},
	} {
		if got := s.do("PROPFIND", "/f", test.body, "Depth: 0").status; got != test.want {
			t.Errorf("%s: got %d, want %d", name, got, test.want)
		}
	}
}

func TestPropfindProperties(t *testing.T) {
	s := serve(t, map[string]string{"f.txt": "0123456789", "d/": ""})
	head := s.want(200, "HEAD", "/f.txt", "")
	got := parseListing(t, s.want(207, "PROPFIND", "/", named(
		"D:resourcetype", "D:displayname", "D:getlastmodified", "D:getcontentlength", "D:getcontenttype", "D:getetag",
		"D:lockdiscovery", "D:supportedlock", "D:quota-available-bytes", "D:quota-used-bytes", "A:executable", "D:nonsense",
	), "Depth: 1").body)
	for _, test := range []struct {
		href, local, want string
		ok                bool
	}{
		{"/f.txt", "resourcetype", "", true},
		{"/f.txt", "displayname", "f.txt", true},
		{"/f.txt", "getlastmodified", head.header.Get("Last-Modified"), true},
		{"/f.txt", "getcontentlength", "10", true},
		{"/f.txt", "getcontenttype", "text/plain; charset=utf-8", true},
		{"/f.txt", "getetag", head.header.Get("ETag"), true},
		{"/f.txt", "lockdiscovery", "", true},
		{"/f.txt", "supportedlock", supportedLock, true},
		{"/f.txt", "quota-available-bytes", "", false},
		{"/f.txt", "nonsense", "", false},
		{"/d/", "resourcetype", "<D:collection/>", true},
		{"/d/", "getcontentlength", "", false},
		{"/d/", "getcontenttype", "", false},
		{"/d/", "getetag", "", false},
	} {
		value, ok := got.value(test.href, davName(test.local))
		if value != test.want || ok != test.ok {
			t.Errorf("%s of %s: got %q, %v, want %q, %v", test.local, test.href, value, ok, test.want, test.ok)
		}
	}
	for _, local := range []string{"quota-available-bytes", "quota-used-bytes"} {
		if value, ok := got.value("/d/", davName(local)); !ok || strings.HasPrefix(value, "-") || value == "" {
			t.Errorf("%s of /d/: got %q", local, value)
		}
	}
	if _, ok := got.value("/d/", xml.Name{Space: nsApache, Local: "executable"}); ok {
		t.Error("a collection is executable")
	}
}

func TestAllpropHasNoQuotaAndIncludeAdds(t *testing.T) {
	s := serve(t, map[string]string{"d/": ""})
	quota := davName("quota-available-bytes")
	got := parseListing(t, s.want(207, "PROPFIND", "/d/", allprop, "Depth: 0").body)
	if _, ok := got.value("/d/", quota); ok {
		t.Error("allprop tells of the quota (RFC 4331, section 3)")
	}
	if _, ok := got.value("/d/", davName("supportedlock")); !ok {
		t.Error("allprop does not tell of supportedlock")
	}
	with := `<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:quota-available-bytes/></D:include></D:propfind>`
	got = parseListing(t, s.want(207, "PROPFIND", "/d/", with, "Depth: 0").body)
	if _, ok := got.value("/d/", quota); !ok {
		t.Error("include adds nothing")
	}
}

func TestPropname(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	body := s.want(207, "PROPFIND", "/f", `<D:propfind xmlns:D="DAV:"><D:propname/></D:propfind>`, "Depth: 0").body
	got := parseListing(t, body)
	if value, ok := got.value("/f", davName("getetag")); !ok || value != "" {
		t.Errorf("getetag: got %q, %v, want the bare name", value, ok)
	}
}

func TestBriefLeavesOutWhatIsMissing(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for _, header := range []string{"Brief: t", "Prefer: return=minimal"} {
		got := s.want(207, "PROPFIND", "/f", named("D:getetag", "D:nonsense"), "Depth: 0", header)
		if strings.Contains(got.body, "nonsense") {
			t.Errorf("%s: the missing property is told of", header)
		}
	}
}

// Explorer refuses a listing of more than 1,000,000 bytes.
func TestEntriesAreShort(t *testing.T) {
	files := make(map[string]string)
	for i := range 100 {
		files[fmt.Sprintf("photograph %d.jpg", i)] = "x"
	}
	s := serve(t, files)
	body := s.want(207, "PROPFIND", "/", "", "Depth: 1").body
	if per := len(body) / 101; per > 500 {
		t.Errorf("%d bytes an entry, want at most 500:\n%s", per, body[:2000])
	}
	if strings.Contains(body, "> <") || strings.Count(body, "\n") > 2 {
		t.Error("the listing has white space between elements")
	}
}

// Whatever a name is made of, its href leads back to it, and the listing is XML.
func TestNamesRoundTrip(t *testing.T) {
	names := []string{
		"plain", "sp ace", "per%cent", "pl+us", "ha#sh", "que?stion", "am&p", "l<t", "quo\"te", "ap'os", "col:on", "semi;",
		"back\\slash", "ümlaut", "u\u0308mlaut", "日本", "\u202ertl", "tab\tnl\n", "ctrl\x01", "bad\xff\xfeutf8", "\xed\xa0\x80",
		"\uffff", "*", "%2e%2e", "...", "~", "]]>", "[x]", strings.Repeat("n", 255),
	}
	files := make(map[string]string)
	for i, name := range names {
		files[name] = fmt.Sprint(i)
	}
	s := serve(t, files, func(o *Options) { o.ByteNames = true })
	got := parseListing(t, s.want(207, "PROPFIND", "/", named("D:displayname"), "Depth: 1").body)
	if len(got.Responses) != len(names)+1 {
		t.Fatalf("got %d responses, want %d", len(got.Responses), len(names)+1)
	}
	seen := make(map[string]bool)
	for _, r := range got.Responses {
		if r.Href == "/" {
			continue
		}
		seen[s.want(200, "GET", r.Href, "").body] = true
	}
	if len(seen) != len(names) {
		t.Errorf("%d of %d names lead back to their file", len(seen), len(names))
	}
}

func TestOddEntriesNeitherHangNorVanish(t *testing.T) {
	s := serve(t, map[string]string{"d/fifo": "|", "d/dangling": "-> nowhere", "d/loop": "-> loop", "d/secret": "x", "d/shut/": "", "d/f": "1"})
	mustDo(t, os.Chmod(filepath.Join(s.lower, "d/secret"), 0))
	mustDo(t, os.Chmod(filepath.Join(s.lower, "d/shut"), 0))
	t.Cleanup(func() {
		mustDo(t, os.Chmod(filepath.Join(s.lower, "d/secret"), 0o644))
		mustDo(t, os.Chmod(filepath.Join(s.lower, "d/shut"), 0o755))
	})
	for _, body := range []string{"", allprop, named("D:getcontenttype", "D:getcontentlength")} {
		got := parseListing(t, s.want(207, "PROPFIND", "/d", body, "Depth: 1").body)
		if want := "/d/ /d/dangling /d/f /d/fifo /d/loop /d/secret /d/shut/"; got.hrefs() != want {
			t.Errorf("got %s, want %s", got.hrefs(), want)
		}
	}
	s.want(204, "DELETE", "/d/dangling", "")
}

func TestPropfindIsCompressedOnRequest(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	r, err := http.NewRequest("PROPFIND", s.URL+"/", nil)
	mustDo(t, err)
	got := s.send(r, "Depth: 1", "Accept-Encoding: gzip")
	if got.header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("got coding %q, want gzip", got.header.Get("Content-Encoding"))
	}
	z, err := gzip.NewReader(strings.NewReader(got.body))
	mustDo(t, err)
	body, err := io.ReadAll(z)
	mustDo(t, err)
	if hrefs := parseListing(t, string(body)).hrefs(); hrefs != "/ /f" {
		t.Errorf("got %s", hrefs)
	}
	for _, header := range []string{"identity", "gzip;q=0", "br"} {
		r, err := http.NewRequest("PROPFIND", s.URL+"/", nil)
		mustDo(t, err)
		if got := s.send(r, "Depth: 1", "Accept-Encoding: "+header); got.header.Get("Content-Encoding") != "" {
			t.Errorf("%s: the answer is compressed", header)
		}
	}
}

func TestLayerAndState(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.State = func(string) string { return "added" } })
	s.want(201, "PUT", "/g", "2")
	got := parseListing(t, s.want(207, "PROPFIND", "/", named("V:layer", "V:state"), "Depth: 1").body)
	for _, test := range [][3]string{{"/f", "1", "unchanged"}, {"/g", "upper", "added"}} {
		layer, _ := got.value(test[0], xml.Name{Space: nsOverdav, Local: "layer"})
		state, _ := got.value(test[0], xml.Name{Space: nsOverdav, Local: "state"})
		if layer != test[1] || state != test[2] {
			t.Errorf("%s: got %q, %q, want %q, %q", test[0], layer, state, test[1], test[2])
		}
	}
}
