package overlay

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"

	"overdav/overlay/internal/at"
)

// A lister reads the names of a directory. One that is in a single layer is
// read straight from there. Of a merged one a snapshot is taken when the first
// name is asked for: each name once, from the topmost layer that has it, in
// the order of bytes; rewinding takes a new one (overlayfs.rst, "readdir").
//
// Whoever lists stats each name in the layer it came from, which is also how
// whiteouts are dropped: a listing and a lookup never disagree.
type lister struct {
	fsys   *FS
	d      *dir
	stream *at.DirReader // of a single layer
	names  nameSet       // of a merged directory
	next   int
	loaded bool
}

// A nameSet holds names in one piece of memory: a few bytes for each beyond
// its own.
type nameSet struct {
	bytes []byte
	refs  []nameRef
}

type nameRef struct {
	start  uint32
	length uint8
	source uint16 // 0 the first of sources
}

func (n *nameSet) name(r nameRef) []byte { return n.bytes[r.start : r.start+uint32(r.length)] }

// add reads the names of one layer.
func (n *nameSet) add(d *at.Dir, source int) error {
	r, err := d.Reader()
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		name, _, ok, err := r.Next()
		if err != nil || !ok {
			return err
		}
		n.refs = append(n.refs, nameRef{uint32(len(n.bytes)), uint8(len(name)), uint16(source)})
		n.bytes = append(n.bytes, name...)
	}
}

// merge leaves of each name the topmost.
func (n *nameSet) merge() {
	slices.SortFunc(n.refs, func(a, b nameRef) int {
		if c := bytes.Compare(n.name(a), n.name(b)); c != 0 {
			return c
		}
		return int(a.source) - int(b.source)
	})
	n.refs = slices.CompactFunc(n.refs, func(a, b nameRef) bool {
		return bytes.Equal(n.name(a), n.name(b))
	})
}

// sources of a directory's names, topmost first.
func (d *dir) sources() int {
	if d.upper != nil {
		return 1 + len(d.lowers)
	}
	return len(d.lowers)
}

// source is the i-th of them, and its layer's index.
func (d *dir) source(i int) (*at.Dir, int) {
	if d.upper != nil {
		if i == 0 {
			return &d.upper.Dir, 0
		}
		i--
	}
	return d.lowers[i].Dir, d.lowers[i].layer.index
}

// load begins the listing.
func (l *lister) load() error {
	if l.d.sources() == 1 {
		d, _ := l.d.source(0)
		var err error
		l.stream, err = d.Reader()
		l.loaded = err == nil
		return l.readError(0, err)
	}
	l.names = nameSet{}
	for i := range l.d.sources() {
		d, layer := l.d.source(i)
		var unlock func()
		if layer == 0 {
			// A rename within the directory is seen whole or not at all.
			unlock = l.fsys.names.rlock(l.d.path)
		}
		err := l.names.add(d, i)
		if unlock != nil {
			unlock()
		}
		if err != nil {
			return l.readError(i, err)
		}
	}
	l.names.merge()
	l.loaded = true
	return nil
}

func (l *lister) readError(source int, err error) error {
	if err == nil {
		return nil
	}
	if _, layer := l.d.source(source); layer == 0 {
		return upperError(err)
	}
	return &layerError{l.layerOf(source), err}
}

func (l *lister) layerOf(source int) *lowerLayer {
	_, index := l.d.source(source)
	return l.fsys.root.lowers[index-1].layer
}

// entry returns the next object; io.EOF after the last.
func (l *lister) entry() (*Info, error) {
	if !l.loaded {
		if err := l.load(); err != nil {
			return nil, err
		}
	}
	for {
		name, source, err := l.nextName()
		if err != nil {
			return nil, err
		}
		info, err := l.stat(name, source)
		if err != nil || info != nil {
			return info, err
		}
	}
}

func (l *lister) nextName() (name string, source int, err error) {
	if l.stream != nil {
		raw, _, ok, err := l.stream.Next()
		if err != nil {
			return "", 0, l.readError(0, err)
		}
		if !ok {
			return "", 0, io.EOF
		}
		return string(raw), 0, nil
	}
	if l.next >= len(l.names.refs) {
		return "", 0, io.EOF
	}
	ref := l.names.refs[l.next]
	l.next++
	return string(l.names.name(ref)), int(ref.source), nil
}

// stat looks a listed name up in the layer it came from; nil when it is a
// whiteout or gone meanwhile.
func (l *lister) stat(name string, source int) (*Info, error) {
	d, layer := l.d.source(source)
	f := found{layer: layer, at: d}
	err := d.Stat(name, &f.st)
	if at.IsMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, l.readError(source, err)
	}
	white, err := l.fsys.marks.isWhiteout(d, name, &f.st)
	if white || err != nil {
		return nil, l.readError(source, err)
	}
	return l.fsys.newInfo(name, &f), nil
}

// rewind begins again: names made since are seen.
func (l *lister) rewind() {
	l.close()
	*l = lister{fsys: l.fsys, d: l.d}
}

// close ends the reading, not the directory.
func (l *lister) close() {
	if l.stream != nil {
		l.stream.Close()
	}
}

// eachName calls fn with every name that a layer has in d, whiteouts too, some
// more than once, until it returns an error.
func (d *dir) eachName(fn func(name string) error) error {
	for i := range d.sources() {
		source, _ := d.source(i)
		names, err := readNames(source)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := fn(n.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// isEmpty says whether d shows no name.
func (fsys *FS) isEmpty(d *dir) (bool, error) {
	err := d.eachName(func(name string) error {
		_, err := fsys.find(d, name)
		if err == nil {
			return errNotEmpty
		}
		if at.IsMissing(err) {
			return nil
		}
		return err
	})
	if err == errNotEmpty {
		return false, nil
	}
	return err == nil, err
}

var errNotEmpty = errors.New("not empty")

// ReadDir lists a directory, in the order of names. Symlinks to it are followed.
func (fsys *FS) ReadDir(name string) ([]*Info, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := f.Infos(-1)
	slices.SortFunc(infos, func(a, b *Info) int { return cmpString(a.name, b.name) })
	return infos, pathError("readdir", name, err)
}

func cmpString(a, b string) int { return bytes.Compare([]byte(a), []byte(b)) }

var _ fs.DirEntry = (*Info)(nil)
