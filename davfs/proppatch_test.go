package davfs

import (
	"encoding/xml"
	"errors"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pkg/xattr"
	"golang.org/x/net/webdav"

	"overdav/overlay/overlaytest"
)

// patchSet is a PROPPATCH that sets properties, with the usual prefixes.
func patchSet(props string) string {
	return `<D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:" xmlns:A="http://apache.org/dav/props/"` +
		` xmlns:O="http://owncloud.org/ns" xmlns:x="urn:x"><D:set><D:prop>` + props + `</D:prop></D:set></D:propertyupdate>`
}

func TestModificationTimeInEveryDialect(t *testing.T) {
	const want = "Thu, 02 Jan 2020 03:04:05 GMT"
	for _, property := range []string{
		"<D:getlastmodified>" + want + "</D:getlastmodified>",
		"<D:lastmodified>1577934245</D:lastmodified>",
		"<D:lastmodified>" + want + "</D:lastmodified>",
		"<Z:Win32LastModifiedTime>" + want + "</Z:Win32LastModifiedTime>",
		"<D:lastmodified> 1577934245 </D:lastmodified><O:checksums><O:checksum>SHA1:00</O:checksum></O:checksums>",
		"<Z:Win32FileAttributes>00000020</Z:Win32FileAttributes><Z:Win32LastModifiedTime>" + want + "</Z:Win32LastModifiedTime>" +
			"<Z:Win32CreationTime>" + want + "</Z:Win32CreationTime><Z:Win32LastAccessTime>" + want + "</Z:Win32LastAccessTime>",
	} {
		s := serve(t, map[string]string{"f": "1", "d/": ""})
		for _, path := range []string{"/f", "/d/"} {
			got := s.want(207, "PROPPATCH", path, patchSet(property))
			if strings.Count(got.body, "<D:propstat>") != 1 || !strings.Contains(got.body, "HTTP/1.1 200 OK") {
				t.Errorf("%s on %s: got %s, want one propstat of 200", property, path, got.body)
			}
			listing := parseListing(t, s.want(207, "PROPFIND", path, named("D:getlastmodified"), "Depth: 0").body)
			if value, _ := listing.value(path, davName("getlastmodified")); value != want {
				t.Errorf("%s on %s: got %s, want %s", property, path, value, want)
			}
		}
	}
}

func TestCreationDateIsWhatWindowsSet(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	s.want(207, "PROPPATCH", "/f", patchSet("<Z:Win32CreationTime>Thu, 02 Jan 2020 03:04:05 GMT</Z:Win32CreationTime>"))
	got := parseListing(t, s.want(207, "PROPFIND", "/f", named("D:creationdate"), "Depth: 0").body)
	if value, _ := got.value("/f", davName("creationdate")); value != "2020-01-02T03:04:05Z" {
		t.Errorf("got %s", value)
	}
}

func TestExecutable(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for _, value := range []string{"T", "F"} {
		s.want(207, "PROPPATCH", "/f", patchSet("<A:executable>"+value+"</A:executable>"))
		got := parseListing(t, s.want(207, "PROPFIND", "/f", named("A:executable"), "Depth: 0").body)
		if now, _ := got.value("/f", xml.Name{Space: nsApache, Local: "executable"}); now != value {
			t.Errorf("got %q, want %q", now, value)
		}
		info, err := s.tree.Stat("f")
		mustDo(t, err)
		if (info.Mode()&0o111 != 0) != (value == "T") {
			t.Errorf("after %s the mode is %v", value, info.Mode())
		}
	}
}

// RFC 4918, section 9.2: all or nothing.
func TestPropertiesAreSetTogetherOrNotAtAll(t *testing.T) {
	for name, test := range map[string]struct {
		props, want string
	}{
		"a protected one":     {"<x:a>1</x:a><D:getetag>x</D:getetag>", "403 Forbidden</D:status><D:error><D:cannot-modify-protected-property/>"},
		"a time that is none": {"<x:a>1</x:a><D:getlastmodified>soon</D:getlastmodified>", "409 Conflict"},
		"quota":               {"<x:a>1</x:a><D:quota-available-bytes>1</D:quota-available-bytes>", "403 Forbidden"},
		"neither T nor F":     {"<x:a>1</x:a><A:executable>yes</A:executable>", "409 Conflict"},
	} {
		s := serve(t, map[string]string{"f": "1"})
		got := s.want(207, "PROPPATCH", "/f", patchSet(test.props))
		if !strings.Contains(got.body, test.want) || !strings.Contains(got.body, "424 Failed Dependency") {
			t.Errorf("%s: got %s, want %s and 424 for the other", name, got.body, test.want)
		}
		listing := parseListing(t, s.want(207, "PROPFIND", "/f", named(`a xmlns="urn:x"`), "Depth: 0").body)
		if _, ok := listing.value("/f", xml.Name{Space: "urn:x", Local: "a"}); ok {
			t.Errorf("%s: the other property was set", name)
		}
	}
}

func TestPatchesAreMadeInOrder(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	s.want(207, "PROPPATCH", "/f", `<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x">`+
		`<D:set><D:prop><x:a>1</x:a></D:prop></D:set><D:remove><D:prop><x:a/></D:prop></D:remove>`+
		`<D:remove><D:prop><x:b/></D:prop></D:remove><D:set><D:prop><x:b xml:lang="de">zwei<x:c/></x:b></D:prop></D:set></D:propertyupdate>`)
	body := s.want(207, "PROPFIND", "/f", named(`a xmlns="urn:x"`, `b xmlns="urn:x"`), "Depth: 0").body
	got := parseListing(t, body)
	if _, ok := got.value("/f", xml.Name{Space: "urn:x", Local: "a"}); ok {
		t.Error("a was set and then removed, and is still there")
	}
	if value, ok := got.value("/f", xml.Name{Space: "urn:x", Local: "b"}); !ok || !strings.Contains(value, "zwei") {
		t.Errorf("b: got %q, %v", value, ok)
	}
	if !strings.Contains(body, `xml:lang="de"`) {
		t.Errorf("the language is lost: %s", body)
	}
}

// Properties are never attributes of the client's choosing.
func TestHostilePropertyNamesStayInert(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for _, p := range []string{
		`<overlay.redirect xmlns="trusted.">/etc</overlay.redirect>`, `<overlay.opaque xmlns="user.">y</overlay.opaque>`,
		`<capability xmlns="security.">x</capability>`, `<x xmlns="">n</x>`, `<x xmlns="user.overdav.props">n</x>`,
		`<x xmlns="` + strings.Repeat("n", 300) + `">long</x>`,
	} {
		s.want(207, "PROPPATCH", "/f", patchSet(p))
	}
	attrs, err := xattr.LList(filepath.Join(s.upper, "f"))
	mustDo(t, err)
	for _, attr := range attrs {
		if attr != deadPropAttr && !strings.HasPrefix(attr, "security.") && !strings.Contains(attr, ".overlay.") {
			t.Errorf("the upper file has the attribute %s", attr)
		}
	}
	body := s.want(207, "PROPFIND", "/f", allprop, "Depth: 0").body
	for _, want := range []string{"/etc", "long"} {
		if !strings.Contains(body, want) {
			t.Errorf("a property is lost: no %q in %s", want, body)
		}
	}
	parseListing(t, body)
}

func TestDeadPropsRoundTrip(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	for _, damage := range []string{"", "junk", deadPropMagic + "5:ab", deadPropMagic + "-1:", deadPropMagic + "1:a1:b0:"} {
		mustDo(t, s.tree.Setxattr("f", deadPropAttr, []byte(damage)))
		s.want(207, "PROPFIND", "/f", allprop, "Depth: 0")
		got := s.want(207, "PROPPATCH", "/f", patchSet("<x:a>1</x:a>"))
		if !strings.Contains(got.body, " 200 ") {
			t.Errorf("over %q no property can be set: %s", damage, got.body)
		}
	}
}

func TestPropertiesOfOneResourceAreLimited(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"})
	var props strings.Builder
	for i := range maxDeadProps + 1 {
		props.WriteString("<x:p" + strings.Repeat("i", i) + "/>")
	}
	if got := s.want(207, "PROPPATCH", "/f", patchSet(props.String())); !strings.Contains(got.body, "507 Insufficient Storage") {
		t.Errorf("got %.300s", got.body)
	}
	got := s.do("PROPPATCH", "/f", patchSet("<x:b>"+strings.Repeat("v", maxDeadPropValue+1)+"</x:b>"))
	if got.status != 413 && !strings.Contains(got.body, "507 Insufficient Storage") {
		t.Errorf("a value that is too long: got %d %.300s", got.status, got.body)
	}
}

func TestProppatchOfNothing(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.Junk = JunkDrop })
	s.want(404, "PROPPATCH", "/no", patchSet("<x:a>1</x:a>"))
	s.want(207, "PROPPATCH", "/._f", patchSet("<x:a>1</x:a>"))
	s.want(400, "PROPPATCH", "/f", "")
	s.want(400, "PROPPATCH", "/f", patchSet(""))
}

// What replaces a read-only file is read-only, and has its checksums all the same.
func TestChecksumsOfReadOnlyFile(t *testing.T) {
	if !overlaytest.AsOrdinaryUser(t) {
		return
	}
	const md = "b1946ac92492d2347c6235b4d2611184" // of "hello\n"
	s := serve(t, map[string]string{"f": "1"})
	mustDo(t, s.tree.Chmod("f", 0o444))
	s.want(204, "PUT", "/f", "hello\n", "OC-Checksum: MD5:"+md)
	got := s.want(207, "PROPFIND", "/f", named("O:checksums"), "Depth: 0").body
	if !strings.Contains(got, md) {
		t.Errorf("got %s, want %s in it", got, md)
	}
	if info, err := s.tree.Stat("f"); err != nil || info.Mode() != 0o444 {
		t.Errorf("got %v, %v, want mode 0444", info, err)
	}
}

func TestChecksums(t *testing.T) {
	const sha, md = "f572d396fae9206628714fb2ce00f72e94f2258f", "b1946ac92492d2347c6235b4d2611184" // of "hello\n"
	s := serve(t, nil)
	sums := func() string {
		got := parseListing(t, s.want(207, "PROPFIND", "/f", named("O:checksums"), "Depth: 0").body)
		value, _ := got.value("/f", xml.Name{Space: nsOwnCloud, Local: "checksums"})
		return value
	}
	s.want(201, "PUT", "/f", "hello\n", "OC-Checksum: SHA1:"+sha)
	for _, want := range []string{"SHA1:" + sha, "MD5:" + md} {
		if got := sums(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %s in it", got, want)
		}
	}
	s.want(207, "PROPPATCH", "/f", patchSet("<D:lastmodified>1546300800</D:lastmodified>"))
	if got := sums(); !strings.Contains(got, md) {
		t.Errorf("the checksums are gone with a change of the time: %q", got)
	}
	s.want(201, "MOVE", "/f", "", "Destination: /g")
	s.want(201, "MOVE", "/g", "", "Destination: /f")
	if got := sums(); !strings.Contains(got, md) {
		t.Errorf("the checksums are gone with a MOVE: %q", got)
	}
	s.want(201, "COPY", "/f", "", "Destination: /g", "X-OC-Mtime: 1577934245")
	s.want(204, "MOVE", "/g", "", "Destination: /f")
	if got := sums(); !strings.Contains(got, md) {
		t.Errorf("the checksums do not come with a COPY: %q", got)
	}
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "MOVE", "/f", "", "Destination: /c/f")
	s.want(201, "COPY", "/c", "", "Destination: /d")
	s.want(201, "MOVE", "/d/f", "", "Destination: /f")
	if got := sums(); !strings.Contains(got, md) {
		t.Errorf("the checksums of a member do not come with a COPY of its collection: %q", got)
	}
	s.want(204, "PUT", "/f", "other!")
	if got := sums(); got != "" {
		t.Errorf("the checksums of the content before are still told: %q", got)
	}
	for _, header := range []string{
		"OC-Checksum: MD5:" + md, "OC-Checksum: sha1:" + strings.ToUpper(sha), "OC-Checksum: ADLER32:084b021f",
		"OC-Checksum: WHIRLPOOL:00", "Content-MD5: sZRqySSS0jR8YjW00mERhA==",
		"Content-Digest: sha-256=:WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=:",
		"OC-Checksum: XXH:not hex", "Digest: UNIXsum=30637, adler32=084b021f", "Content-Digest: crc32c=?1",
	} {
		got := s.do("PUT", "/f", "hello\n", header).status
		if got != http.StatusNoContent {
			t.Errorf("%s: got %d, want 204", header, got)
		}
	}
}

func TestNoAnswerTellsOfTheHost(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "d/": ""})
	for _, test := range [][]string{
		{"GET", "/no"},
		{"PUT", "/no/f"},
		{"PUT", "/d"},
		{"MKCOL", "/f/x"},
		{"DELETE", "/"},
		{"PROPFIND", "/no"},
		{"MOVE", "/f", "Destination: /no/f"},
		{"COPY", "/d", "Destination: /d/e"},
		{"LOCK", "/no/f"},
	} {
		got := s.do(test[0], test[1], "", test[2:]...)
		for name, value := range got.header {
			if strings.Contains(strings.Join(value, " "), "/tmp") {
				t.Errorf("%v: header %s: %v", test, name, value)
			}
		}
		if strings.Contains(got.body, s.upper) || strings.Contains(got.body, s.lower) || strings.Contains(got.body, "/tmp") {
			t.Errorf("%v: %s", test, got.body)
		}
	}
}

// Whatever an attribute holds, reading it ends well, and what was read is
// written as it was.
func FuzzDeadProps(f *testing.F) {
	for _, seed := range []string{"", "junk", deadPropMagic, deadPropMagic + "5:urn:x1:a0:3:red", deadPropMagic + "99:x", deadPropMagic + "1:a1:b0:"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		props, err := decodeDeadProps(value)
		if err != nil || len(props) > maxDeadProps {
			return
		}
		again, err := encodeDeadProps(props)
		if err != nil {
			return
		}
		twice, err := decodeDeadProps(again)
		if err != nil || !reflect.DeepEqual(props, twice) {
			t.Errorf("%q: read %v, written and read %v, %v", value, props, twice, err)
		}
	})
}

// The limit of all properties of a resource together, at it and one byte beyond.
func TestLimitOfAllDeadProperties(t *testing.T) {
	props := func(last int) []webdav.Property {
		var all []webdav.Property
		for i := range 16 {
			all = append(all, webdav.Property{XMLName: xml.Name{Local: string(rune('a' + i))}, InnerXML: make([]byte, maxDeadPropValue-32)})
		}
		return append(all, webdav.Property{XMLName: xml.Name{Local: "z"}, InnerXML: make([]byte, last)})
	}
	empty, err := encodeDeadProps(props(100)) // a length of three digits
	mustDo(t, err)
	room := maxDeadPropTotal - len(empty) + 100
	if room < 100 || room > 999 {
		t.Fatalf("the last property has %d bytes", room)
	}
	if b, err := encodeDeadProps(props(room)); err != nil || len(b) != maxDeadPropTotal {
		t.Errorf("at the limit: %d bytes, %v", len(b), err)
	}
	if _, err := encodeDeadProps(props(room + 1)); !errors.Is(err, errTooManyProps) {
		t.Errorf("beyond the limit: %v", err)
	}
}
