package overlay

import (
	"io"
	"runtime"
	"sync"
	"syscall"
)

// A listingPart is some names of a directory, one after the other, and what the
// names show. They are looked at by several goroutines at once, and while whoever
// lists is busy with the part before: a look is a call or two, which is most of
// what a listing costs.
type listingPart struct {
	names   []listedName
	infos   []Info // of the name at the same index, where it is shown
	lookers sync.WaitGroup
	next    int // of names, to be handed out
}

type listedName struct {
	name   string
	source int
	shown  bool // else it is a whiteout, or was gone
	err    error
}

// listingParts are used again; the longest that was needed stays.
var listingParts = sync.Pool{New: func() any { return new(listingPart) }}

const (
	// fewNames are looked at by whoever lists: to have somebody else do it costs
	// more than the looks.
	fewNames = 32
	// maxLookers bounds how many look at one part.
	maxLookers = 8
)

// lookerPlaces bounds how many look for others in this process: each may be a
// thread that waits for a disk, also when that never answers. Who finds no place
// looks himself.
var lookerPlaces = make(chan struct{}, 64)

// gather has the next names looked at: at most size. nil is none; l.end tells why
// there are no more.
func (l *lister) gather(size int) *listingPart {
	if l.end != nil {
		return nil
	}
	p := listingParts.Get().(*listingPart)
	p.next, p.names = 0, p.names[:0]
	for len(p.names) < size && l.end == nil {
		var n listedName
		if n.name, n.source, _, l.end = l.nextName(); l.end == nil {
			p.names = append(p.names, n)
		}
	}
	if cap(p.infos) < len(p.names) {
		p.infos = make([]Info, len(p.names))
	}
	p.infos = p.infos[:len(p.names)]
	l.look(p)
	return p
}

// look has the names of p looked at.
func (l *lister) look(p *listingPart) {
	lookers := min(maxLookers, 2*runtime.GOMAXPROCS(0))
	if len(p.names) <= fewNames {
		lookers = 1
	}
	each := (len(p.names) + lookers - 1) / lookers
	for from := 0; from < len(p.names); from += each {
		to := min(from+each, len(p.names))
		if lookers == 1 || !l.lookBeside(p, from, to) {
			l.lookAt(p, from, to)
		}
	}
}

// lookBeside has somebody else look at some names of p, if there is a place.
func (l *lister) lookBeside(p *listingPart, from, to int) bool {
	select {
	case lookerPlaces <- struct{}{}:
	default:
		return false
	}
	if l.d.shared {
		l.fsys.lookers.Add(1) // the tree is held: it cannot be closed yet
	}
	p.lookers.Go(func() {
		l.lookAt(p, from, to)
		if l.d.shared {
			l.fsys.lookers.Done()
		}
		<-lookerPlaces
	})
	return true
}

// lookAt looks at some names of p. Several do, each at others.
func (l *lister) lookAt(p *listingPart, from, to int) {
	for i := from; i < to; i++ {
		n, info := &p.names[i], &p.infos[i]
		n.shown, n.err = l.fsys.statIn(l.d, n.name, n.source, info)
		if n.shown && l.wanted != "" {
			d, _ := l.d.source(n.source)
			info.without = d.CheckXattr(n.name, l.wanted) == syscall.ENODATA
		}
	}
}

// fillAhead is fill of what is not kept.
func (l *lister) fillAhead(infos []Info) (n int, err error) {
	for n == 0 && err == nil {
		if l.now == nil && !l.advance(len(infos)) {
			return 0, l.end
		}
		n, err = l.hand(infos)
	}
	return n, err
}

// advance makes the next part that which is handed out, and has the one after it
// looked at.
func (l *lister) advance(size int) bool {
	if l.now, l.coming = l.coming, nil; l.now == nil {
		l.now = l.gather(size)
	}
	if l.now == nil {
		return false
	}
	l.now.lookers.Wait()
	if len(l.now.names) > fewNames {
		l.coming = l.gather(size)
	}
	return true
}

// hand sets infos to what the part that is handed out has left, as far as it
// goes, and returns how many it set.
func (l *lister) hand(infos []Info) (n int, err error) {
	p := l.now
	for ; p.next < len(p.names) && n < len(infos) && err == nil; p.next++ {
		name, info := &p.names[p.next], &p.infos[p.next]
		if err = l.readError(name.source, name.err); err != nil {
			l.abandon()
			continue
		}
		if l.fills {
			l.keep(info, name.shown)
		}
		if name.shown {
			infos[n] = *info
			n++
		}
	}
	if p.next == len(p.names) {
		l.now = nil
		listingParts.Put(p)
		if l.coming == nil && l.end == io.EOF {
			l.complete()
		}
	}
	return n, err
}

// dropParts ends the looking ahead.
func (l *lister) dropParts() {
	for _, p := range []*listingPart{l.now, l.coming} {
		if p != nil {
			p.lookers.Wait()
			listingParts.Put(p)
		}
	}
	l.now, l.coming = nil, nil
}
