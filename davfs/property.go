package davfs

import (
	"encoding/xml"
	"fmt"
	"net/http"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// Namespaces of properties beside DAV:.
const (
	nsApache    = "http://apache.org/dav/props/"
	nsOwnCloud  = "http://owncloud.org/ns"
	nsMicrosoft = "urn:schemas-microsoft-com:"
	nsOverdav   = "urn:overdav"
)

// An entry is a resource that a PROPFIND tells of. What several properties need
// is read once, when the first asks for it.
type entry struct {
	h       *Handler
	prefix  Path   // of hrefs
	dir     Path   // the collection that it is a member of; with no name, itself
	name    string // in dir, or "" for what was asked for
	realDir Path   // dir without symlinks, for locks
	info    *overlay.Info
	from    *overlay.File // dir, if it is open
	held    *overlay.Held // what info tells of, if that was held
	free    bool          // no lock is on it
	link    *Path         // what it leads to, if it is a symlink: info tells of that
	permit  permit        // of whom it is told
	user    string

	dead     []webdav.Property
	deadRead bool
}

// lead makes the entry, which is a symlink, tell of what it leads to.
func (e *entry) lead() {
	var real Path
	if e.permit.limited() {
		e.info, real = e.h.leadsTo(e.real(), e.info)
	} else {
		real = e.h.real(e.real(), true)
		e.info = followed(e.h.tree, e.dir.Name(), e.info)
	}
	e.from, e.link, e.free = nil, &real, false
}

func (e *entry) path() Path { return memberOf(e.dir, e.name) }

// real is the path without symlinks.
func (e *entry) real() Path {
	if e.link != nil {
		return *e.link
	}
	return memberOf(e.realDir, e.name)
}

func memberOf(dir Path, name string) Path {
	if name == "" {
		return dir
	}
	return dir.child(name)
}

func (e *entry) base() string {
	if e.name == "" {
		return e.dir.Base()
	}
	return e.name
}

// deadProps returns the dead properties. One that cannot be read has none: the
// rest of the listing is worth more.
func (e *entry) deadProps() []webdav.Property {
	if !e.deadRead {
		e.deadRead = true
		if canHaveProps(e.info.Mode()) {
			props, err := readDeadProps(e.xattr)
			if err == nil {
				e.dead = props
			}
		}
	}
	return e.dead
}

// xattr reads an extended attribute of the entry.
func (e *entry) xattr(attr string) ([]byte, error) {
	if e.from != nil {
		return e.from.MemberXattr(e.info, attr)
	}
	if e.held != nil {
		return e.held.Getxattr(attr)
	}
	if e.permit.limited() {
		return e.h.tree.GetxattrAt(e.real().Name(), attr)
	}
	return e.h.tree.Getxattr(e.path().Name(), attr)
}

func (e *entry) deadProp(name xml.Name) (webdav.Property, bool) {
	for _, p := range e.deadProps() {
		if p.XMLName == name {
			return p, true
		}
	}
	return webdav.Property{}, false
}

// A liveProp is a property that the server computes.
type liveProp struct {
	name xml.Name
	all  bool // told of in an allprop without being named
	long bool // left out for the members of a collection unless it is asked for
	// write writes the property into a propstat, and answers whether the
	// resource has it; nothing is written if not.
	write func(m *multistatus, tag propTag, e *entry) bool
}

func davName(local string) xml.Name { return xml.Name{Space: nsDAV, Local: local} }

// liveProps are the properties of RFC 4918, section 15, of RFC 4331, and those
// of clients. None of them opens a file.
var liveProps = []liveProp{
	{davName("resourcetype"), true, false, writeResourceType},
	{davName("displayname"), true, false, writeDisplayName},
	{davName("creationdate"), true, false, writeCreationDate},
	{davName("getlastmodified"), true, false, writeLastModified},
	{davName("getcontentlength"), true, false, writeContentLength},
	{davName("getcontenttype"), true, false, writeContentType},
	{davName("getetag"), true, false, writeETag},
	{davName("lockdiscovery"), true, false, writeLockDiscovery},
	{davName("supportedlock"), true, true, writeSupportedLock},
	{davName("quota-available-bytes"), false, false, writeQuotaAvailable}, // RFC 4331, section 3: not in allprop
	{davName("quota-used-bytes"), false, false, writeQuotaUsed},
	{xml.Name{Space: nsApache, Local: "executable"}, false, false, writeExecutable},
	{xml.Name{Space: nsOwnCloud, Local: "checksums"}, false, false, writeChecksums},
	{xml.Name{Space: nsMicrosoft, Local: "Win32LastModifiedTime"}, false, false, writeLastModified},
	{xml.Name{Space: nsOverdav, Local: "layer"}, false, false, writeLayer},
	{xml.Name{Space: nsOverdav, Local: "state"}, false, false, writeState},
}

// liveIndex is from name to index in liveProps.
var liveIndex = func() map[xml.Name]int {
	index := make(map[xml.Name]int, len(liveProps))
	for i, p := range liveProps {
		index[p.name] = i
	}
	return index
}()

func writeResourceType(m *multistatus, tag propTag, e *entry) bool {
	if e.info.IsDir() {
		m.raw(tag, []byte("<D:collection/>"))
	} else {
		m.empty(tag)
	}
	return true
}

func writeDisplayName(m *multistatus, tag propTag, e *entry) bool {
	name := e.base()
	if name == "" {
		name = e.h.share.Base()
	}
	m.text(tag, name)
	return true
}

// writeCreationDate takes the date that Windows has set, since no Linux file
// system lets one be set, or else the birth of the file, if that is known.
func writeCreationDate(m *multistatus, tag propTag, e *entry) bool {
	born := e.info.Birth()
	if p, ok := e.deadProp(win32CreationTime); ok {
		if t, err := http.ParseTime(string(p.InnerXML)); err == nil {
			born = t
		}
	}
	if born.IsZero() {
		return false
	}
	m.isoDate(tag, born)
	return true
}

var win32CreationTime = xml.Name{Space: nsMicrosoft, Local: "Win32CreationTime"}

func writeLastModified(m *multistatus, tag propTag, e *entry) bool {
	m.httpDate(tag, lastModified(e.info.ModTime()))
	return true
}

// writeContentLength tells of 0 bytes in what has no content: a FIFO, a device,
// a symlink that leads nowhere.
func writeContentLength(m *multistatus, tag propTag, e *entry) bool {
	switch {
	case e.info.IsDir():
		return false
	case e.info.Mode().IsRegular():
		m.integer(tag, e.info.Size())
	default:
		m.integer(tag, 0)
	}
	return true
}

func writeContentType(m *multistatus, tag propTag, e *entry) bool {
	if e.info.IsDir() {
		return false
	}
	m.text(tag, contentType(e.base()))
	return true
}

func writeETag(m *multistatus, tag propTag, e *entry) bool {
	if !e.info.Mode().IsRegular() {
		return false
	}
	m.etag(tag, e.info)
	return true
}

func writeSupportedLock(m *multistatus, tag propTag, e *entry) bool {
	if e.h.opts.ReadOnly || !e.permit.rights(e.path(), e.real()).Has(demandOf("LOCK", e.info).own) {
		m.empty(tag)
	} else {
		m.raw(tag, []byte(supportedLock))
	}
	return true
}

func writeQuotaAvailable(m *multistatus, tag propTag, e *entry) bool {
	space, err := e.h.tree.Space()
	if err != nil || !e.info.IsDir() {
		return false
	}
	available := int64(space.Available)
	limit, used, ok, err := e.h.tree.Quota(0)
	if err != nil {
		return false
	}
	if ok {
		available = min(available, max(limit-used, 0))
	}
	m.integer(tag, available)
	return true
}

func writeQuotaUsed(m *multistatus, tag propTag, e *entry) bool {
	if !e.info.IsDir() {
		return false
	}
	_, used, ok, err := e.h.tree.Quota(0)
	if err != nil {
		return false
	}
	if ok {
		m.integer(tag, used)
		return true
	}
	space, err := e.h.tree.Space()
	if err != nil || space.Free > space.Total {
		return false
	}
	m.integer(tag, int64(space.Total-space.Free))
	return true
}

func writeExecutable(m *multistatus, tag propTag, e *entry) bool {
	if !e.info.Mode().IsRegular() {
		return false // mod_dav has it of files alone
	}
	if e.info.Mode()&0o100 != 0 {
		m.text(tag, "T")
	} else {
		m.text(tag, "F")
	}
	return true
}

func writeChecksums(m *multistatus, tag propTag, e *entry) bool {
	if !e.info.Mode().IsRegular() {
		return false
	}
	known, ok := knownSums(e.xattr, e.info)
	if ok {
		m.raw(tag, fmt.Appendf(nil, "<O:checksum>%s</O:checksum>", known.property()))
	}
	return ok
}

// writeLayer tells where the resource is: "upper", or the index of a lower
// layer, the topmost being 1.
func writeLayer(m *multistatus, tag propTag, e *entry) bool {
	if layer := e.info.Layer(); layer > 0 {
		m.integer(tag, int64(layer))
	} else {
		m.text(tag, "upper")
	}
	return true
}

// writeState tells how the resource differs from the lower layers, as far as
// somebody told us how to find out.
func writeState(m *multistatus, tag propTag, e *entry) bool {
	switch {
	case e.info.Layer() > 0:
		m.text(tag, "unchanged")
	case e.h.opts.State != nil:
		m.text(tag, e.h.opts.State(e.path().Name()))
	default:
		return false
	}
	return true
}
