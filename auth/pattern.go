package auth

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// A pattern is a path of a rule. It covers the names that it matches and
// everything beneath them. It is matched component by component: "/a" never
// covers "ab".
type pattern struct {
	parts []part
}

// A part is a component of a pattern.
type part struct {
	text string
	kind partKind
}

type partKind uint8

const (
	literal partKind = iota
	glob             // text matches one component
	globs            // "**", any number of components
)

// maxParts is one less than the bits of a states.
const maxParts = 63

// compilePattern reads a pattern: "/docs", "/pub/**/*.txt", "/".
func compilePattern(text string) (pattern, error) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok {
		return pattern{}, fmt.Errorf("%q does not begin at the root of the share; write it as in /docs or /pub/**/*.txt", text)
	}
	var p pattern
	if rest == "" {
		return p, nil
	}
	for word := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), "/") {
		next, err := compilePart(word)
		if err != nil {
			return pattern{}, fmt.Errorf("%q: %w", text, err)
		}
		p.parts = append(p.parts, next)
	}
	if len(p.parts) > maxParts {
		return pattern{}, fmt.Errorf("%q has more than %d components", text, maxParts)
	}
	return p, nil
}

func compilePart(word string) (part, error) {
	switch {
	case word == "**":
		return part{text: word, kind: globs}, nil
	case word == "":
		return part{}, errors.New("an empty component matches nothing; remove one of the slashes")
	case word == ".", word == "..":
		return part{}, fmt.Errorf("%q is no name; write the path without it", word)
	case strings.Contains(word, "**"):
		return part{}, fmt.Errorf("%q: ** means any number of components and stands alone between slashes", word)
	case !strings.ContainsAny(word, `*?[{\`):
		return part{text: word, kind: literal}, nil
	case strings.ContainsRune(word, utf8.RuneError):
		// In a glob it stands for every byte that is no UTF-8.
		return part{}, fmt.Errorf("%q is not UTF-8; such a name can stand in a rule only as it is, without wildcards", word)
	case !doublestar.ValidatePattern(word):
		return part{}, fmt.Errorf("%q is not a pattern; brackets and braces end in the component in which they begin", word)
	}
	return part{text: word, kind: glob}, nil
}

// states are the places in a pattern at which a match of the components so far
// can stand: bit i is before parts[i], bit len(parts) is behind the last.
type states uint64

// start is where a match begins.
func (p *pattern) start() states { return p.closure(1) }

// closure adds the places behind each "**": it may match no component.
func (p *pattern) closure(s states) states {
	for i := range p.parts {
		if s&(1<<i) != 0 && p.parts[i].kind == globs {
			s |= 1 << (i + 1)
		}
	}
	return s
}

// step is where matches stand after one more component. A pattern that has
// matched goes on matching: it covers what is beneath.
func (p *pattern) step(s states, component string) states {
	if p.covers(s) {
		return s
	}
	var next states
	for rest := s; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(uint64(rest))
		switch q := &p.parts[i]; q.kind {
		case globs:
			next |= 1 << i
		case literal:
			if q.text == component {
				next |= 1 << (i + 1)
			}
		case glob:
			if doublestar.MatchUnvalidated(q.text, component) {
				next |= 1 << (i + 1)
			}
		}
	}
	return p.closure(next)
}

// covers says whether a match is complete.
func (p *pattern) covers(s states) bool { return s&(1<<len(p.parts)) != 0 }

// includes says that p covers every name that q covers. It may say no where that
// is so, but never yes where it is not.
func (p *pattern) includes(q *pattern) bool {
	s := p.start()
	for _, word := range q.parts {
		if p.covers(s) {
			return true
		}
		s = p.stepOver(s, word)
	}
	return p.covers(s)
}

// stepOver is step for whatever word matches: where matches stand for certain.
func (p *pattern) stepOver(s states, word part) states {
	if word.kind == literal {
		return p.step(s, word.text)
	}
	var next states
	for i, own := range p.parts {
		switch {
		case s&(1<<i) == 0:
		case own.kind == globs:
			next |= 1 << i // after any number of components
		case own.kind == glob && word.kind == glob && (own.text == "*" || own.text == word.text):
			next |= 1 << (i + 1)
		}
	}
	return p.closure(next)
}

// coverage says how a pattern stands to a name and to what is beneath.
type coverage uint8

const (
	apart   coverage = iota // it covers neither the name nor anything beneath
	beneath                 // it may cover something beneath, not the name
	covered                 // it covers the name and everything beneath
)

// over says how p stands to name, a name of the tree.
func (p *pattern) over(name string) coverage {
	s := p.start()
	for rest := name; rest != "" && name != "."; {
		if s == 0 {
			return apart
		}
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		s = p.step(s, component)
	}
	switch {
	case p.covers(s):
		return covered
	case s != 0:
		return beneath
	default:
		return apart
	}
}
