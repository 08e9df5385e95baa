package davfs

import (
	"encoding/xml"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"overdav/overlay"
)

// multistatusFlush is how much is gathered before it is written: one chunk of
// HTTP and one system call for about 150 entries, where encoding/xml has one
// for each.
const multistatusFlush = 64 << 10

const xmlHeader = `<?xml version="1.0" encoding="utf-8"?>` + "\n"

// rootPrefixes are the namespaces that a multistatus declares once, on its root,
// and that tags use without declaring them again. Old clients look for the
// prefix D rather than for the namespace.
var rootPrefixes = []xmlBinding{
	{"D", nsDAV},
	{"A", "http://apache.org/dav/props/"},
	{"O", "http://owncloud.org/ns"},
	{"Z", "urn:schemas-microsoft-com:"},
	{"V", "urn:overdav"},
}

// A propTag is the name of a property as it is written, made once a request, so
// that an entry costs no more than copying it.
type propTag struct {
	open, close, empty string
}

// newPropTag makes the tags of a name. The name comes from an XML parser, or
// from this package.
func newPropTag(name xml.Name) propTag {
	qualified, declaration := name.Local, ""
	switch name.Space {
	case "":
	case nsXML: // which has one prefix, and may have no other
		qualified = "xml:" + name.Local
	default:
		qualified = "x:" + name.Local
		declaration = ` xmlns:x="` + string(appendXMLAttr(nil, name.Space)) + `"`
		for _, b := range rootPrefixes {
			if b.uri == name.Space {
				qualified, declaration = b.prefix+":"+name.Local, ""
			}
		}
	}
	return propTag{
		open:  "<" + qualified + declaration + ">",
		close: "</" + qualified + ">",
		empty: "<" + qualified + declaration + "/>",
	}
}

// A multistatus writes the body of a 207 (RFC 4918, section 13), entry by entry,
// into a buffer that it hands to w in large pieces. Its methods are to be called
// in the order of the grammar:
//
//	multistatus = { response }
//	response    = startResponse ( { propstat } | status ) [ error ] endResponse
//	propstat    = startPropstat { text | integer | date | raw | empty } endPropstat
//
// The first error of w is kept and returned by close; after it, nothing more is
// written, and failed tells a long listing to stop.
type multistatus struct {
	w    io.Writer
	head http.ResponseWriter // the status line and the length, if it is known, go to it first; nil when they have
	push func() error        // has what w was given sent; nil: nobody waits for a part
	buf  []byte
	err  error
}

// newMultistatus begins a body. Unless head is set, the status line and the
// header are the caller's.
func newMultistatus(w io.Writer) *multistatus {
	buf := multistatusBuffers.Get().(*[]byte)
	return &multistatus{w: w, buf: append((*buf)[:0], multistatusHead...)}
}

// multistatusHead is what every body begins with.
var multistatusHead = func() []byte {
	b := []byte(xmlHeader + `<D:multistatus`)
	for _, binding := range rootPrefixes {
		b = append(append(b, " xmlns:"...), binding.prefix...)
		b = appendXMLValue(b, binding.uri)
	}
	return append(b, '>')
}()

// multistatusBuffers are as long as the longest that was needed, but for bodies
// with an entry that is longer than all others together.
var multistatusBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// startResponse begins the entry of the resource p below prefix; collections
// have the slash.
func (m *multistatus) startResponse(prefix, p Path, slash bool) {
	m.buf = append(m.buf, "<D:response><D:href>"...)
	m.buf = appendHref(m.buf, prefix, p, slash)
	m.buf = append(m.buf, "</D:href>"...)
}

// startMember is startResponse for a member of the collection whose href, with
// the slash, is dir.
func (m *multistatus) startMember(dir []byte, name string, slash bool) {
	m.buf = append(m.buf, "<D:response><D:href>"...)
	m.buf = append(m.buf, dir...)
	m.buf = appendEscaped(m.buf, name)
	if slash {
		m.buf = append(m.buf, '/')
	}
	m.buf = append(m.buf, "</D:href>"...)
}

func (m *multistatus) startPropstat() { m.buf = append(m.buf, "<D:propstat><D:prop>"...) }

// text writes a property whose value is text, of which nothing need be XML.
func (m *multistatus) text(tag propTag, value string) {
	m.buf = append(m.buf, tag.open...)
	m.buf = appendXMLText(m.buf, value)
	m.buf = append(m.buf, tag.close...)
}

// integer writes a property whose value is a number.
func (m *multistatus) integer(tag propTag, value int64) {
	m.buf = append(m.buf, tag.open...)
	m.buf = strconv.AppendInt(m.buf, value, 10)
	m.buf = append(m.buf, tag.close...)
}

// httpDate writes a property whose value is a time as in http.TimeFormat.
func (m *multistatus) httpDate(tag propTag, value time.Time) {
	m.buf = append(m.buf, tag.open...)
	m.buf = appendHTTPDate(m.buf, value)
	m.buf = append(m.buf, tag.close...)
}

// isoDate writes a property whose value is a time as in time.RFC3339, in UTC.
func (m *multistatus) isoDate(tag propTag, value time.Time) {
	m.buf = append(m.buf, tag.open...)
	m.buf = value.UTC().AppendFormat(m.buf, time.RFC3339)
	m.buf = append(m.buf, tag.close...)
}

// etag writes a property whose value is an entity tag.
func (m *multistatus) etag(tag propTag, info *overlay.Info) {
	m.buf = append(m.buf, tag.open...)
	m.buf = appendEntityTag(m.buf, info)
	m.buf = append(m.buf, tag.close...)
}

// appendHTTPDate is time.AppendFormat with http.TimeFormat, which interprets
// its layout anew for each of the members of a collection.
func appendHTTPDate(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 1000 || year > 9999 {
		return t.AppendFormat(dst, http.TimeFormat)
	}
	hour, minute, second := t.Clock()
	dst = append(dst, t.Weekday().String()[:3]...)
	dst = append(dst, ", "...)
	dst = append(appendTwo(dst, day), ' ')
	dst = append(dst, month.String()[:3]...)
	dst = appendTwo(appendTwo(append(dst, ' '), year/100), year%100)
	dst = append(appendTwo(append(dst, ' '), hour), ':')
	dst = append(appendTwo(dst, minute), ':')
	return append(appendTwo(dst, second), " GMT"...)
}

func appendTwo(dst []byte, n int) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }

// raw writes a property whose value is XML that needs nothing from outside, as
// parsePropertyUpdate and appendActiveLock make it.
func (m *multistatus) raw(tag propTag, value []byte) {
	m.buf = append(m.buf, tag.open...)
	m.buf = append(m.buf, value...)
	m.buf = append(m.buf, tag.close...)
}

// rawLang is raw for a value in a language; "" is none (RFC 4918, section 4.3).
func (m *multistatus) rawLang(tag propTag, lang string, value []byte) {
	if lang != "" {
		m.buf = append(m.buf, tag.open[:len(tag.open)-1]...)
		m.buf = append(m.buf, ` xml:lang`...)
		m.buf = appendXMLValue(m.buf, lang)
		m.buf = append(m.buf, '>')
	} else {
		m.buf = append(m.buf, tag.open...)
	}
	m.buf = append(m.buf, value...)
	m.buf = append(m.buf, tag.close...)
}

// empty writes the name of a property without a value.
func (m *multistatus) empty(tag propTag) { m.buf = append(m.buf, tag.empty...) }

// endPropstat ends the list of properties that have this status.
func (m *multistatus) endPropstat(status int) {
	m.buf = append(m.buf, "</D:prop>"...)
	m.status(status)
	m.buf = append(m.buf, "</D:propstat>"...)
}

// endPropstatError is endPropstat with the precondition that was not met.
func (m *multistatus) endPropstatError(status int, condition string) {
	m.buf = append(m.buf, "</D:prop>"...)
	m.status(status)
	m.error(condition)
	m.buf = append(m.buf, "</D:propstat>"...)
}

// status writes the status of the entry as a whole.
func (m *multistatus) status(status int) {
	m.buf = append(m.buf, "<D:status>HTTP/1.1 "...)
	m.buf = strconv.AppendInt(m.buf, int64(status), 10)
	m.buf = append(m.buf, ' ')
	m.buf = append(m.buf, http.StatusText(status)...)
	m.buf = append(m.buf, "</D:status>"...)
}

// error writes a precondition of RFC 4918, section 16; "" is none.
func (m *multistatus) error(condition string) {
	if condition != "" {
		m.buf = append(m.buf, "<D:error><D:"...)
		m.buf = append(m.buf, condition...)
		m.buf = append(m.buf, "/></D:error>"...)
	}
}

func (m *multistatus) endResponse() {
	m.buf = append(m.buf, "</D:response>"...)
	if len(m.buf) >= multistatusFlush {
		m.flush()
	}
}

func (m *multistatus) flush() {
	if m.head != nil {
		m.head.WriteHeader(http.StatusMultiStatus)
		m.head = nil
	}
	if m.err == nil {
		_, m.err = m.w.Write(m.buf)
	}
	m.buf = m.buf[:0]
}

// send is flush, and has the client get it now.
func (m *multistatus) send() {
	m.flush()
	if m.err == nil && m.push != nil {
		m.err = m.push()
	}
}

// failed reports whether the reader is gone, so that nothing written from here
// on will be seen.
func (m *multistatus) failed() bool { return m.err != nil }

// close ends the body and returns the first error of the writer.
func (m *multistatus) close() error {
	m.buf = append(m.buf, "</D:multistatus>\n"...)
	if m.head != nil { // it is the whole body: one write, and no chunks
		m.head.Header().Set("Content-Length", strconv.Itoa(len(m.buf)))
	}
	m.flush()
	if buf := m.buf; cap(buf) <= 2*multistatusFlush {
		multistatusBuffers.Put(&buf)
	}
	m.buf = nil
	return m.err
}

// appendError appends the body of an error: the precondition or postcondition
// that was not met (RFC 4918, section 16), and the resources that it is about.
func appendError(dst []byte, condition string, hrefs ...string) []byte {
	dst = append(dst, xmlHeader+`<D:error xmlns:D="DAV:"><D:`...)
	dst = append(dst, condition...)
	if len(hrefs) == 0 {
		return append(dst, "/></D:error>\n"...)
	}
	dst = append(dst, '>')
	for _, href := range hrefs {
		dst = append(dst, "<D:href>"...)
		dst = appendXMLText(dst, href)
		dst = append(dst, "</D:href>"...)
	}
	dst = append(append(dst, "</D:"...), condition...)
	return append(dst, "></D:error>\n"...)
}

// supportedLock is the value of DAV:supportedlock, the same everywhere.
const supportedLock = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>" +
	"<D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"

// appendXMLText appends s as the text of an element. What XML 1.0, section 2.2
// cannot hold becomes U+FFFD: control characters, and bytes that are not UTF-8.
func appendXMLText(dst []byte, s string) []byte { return appendXMLEscaped(dst, s, &xmlPlainText) }

// appendXMLAttr appends s as the value of an attribute in double quotes.
func appendXMLAttr(dst []byte, s string) []byte { return appendXMLEscaped(dst, s, &xmlPlainAttr) }

func appendXMLEscaped(dst []byte, s string, plain *[256]bool) []byte {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && plain[s[i]] {
			i++
		}
		dst = append(dst, s[start:i]...)
		if i == len(s) {
			break
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		dst = appendXMLRune(dst, r)
		i += size
	}
	return dst
}

// appendXMLRune appends a character that does not stand for itself everywhere.
func appendXMLRune(dst []byte, r rune) []byte {
	switch {
	case r == '&':
		return append(dst, "&amp;"...)
	case r == '<':
		return append(dst, "&lt;"...)
	case r == '>':
		return append(dst, "&gt;"...)
	case r == '"', r == '\t', r == '\n', r == '\r':
		dst = strconv.AppendInt(append(dst, "&#"...), int64(r), 10)
		return append(dst, ';')
	case r < ' ', r == 0xfffe, r == 0xffff:
		r = utf8.RuneError
	}
	return utf8.AppendRune(dst, r)
}

var xmlPlainText, xmlPlainAttr = xmlPlain("&<>\r"), xmlPlain("&<>\r\n\t\"")

// xmlPlain tells which bytes stand for themselves: printable ASCII and white
// space, but not those given.
func xmlPlain(special string) (plain [256]bool) {
	for c := range utf8.RuneSelf {
		plain[c] = (c >= ' ' || c == '\t' || c == '\n') && strings.IndexByte(special, byte(c)) < 0
	}
	return plain
}
