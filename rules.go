package main

import (
	"fmt"
	"slices"
	"strings"

	"overdav/auth"
)

// RuleConfig says what some may do to some names of a share.
type RuleConfig struct {
	Users  Words `yaml:"users"`
	Groups Words `yaml:"groups"`
	Paths  Words `yaml:"paths"` // patterns; none means all
	Allow  Words `yaml:"allow"` // read, write, none, or a list of rights
}

// rule is r in auth's words. r has passed check.
func (r *RuleConfig) rule() auth.Rule {
	allow, _ := auth.ParseRights(r.Allow) // check has refused what is none
	return auth.Rule{Users: r.Users, Groups: r.Groups, Paths: r.Paths, Allow: allow}
}

// rules are those of the share; nil if it has none and everybody who may come in
// may do everything.
func (s *ShareConfig) rules() (*auth.Rules, error) {
	if s.Access == nil {
		return nil, nil
	}
	var list []auth.Rule
	for i := range s.Access {
		list = append(list, s.Access[i].rule())
	}
	return auth.NewRules(list)
}

func (r *RuleConfig) check(prefix string, report func(key, format string, args ...any)) {
	if len(r.Users)+len(r.Groups) == 0 {
		report(strings.TrimSuffix(prefix, "."), "%v", auth.ErrNobody)
	}
	for i, text := range r.Users {
		if _, err := auth.ParseSubject(text); err != nil {
			report(itemKey(prefix+"users", i, r.Users), "%v", err)
		}
	}
	for i, text := range r.Groups {
		if _, ok := auth.FoldName(text); !ok {
			report(itemKey(prefix+"groups", i, r.Groups), "%q cannot be the name of a group; it is 1 to 32 of a-z, 0-9, dot, underscore, hyphen", text)
		}
	}
	for i, text := range r.Paths {
		if err := auth.CheckPattern(text); err != nil {
			report(itemKey(prefix+"paths", i, r.Paths), "%v", err)
		}
	}
	if _, err := auth.ParseRights(r.Allow); err != nil {
		report(prefix+"allow", "%v", err)
	}
}

// itemKey is the key of an item of list, which may have been written as one word.
func itemKey(key string, i int, list Words) string {
	if len(list) == 1 {
		return key
	}
	return fmt.Sprintf("%s[%d]", key, i)
}

// checkAccess refuses rules that let nobody in, and names in them that are most
// likely mistyped: of users and groups that cannot come from anywhere else.
func (c *Config) checkAccess(report func(key, format string, args ...any)) {
	names, groups := c.knownNames()
	if names != nil {
		reportUnknown("auth.admins", c.Auth.Admins, names, report)
		reportUnknown("metrics.users", c.Metrics.Users, names, report)
	}
	for i := range c.Shares {
		s := &c.Shares[i]
		anonymous := false
		for j := range s.Access {
			prefix := fmt.Sprintf("shares[%d].access[%d].", i, j)
			r := &s.Access[j]
			r.check(prefix, report)
			anonymous = anonymous || slices.Contains(r.Users, auth.Anonymous)
			if names != nil {
				reportUnknown(prefix+"users", r.Users, names, report)
				reportUnknown(prefix+"groups", r.Groups, groups, report)
			}
		}
		if s.Access != nil && !anonymous && !c.authenticates() {
			report(fmt.Sprintf("shares[%d].access", i), "nobody could do anything: nobody has a name without users, and no rule is for anonymous; add users, or a rule for anonymous")
		}
	}
}

// knownNames are all users and groups that there can be; nil when nobody knows
// before files are read or proxies have spoken.
func (c *Config) knownNames() (users, groups []string) {
	if c.Auth.UserHeader != "" || len(c.Users) == 0 {
		return nil, nil
	}
	users = []string{"*", auth.Anonymous}
	for i := range c.Users {
		u := &c.Users[i]
		if u.HTPasswd != "" {
			return nil, nil
		}
		users = append(users, strings.ToLower(u.Name))
		for _, group := range u.Groups {
			groups = append(groups, strings.ToLower(group))
		}
	}
	return users, groups
}

func reportUnknown(key string, list Words, known []string, report func(key, format string, args ...any)) {
	for i, name := range list {
		if _, ok := auth.FoldName(name); ok && !slices.Contains(known, strings.ToLower(name)) {
			report(itemKey(key, i, list), "%s is nowhere in users; add it there, or correct it here", name)
		}
	}
}
