package davfs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"
)

func dav(local string) xml.Name { return xml.Name{Space: nsDAV, Local: local} }

// utf16Bytes encodes s with a byte order mark.
func utf16Bytes(s string, littleEndian bool) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
		if littleEndian {
			b = append(b, byte(u), byte(u>>8))
		} else {
			b = append(b, byte(u>>8), byte(u))
		}
	}
	return b
}

// Namespaces in XML 1.0, XML 1.0, and the limits.
func TestParseXMLRefuses(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("<a>", n) + strings.Repeat("</a>", n) }
	for _, tt := range []struct {
		name, body string
		want       error
	}{
		{"nothing", "", errBadXML},
		{"white space", " \n", errBadXML},
		{"no XML", "hello", errBadXML},
		{"no end", "<a>", errBadXML},
		{"half an end", "<a></a", errBadXML},
		{"wrong end", "<a></b>", errBadXML},
		{"wrong prefix of the end", `<x:a xmlns:x="u" xmlns:y="u"></y:a>`, errBadXML},
		{"end first", "</a>", errBadXML},
		{"two roots", "<a/><b/>", errBadXML},
		{"text behind the root", "<a/>x", errBadXML},
		{"text before the root", "x<a/>", errBadXML},
		{"declaration in the middle", `<a><?xml version="1.0"?></a>`, errBadXML},
		{"declaration second", `<!-- --><?xml version="1.0"?><a/>`, errBadXML},
		{"document type", `<!DOCTYPE a><a/>`, errBadXML},
		{"entity bomb", `<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>`, errBadXML},
		{"unknown entity", "<a>&nbsp;</a>", errBadXML},
		{"unbound element prefix", "<x:a/>", errBadXML},
		{"unbound attribute prefix", `<a x:b=""/>`, errBadXML},
		{"prefix out of scope", `<a><b xmlns:x="u"/><x:c/></a>`, errBadXML},
		{"litmus propfind_invalid2", `<D:propfind xmlns:D="DAV:"><D:prop><bar:foo xmlns:bar=""/></D:prop></D:propfind>`, errBadXML},
		{"prefix xmlns", `<a xmlns:xmlns="u"/>`, errBadXML},
		{"element in xmlns", `<xmlns:a/>`, errBadXML},
		{"xml bound elsewhere", `<a xmlns:xml="u"/>`, errBadXML},
		{"namespace of xml bound elsewhere", `<a xmlns:x="http://www.w3.org/XML/1998/namespace"/>`, errBadXML},
		{"namespace of xmlns as default", `<a xmlns="http://www.w3.org/2000/xmlns/"/>`, errBadXML},
		{"declared twice", `<a xmlns:x="u" xmlns:x="v"/>`, errBadXML},
		{"attribute twice", `<a b="" b=""/>`, errBadXML},
		{"attribute twice by namespace", `<a xmlns:x="u" xmlns:y="u" x:b="" y:b=""/>`, errBadXML},
		{"two colons", `<x:a:b xmlns:x="u"/>`, errBadXML},
		{"colon in front", `<:a/>`, errBadXML},
		{"colon at the end", `<a:/>`, errBadXML},
		{"digit behind the colon", `<x:1 xmlns:x="u"/>`, errBadXML},
		{"dash behind the colon", `<x:-a xmlns:x="u"/>`, errBadXML},
		{"accent behind the colon", `<x:́a xmlns:x="u"/>`, errBadXML},
		{"digit behind the colon of an attribute", `<a xmlns:x="u" x:1=""/>`, errBadXML},
		{"prefix that begins with a digit", `<a xmlns:1="u"/>`, errBadXML},
		{"control character", "<a>\x01</a>", errBadXML},
		{"control character escaped", "<a>&#1;</a>", errBadXML},
		{"not UTF-8", "<a>\xff</a>", errBadXML},
		{"half UTF-16", "\xfe\xff\x00<\x00a\x00/\x00", errBadXML},
		{"unknown encoding", `<?xml version="1.0" encoding="EBCDIC"?><a/>`, errBadXML},
		{"depth", nest(maxXMLDepth + 1), errXMLTooLarge},
		{"elements", "<a>" + strings.Repeat("<b/>", maxXMLElements) + "</a>", errXMLTooLarge},
		{"attributes", "<a>" + strings.Repeat(`<b c=""/>`, maxXMLAttributes/2) + strings.Repeat(`<b c="" d=""/>`, maxXMLAttributes/4+1) + "</a>", errXMLTooLarge},
	} {
		if e, err := parseXML([]byte(tt.body)); !errors.Is(err, tt.want) || e != nil {
			t.Errorf("%s: parseXML = %v, %v; want %v", tt.name, e, err, tt.want)
		}
	}
	for name, body := range map[string]string{
		"depth":    nest(maxXMLDepth),
		"elements": "<a>" + strings.Repeat("<b/>", maxXMLElements-1) + "</a>",
	} {
		if _, err := parseXML([]byte(body)); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
	}
}

// RFC 4918, section 9.1 and 14.20.
func TestParsePropfind(t *testing.T) {
	const open = `<D:propfind xmlns:D="DAV:">`
	for _, tt := range []struct {
		name, body string
		want       propfindBody
		bad        bool
	}{
		{"no body", "", propfindBody{kind: findAll}, false},
		{"allprop", `<?xml version="1.0" encoding="utf-8" ?>` + open + `<D:allprop/></D:propfind>`, propfindBody{kind: findAll}, false},
		{
			"allprop, include", open + `<D:allprop/><D:include><D:supportedlock/><x xmlns=""/></D:include></D:propfind>`,
			propfindBody{findAll, []xml.Name{dav("supportedlock"), {Local: "x"}}},
			false,
		},
		{"include first", open + `<D:include><D:a/></D:include><D:allprop/></D:propfind>`, propfindBody{findAll, []xml.Name{dav("a")}}, false},
		{"propname", open + `<D:propname/></D:propfind>`, propfindBody{kind: findNames}, false},
		{
			"prop", `<propfind xmlns="DAV:"><prop><a/><x:b xmlns:x="u"/><a/></prop></propfind>`,
			propfindBody{findNamed, []xml.Name{dav("a"), {Space: "u", Local: "b"}}},
			false,
		},
		{"content in a name", open + `<D:prop><D:getetag> <D:junk/></D:getetag></D:prop></D:propfind>`, propfindBody{findNamed, []xml.Name{dav("getetag")}}, false},
		{"no names", open + `<D:prop/></D:propfind>`, propfindBody{kind: findNamed}, false},
		{"extensions", open + `<D:future/><x:prop xmlns:x="u"><x:a/></x:prop><D:propname/></D:propfind>`, propfindBody{kind: findNames}, false},
		{"comments", open + `<!-- c --><?pi x?><D:propname/></D:propfind><!-- c -->`, propfindBody{kind: findNames}, false},
		{"empty", open + `</D:propfind>`, propfindBody{}, true},
		{"both", open + `<D:prop/><D:propname/></D:propfind>`, propfindBody{}, true},
		{"include alone", open + `<D:include/></D:propfind>`, propfindBody{}, true},
		{"include with prop", open + `<D:prop/><D:include/></D:propfind>`, propfindBody{}, true},
		{"no namespace", `<propfind><propname/></propfind>`, propfindBody{}, true},
		{"other root", `<D:propertyupdate xmlns:D="DAV:"><D:propname/></D:propertyupdate>`, propfindBody{}, true},
	} {
		got, err := parsePropfind([]byte(tt.body))
		if !reflect.DeepEqual(got, tt.want) || errors.Is(err, errBadXML) != tt.bad {
			t.Errorf("%s: %+v, %v; want %+v, bad=%v", tt.name, got, err, tt.want, tt.bad)
		}
	}
}

func TestXMLEncodings(t *testing.T) {
	const body = `<?xml version="1.0" encoding="%s"?><p:propfind xmlns:p="DAV:"><p:prop><ä xmlns="u"/></p:prop></p:propfind>`
	latin1 := strings.ReplaceAll(fmt.Sprintf(body, "ISO-8859-1"), "ä", "\xe4")
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"UTF-8", []byte(fmt.Sprintf(body, "utf-8"))},
		{"UTF-8 with a mark", []byte("\ufeff" + fmt.Sprintf(body, "UTF-8"))},
		{"single quotes", []byte(strings.ReplaceAll(fmt.Sprintf(body, "UTF-8"), `"`, `'`))},
		{"UTF-16LE", utf16Bytes(fmt.Sprintf(body, "utf-16"), true)},
		{"UTF-16BE", utf16Bytes(fmt.Sprintf(body, "utf-16"), false)},
		{"UTF-16LE without a mark", utf16Bytes(fmt.Sprintf(body, "utf-16"), true)[2:]},
		{"UTF-16BE without a mark", utf16Bytes(fmt.Sprintf(body, "utf-16"), false)[2:]},
		{"Latin 1", []byte(latin1)},
	} {
		got, err := parsePropfind(tt.body)
		want := propfindBody{findNamed, []xml.Name{{Space: "u", Local: "ä"}}}
		if !reflect.DeepEqual(got, want) || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, want)
		}
	}
}

// RFC 4918, sections 9.2 and 14.19.
func TestParsePropertyUpdate(t *testing.T) {
	const open = `<D:propertyupdate xmlns:D="DAV:" xmlns:Z="http://ns.example.com/standards/z39.50/">`
	for _, tt := range []struct {
		name, body string
		want       []propPatch
		bad        bool
	}{
		{
			"9.2.2", open + `<D:set><D:prop><Z:Authors><Z:Author>Jim Whitehead</Z:Author><Z:Author>Roy Fielding</Z:Author></Z:Authors></D:prop></D:set>` +
				`<D:remove><D:prop><Z:Copyright-Owner/></D:prop></D:remove></D:propertyupdate>`,
			[]propPatch{
				{
					name: xml.Name{Space: "http://ns.example.com/standards/z39.50/", Local: "Authors"},
					value: []byte(`<Z:Author xmlns:Z="http://ns.example.com/standards/z39.50/">Jim Whitehead</Z:Author>` +
						`<Z:Author xmlns:Z="http://ns.example.com/standards/z39.50/">Roy Fielding</Z:Author>`),
				},
				{remove: true, name: xml.Name{Space: "http://ns.example.com/standards/z39.50/", Local: "Copyright-Owner"}},
			},
			false,
		},
		{
			"document order", open + `<D:remove><D:prop><a/></D:prop></D:remove><D:set><D:prop><a>1</a><b/></D:prop></D:set><D:remove><D:prop><b/></D:prop></D:remove></D:propertyupdate>`,
			[]propPatch{
				{remove: true, name: xml.Name{Local: "a"}},
				{name: xml.Name{Local: "a"}, value: []byte("1")},
				{name: xml.Name{Local: "b"}},
				{remove: true, name: xml.Name{Local: "b"}},
			},
			false,
		},
		{
			"language in scope", `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop xml:lang="fr"><a>un</a><b xml:lang="de">eins</b></D:prop></D:set></D:propertyupdate>`,
			[]propPatch{
				{name: xml.Name{Local: "a"}, lang: "fr", value: []byte("un")},
				{name: xml.Name{Local: "b"}, lang: "de", value: []byte("eins")},
			},
			false,
		},
		{
			"remove with content", open + `<D:remove><D:prop><a>x</a></D:prop></D:remove></D:propertyupdate>`,
			[]propPatch{{remove: true, name: xml.Name{Local: "a"}}},
			false,
		},
		{
			"text only, escaped again", open + `<D:set><D:prop><a> &lt;b&gt; &amp; <![CDATA[<c>]]>&#13;]]&gt;"'</a></D:prop></D:set></D:propertyupdate>`,
			[]propPatch{{name: xml.Name{Local: "a"}, value: []byte(` &lt;b&gt; &amp; &lt;c&gt;&#13;]]&gt;"'`)}},
			false,
		},
		{
			"extensions", open + `<D:future><D:prop><a/></D:prop></D:future><D:set><D:future><a/></D:future><D:prop><b/></D:prop></D:set></D:propertyupdate>`,
			[]propPatch{{name: xml.Name{Local: "b"}}},
			false,
		},
		{"nothing to do", open + `</D:propertyupdate>`, nil, true},
		{"no property", open + `<D:set><D:prop/></D:set></D:propertyupdate>`, nil, true},
		{"other root", `<D:propfind xmlns:D="DAV:"><D:set><D:prop><a/></D:prop></D:set></D:propfind>`, nil, true},
		{"no body", ``, nil, true},
	} {
		got, err := parsePropertyUpdate([]byte(tt.body))
		for i := range got { // an empty value and none are the same
			if len(got[i].value) == 0 {
				got[i].value = nil
			}
		}
		if !reflect.DeepEqual(got, tt.want) || errors.Is(err, errBadXML) != tt.bad {
			t.Errorf("%s:\n got %+v, %v\nwant %+v, bad=%v", tt.name, got, err, tt.want, tt.bad)
		}
	}
}

// RFC 4918, sections 9.10 and 14.11.
func TestParseLockInfo(t *testing.T) {
	lockinfo := func(inside string) string {
		return `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype>` + inside + `</D:lockinfo>`
	}
	for _, tt := range []struct {
		name, body string
		want       lockInfo
		bad        bool
	}{
		{
			"9.10.7", lockinfo(`<D:owner><D:href>http://example.org/~ejw/contact.html</D:href></D:owner>`),
			lockInfo{owner: `<D:href xmlns:D="DAV:">http://example.org/~ejw/contact.html</D:href>`},
			false,
		},
		{"davfs2", lockinfo(`<D:owner>davfs2 1.6.1</D:owner>`), lockInfo{owner: "davfs2 1.6.1"}, false},
		{
			"white space of webdavfs", lockinfo("<D:owner>\n<D:href>http://www.apple.com/webdav_fs/</D:href>\n</D:owner>"),
			lockInfo{owner: "\n<D:href xmlns:D=\"DAV:\">http://www.apple.com/webdav_fs/</D:href>\n"},
			false,
		},
		{
			"another prefix", `<a:lockinfo xmlns:a="DAV:"><a:lockscope><a:shared/></a:lockscope><a:locktype><a:write/></a:locktype><a:owner><a:href>x</a:href></a:owner></a:lockinfo>`,
			lockInfo{shared: true, owner: `<a:href xmlns:a="DAV:">x</a:href>`},
			false,
		},
		{
			"default namespace", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype><owner><href>x</href></owner></lockinfo>`,
			lockInfo{owner: `<href xmlns="DAV:">x</href>`},
			false,
		},
		{"Explorer", lockinfo(`<D:owner><D:href>DOMAIN\user</D:href></D:owner>`), lockInfo{owner: `<D:href xmlns:D="DAV:">DOMAIN\user</D:href>`}, false},
		{"no owner", lockinfo(""), lockInfo{}, false},
		{"no namespace", `<lockinfo><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`, lockInfo{}, true},
		{"no scope", `<D:lockinfo xmlns:D="DAV:"><D:locktype><D:write/></D:locktype></D:lockinfo>`, lockInfo{}, true},
		{"two scopes", `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`, lockInfo{}, true},
		{"unknown type", `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:shared/></D:lockscope><D:locktype><D:read/></D:locktype></D:lockinfo>`, lockInfo{}, true},
		{"no body", "", lockInfo{}, true},
	} {
		got, err := parseLockInfo([]byte(tt.body))
		if got != tt.want || errors.Is(err, errBadXML) != tt.bad {
			t.Errorf("%s:\n got %+v, %v\nwant %+v, bad=%v", tt.name, got, err, tt.want, tt.bad)
		}
	}
}

// A value takes along what it needs from outside, and no more.
func TestXMLContentStandsAlone(t *testing.T) {
	const open = `<r xmlns="def" xmlns:x="ux" xmlns:y="uy" xmlns:xs="schema"><p>`
	for _, tt := range []struct{ name, inside, want string }{
		{"nothing", `text`, `text`},
		{"default", `<a/>`, `<a xmlns="def"/>`},
		{"default undone", `<a xmlns=""><b/></a>`, `<a xmlns=""><b/></a>`},
		{"prefix", `<x:a/>`, `<x:a xmlns:x="ux"/>`},
		{"deep prefix", `<x:a><x:b><y:c/></x:b></x:a>`, `<x:a xmlns:x="ux" xmlns:y="uy"><x:b><y:c/></x:b></x:a>`},
		{"attribute", `<x:a y:b="v"/>`, `<x:a xmlns:x="ux" xmlns:y="uy" y:b="v"/>`},
		{"its own", `<x:a xmlns:x="other"><x:b/></x:a>`, `<x:a xmlns:x="other"><x:b/></x:a>`},
		{"its own, deeper", `<x:a><x:b xmlns:x="other"/></x:a>`, `<x:a xmlns:x="ux"><x:b xmlns:x="other"/></x:a>`},
		{"name in a value", `<x:a t="xs:string">y:n</x:a>`, `<x:a xmlns:x="ux" xmlns:xs="schema" xmlns:y="uy" t="xs:string">y:n</x:a>`},
		{"each top element", `<x:a/>-<x:b/>`, `<x:a xmlns:x="ux"/>-<x:b xmlns:x="ux"/>`},
		{"xml:space", `<x:a xml:space="preserve"/>`, `<x:a xmlns:x="ux" xml:space="preserve"/>`},
		{"attribute value", `<x:a b="&lt;&quot;'&amp;&#10;&#9;"/>`, `<x:a xmlns:x="ux" b="&lt;&#34;'&amp;&#10;&#9;"/>`},
	} {
		root, err := parseXML([]byte(open + tt.inside + `</p></r>`))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for p := range root.elements() {
			if got, err := p.appendContent(nil, maxXMLValues); string(got) != tt.want || err != nil {
				t.Errorf("%s: got %s, %v; want %s", tt.name, got, err, tt.want)
			}
		}
	}
}

// One long namespace, or many of them, used again and again: the bodies are
// small, and what they ask to be stored is not.
func TestXMLValuesAreBounded(t *testing.T) {
	update := func(declarations, inside string) []byte {
		return []byte(`<D:propertyupdate xmlns:D="DAV:" ` + declarations + `><D:set><D:prop>` + inside + `</D:prop></D:set></D:propertyupdate>`)
	}
	long := `xmlns:l="` + strings.Repeat("u", 32<<10) + `"`
	for _, tt := range []struct {
		name string
		body []byte
		want error
	}{
		{"a value at the limit", update("", "<p>"+strings.Repeat("x", maxXMLValues-1)+"</p>"), nil},
		{"a value beyond it", update("", "<p>"+strings.Repeat("x", maxXMLValues)+"</p>"), errXMLTooLarge},
		{"two values beyond it", update("", "<p>"+strings.Repeat("x", maxXMLValues/2)+"</p><q>"+strings.Repeat("x", maxXMLValues/2)+"</q>"), errXMLTooLarge},
		{"escapes count", update("", "<p>"+strings.Repeat(">", maxXMLValues/2)+"</p>"), errXMLTooLarge},
		{"a long namespace once", update(long, "<p><l:a/></p>"), nil},
		{"a long namespace in each element", update(long, "<p>"+strings.Repeat("<l:a/>", 1000)+"</p>"), errXMLTooLarge},
		{"a long namespace in each property", update(long, strings.Repeat("<p><l:a/></p>", 900)), errXMLTooLarge},
		{"a long name of each property", update(long, nameMany("l:", 900)), errXMLTooLarge},
		{"a long language of each property", update(`xml:lang="`+strings.Repeat("u", 32<<10)+`"`, nameMany("", 900)), errXMLTooLarge},
		{"a long namespace in a propfind", []byte(`<D:propfind xmlns:D="DAV:" ` + long + `><D:prop>` + nameMany("l:", 900) + `</D:prop></D:propfind>`), errXMLTooLarge},
		{"many short names in a propfind", []byte(`<D:propfind xmlns:D="DAV:"><D:prop>` + nameMany("D:", 900) + `</D:prop></D:propfind>`), nil},
		{"a long namespace in an owner", []byte(`<D:lockinfo xmlns:D="DAV:" ` + long + `><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype><D:owner>` +
			strings.Repeat("<l:a/>", 1000) + `</D:owner></D:lockinfo>`), errXMLTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parse := func() (err error) {
				switch {
				case strings.Contains(string(tt.body), "lockinfo"):
					_, err = parseLockInfo(tt.body)
				case strings.Contains(string(tt.body), "propfind"):
					_, err = parsePropfind(tt.body)
				default:
					_, err = parsePropertyUpdate(tt.body)
				}
				return err
			}
			var err error
			if got := allocatedBy(func() { err = parse() }); got > 32<<20 {
				t.Errorf("%d bytes of body took %d bytes", len(tt.body), got)
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
		})
	}
}

// nameMany returns n empty elements of different names.
func nameMany(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<%sp%d/>", prefix, i)
	}
	return b.String()
}

// A body of the size that callers let through takes memory in proportion,
// whatever is in it.
func TestXMLMemoryIsProportional(t *testing.T) {
	const size = 1 << 20
	fill := func(open, piece, end string) []byte {
		return []byte(open + strings.Repeat(piece, (size-len(open)-len(end))/len(piece)) + end)
	}
	for name, body := range map[string][]byte{
		"depth":      fill("", "<a>", ""),
		"elements":   fill("<a>", "<b/>", "</a>"),
		"attributes": fill("<a ", `b="" `, "/>"),
		"prefixes":   fill("<a ", `xmlns:b="" `, "/>"),
		"text":       fill("<a>", "&lt;<!-- -->", "</a>"),
		"colons":     fill("<a>", "a:", "</a>"),
		"UTF-16":     utf16Bytes(strings.Repeat(" ", size/2), true),
	} {
		if got := allocatedBy(func() { _, _ = parsePropertyUpdate(body) }); got > 64*size {
			t.Errorf("%s: 1 MiB of body took %d MiB", name, got>>20)
		}
	}
}

// allocatedBy returns how many bytes f allocates, whether or not they are freed.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// meaning writes a tree with all names resolved, so that two of them can be
// compared whatever their prefixes.
func (e *xmlElement) meaning(b *strings.Builder) {
	text := ""
	flush := func() {
		if text != "" {
			fmt.Fprintf(b, "%q", text)
			text = ""
		}
	}
	for _, n := range e.content {
		if n.element == nil {
			text += n.text
			continue
		}
		flush()
		fmt.Fprintf(b, "<%q", n.element.name)
		for _, a := range n.element.attrs {
			fmt.Fprintf(b, " %q=%q", a.name, a.value)
		}
		b.WriteString(">")
		n.element.meaning(b)
		b.WriteString("</>")
	}
	flush()
}

func meaningOf(e *xmlElement) string {
	var b strings.Builder
	e.meaning(&b)
	return b.String()
}

// fuzzXML checks what must be true of any document: names are those of
// encoding/xml, the limits hold, and the content of each element means the same
// elsewhere.
func fuzzXML(t *testing.T, body []byte) {
	root, err := parseXML(body)
	if err != nil {
		return
	}
	elements, attrs, depth := 0, 0, 0
	var walk func(e *xmlElement, level int)
	walk = func(e *xmlElement, level int) {
		elements++
		attrs += len(e.attrs) + len(e.declares)
		depth = max(depth, level)
		content, err := e.appendContent(nil, maxXMLValues)
		if err == nil && elements < 20 {
			again, err := parseXML([]byte(`<elsewhere xmlns:D="DAV:" xmlns:x="other">` + string(content) + `</elsewhere>`))
			switch {
			case errors.Is(err, errXMLTooLarge): // at most one deeper than the document
			case err != nil:
				t.Fatalf("content %q: %v", content, err)
			case meaningOf(again) != meaningOf(e):
				t.Fatalf("content %q means\n%s, not\n%s", content, meaningOf(again), meaningOf(e))
			}
		}
		for c := range e.elements() {
			walk(c, level+1)
		}
	}
	walk(root, 1)
	if elements > maxXMLElements || attrs > maxXMLAttributes || depth > maxXMLDepth {
		t.Fatalf("%d elements, %d attributes, %d deep", elements, attrs, depth)
	}
	text, err := decodeXML(body)
	if err != nil {
		t.Fatalf("decodeXML after parseXML: %v", err)
	}
	d := xml.NewDecoder(strings.NewReader(string(text)))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	for {
		token, err := d.Token()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatalf("encoding/xml refuses it: %v", err)
			}
			return
		}
		if start, ok := token.(xml.StartElement); ok {
			if start.Name != root.name {
				t.Fatalf("the root is %v, for encoding/xml %v", root.name, start.Name)
			}
			return
		}
	}
}

func FuzzPropfind(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:a/></D:include></D:propfind>`))
	f.Add([]byte(`<propfind xmlns="DAV:"><prop><x:y xmlns:x="u" x:z="&#13;&lt;"/></prop></propfind>`))
	f.Add(utf16Bytes(`<propfind xmlns="DAV:"><propname/></propfind>`, true))
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzXML(t, body)
		pf, err := parsePropfind(body)
		if err != nil {
			return
		}
		var b strings.Builder
		m := newMultistatus(&b)
		m.startResponse(Path{}, Path{}, true)
		m.startPropstat()
		for _, name := range pf.names {
			m.empty(newPropTag(name))
		}
		m.endPropstat(404)
		m.endResponse()
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		// The answer names the properties that were asked for.
		again, err := parsePropfind([]byte(`<D:propfind xmlns:D="DAV:"><D:prop>` + propsOf(t, b.String()) + `</D:prop></D:propfind>`))
		if err == nil && !(len(again.names) == 0 && len(pf.names) == 0) && !reflect.DeepEqual(again.names, pf.names) {
			t.Fatalf("asked for %q, answered %q", pf.names, again.names)
		}
	})
}

// propsOf returns the content of the first DAV:prop of a multistatus.
func propsOf(t *testing.T, body string) string {
	t.Helper()
	root, err := parseXML([]byte(body))
	if errors.Is(err, errXMLTooLarge) {
		return ""
	}
	if err != nil {
		t.Fatalf("our own answer %q: %v", body, err)
	}
	for response := range root.elements() {
		for propstat := range response.elements() {
			for prop := range propstat.elements() {
				if prop.isDAV("prop") {
					content, err := prop.appendContent(nil, maxXMLValues)
					if err != nil {
						return ""
					}
					return string(content)
				}
			}
		}
	}
	t.Fatalf("no prop in %q", body)
	return ""
}

// What was set is what a listing shows.
func FuzzPropertyUpdate(f *testing.F) {
	f.Add([]byte(`<D:propertyupdate xmlns:D="DAV:" xmlns:Z="u"><D:set><D:prop xml:lang="fr"><Z:a b="1">x<Z:c/>&amp;</Z:a></D:prop></D:set><D:remove><D:prop><b/></D:prop></D:remove></D:propertyupdate>`))
	f.Add([]byte(`<propertyupdate xmlns="DAV:"><set><prop><x t="D:y" xmlns:D="q"/></prop></set></propertyupdate>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzXML(t, body)
		patches, err := parsePropertyUpdate(body)
		if err != nil {
			return
		}
		if len(patches) == 0 {
			t.Fatal("no patches and no error")
		}
		for _, patch := range patches[:min(len(patches), 8)] {
			tag := newPropTag(patch.name)
			var b strings.Builder
			m := newMultistatus(&b)
			m.startResponse(Path{}, Path{}, true)
			m.startPropstat()
			m.rawLang(tag, patch.lang, patch.value)
			m.endPropstat(200)
			m.endResponse()
			if err := m.close(); err != nil {
				t.Fatal(err)
			}
			update := `<u:propertyupdate xmlns:u="DAV:"><u:set><u:prop>` + propsOf(t, b.String()) + `</u:prop></u:set></u:propertyupdate>`
			again, err := parsePropertyUpdate([]byte(update))
			if errors.Is(err, errXMLTooLarge) || propsOf(t, b.String()) == "" {
				continue
			}
			if err != nil || again[0].name != patch.name || again[0].lang != patch.lang {
				t.Fatalf("%+v came back as %+v, %v", patch, again, err)
			}
			was, _ := parseXML(append(append([]byte("<v>"), patch.value...), "</v>"...))
			is, _ := parseXML(append(append([]byte("<v>"), again[0].value...), "</v>"...))
			if was == nil || is == nil || meaningOf(was) != meaningOf(is) {
				t.Fatalf("%q came back as %q", patch.value, again[0].value)
			}
		}
	})
}

// The owner that a client finds in lockdiscovery is the owner that it sent.
func FuzzLockInfo(f *testing.F) {
	f.Add([]byte(`<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype><D:owner>a<D:href>b</D:href></D:owner></D:lockinfo>`))
	f.Add([]byte(`<lockinfo xmlns="DAV:"><lockscope><shared/></lockscope><locktype><write/></locktype><owner>&#13;</owner></lockinfo>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzXML(t, body)
		info, err := parseLockInfo(body)
		if err != nil {
			return
		}
		again, err := parseLockInfo([]byte(`<q:lockinfo xmlns:q="DAV:"><q:lockscope><q:shared/></q:lockscope><q:locktype><q:write/></q:locktype><q:owner>` + info.owner + `</q:owner></q:lockinfo>`))
		if errors.Is(err, errXMLTooLarge) {
			return
		}
		if err != nil || again.owner != info.owner {
			t.Fatalf("owner %q came back as %q, %v", info.owner, again.owner, err)
		}
	})
}
