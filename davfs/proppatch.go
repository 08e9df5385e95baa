package davfs

import (
	"encoding/xml"
	"html"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/webdav"
)

// proppatch sets and removes properties, all or none (RFC 4918, section 9.2).
// Everything is judged before anything is done; what then fails on the disk
// takes back what was done before it.
func (h *Handler) proppatch(w http.ResponseWriter, rq *request) error {
	body, err := readXMLBody(w, rq.Request, maxProppatchBody)
	if err != nil {
		return err
	}
	patches, err := parsePropertyUpdate(body)
	if err != nil {
		return err
	}
	if rq.info == nil && h.junk(rq.path) == JunkDrop {
		h.answerPatches(w, rq, patches, nil)
		return nil
	}
	release, err := h.hold(rq, rq.real)
	if err != nil {
		return err
	}
	defer release()
	if err := mustExist(rq); err != nil {
		return err
	}
	u := update{h: h, name: rq.at().Name(), mode: rq.info.Mode()}
	verdicts := make(map[xml.Name]error)
	for _, p := range patches {
		if err := u.add(p); err != nil {
			verdicts[p.name] = err
		}
	}
	if len(verdicts) == 0 {
		if name, err := h.applyUpdate(rq, u); err != nil {
			verdicts[name] = err
		}
	}
	h.answerPatches(w, rq, patches, verdicts)
	return nil
}

// answerPatches tells of each property: of those with a verdict what it is, of
// the others that they failed with them (RFC 4918, section 11.4), or with none,
// that all is done.
func (h *Handler) answerPatches(w http.ResponseWriter, rq *request, patches []propPatch, verdicts map[xml.Name]error) {
	type outcome struct {
		status    int
		condition string
	}
	groups := make(map[outcome][]xml.Name)
	var order []outcome
	seen := make(map[xml.Name]bool)
	for _, p := range patches {
		if seen[p.name] {
			continue
		}
		seen[p.name] = true
		var o outcome
		switch err := verdicts[p.name]; {
		case len(verdicts) == 0:
			o.status = http.StatusOK
		case err == nil:
			o.status = http.StatusFailedDependency
		default:
			o.status = Status(rq.Method, err)
			o.condition, _ = conditionOf(err)
		}
		if groups[o] == nil {
			order = append(order, o)
		}
		groups[o] = append(groups[o], p.name)
	}
	out, end := beginMultistatus(w, rq.Request)
	out.startResponse(h.hrefPrefix(rq), rq.path, rq.info != nil && rq.info.IsDir())
	for _, o := range order {
		out.startPropstat()
		for _, name := range groups[o] {
			out.empty(newPropTag(name))
		}
		out.endPropstatError(o.status, o.condition)
	}
	out.endResponse()
	_ = end() // the client is gone, and the change is made
}

// applyUpdate applies u to what rq has seen, if there is room to copy that up,
// and tells of the copy.
func (h *Handler) applyUpdate(rq *request, u update) (failed xml.Name, err error) {
	before := rq.info
	if err := h.roomToCopyUp(before); err != nil {
		return u.first(), err
	}
	failed, err = u.apply()
	if before.Layer() == 0 || !before.Mode().IsRegular() || h.tree.Metacopy() {
		return failed, err
	}
	// Whether it was copied up is not said by what came of the rest.
	if now, lookErr := h.tree.Lstat(rq.real.Name()); lookErr == nil && now.Layer() == 0 {
		h.copiedUp(rq, before.Size())
	}
	return failed, err
}

// An update is what a PROPPATCH does to one resource.
type update struct {
	h    *Handler
	name string
	mode fs.FileMode // as it is

	dead []webdav.Proppatch
	// mtime and execute are live properties that a client may set; the names
	// are those it used for them.
	mtime               time.Time
	mtimeName, execName xml.Name
	execute             bool
}

// errProtected is the refusal of a property that only the server sets.
var errProtected = &protocolError{status: http.StatusForbidden, condition: "cannot-modify-protected-property"}

// add takes one instruction in, or says why it cannot be carried out.
func (u *update) add(p propPatch) error {
	value := strings.TrimSpace(html.UnescapeString(string(p.value)))
	switch p.name {
	case davName("getlastmodified"), davName("lastmodified"), xml.Name{Space: nsMicrosoft, Local: "Win32LastModifiedTime"}:
		return u.setTime(p, value)
	case xml.Name{Space: nsApache, Local: "executable"}:
		return u.setExecutable(p, value)
	case xml.Name{Space: nsMicrosoft, Local: "Win32LastAccessTime"}, xml.Name{Space: nsOwnCloud, Local: "checksums"}:
		return nil // acknowledged: the server knows better, or does not care
	case win32CreationTime:
		if _, err := http.ParseTime(value); err != nil && !p.remove {
			return refuse(http.StatusConflict, "not a date")
		}
	}
	if _, live := liveIndex[p.name]; live || p.name == davName("getcontentlanguage") {
		return errProtected
	}
	u.dead = append(u.dead, webdav.Proppatch{Remove: p.remove, Props: []webdav.Property{
		{XMLName: p.name, Lang: p.lang, InnerXML: p.value},
	}})
	return nil
}

// setTime takes a time in any of the forms that clients send: HTTP's, and as
// ownCloud's do, seconds since 1970.
func (u *update) setTime(p propPatch, value string) error {
	if p.remove {
		return errProtected
	}
	t, err := http.ParseTime(value)
	if err != nil {
		seconds, ok := parseDigits(value)
		if !ok || seconds <= 0 || p.name != davName("lastmodified") {
			return refuse(http.StatusConflict, "not a time")
		}
		t = time.Unix(seconds, 0)
	}
	u.mtime, u.mtimeName = t, p.name
	return nil
}

func (u *update) setExecutable(p propPatch, value string) error {
	switch {
	case p.remove || !u.mode.IsRegular():
		return errProtected
	case value != "T" && value != "F":
		return refuse(http.StatusConflict, "neither T nor F")
	}
	u.execute, u.execName = value == "T", p.name
	return nil
}

// first is the name of a property that it sets or removes.
func (u *update) first() xml.Name {
	switch {
	case len(u.dead) > 0:
		return u.dead[0].Props[0].XMLName
	case u.execName.Local != "":
		return u.execName
	}
	return u.mtimeName
}

// apply does it: dead properties in one step, then the mode, then the time,
// which the others would change. What fails is named, and what was done before
// it undone as far as the disk lets us.
func (u *update) apply() (failed xml.Name, err error) {
	tree := u.h.tree
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	if len(u.dead) > 0 {
		before, readErr := tree.Getxattr(u.name, deadPropAttr)
		if err := patchDeadProps(tree, u.name, u.dead); err != nil {
			return u.dead[0].Props[0].XMLName, err
		}
		undo = append(undo, func() {
			if readErr == nil {
				_ = tree.Setxattr(u.name, deadPropAttr, before) // the first error is the one to tell
			} else {
				_ = tree.Removexattr(u.name, deadPropAttr)
			}
		})
	}
	if u.execName.Local != "" {
		if mode := u.executable(); mode != u.mode {
			if err := tree.Chmod(u.name, mode); err != nil {
				return u.execName, err
			}
			undo = append(undo, func() { _ = tree.Chmod(u.name, u.mode) })
		}
	}
	if u.mtimeName.Local != "" {
		if err := tree.Chtimes(u.name, time.Time{}, u.mtime); err != nil {
			return u.mtimeName, err
		}
	}
	return xml.Name{}, nil
}

// executable is the mode with the execute bits as they shall be: for those who
// may read.
func (u *update) executable() fs.FileMode {
	if !u.execute {
		return u.mode &^ 0o111
	}
	return u.mode | u.mode&0o444>>2
}
