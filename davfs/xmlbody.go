package davfs

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	// errBadXML is a body that is not well-formed, breaks the rules for
	// namespaces, or is not what the method asks for: 400 (RFC 4918, section 8.2).
	errBadXML = errors.New("malformed XML body")
	// errXMLTooLarge is a body with more structure than any client needs: 413.
	errXMLTooLarge = errors.New("XML body too large")
)

// Limits on the structure of a body. How many bytes are read is for the caller
// to limit; the memory that a body takes is proportional to them.
const (
	maxXMLDepth      = 64
	maxXMLElements   = 2000
	maxXMLAttributes = 2000
)

// Limits on what a body leaves behind, in bytes. Values have to be limited as
// they are written: one long namespace, declared once, comes back with each
// element that uses it.
const (
	maxXMLValues = 1 << 20  // of all properties, their names included; what one may have is for the store to say
	maxXMLOwner  = 64 << 10 // of an owner, before the lock table says no
	maxXMLNames  = 64 << 10 // of the names in a propfind, which each entry of the answer repeats
)

const (
	nsDAV   = "DAV:"
	nsXML   = "http://www.w3.org/XML/1998/namespace"
	nsXMLNS = "http://www.w3.org/2000/xmlns/"
)

// An xmlElement is one element of a request body, its names resolved.
type xmlElement struct {
	parent   *xmlElement // nil for the root
	prefix   string      // as written
	name     xml.Name
	declares []xmlBinding // namespaces, in the order written
	attrs    []xmlAttr    // all other attributes
	content  []xmlNode
}

// An xmlNode is an element, or text if that is nil. Comments and processing
// instructions are not kept (RFC 4918, section 4.3).
type xmlNode struct {
	element *xmlElement
	text    string
}

type xmlBinding struct{ prefix, uri string }

type xmlAttr struct {
	prefix string
	name   xml.Name
	value  string
}

// parseXML reads a whole document. It is stricter than encoding/xml, which knows
// neither unbound prefixes nor what xmlns:x="" means (Namespaces in XML 1.0,
// section 5), takes any document type, and does not look behind the root.
func parseXML(body []byte) (*xmlElement, error) {
	text, err := decodeXML(body)
	if err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // decoded already
	var b xmlBuilder
	for {
		start := d.InputOffset()
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			return b.finish()
		}
		if err == nil {
			err = b.add(token, start == 0)
		} else {
			err = fmt.Errorf("%w: %w", errBadXML, err)
		}
		if err != nil {
			return nil, err
		}
	}
}

// An xmlBuilder makes a tree of tokens.
type xmlBuilder struct {
	root, current     *xmlElement
	depth             int
	nElements, nAttrs int
}

func (b *xmlBuilder) add(token xml.Token, first bool) error {
	switch token := token.(type) {
	case xml.StartElement:
		return b.start(token)
	case xml.EndElement:
		e := b.current
		if e == nil || token.Name != (xml.Name{Space: e.prefix, Local: e.name.Local}) {
			return fmt.Errorf("%w: unexpected end of %q", errBadXML, token.Name.Local)
		}
		b.current = e.parent
		b.depth--
	case xml.CharData:
		if b.current != nil {
			b.current.content = append(b.current.content, xmlNode{text: string(token)})
		} else if len(bytes.Trim(token, " \t\r\n")) > 0 {
			return fmt.Errorf("%w: text outside the root", errBadXML)
		}
	case xml.Directive:
		return fmt.Errorf("%w: document type", errBadXML)
	case xml.ProcInst:
		if strings.EqualFold(token.Target, "xml") && !first {
			return fmt.Errorf("%w: XML declaration in the middle", errBadXML)
		}
	}
	return nil
}

func (b *xmlBuilder) start(token xml.StartElement) error {
	if b.current == nil && b.root != nil {
		return fmt.Errorf("%w: a second root", errBadXML)
	}
	b.depth++
	b.nElements++
	b.nAttrs += len(token.Attr)
	if b.depth > maxXMLDepth || b.nElements > maxXMLElements || b.nAttrs > maxXMLAttributes {
		return errXMLTooLarge
	}
	e := &xmlElement{parent: b.current, prefix: token.Name.Space}
	if err := e.setAttrs(token.Attr); err != nil {
		return err
	}
	var err error
	if e.name, err = e.resolve(token.Name, true); err != nil {
		return err
	}
	if b.current == nil {
		b.root = e
	} else {
		b.current.content = append(b.current.content, xmlNode{element: e})
	}
	b.current = e
	return nil
}

func (b *xmlBuilder) finish() (*xmlElement, error) {
	if b.root == nil || b.current != nil {
		return nil, fmt.Errorf("%w: it ends early", errBadXML)
	}
	return b.root, nil
}

// setAttrs takes in the declarations first, since they hold for the attributes
// of their own element too, wherever they stand.
func (e *xmlElement) setAttrs(attrs []xml.Attr) error {
	for _, a := range attrs {
		switch {
		case a.Name.Space == "xmlns":
			if err := e.declare(a.Name.Local, a.Value); err != nil {
				return err
			}
		case a.Name.Space == "" && a.Name.Local == "xmlns":
			if err := e.declare("", a.Value); err != nil {
				return err
			}
		}
	}
	seen := make(map[xml.Name]bool, len(attrs))
	for _, a := range attrs {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		name, err := e.resolve(a.Name, false)
		if err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("%w: attribute %q twice", errBadXML, a.Name.Local)
		}
		seen[name] = true
		e.attrs = append(e.attrs, xmlAttr{a.Name.Space, name, a.Value})
	}
	return nil
}

// declare binds a prefix (Namespaces in XML 1.0, sections 3 and 5).
func (e *xmlElement) declare(prefix, uri string) error {
	switch {
	case uri == "" && prefix != "",
		strings.Contains(prefix, ":"), prefix != "" && !beginsName(prefix),
		prefix == "xmlns", uri == nsXMLNS,
		(prefix == "xml") != (uri == nsXML):
		return fmt.Errorf("%w: declaration of the prefix %q", errBadXML, prefix)
	}
	for _, b := range e.declares {
		if b.prefix == prefix {
			return fmt.Errorf("%w: the prefix %q declared twice", errBadXML, prefix)
		}
	}
	e.declares = append(e.declares, xmlBinding{prefix, uri})
	return nil
}

// resolve replaces the prefix of a name by its namespace.
func (e *xmlElement) resolve(name xml.Name, element bool) (xml.Name, error) {
	if strings.Contains(name.Local, ":") || name.Space == "xmlns" || name.Space != "" && !beginsName(name.Local) {
		return xml.Name{}, fmt.Errorf("%w: name %q", errBadXML, name.Local)
	}
	if name.Space == "" && !element {
		return name, nil
	}
	uri, _, ok := e.lookup(name.Space)
	if !ok {
		return xml.Name{}, fmt.Errorf("%w: unbound prefix %q", errBadXML, name.Space)
	}
	return xml.Name{Space: uri, Local: name.Local}, nil
}

// beginsName reports whether a name can begin as s does (NCName, Namespaces in XML
// 1.0, section 4). encoding/xml asks that of whole names alone, so that behind a
// colon there may be "1" or "-".
func beginsName(s string) bool {
	if c := s[0] | 0x20; 'a' <= c && c <= 'z' || s[0] == '_' {
		return true
	}
	_, err := xml.NewDecoder(strings.NewReader("<" + s + "/>")).RawToken()
	return err == nil
}

// lookup returns what prefix is bound to at e, and the element that binds it;
// nil if none does, as with "xml", and with "" where there is no default.
func (e *xmlElement) lookup(prefix string) (uri string, by *xmlElement, ok bool) {
	if prefix == "xml" {
		return nsXML, nil, true
	}
	for ; e != nil; e = e.parent {
		for _, b := range e.declares {
			if b.prefix == prefix {
				return b.uri, e, true
			}
		}
	}
	return "", nil, prefix == ""
}

// elements yields the elements directly in e.
func (e *xmlElement) elements() iter.Seq[*xmlElement] {
	return func(yield func(*xmlElement) bool) {
		for _, n := range e.content {
			if n.element != nil && !yield(n.element) {
				return
			}
		}
	}
}

// properties yields what stands in the DAV:prop elements directly in e.
func (e *xmlElement) properties() iter.Seq[*xmlElement] {
	return func(yield func(*xmlElement) bool) {
		for prop := range e.elements() {
			if !prop.isDAV("prop") {
				continue
			}
			for p := range prop.elements() {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// isDAV reports whether e is the element of that name in the DAV namespace.
func (e *xmlElement) isDAV(local string) bool { return e.name == xml.Name{Space: nsDAV, Local: local} }

// lang returns the language that xml:lang gives e.
func (e *xmlElement) lang() string {
	for ; e != nil; e = e.parent {
		for _, a := range e.attrs {
			if a.name == (xml.Name{Space: nsXML, Local: "lang"}) {
				return a.value
			}
		}
	}
	return ""
}

// decodeXML returns the body as UTF-8. XML 1.0, section 4.3.3 demands UTF-8 and
// UTF-16; ISO 8859-1 is what old clients declare.
func decodeXML(body []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return body[3:], nil
	case bytes.HasPrefix(body, []byte("\xfe\xff")):
		return decodeUTF16(body[2:], binary.BigEndian)
	case bytes.HasPrefix(body, []byte("\xff\xfe")):
		return decodeUTF16(body[2:], binary.LittleEndian)
	case bytes.HasPrefix(body, []byte("\x00<")):
		return decodeUTF16(body, binary.BigEndian)
	case bytes.HasPrefix(body, []byte("<\x00")):
		return decodeUTF16(body, binary.LittleEndian)
	}
	switch encoding := strings.ToLower(declaredEncoding(body)); encoding {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return body, nil
	case "iso-8859-1", "latin1":
		text := make([]byte, 0, len(body)*2)
		for _, c := range body {
			text = utf8.AppendRune(text, rune(c))
		}
		return text, nil
	default:
		return nil, fmt.Errorf("%w: encoding %.20q", errBadXML, encoding)
	}
}

func decodeUTF16(b []byte, order binary.ByteOrder) ([]byte, error) {
	if len(b)%2 != 0 {
		return nil, fmt.Errorf("%w: half a UTF-16 character", errBadXML)
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return []byte(string(utf16.Decode(units))), nil
}

// declaredEncoding returns what the XML declaration calls the encoding, and ""
// if it does not say. Whether the declaration is well-formed is not its business.
func declaredEncoding(body []byte) string {
	end := bytes.Index(body, []byte("?>"))
	if !bytes.HasPrefix(body, []byte("<?xml")) || end < 0 {
		return ""
	}
	_, value, found := strings.Cut(string(body[:end]), "encoding")
	value = strings.TrimLeft(value, " \t\r\n=")
	if !found || value == "" {
		return ""
	}
	quoted, _, _ := strings.Cut(value[1:], value[:1])
	return quoted
}

// appendContent appends what stands inside e, as XML that means the same in any
// place where there is no default namespace: prefixes are kept, since values may
// hold names of that form (RFC 4918, section 4.3), and each top element declares
// those that were declared outside.
//
// It is written anew rather than cut out of the body, so that whatever the
// parser let pass, what comes out is well-formed: one property must not make the
// listing of its whole collection unreadable. More than limit bytes are an error.
func (e *xmlElement) appendContent(dst []byte, limit int) ([]byte, error) {
	start := len(dst)
	for _, n := range e.content {
		if n.element == nil {
			dst = appendXMLText(dst, n.text)
		} else {
			dst = n.element.append(dst, n.element.borrowed())
		}
		if len(dst)-start > limit {
			return dst[:start], fmt.Errorf("%w: a value has more than %d bytes", errXMLTooLarge, limit)
		}
	}
	return dst, nil
}

// append appends e with its own declarations and those given.
func (e *xmlElement) append(dst []byte, borrowed []xmlBinding) []byte {
	dst = append(dst, '<')
	dst = appendXMLName(dst, e.prefix, e.name.Local)
	for _, b := range slices.Concat(e.declares, borrowed) {
		if b.prefix == "" {
			dst = append(dst, " xmlns"...)
		} else {
			dst = append(append(dst, " xmlns:"...), b.prefix...)
		}
		dst = appendXMLValue(dst, b.uri)
	}
	for _, a := range e.attrs {
		dst = append(dst, ' ')
		dst = appendXMLName(dst, a.prefix, a.name.Local)
		dst = appendXMLValue(dst, a.value)
	}
	if len(e.content) == 0 {
		return append(dst, "/>"...)
	}
	dst = append(dst, '>')
	for _, n := range e.content {
		if n.element != nil {
			dst = n.element.append(dst, nil)
		} else {
			dst = appendXMLText(dst, n.text)
		}
	}
	dst = append(dst, "</"...)
	dst = appendXMLName(dst, e.prefix, e.name.Local)
	return append(dst, '>')
}

func appendXMLName(dst []byte, prefix, local string) []byte {
	if prefix != "" {
		dst = append(append(dst, prefix...), ':')
	}
	return append(dst, local...)
}

func appendXMLValue(dst []byte, value string) []byte {
	return append(appendXMLAttr(append(dst, `="`...), value), '"')
}

// borrowed returns the bindings that are made outside of e and that it needs:
// those of all names in it, and those of what looks like a name in its text.
func (e *xmlElement) borrowed() []xmlBinding {
	var needed []xmlBinding
	use := func(at *xmlElement, prefix string) {
		uri, by, _ := at.lookup(prefix)
		if b := (xmlBinding{prefix, uri}); uri != "" && by != nil && !by.within(e) && !slices.Contains(needed, b) {
			needed = append(needed, b)
		}
	}
	looked := make(map[string]bool)
	useText := func(prefix string) {
		if !looked[prefix] {
			looked[prefix] = true
			use(e, prefix)
		}
	}
	var walk func(*xmlElement)
	walk = func(at *xmlElement) {
		use(at, at.prefix)
		for _, a := range at.attrs {
			if a.prefix != "" {
				use(at, a.prefix)
			}
			eachPrefix(a.value, useText)
		}
		for _, n := range at.content {
			if n.element != nil {
				walk(n.element)
			} else {
				eachPrefix(n.text, useText)
			}
		}
	}
	walk(e)
	return needed
}

// within reports whether e is top or lies in it.
func (e *xmlElement) within(top *xmlElement) bool {
	for ; e != nil; e = e.parent {
		if e == top {
			return true
		}
	}
	return false
}

// eachPrefix calls f with whatever stands before a colon in s and could be a
// prefix there: xsi:type="xs:string".
func eachPrefix(s string, f func(prefix string)) {
	for {
		before, after, found := strings.Cut(s, ":")
		if !found {
			return
		}
		start := strings.LastIndexFunc(before, func(r rune) bool {
			return strings.ContainsRune(" \t\r\n\"'()[]{}<>|,;=/@*$+&", r)
		})
		if prefix := before[start+1:]; prefix != "" && len(prefix) <= 64 {
			f(prefix)
		}
		s = after
	}
}

// propfindKind is which properties a PROPFIND asks for.
type propfindKind int

const (
	findAll   propfindKind = iota // allprop, and names beside it
	findNames                     // propname: which there are
	findNamed                     // prop: these
)

// A propfindBody is the body of a PROPFIND (RFC 4918, section 14.20).
type propfindBody struct {
	kind  propfindKind
	names []xml.Name // of prop, or of include; each once
}

// parsePropfind reads the body of a PROPFIND. None at all means allprop
// (RFC 4918, section 9.1).
func parsePropfind(body []byte) (propfindBody, error) {
	if len(bytes.Trim(body, " \t\r\n")) == 0 {
		return propfindBody{kind: findAll}, nil
	}
	root, err := parseXML(body)
	if err != nil {
		return propfindBody{}, err
	}
	if !root.isDAV("propfind") {
		return propfindBody{}, fmt.Errorf("%w: not a propfind", errBadXML)
	}
	var pf propfindBody
	var asked []*xmlElement // prop or include
	kinds, includes := 0, 0
	for e := range root.elements() {
		switch { // what is not known is passed over (RFC 4918, section 17)
		case e.isDAV("allprop"):
			pf.kind = findAll
			kinds++
		case e.isDAV("propname"):
			pf.kind = findNames
			kinds++
		case e.isDAV("prop"):
			pf.kind = findNamed
			kinds++
			asked = append(asked, e)
		case e.isDAV("include"):
			includes++
			asked = append(asked, e)
		}
	}
	if kinds != 1 || includes > 0 && pf.kind != findAll {
		return propfindBody{}, fmt.Errorf("%w: propfind needs one of allprop, propname and prop", errBadXML)
	}
	pf.names, err = propNames(asked)
	return pf, err
}

// propNames returns the names in the given elements, each once.
func propNames(lists []*xmlElement) (names []xml.Name, err error) {
	seen := make(map[xml.Name]bool)
	size := 0
	for _, list := range lists {
		for p := range list.elements() {
			if seen[p.name] {
				continue
			}
			seen[p.name] = true
			names = append(names, p.name)
			if size += len(p.name.Space) + len(p.name.Local); size > maxXMLNames {
				return nil, fmt.Errorf("%w: more than %d bytes of names", errXMLTooLarge, maxXMLNames)
			}
		}
	}
	return names, nil
}

// A propPatch is one instruction of a PROPPATCH.
type propPatch struct {
	remove bool
	name   xml.Name
	lang   string // xml:lang in scope, "" if none
	value  []byte // what stands inside the property, see appendContent
}

// parsePropertyUpdate reads the body of a PROPPATCH: its instructions in
// document order, in which they are carried out (RFC 4918, section 9.2). There
// is at least one.
func parsePropertyUpdate(body []byte) ([]propPatch, error) {
	root, err := parseXML(body)
	if err != nil {
		return nil, err
	}
	if !root.isDAV("propertyupdate") {
		return nil, fmt.Errorf("%w: not a propertyupdate", errBadXML)
	}
	var patches []propPatch
	total := 0
	for instruction := range root.elements() {
		remove := instruction.isDAV("remove")
		if !remove && !instruction.isDAV("set") {
			continue
		}
		for p := range instruction.properties() {
			patch := propPatch{remove: remove, name: p.name}
			if !remove {
				patch.lang = p.lang()
				if patch.value, err = p.appendContent(nil, maxXMLValues-total); err != nil {
					return nil, err
				}
			}
			total += len(patch.value) + len(patch.lang) + len(patch.name.Space) + len(patch.name.Local)
			if total > maxXMLValues {
				return nil, fmt.Errorf("%w: more than %d bytes of properties", errXMLTooLarge, maxXMLValues)
			}
			patches = append(patches, patch)
		}
	}
	if len(patches) == 0 {
		return nil, fmt.Errorf("%w: propertyupdate names no property", errBadXML)
	}
	return patches, nil
}

// A lockInfo is the body of a LOCK that asks for a new lock (RFC 4918,
// section 14.11); there are no locks but write locks.
type lockInfo struct {
	shared bool
	owner  string // what stands inside owner, see appendContent
}

// parseLockInfo reads the body of a LOCK. A refresh has none: the caller sees
// to that first.
func parseLockInfo(body []byte) (lockInfo, error) {
	root, err := parseXML(body)
	if err != nil {
		return lockInfo{}, err
	}
	if !root.isDAV("lockinfo") {
		return lockInfo{}, fmt.Errorf("%w: not a lockinfo", errBadXML)
	}
	var info lockInfo
	scopes, writes := 0, 0
	for e := range root.elements() {
		switch {
		case e.isDAV("lockscope"):
			for scope := range e.elements() {
				if scope.isDAV("exclusive") || scope.isDAV("shared") {
					info.shared = scope.isDAV("shared")
					scopes++
				}
			}
		case e.isDAV("locktype"):
			for kind := range e.elements() {
				if kind.isDAV("write") {
					writes++
				}
			}
		case e.isDAV("owner"):
			owner, err := e.appendContent(nil, maxXMLOwner)
			if err != nil {
				return lockInfo{}, err
			}
			info.owner = string(owner)
		}
	}
	if scopes != 1 || writes != 1 {
		return lockInfo{}, fmt.Errorf("%w: lockinfo needs a scope and the type write", errBadXML)
	}
	return info, nil
}
