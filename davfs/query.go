package davfs

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"sync"
)

// A selection is which properties an answer has, with their tags made once.
type selection struct {
	kind  propfindKind
	props []selectedProp
	// dead says that all dead properties are told of beside props; needsDead that
	// to answer takes a look at them.
	dead, needsDead bool
}

type selectedProp struct {
	name xml.Name
	tag  propTag
	live *liveProp // nil for what can only be a dead property
	long bool
}

// needsDead says whether the value is a dead property, or may be.
func (p *selectedProp) needsDead() bool {
	if p.live == nil {
		return !neverStored[p.name]
	}
	return p.name == davName("creationdate") // see writeCreationDate
}

// selectProps turns what was asked for into a selection. The short form, for
// those who sent no body at all, leaves out of the members of a collection what
// is the same of each: Explorer takes no listing over a million bytes.
func selectProps(ask propfindBody, short bool) *selection {
	s := &selection{kind: ask.kind, dead: ask.kind != findNamed}
	named := make(map[xml.Name]bool)
	for _, name := range ask.names {
		p := selectedProp{name: name, tag: newPropTag(name)}
		if i, ok := liveIndex[name]; ok {
			p.live = &liveProps[i]
		} else if s.dead {
			continue // it comes with all the others
		}
		named[name] = true
		s.props = append(s.props, p)
		s.needsDead = s.needsDead || p.needsDead()
	}
	if ask.kind == findNamed {
		return s
	}
	s.needsDead = true
	for i := range liveProps {
		p := &liveProps[i]
		if !named[p.name] && (p.all || ask.kind == findNames) {
			s.props = append(s.props, selectedProp{p.name, newPropTag(p.name), p, p.long && short})
		}
	}
	return s
}

// queries keeps what the bodies of PROPFINDs ask for: a client sends the same
// few again and again, and to parse one costs more than to answer it.
type queries struct {
	mu sync.Mutex
	// +checklocks:mu
	known map[string]*selection // by body
}

// Bounds of what queries keeps: when there are more, all are forgotten.
const (
	maxQueries     = 64
	maxQueryLength = 2 << 10
)

// read reads and parses the body of a PROPFIND.
func (q *queries) read(w http.ResponseWriter, r *http.Request) (*selection, error) {
	if r.ContentLength == 0 {
		return q.of(nil)
	}
	body := queryBodies.Get().(*bytes.Buffer)
	defer queryBodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxPropfindBody)); err != nil {
		return nil, bodyError(err)
	}
	return q.of(body.Bytes())
}

var queryBodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// of returns what a body asks for, which is not to be changed.
func (q *queries) of(body []byte) (*selection, error) {
	q.mu.Lock()
	s := q.known[string(body)]
	q.mu.Unlock()
	if s != nil {
		return s, nil
	}
	ask, err := parsePropfind(body)
	if err != nil {
		return nil, err
	}
	s = selectProps(ask, len(body) == 0)
	if len(body) <= maxQueryLength {
		q.keep(string(body), s)
	}
	return s, nil
}

func (q *queries) keep(body string, s *selection) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known == nil || len(q.known) >= maxQueries {
		q.known = make(map[string]*selection)
	}
	q.known[body] = s
}
