package overlay

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"overdav/overlay/internal/at"
)

// A lister reads the objects of a directory, each name once, from the topmost
// layer that has it (overlayfs.rst, "readdir"). Upper's names are read when the
// first is asked for, those of the lowers as they are come to. Rewinding begins
// anew.
//
// Whoever lists stats each name in the layer it came from, which is also how
// whiteouts are dropped: a listing and a lookup never disagree. What a listing
// found may be kept for the next one (listing.go).
type lister struct {
	fsys *FS
	d    *dir

	source             int           // that is being read
	stream             *at.DirReader // of it; nil when it has not begun
	names              *nameTable    // met so far, where one could come again; nil in a single layer
	next               int           // of names, or of kept's objects
	ahead              int           // names that were read before they are asked for: upper's
	kept               *listing      // gives the objects, or is being filled; else nil
	fills, fromListing bool          // which of the two
	passing            bool          // neither uses nor makes what is kept: nobody lists again
	began              bool

	wanted      string       // the attribute, as it is stored, that objects are asked for besides; "" none
	now, coming *listingPart // what is being handed out, and what comes after it
	end         error        // after the names that were gathered: io.EOF, or why there are no more
}

// begin begins the listing.
func (l *lister) begin() error {
	l.began = true
	if !l.passing {
		l.kept, l.fills = l.fsys.cache.listing(l.d)
	}
	if l.kept != nil && !l.fills {
		ok, err := l.kept.refresh(l.fsys, l.d)
		if l.fromListing = ok; ok || err != nil {
			return err
		}
		l.kept = nil
	}
	switch {
	case l.fills:
		l.names = &l.kept.names
	case l.d.sources() > 1:
		l.names = new(nameTable)
	}
	if l.d.upper == nil || l.d.sources() == 1 {
		return nil
	}
	// A rename within the directory is seen whole or not at all.
	defer l.fsys.names.rlock(l.d.path)()
	r, err := l.d.upper.Reader()
	if err != nil {
		return l.readError(0, err)
	}
	defer r.Close()
	for {
		name, dtype, ok, err := r.Next()
		if err != nil {
			return l.readError(0, err)
		}
		if !ok {
			break
		}
		if i, added := l.names.add(name, 0); added {
			l.names.refs[i].dtype = dtype
		}
	}
	l.source, l.ahead = 1, len(l.names.refs)
	return nil
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

// fill sets infos to the next objects and returns how many there were; io.EOF
// and none after the last.
func (l *lister) fill(infos []Info) (n int, err error) {
	if !l.began {
		if err := l.begin(); err != nil {
			return 0, err
		}
	}
	if l.fromListing {
		return l.fillFromKept(infos)
	}
	return l.fillAhead(infos)
}

// nextName returns the next name, where it is from, and its type as the
// directory has it, a DT constant.
func (l *lister) nextName() (name string, source int, dtype byte, err error) {
	if l.next < l.ahead {
		ref := l.names.refs[l.next]
		name = string(l.names.name(l.next))
		l.next++
		return name, int(ref.source), ref.dtype, nil
	}
	for l.source < l.d.sources() {
		if l.stream == nil {
			d, _ := l.d.source(l.source)
			if l.stream, err = d.Reader(); err != nil {
				return "", 0, 0, l.readError(l.source, err)
			}
		}
		raw, dtype, ok, err := l.stream.Next()
		if err != nil {
			return "", 0, 0, l.readError(l.source, err)
		}
		if !ok {
			l.stream.Close()
			l.stream = nil
			l.source++
			continue
		}
		if l.isNew(raw) {
			return string(raw), l.source, dtype, nil
		}
	}
	return "", 0, 0, io.EOF
}

// isNew says whether no source above has a name. The names of the last source
// need not be remembered, unless the listing is kept.
func (l *lister) isNew(name []byte) bool {
	switch {
	case l.names == nil:
		return true
	case l.fills || l.source < l.d.sources()-1:
		_, added := l.names.add(name, l.source)
		return added
	}
	return l.names.find(name) < 0
}

// statIn tells of name in one source of d; not ok for a whiteout and for what is
// not there.
func (fsys *FS) statIn(d *dir, name string, source int, info *Info) (ok bool, err error) {
	from, layer := d.source(source)
	*info = Info{name: name, layer: layer, tags: &fsys.tags}
	err = from.Stat(name, &info.st)
	if at.IsMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	white, err := fsys.marks.isWhiteout(from, name, &info.st)
	return err == nil && !white, err
}

// rewind begins again: names made since are seen.
func (l *lister) rewind() {
	l.close()
	*l = lister{fsys: l.fsys, d: l.d, wanted: l.wanted}
}

// close ends the reading, not the directory.
func (l *lister) close() {
	l.dropParts()
	if l.stream != nil {
		l.stream.Close()
		l.stream = nil
	}
	l.abandon()
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
	slices.SortFunc(infos, func(a, b *Info) int { return strings.Compare(a.name, b.name) })
	return infos, pathError("readdir", name, err)
}

var _ fs.DirEntry = (*Info)(nil)
