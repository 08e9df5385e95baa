package davfs

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Limits of an If header. Real clients send one or two lists.
const (
	maxIfLength     = 8 << 10
	maxIfLists      = 64
	maxIfConditions = 256
)

// An ifHeader is an If header as written (RFC 4918, section 10.4): it holds if
// one of its lists does.
type ifHeader struct {
	lists []ifList
}

// An ifList holds if all its conditions hold for one resource.
// INVARIANT: it has at least one condition.
type ifList struct {
	tagged     bool
	tag        string // the URL of the resource, if tagged; else the request's own is meant
	conditions []ifCondition
}

// An ifCondition is one state token or one entity tag that the resource must
// have, or with not must not have.
type ifCondition struct {
	not   bool
	token string // without the angle brackets; "" if it is an entity tag
	etag  string // with its quotes, and its W/ if it had one; "" if it is a token
}

// An ifState is what the conditions on one resource are held against. That of an
// unmapped URL has no entity tag, but may have tokens: the URL can be locked, or
// lie in the scope of a lock.
type ifState struct {
	tokens []string // of all locks in whose scope the resource is
	etag   string   // with its quotes; "" if there is none
}

// parseIf reads the If header; without one, the result has no lists.
//
//	If            = 1*No-tag-list | 1*Tagged-list
//	No-tag-list   = List
//	Tagged-list   = Resource-Tag 1*List
//	Resource-Tag  = "<" Simple-ref ">"
//	List          = "(" 1*Condition ")"
//	Condition     = ["Not"] (State-token | "[" entity-tag "]")
//	State-token   = "<" absolute-URI ">"
func parseIf(h http.Header) (ifHeader, error) {
	if len(h.Values("If")) == 0 {
		return ifHeader{}, nil
	}
	s, err := singleHeader(h, "If")
	if err != nil {
		return ifHeader{}, err
	}
	if len(s) > maxIfLength {
		return ifHeader{}, fmt.Errorf("%w: If", errHeaderTooLarge)
	}
	p := ifParser{rest: s}
	p.skipSpace()
	var lists []ifList
	if p.peek('<') {
		lists, err = p.taggedLists()
	} else {
		lists, err = p.lists(false, "")
	}
	if err == nil && p.rest != "" {
		err = p.unexpected()
	}
	if err != nil {
		return ifHeader{}, err
	}
	return ifHeader{lists}, nil
}

// An ifParser holds what is still to be read. Each of its methods reads one
// production of the grammar and the white space behind it.
type ifParser struct {
	rest       string
	nLists     int
	conditions int
}

// taggedLists = 1*Tagged-list
func (p *ifParser) taggedLists() ([]ifList, error) {
	var all []ifList
	for p.peek('<') {
		tag, err := p.between('<', '>')
		if err != nil {
			return nil, err
		}
		lists, err := p.lists(true, tag)
		if err != nil {
			return nil, err
		}
		all = append(all, lists...)
	}
	return all, nil
}

// lists = 1*List
func (p *ifParser) lists(tagged bool, tag string) ([]ifList, error) {
	var lists []ifList
	for len(lists) == 0 || p.peek('(') {
		if p.nLists++; p.nLists > maxIfLists {
			return nil, fmt.Errorf("%w: If has more than %d lists", errHeaderTooLarge, maxIfLists)
		}
		conditions, err := p.list()
		if err != nil {
			return nil, err
		}
		lists = append(lists, ifList{tagged, tag, conditions})
	}
	return lists, nil
}

// List = "(" 1*Condition ")"
func (p *ifParser) list() ([]ifCondition, error) {
	if !p.take("(") {
		return nil, p.unexpected()
	}
	var conditions []ifCondition
	for len(conditions) == 0 || !p.peek(')') {
		if p.conditions++; p.conditions > maxIfConditions {
			return nil, fmt.Errorf("%w: If has more than %d conditions", errHeaderTooLarge, maxIfConditions)
		}
		c, err := p.condition()
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, c)
	}
	p.take(")")
	return conditions, nil
}

// Condition = ["Not"] (State-token | "[" entity-tag "]")
func (p *ifParser) condition() (c ifCondition, err error) {
	c.not = p.take("not")
	if p.peek('<') {
		c.token, err = p.between('<', '>')
		return c, err
	}
	if !p.take("[") {
		return c, p.unexpected()
	}
	tag, rest, ok := scanETag(p.rest)
	if !ok {
		return c, p.unexpected()
	}
	c.etag, p.rest = tag, rest
	p.skipSpace()
	if !p.take("]") {
		return c, p.unexpected()
	}
	return c, nil
}

// between reads a URL in its brackets.
func (p *ifParser) between(left, right byte) (string, error) {
	end := strings.IndexByte(p.rest, right)
	if !p.peek(left) || end < 0 || end-1 > maxTokenLength || !isURIText(p.rest[1:end]) {
		return "", p.unexpected()
	}
	url := p.rest[1:end]
	p.rest = p.rest[end+1:]
	p.skipSpace()
	return url, nil
}

// peek reports whether the next character is c.
func (p *ifParser) peek(c byte) bool { return p.rest != "" && p.rest[0] == c }

// take reads word, in any case, if it comes next.
func (p *ifParser) take(word string) bool {
	if len(p.rest) < len(word) || !strings.EqualFold(p.rest[:len(word)], word) {
		return false
	}
	p.rest = p.rest[len(word):]
	p.skipSpace()
	return true
}

func (p *ifParser) skipSpace() { p.rest = strings.TrimLeft(p.rest, " \t") }

func (p *ifParser) unexpected() error {
	if p.rest == "" {
		return fmt.Errorf("%w: If ends early", errBadHeader)
	}
	return fmt.Errorf("%w: If: unexpected %q", errBadHeader, p.rest[:1]) // no more: tokens are secrets
}

// given reports whether there was an If header with anything in it.
func (h ifHeader) given() bool { return len(h.lists) > 0 }

// tokens returns all state tokens that were submitted: each that occurs
// anywhere in the header, whether or not its list holds or its resource has
// anything to do with the request (RFC 4918, section 10.4.1). That a token was
// submitted says nothing about whose it is.
func (h ifHeader) tokens() []string {
	var tokens []string
	for _, l := range h.lists {
		for _, c := range l.conditions {
			if c.token != "" && !slices.Contains(tokens, c.token) {
				tokens = append(tokens, c.token)
			}
		}
	}
	return tokens
}

// holds reports whether any list holds, and true if there is none. Lists
// without a tag are about own, the resource that the request names; resolve
// gives the resource that a tag names, and state what a resource has. A list
// about something that is not ours never holds, whatever it says: we know
// nothing about it. state is asked once for each resource, and its error ends
// the evaluation.
func (h ifHeader) holds(own Path, resolve func(tag string) (Path, error), state func(Path) (ifState, error)) (bool, error) {
	if len(h.lists) == 0 {
		return true, nil
	}
	known := make(map[Path]ifState, 1)
	for _, l := range h.lists {
		p := own
		if l.tagged {
			var err error
			if p, err = resolve(l.tag); err != nil {
				continue // another server's, or no name at all
			}
		}
		s, ok := known[p]
		if !ok {
			var err error
			if s, err = state(p); err != nil {
				return false, err
			}
			known[p] = s
		}
		if l.holds(s) {
			return true, nil
		}
	}
	return false, nil
}

// holds reports whether all conditions of the list are true in s.
func (l ifList) holds(s ifState) bool {
	for _, c := range l.conditions {
		if !c.holds(s) {
			return false
		}
	}
	return true
}

// holds reports whether the condition is true in s. Entity tags are compared
// weakly, which RFC 4918, section 10.4.4 leaves to us: ours are all strong, and
// a weak one is ours after a proxy has compressed the answer.
func (c ifCondition) holds(s ifState) bool {
	var has bool
	if c.token != "" {
		has = slices.Contains(s.tokens, c.token)
	} else {
		has = s.etag != "" && weakMatch(c.etag, s.etag)
	}
	return has != c.not
}
