package overlay

import (
	"maps"
	"syscall"

	"overdav/overlay/internal/at"
)

// A State says how what a name shows differs from what the lowers show there.
type State string

// The states.
const (
	StateUnchanged  State = "unchanged"  // it is a lower's, or a copy that nobody changed
	StateAdded      State = "added"      // no lower has it
	StateModified   State = "modified"   // other content, or another kind of object
	StateAttributes State = "attributes" // other permissions, owner, times or attributes
	StateRenamed    State = "renamed"    // a lower has it under another name
)

// State tells how the object itself differs, not what is in it. Symlinks are
// not followed.
//
// A file counts as modified when its size or its modification time is another:
// its content is not read.
func (fsys *FS) State(name string) (s State, err error) {
	t, err := fsys.look()
	if err != nil {
		return "", pathError("state", name, err)
	}
	p, err := t.walk(name, false)
	if err != nil {
		return "", pathError("state", name, t.end(err))
	}
	if p.isRoot() {
		return StateUnchanged, pathError("state", name, t.end(nil))
	}
	e, here, err := t.lookup(p)
	if err == nil {
		s, err = fsys.stateOf(p, e, here)
	}
	return s, pathError("state", name, t.end(err))
}

func (fsys *FS) stateOf(p place, e *entry, here presence) (State, error) {
	switch here {
	case absent, whitedOut:
		return "", syscall.ENOENT
	case lowerOnly:
		return StateUnchanged, nil
	case pureUpper:
		moved, err := fsys.marks.has(&p.dir.upper.Dir, p.name, fsys.marks.origin)
		if err == nil && !moved { // one of several names has no origin
			moved, err = fsys.isMetacopy(&p.dir.upper.Dir, p.name, &e.upper)
		}
		if err == nil && moved {
			return StateRenamed, nil // a copy whose lower is not at its name
		}
		return StateAdded, err
	case merged:
		if e.dir.marks.redirect != "" && e.dir.marks.redirect != p.name {
			return StateRenamed, nil
		}
		return fsys.compareDir(e)
	case covering:
	}
	fm, err := fsys.metacopyMarks(&p.dir.upper.Dir, p.name, &e.upper)
	if err != nil {
		return "", err
	}
	if redirectTo(p.dir, p.name, fm.redirect) != redirectTo(p.dir, p.name, "") {
		return StateRenamed, nil
	}
	return fsys.compareFile(p, e, fm.metacopy)
}

// compareDir compares a merged directory with the topmost lower's.
func (fsys *FS) compareDir(e *entry) (State, error) {
	var lower at.Stat
	l := e.dir.lowers[0]
	if err := l.Stat(".", &lower); err != nil {
		return "", &layerError{l.layer, err}
	}
	return fsys.compareAttributes(&e.upper, &lower, &e.dir.upper.Dir, l.Dir, ".")
}

// compareFile compares an object of upper with the lower one that it covers.
func (fsys *FS) compareFile(p place, e *entry, metacopy bool) (State, error) {
	below := &dir{path: p.dir.path, lowers: p.dir.lowers, shared: true}
	lower, err := fsys.find(below, p.name)
	if at.IsMissing(err) {
		return StateAdded, nil
	}
	if err != nil {
		return "", err
	}
	if e.upper.Type() != lower.st.Type() || e.upper.IsDir() || e.upper.Size != lower.st.Size || e.upper.Rdev != lower.st.Rdev {
		return StateModified, nil
	}
	if e.upper.IsRegular() && !e.upper.Mtime.Equal(lower.st.Mtime) {
		if metacopy {
			return StateAttributes, nil // the content was never touched
		}
		return StateModified, nil
	}
	if e.upper.IsSymlink() {
		same, err := sameTarget(p.dir.top(), lower.at, p.name)
		if err != nil || !same {
			return StateModified, err
		}
	}
	return fsys.compareAttributes(&e.upper, &lower.st, &p.dir.upper.Dir, lower.at, p.name)
}

func sameTarget(a, b *at.Dir, name string) (bool, error) {
	one, err := a.Readlink(name)
	if err != nil {
		return false, err
	}
	other, err := b.Readlink(name)
	return one == other, err
}

// compareAttributes compares what copy-up copies besides content.
func (fsys *FS) compareAttributes(a, b *at.Stat, dirA, dirB *at.Dir, name string) (State, error) {
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID {
		return StateAttributes, nil
	}
	var xattrs [2]map[string]string
	for i, d := range []*at.Dir{dirA, dirB} {
		pairs, err := fsys.clientXattrs(d, name)
		if err != nil {
			return "", err
		}
		xattrs[i] = make(map[string]string, len(pairs))
		for _, p := range pairs {
			xattrs[i][p.name] = string(p.value)
		}
	}
	if !maps.Equal(xattrs[0], xattrs[1]) {
		return StateAttributes, nil
	}
	return StateUnchanged, nil
}
