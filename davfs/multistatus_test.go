package davfs

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// response is one entry of a multistatus as a client reads it.
type response struct {
	Href     string `xml:"DAV: href"`
	Status   string `xml:"DAV: status"`
	Propstat []struct {
		Prop struct {
			Inner       string `xml:",innerxml"`
			DisplayName string `xml:"DAV: displayname"`
			Length      int64  `xml:"DAV: getcontentlength"`
		} `xml:"DAV: prop"`
		Status string `xml:"DAV: status"`
		Error  struct {
			Inner string `xml:",innerxml"`
		} `xml:"DAV: error"`
	} `xml:"DAV: propstat"`
}

func readMultistatus(t *testing.T, body string) []response {
	t.Helper()
	var v struct {
		XMLName  xml.Name   `xml:"DAV: multistatus"`
		Response []response `xml:"DAV: response"`
	}
	if err := xml.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v.Response
}

var (
	tagType     = newPropTag(dav("resourcetype"))
	tagName     = newPropTag(dav("displayname"))
	tagLength   = newPropTag(dav("getcontentlength"))
	tagModified = newPropTag(dav("getlastmodified"))
	tagCreated  = newPropTag(dav("creationdate"))
	tagETag     = newPropTag(dav("getetag"))
	tagMIME     = newPropTag(dav("getcontenttype"))
)

// writeEntry writes the entry of a file as an allprop shows it.
func writeEntry(m *multistatus, p Path, when time.Time) {
	m.startResponse(Path{}, p, false)
	m.startPropstat()
	m.empty(tagType)
	m.text(tagName, p.Base())
	m.integer(tagLength, 123456)
	m.httpDate(tagModified, when)
	m.isoDate(tagCreated, when)
	m.text(tagETag, `"1a2b3c4d5e6f7081-1a2b3c"`)
	m.text(tagMIME, "image/jpeg")
	m.endPropstat(200)
	m.endResponse()
}

var testTime = time.Date(2024, 3, 1, 13, 0, 0, 5, time.FixedZone("", 3600))

func TestMultistatus(t *testing.T) {
	var b strings.Builder
	m := newMultistatus(&b)
	m.startResponse(at(t, "/dav"), at(t, "/a%20%26%20b"), true)
	m.startPropstat()
	m.text(tagName, "a & <b>")
	m.integer(tagLength, -1)
	m.httpDate(tagModified, testTime)
	m.isoDate(tagCreated, testTime)
	m.rawLang(newPropTag(xml.Name{Space: `u"<`, Local: "p"}), "de", []byte("<q/>"))
	m.endPropstat(200)
	m.startPropstat()
	m.empty(newPropTag(xml.Name{Local: "none"}))
	m.empty(newPropTag(xml.Name{Space: nsXML, Local: "p"}))
	m.endPropstatError(403, "cannot-modify-protected-property")
	m.endResponse()
	m.startResponse(Path{}, at(t, "/locked"), false)
	m.status(423)
	m.error("lock-token-submitted")
	m.endResponse()
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:A="http://apache.org/dav/props/" xmlns:O="http://owncloud.org/ns" xmlns:Z="urn:schemas-microsoft-com:" xmlns:V="urn:overdav">` +
		`<D:response><D:href>/dav/a%20%26%20b/</D:href>` +
		`<D:propstat><D:prop><D:displayname>a &amp; &lt;b&gt;</D:displayname><D:getcontentlength>-1</D:getcontentlength>` +
		`<D:getlastmodified>Fri, 01 Mar 2024 12:00:00 GMT</D:getlastmodified><D:creationdate>2024-03-01T12:00:00Z</D:creationdate>` +
		`<x:p xmlns:x="u&#34;&lt;" xml:lang="de"><q/></x:p></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>` +
		`<D:propstat><D:prop><none/><xml:p/></D:prop><D:status>HTTP/1.1 403 Forbidden</D:status><D:error><D:cannot-modify-protected-property/></D:error></D:propstat></D:response>` +
		`<D:response><D:href>/locked</D:href><D:status>HTTP/1.1 423 Locked</D:status><D:error><D:lock-token-submitted/></D:error></D:response>` +
		"</D:multistatus>\n"
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	readMultistatus(t, b.String())
}

// Names that exist on Linux come back from an XML parser as what was stored, in
// the href exactly, and in displayname as far as XML can say them.
func TestMultistatusNamesSurvive(t *testing.T) {
	for _, tt := range []struct{ name, display string }{
		{"plain", "plain"},
		{"a b+c&d;e=f", "a b+c&d;e=f"},
		{"100%", "100%"},
		{"%2f", "%2f"},
		{"#?", "#?"},
		{`<"'>`, `<"'>`},
		{"]]>", "]]>"},
		{"back\\slash:colon", "back\\slash:colon"},
		{"\u00e4\u0301\U0001f600\u202e", "\u00e4\u0301\U0001f600\u202e"},
		{"tab\tnl\ncr\r", "tab\tnl\ncr\r"},
		{"\x01\x1f\x7f", "\ufffd\ufffd\x7f"},
		{"bad\xff\xc0\xafutf", "bad\ufffd\ufffd\ufffdutf"},
		{"half\xe4\xbd", "half\ufffd\ufffd"},
		{"surrogate\xed\xa0\x80", "surrogate\ufffd\ufffd\ufffd"},
		{"\ufffe\uffff\ufffd", "\ufffd\ufffd\ufffd"},
		{strings.Repeat("\u20ac", 85), strings.Repeat("\u20ac", 85)},
	} {
		p := Path{}.child(tt.name)
		var b strings.Builder
		m := newMultistatus(&b)
		writeEntry(m, p, testTime)
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		got := readMultistatus(t, b.String())
		if len(got) != 1 || len(got[0].Propstat) != 1 {
			t.Fatalf("%q: %+v", tt.name, got)
		}
		if back := at(t, got[0].Href); back != p {
			t.Errorf("%q: href %s is %q", tt.name, got[0].Href, back)
		}
		if name := got[0].Propstat[0].Prop.DisplayName; name != tt.display {
			t.Errorf("%q: displayname %q, want %q", tt.name, name, tt.display)
		}
	}
}

func TestAppendHref(t *testing.T) {
	const plain = "AZaz09-._~!$'()*+,;=:@"
	for _, tt := range []struct {
		prefix, p string
		slash     bool
		want      string
	}{
		{"", "", true, "/"},
		{"", "", false, "/"},
		{"/dav", "", false, "/dav"},
		{"/dav", "", true, "/dav/"},
		{"/d v", "/a", true, "/d%20v/a/"},
		{"", "/" + plain, false, "/" + plain},
		{"", "/&<>\"%?#[]^`{|}\\ ", false, "/%26%3C%3E%22%25%3F%23%5B%5D%5E%60%7B%7C%7D%5C%20"},
		{"", "/\u00e4\xff\x00\n", false, "/%C3%A4%FF%00%0A"},
	} {
		if got := string(appendHref(nil, Path{tt.prefix}, Path{tt.p}, tt.slash)); got != tt.want {
			t.Errorf("href of %q below %q, slash %v = %s, want %s", tt.p, tt.prefix, tt.slash, got, tt.want)
		}
	}
}

// Explorer refuses a listing of more than 1,000,000 bytes.
func TestMultistatusEntrySize(t *testing.T) {
	var b strings.Builder
	m := newMultistatus(&b)
	start := len(m.buf)
	writeEntry(m, at(t, "/photos/2024/IMG_20240301_130000.jpeg"), testTime)
	if got := len(m.buf) - start; got >= 500 {
		t.Errorf("an entry of allprop is %d bytes, want less than 500: %s", got, m.buf[start:])
	}
}

// pieces counts what is written.
type pieces struct{ sizes []int }

func (p *pieces) Write(b []byte) (int, error) {
	p.sizes = append(p.sizes, len(b))
	return len(b), nil
}

func TestMultistatusWritesLargePieces(t *testing.T) {
	var p pieces
	m := newMultistatus(&p)
	for range 1000 {
		writeEntry(m, at(t, "/directory/file-0001.txt"), testTime)
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	for i, size := range p.sizes {
		if last := i == len(p.sizes)-1; size < multistatusFlush && !last || size > multistatusFlush+1000 {
			t.Errorf("piece %d of %d has %d bytes", i, len(p.sizes), size)
		}
	}
	if len(p.sizes) < 3 {
		t.Errorf("%d pieces for 1,000 entries", len(p.sizes))
	}
}

type brokenWriter struct{ calls int }

func (w *brokenWriter) Write([]byte) (int, error) { w.calls++; return 0, io.ErrClosedPipe }

func TestMultistatusStopsWhenTheReaderIsGone(t *testing.T) {
	var w brokenWriter
	m := newMultistatus(&w)
	n := 0
	for ; n < 100_000 && !m.failed(); n++ {
		writeEntry(m, at(t, "/f"), testTime)
	}
	if n > 1000 {
		t.Errorf("%d entries were made for nobody", n)
	}
	if err := m.close(); !errors.Is(err, io.ErrClosedPipe) || w.calls != 1 {
		t.Errorf("close = %v after %d writes; want %v after 1", err, w.calls, io.ErrClosedPipe)
	}
}

func TestMultistatusEntryDoesNotAllocate(t *testing.T) {
	m := newMultistatus(io.Discard)
	p := at(t, "/directory/caf\u00e9 & co.txt")
	for range 1000 { // let the buffer grow
		writeEntry(m, p, testTime)
	}
	if n := testing.AllocsPerRun(1000, func() { writeEntry(m, p, testTime) }); n != 0 {
		t.Errorf("an entry takes %v allocations, want 0", n)
	}
}

// RFC 4918, section 16.
func TestAppendError(t *testing.T) {
	if got, want := string(appendError(nil, "propfind-finite-depth")),
		xmlHeader+`<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(appendError(nil, "lock-token-submitted", "/a/", "/b")),
		xmlHeader+`<D:error xmlns:D="DAV:"><D:lock-token-submitted><D:href>/a/</D:href><D:href>/b</D:href></D:lock-token-submitted></D:error>`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkMultistatusEntry(b *testing.B) {
	m := newMultistatus(io.Discard)
	p := at(b, "/directory/file-0001.txt")
	for b.Loop() {
		writeEntry(m, p, testTime)
	}
}

// What is formatted by hand is what package time makes of the layout.
func TestHTTPDateIsTheLayouts(t *testing.T) {
	for _, when := range []time.Time{
		time.Unix(0, 0), time.Unix(1<<31, 999), time.Unix(951782400, 0), time.Unix(-1, 0), // a leap day
		time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(999, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 7, 4, 1, 2, 3, 0, time.FixedZone("", 9*3600)),
	} {
		got, want := string(appendHTTPDate(nil, when)), when.UTC().Format(http.TimeFormat)
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
