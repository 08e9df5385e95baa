package auth

import (
	"errors"
	"fmt"
	"strings"
)

// A Rule says what some may do to some names of a share.
type Rule struct {
	Users  []string // names; "*" is everybody with a name, "anonymous" who gave none
	Groups []string
	Paths  []string // patterns from the root of the share, as in "/docs"; none means all
	Allow  Right
}

// Rules are those of a share. The first that speaks of the user and of the name
// decides all rights on the name, and a name of which none speaks is as if it
// were not there. The nil *Rules allows everything.
type Rules struct {
	rules []compiledRule
}

type compiledRule struct {
	users, groups map[string]bool
	paths         []pattern
	allow         Right
}

// NewRules compiles list, in its order.
func NewRules(list []Rule) (*Rules, error) {
	r := new(Rules)
	for i, rule := range list {
		c, err := compileRule(rule)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		r.rules = append(r.rules, c)
	}
	return r, nil
}

// ErrNobody is a rule that speaks of nobody.
var ErrNobody = errors.New(`speaks of nobody; name users, groups, or everybody with a name: users: ["*"]`)

func compileRule(rule Rule) (compiledRule, error) {
	if len(rule.Users)+len(rule.Groups) == 0 {
		return compiledRule{}, ErrNobody
	}
	c := compiledRule{allow: rule.Allow, users: make(map[string]bool), groups: make(map[string]bool)}
	for _, text := range rule.Users {
		name, err := ParseSubject(text)
		if err != nil {
			return compiledRule{}, err
		}
		c.users[name] = true
	}
	for _, text := range rule.Groups {
		name, ok := FoldName(text)
		if !ok {
			return compiledRule{}, fmt.Errorf("%q cannot be the name of a group", text)
		}
		c.groups[name] = true
	}
	paths := rule.Paths
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	for _, text := range paths {
		p, err := compilePattern(text)
		if err != nil {
			return compiledRule{}, err
		}
		c.paths = append(c.paths, p)
	}
	return c, nil
}

// ParseSubject reads a name in the users of a rule.
func ParseSubject(text string) (string, error) {
	if text == "*" || text == Anonymous {
		return text, nil
	}
	name, ok := FoldName(text)
	if !ok {
		return "", fmt.Errorf(`%q cannot be a user's name; "*" is everybody with a name, anonymous who gave none`, text)
	}
	return name, nil
}

// CheckPattern says what is wrong with text as one of Rule.Paths.
func CheckPattern(text string) error {
	_, err := compilePattern(text)
	return err
}

// NameAnonymous says whether a rule speaks of who gave no name: the share is
// then open to them, as far as the rules go.
func (r *Rules) NameAnonymous() bool {
	if r == nil {
		return false
	}
	for i := range r.rules {
		if r.rules[i].users[Anonymous] {
			return true
		}
	}
	return false
}

func (c *compiledRule) speaksOf(id Identity) bool {
	if c.users[id.Name] || c.users["*"] && !id.IsAnonymous() {
		return true
	}
	for _, group := range id.Groups {
		if c.groups[group] {
			return true
		}
	}
	return false
}

// over says how c stands to name.
func (c *compiledRule) over(name string) coverage {
	all := apart
	for i := range c.paths {
		all = max(all, c.paths[i].over(name))
	}
	return all
}

// For returns what id may do in the share at path, as Scope.Shares has it.
func (r *Rules) For(id Identity, share string) *View {
	v := &View{everything: r == nil, scope: id.Scope.in(share)}
	if r == nil {
		return v
	}
	for i := range r.rules {
		if r.rules[i].speaksOf(id) {
			v.rules = append(v.rules, &r.rules[i])
		}
	}
	return v
}

// A View is what one Identity may do in one share.
type View struct {
	everything bool            // there are no rules
	rules      []*compiledRule // those that speak of the Identity
	scope      scope
}

// Rights are those on name, a name of the tree: "." is the root.
func (v *View) Rights(name string) Right {
	mask := v.scope.over(name)
	if mask == 0 {
		return 0
	}
	return v.ruled(name) & mask
}

// Leaves is what the token by which the Identity came, if it was one, leaves of the
// rights on name, whatever the rules say.
func (v *View) Leaves(name string) Right { return v.scope.over(name) }

func (v *View) ruled(name string) Right {
	if v.everything {
		return RightsAll
	}
	for _, c := range v.rules {
		if c.over(name) == covered {
			return c.allow
		}
	}
	return 0
}

// Uniform says that the rights on everything beneath name are those on name. It
// may say no where that is so, but never yes where it is not.
func (v *View) Uniform(name string) bool {
	if v.scope.splits(name) {
		return false
	}
	if v.everything || v.scope.over(name) == 0 {
		return true
	}
	own := v.ruled(name)
	for _, c := range v.rules {
		switch c.over(name) {
		case covered:
			return true // it decides all that those before left to it
		case beneath:
			if c.allow != own {
				return false
			}
		case apart:
		}
	}
	return true
}

// SeesAnything says whether there is a right on any name, as Somewhere.
func (v *View) SeesAnything() bool { return v.Somewhere(RightsAll) }

// Somewhere says whether there is one of the rights on any name, whether or not
// anything has it. It may say yes where several rules together leave nothing, but
// never no where something is left.
func (v *View) Somewhere(rights Right) bool {
	rights &= v.scope.mask
	if v.everything {
		return rights != 0
	}
	for i, c := range v.rules {
		for j := range c.paths {
			if c.allow&rights != 0 && v.reaches(i, &c.paths[j]) {
				return true
			}
		}
		if c.over(v.scope.dir) == covered {
			return false // it decides all that is in the scope
		}
	}
	return false
}

// reaches says whether p, of the rule with that number, decides about anything in
// the scope, as far as can be said of the rules before one by one.
func (v *View) reaches(rule int, p *pattern) bool {
	if p.over(v.scope.dir) == apart {
		return false
	}
	for _, before := range v.rules[:rule] {
		for i := range before.paths {
			if before.paths[i].includes(p) {
				return false
			}
		}
	}
	return true
}

// A Scope is what a token leaves of its user's rights.
type Scope struct {
	Shares []string `json:"shares,omitempty"` // by their paths in the server, as in "/films"; none means all
	Path   string   `json:"path,omitempty"`   // in each of them, as in "/docs"; "" means all
	Write  bool     `json:"write,omitempty"`  // false: read and list only
}

// A scope is a Scope as it is in one share. The zero scope leaves nothing.
type scope struct {
	dir  string // a name of the tree
	mask Right
}

// in returns s as it is in the share at path. A nil Scope leaves everything.
func (s *Scope) in(path string) scope {
	if s == nil {
		return scope{".", RightsAll}
	}
	if !s.hasShare(path) {
		return scope{}
	}
	dir := strings.Trim(s.Path, "/")
	if dir == "" {
		dir = "."
	}
	if s.Write {
		return scope{dir, RightsAll}
	}
	return scope{dir, RightsRead}
}

func (s *Scope) hasShare(path string) bool {
	for _, share := range s.Shares {
		if strings.Trim(share, "/") == strings.Trim(path, "/") {
			return true
		}
	}
	return len(s.Shares) == 0
}

// over is what s leaves on name.
func (s scope) over(name string) Right {
	if isWithin(name, s.dir) {
		return s.mask
	}
	return 0
}

// splits says whether s leaves something beneath name that it does not leave on
// name.
func (s scope) splits(name string) bool {
	return s.mask != 0 && name != s.dir && isWithin(s.dir, name)
}

// isWithin says whether name is dir or beneath it, by whole components.
func isWithin(name, dir string) bool {
	if dir == "." || name == dir {
		return true
	}
	return len(name) > len(dir) && name[len(dir)] == '/' && strings.HasPrefix(name, dir)
}
