package overlay

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"overdav/overlay/internal/at"
)

// presence says where a merged name comes from, and so what must happen before
// it can be changed, created or removed.
type presence int

const (
	absent    presence = iota // no layer shows it: create freely
	whitedOut                 // upper hides it: a create replaces the whiteout, a new directory is opaque
	lowerOnly                 // copy up before any change; removal leaves a whiteout
	pureUpper                 // in upper, and nothing to hide below: removal leaves no mark
	covering                  // in upper, hiding what lies below: removal leaves a whiteout
	merged                    // directories in upper and below, shown as one: see needsWhiteout
)

// A lowerLayer can be read. That it has no other methods is the promise that
// overdav never changes one.
type lowerLayer struct {
	index  int // 1 is the topmost
	last   bool
	path   string // of the host, for messages
	root   *at.Dir
	nosuid bool // its mount does not honour setuid: neither do copies
	medium bool // statx calls everything immutable because the medium is (erofs)
	origin originSource
}

// protection is what chattr forbids on an object of the layer.
func (l *lowerLayer) protection(st *at.Stat) protection {
	if l.medium {
		return protection{}
	}
	return protection{st.Immutable, st.Append}
}

// A lowerDir is a directory in a lower layer.
type lowerDir struct {
	layer *lowerLayer
	*at.Dir
}

// A dir is a merged directory, open in every layer that has it.
type dir struct {
	path  string // merged; "." is the root
	abs   string // what an absolute redirect to it says; "" is the root
	upper *at.RWDir
	marks dirMarks // of upper

	redirected bool // by a mark in any layer: its lowers have other parents

	// INVARIANT: an opaque directory has no lowers.
	lowers []lowerDir // topmost first

	// INVARIANT: a shared directory is the root and stays open as long as FS.
	shared bool

	cache *dirCache // that it belongs to, with node; else nil
	node  *dirNode

	// attributes counts how often those in upper may have changed, and legacy is what
	// passesOn found out, of a directory in the cache alone.
	attributes atomic.Uint64
	legacy     atomic.Pointer[legacy]
}

func (d *dir) close() {
	switch {
	case d == nil || d.shared:
	case d.cache != nil:
		d.cache.release(d.node)
	default:
		d.closeLayers()
	}
}

func (d *dir) closeLayers() {
	if d.upper != nil {
		d.upper.Close()
	}
	closeAll(d.lowers)
}

func closeAll(dirs []lowerDir) {
	for _, l := range dirs {
		l.Close()
	}
}

// join is the merged path of name in d.
func (d *dir) join(name string) string { return joinPath(d.path, name) }

func joinPath(parent, name string) string {
	if parent == "." {
		return name
	}
	if name == "." {
		return parent
	}
	return parent + "/" + name
}

// isMerged says whether names in d may come from below.
func (d *dir) isMerged() bool { return len(d.lowers) > 0 }

// top is the directory that gives d its attributes.
func (d *dir) top() *at.Dir {
	if d.upper != nil {
		return &d.upper.Dir
	}
	return d.lowers[0].Dir
}

// protection tells what chattr forbids on d. The kernel itself enforces what
// is set on the upper directory.
func (d *dir) protection() (protection, error) {
	if d.upper != nil {
		return d.marks.protected, nil
	}
	var st at.Stat
	err := d.lowers[0].Stat(".", &st)
	return d.lowers[0].layer.protection(&st), err
}

// An entry is what one name was made of at one moment. It is true only while
// the locks under which it was looked up are held.
type entry struct {
	name     string
	whiteout bool     // upper says that the name is deleted, or hides what is below
	inUpper  bool     // upper has an object of that name
	upper    at.Stat  // of that object
	lower    at.Stat  // of the topmost lower object that is shown or merged
	from     lowerDir // where that lower object is, by the entry's name, unless it is a directory
	inLower  bool
	dir      *dir // open, when it is a directory
}

func (e *entry) exists() bool { return e.inUpper || e.inLower }

func (e *entry) isDir() bool { return e.dir != nil }

// layer is where e.lower is.
func (e *entry) layer() *lowerLayer {
	if e.isDir() {
		return e.dir.lowers[0].layer
	}
	return e.from.layer
}

// presence of the entry in its directory.
func (fsys *FS) presence(parent *dir, e *entry) presence {
	switch {
	case !e.inUpper && e.whiteout:
		return whitedOut
	case !e.inUpper && e.inLower:
		return lowerOnly
	case !e.inUpper:
		return absent
	case e.isDir() && e.dir.isMerged():
		return merged
	case fsys.hidesLower(parent, e.name):
		return covering
	}
	return pureUpper
}

// needsWhiteout says whether something below would show at the entry's name if
// upper had nothing there. A merged directory that was renamed has its lowers
// elsewhere.
func (fsys *FS) needsWhiteout(parent *dir, name string, here presence) bool {
	switch here {
	case lowerOnly, covering:
		return true
	case merged:
		return fsys.hidesLower(parent, name)
	case absent, whitedOut, pureUpper:
	}
	return false
}

// hidesLower says whether a lower shows name in parent once upper does not:
// whether its removal must leave a whiteout (compare ovl_lower_positive). When
// that cannot be told it is true: a needless whiteout is harmless.
func (fsys *FS) hidesLower(parent *dir, name string) bool {
	for _, l := range parent.lowers {
		var st at.Stat
		err := l.Stat(name, &st)
		if at.IsMissing(err) {
			continue
		}
		if err != nil {
			return true
		}
		white, err := fsys.marks.isWhiteout(l.Dir, name, &st)
		return err != nil || !white
	}
	return false
}

// A search is one name on its way down the layers (compare struct
// ovl_lookup_data, fs/overlayfs/namei.c).
type search struct {
	name     string // a component or, after an absolute redirect, a path from the layers' roots
	through  bool   // only directories are of interest
	content  bool   // what is looked for is the content of a file, see openContent
	isDir    bool   // a layer above has a directory: only directories merge with it
	opaque   bool   // what was just seen hides the layers below
	stop     bool   // nothing further down belongs to the name
	last     bool   // in the lowest layer, where marks mean nothing
	redirect string // the last redirect that was met, completed; "" none

	top    at.Stat  // with content: the topmost file
	second at.Stat  // and the one below it, which a metacopy is of
	files  int      // how many were found
	file   *at.File // the one that has the content, open
}

// lookup finds out what name in parent is made of, opening every directory
// that it merges (overlayfs.rst, "Upper and Lower"; compare ovl_lookup).
// through says that the name is only walked through: a directory is likely, so
// that it is opened before anything is asked of it, and its attributes are not
// asked for.
//
// Errors: EPERM, content that a metacopy or a redirect points at which is not
// followed; EINVAL and EACCES, a corrupt redirect; what a layer answers other
// than that there is no such name.
func (fsys *FS) lookup(parent *dir, name string, through bool) (*entry, error) {
	e := &entry{name: name}
	s := search{name: name}
	node := &dir{path: parent.join(name)}
	s.through = through
	err := fsys.lookupUpper(parent, &s, e, node)
	if err == nil {
		err = fsys.lookupLowers(parent, &s, e, node)
	}
	if err != nil {
		node.close()
		return nil, err
	}
	if node.upper == nil && len(node.lowers) == 0 {
		return e, nil
	}
	node.abs = redirectTo(parent, name, node.marks.redirect)
	node.redirected = s.redirect != ""
	e.dir = node
	if !e.inUpper && !through {
		l := node.lowers[0]
		if err := l.Stat(".", &e.lower); err != nil {
			node.close()
			return nil, &layerError{l.layer, err}
		}
	}
	return e, nil
}

// redirectTo is the absolute redirect that leads to name in parent, where the
// object found there has the redirect own ("" none).
func redirectTo(parent *dir, name, own string) string {
	switch {
	case strings.HasPrefix(own, "/"):
		return own
	case own != "":
		return parent.abs + "/" + own
	}
	return parent.abs + "/" + name
}

func (fsys *FS) lookupUpper(parent *dir, s *search, e *entry, node *dir) (err error) {
	if parent.upper == nil {
		return nil
	}
	if s.through {
		node.upper, err = parent.upper.OpenRWDir(e.name)
		if err == syscall.ENOENT {
			return nil
		}
		s.isDir = err == nil
	}
	if node.upper == nil {
		this, err := fsys.peek(&parent.upper.Dir, e.name, s, &e.upper, 0, "")
		if err != nil || !this {
			e.whiteout = s.opaque
			return upperError(err)
		}
		e.inUpper = true
		if !s.isDir {
			return nil
		}
		if node.upper, err = parent.upper.OpenRWDir(e.name); err != nil {
			return upperError(err)
		}
	}
	e.inUpper = true
	if !s.through {
		if err := node.upper.Stat(".", &e.upper); err != nil {
			return upperError(err)
		}
	}
	if node.marks, err = fsys.marks.readDir(&node.upper.Dir); err != nil {
		return upperError(err)
	}
	s.follow(&node.marks, 0, "")
	e.whiteout = s.opaque
	return nil
}

// follow takes in the marks of a directory that was found: s.name[prefix:]
// began with it, and rest follows it.
func (s *search) follow(m *dirMarks, prefix int, rest string) {
	if m.opaque {
		s.stop = true
		if rest == "" {
			s.opaque = true
		}
		return // opaque wins over a redirect on the same directory
	}
	switch {
	case m.redirect == "":
		return
	case m.redirect[0] == '/':
		s.stop = false // an absolute redirect re-opens the search
		s.name = m.redirect + rest
	default:
		s.name = s.name[:prefix] + m.redirect + rest
	}
	s.redirect = s.name
}

func (fsys *FS) lookupLowers(parent *dir, s *search, e *entry, node *dir) error {
	below := parent.lowers
	if strings.HasPrefix(s.redirect, "/") {
		below = fsys.root.lowers
	}
	for i := 0; i < len(below) && !s.stop; i++ {
		l := below[i]
		s.last = l.layer.last
		found, err := fsys.lookupLayer(l, s, &e.lower)
		if err != nil {
			return &layerError{l.layer, err}
		}
		if !found.ok {
			continue
		}
		if s.redirect != "" && !fsys.followRedirects {
			found.dir.Close()
			return fmt.Errorf("refusing to follow redirect %s: %w", strconv.Quote(s.redirect), syscall.EPERM)
		}
		e.inLower = true
		if found.dir == nil {
			e.from = l
		} else {
			node.lowers = append(node.lowers, lowerDir{l.layer, found.dir})
		}
		if strings.HasPrefix(s.redirect, "/") && &below[0] != &fsys.root.lowers[0] {
			below = fsys.root.lowers
			i = l.layer.index - 1 // go on below this layer
		}
	}
	return nil
}

// A hit is what a search found in one layer.
type hit struct {
	ok  bool
	dir *at.Dir // open, when it is a directory
}

// lookupLayer looks the search's name up in one layer: beneath l or, after an
// absolute redirect, from the layer's root (compare ovl_lookup_layer).
func (fsys *FS) lookupLayer(l lowerDir, s *search, st *at.Stat) (hit, error) {
	if !strings.HasPrefix(s.name, "/") {
		return fsys.lookupSingle(l.Dir, s.name, s, 0, "", st)
	}
	base := l.layer.root
	var found hit
	// Redirects on the way rewrite what was walked; what is left keeps its length.
	for left := len(s.name) - 1; ; {
		prefix := len(s.name) - left
		component, _, more := strings.Cut(s.name[prefix:], "/")
		rest := s.name[prefix+len(component):]
		var err error
		found, err = fsys.lookupSingle(base, component, s, prefix, rest, st)
		if base != l.layer.root {
			base.Close()
		}
		if err != nil || !found.ok || !more || found.dir == nil {
			return found, err
		}
		base = found.dir
		left -= len(component) + 1
	}
}

// lookupSingle looks one component up in one directory of a lower layer
// (compare ovl_lookup_single). st is filled in for what is no directory.
func (fsys *FS) lookupSingle(base *at.Dir, name string, s *search, prefix int, rest string, st *at.Stat) (hit, error) {
	if !s.through && !s.content && !s.isDir && rest == "" {
		ok, err := fsys.peek(base, name, s, st, prefix, rest) // likely it is no directory
		if !ok || err != nil || !s.isDir {
			return hit{ok: ok}, err
		}
		s.isDir = false // what is opened says it
	}
	d, err := base.OpenDir(name)
	if err != nil && err != syscall.ENOTDIR {
		if at.IsMissing(err) {
			return hit{}, nil
		}
		return hit{}, err
	}
	if err != nil {
		ok, err := fsys.peek(base, name, s, st, prefix, rest)
		return hit{ok: ok && !s.isDir}, err
	}
	if rest == "" && s.content {
		d.Close()
		s.stop = true // a directory has no content
		return hit{}, nil
	}
	if rest == "" {
		s.isDir = true
	}
	if err := fsys.refuseLayerRoot(d); err != nil {
		d.Close()
		return hit{}, err
	}
	if s.last {
		return hit{true, d}, nil
	}
	m, err := fsys.marks.readDir(d)
	if err != nil {
		d.Close()
		return hit{}, err
	}
	s.follow(&m, prefix, rest)
	return hit{true, d}, nil
}

// peek says whether base has name, and whether it belongs to the search:
// a whiteout or a non-directory in the way ends it.
func (fsys *FS) peek(base *at.Dir, name string, s *search, st *at.Stat, prefix int, rest string) (bool, error) {
	err := base.Stat(name, st)
	if at.IsMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.IsDir() {
		if s.content {
			s.stop = true
			return false, nil
		}
		if rest == "" {
			s.isDir = true
		}
		return true, nil
	}
	white, err := fsys.marks.isWhiteout(base, name, st)
	if err != nil {
		return false, err
	}
	if white {
		s.stop, s.opaque = true, true
		return false, nil
	}
	if s.isDir || rest != "" {
		s.stop = true
		return false, nil
	}
	if s.content {
		return fsys.seekContent(base, name, s, st, prefix)
	}
	if refused, err := fsys.refusesMetacopy(base, name, st); err != nil || refused {
		return false, errorOr(err, errMetacopy)
	}
	s.stop = true
	return true, nil
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// refuseLayerRoot fails a lookup that walked into the root of another layer,
// which can be reached where layers overlap (compare ovl_lookup_trap_inode).
func (fsys *FS) refuseLayerRoot(d *at.Dir) error {
	if len(fsys.traps) == 0 {
		return nil
	}
	var st at.Stat
	if err := d.Stat(".", &st); err != nil {
		return err
	}
	for i := range fsys.traps {
		if fsys.traps[i].Same(&st) {
			return fmt.Errorf("another layer begins here: %w", syscall.ELOOP)
		}
	}
	return nil
}

// A layerError is what went wrong in a lower layer.
type layerError struct {
	layer *lowerLayer
	err   error
}

func (e *layerError) Error() string { return fmt.Sprintf("lower %d: %v", e.layer.index, e.err) }
func (e *layerError) Unwrap() error { return e.err }

func upperError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("upper: %w", err)
}
