package auth

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"pgregory.net/rapid"
)

func mustRules(t testing.TB, list ...Rule) *Rules {
	t.Helper()
	r, err := NewRules(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheFirstRuleThatSpeaksOfUserAndNameDecides(t *testing.T) {
	rules := mustRules(t,
		Rule{Users: []string{"eve"}, Allow: 0},
		Rule{Users: []string{"Alice"}, Paths: []string{"/docs"}, Allow: RightsAll},
		Rule{Groups: []string{"staff"}, Paths: []string{"/pub/**/*.txt", "/a*"}, Allow: RightsRead},
		Rule{Users: []string{"*"}, Paths: []string{"/docs/open"}, Allow: RightList},
		Rule{Users: []string{"anonymous"}, Paths: []string{"/open/"}, Allow: RightsRead},
	)
	alice, bob := Identity{Name: "alice"}, Identity{Name: "bob", Groups: []string{"staff"}}
	tests := []struct {
		id   Identity
		name string
		want Right
	}{
		{alice, ".", 0},
		{alice, "docs", RightsAll},
		{alice, "docs/open/a", RightsAll},
		{alice, "docsx", 0},
		{alice, "doc", 0},
		{alice, "docs.txt", 0},
		{alice, "pub/a.txt", 0},
		{bob, "docs", 0},
		{bob, "docs/open", RightList},
		{bob, "docs/open/x/y", RightList},
		{bob, "docs/openx", 0},
		{bob, "pub/a.txt", RightsRead},
		{bob, "pub/x/y/a.txt", RightsRead},
		{bob, "pub/x.txt/y", RightsRead}, // beneath what matches
		{bob, "pub/x/y", 0},
		{bob, "a", RightsRead},
		{bob, "abc/d", RightsRead},
		{bob, "b/a", 0},
		{Identity{Name: "eve", Groups: []string{"staff"}}, "a", 0},
		{Identity{Name: "eve"}, "docs/open", 0},
		{Nobody, "open/x", RightsRead},
		{Nobody, "docs/open", 0},
		{alice, "open/x", 0},
	}
	for _, test := range tests {
		if got := rules.For(test.id, "/").Rights(test.name); got != test.want {
			t.Errorf("%s on %s: %v, want %v", test.id.Name, test.name, got, test.want)
		}
	}
	if !rules.NameAnonymous() || mustRules(t, Rule{Users: []string{"*"}}).NameAnonymous() {
		t.Error("NameAnonymous is wrong")
	}
}

func TestWithoutRulesEverybodyMayDoEverything(t *testing.T) {
	var none *Rules
	v := none.For(Nobody, "/")
	if got := v.Rights("a/b"); got != RightsAll || !v.Uniform(".") || none.NameAnonymous() {
		t.Errorf("got %v, uniform %t", got, v.Uniform("."))
	}
	// That is not the same as a list of no rules.
	if got := mustRules(t).For(Identity{Name: "alice"}, "/").Rights("."); got != 0 {
		t.Errorf("an empty list allows %v", got)
	}
}

func TestScopeNarrows(t *testing.T) {
	rules := mustRules(t,
		Rule{Users: []string{"alice"}, Paths: []string{"/docs/secret"}, Allow: 0},
		Rule{Users: []string{"alice"}, Allow: RightsAll})
	tests := []struct {
		scope       Scope
		share, name string
		want        Right
	}{
		{Scope{}, "/", ".", RightsRead},
		{Scope{Write: true}, "/", "docs", RightsAll},
		{Scope{Write: true}, "/", "docs/secret", 0},
		{Scope{Shares: []string{"/films"}, Write: true}, "/films", "x", RightsAll},
		{Scope{Shares: []string{"/films"}, Write: true}, "/films/", "x", RightsAll},
		{Scope{Shares: []string{"/films"}, Write: true}, "/", "films/x", 0},
		{Scope{Shares: []string{"/films"}, Write: true}, "/films2", "x", 0},
		{Scope{Shares: []string{"/films", "/"}}, "/", "x", RightsRead},
		{Scope{Path: "/docs"}, "/", ".", 0},
		{Scope{Path: "/docs"}, "/", "docs", RightsRead},
		{Scope{Path: "/docs"}, "/", "docs/a", RightsRead},
		{Scope{Path: "/docs"}, "/", "docsx", 0},
		{Scope{Path: "/docs", Write: true}, "/", "docs/secret/x", 0},
	}
	for _, test := range tests {
		v := rules.For(Identity{Name: "alice", Scope: &test.scope}, test.share)
		if got := v.Rights(test.name); got != test.want {
			t.Errorf("%+v in share %s on %s: %v, want %v", test.scope, test.share, test.name, got, test.want)
		}
	}
}

func TestPatternsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "does not begin at the root",
		"docs":                    "does not begin at the root",
		"/a*\xff":                 "is not UTF-8",
		"/a*\ufffd":               "is not UTF-8",
		"**":                      "does not begin at the root",
		"//":                      "empty component",
		"/a//b":                   "empty component",
		"/a/../b":                 "is no name",
		"/.":                      "is no name",
		"/a**":                    "stands alone",
		"/{a,**}":                 "stands alone",
		"/[a/b]":                  "is not a pattern",
		"/{a/b,c}":                "is not a pattern",
		"/{a":                     "is not a pattern",
		`/a\`:                     "is not a pattern",
		strings.Repeat("/x", 64):  "more than 63",
		"/":                       "",
		"/**":                     "",
		"/a/":                     "",
		`/\*`:                     "",
		"/[^a]?{x,y}*":            "",
		strings.Repeat("/**", 63): "",
	} {
		err := CheckPattern(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	for _, rule := range []Rule{
		{Allow: RightsAll},
		{Users: []string{"Bob Builder"}},
		{Users: []string{".."}},
		{Groups: []string{"*"}},
		{Groups: []string{"anonymous"}},
		{Users: []string{"bob"}, Paths: []string{"docs"}},
	} {
		if _, err := NewRules([]Rule{rule}); err == nil {
			t.Errorf("%+v is accepted", rule)
		}
	}
}

func TestParseRights(t *testing.T) {
	tests := []struct {
		words string
		want  Right
		good  bool
	}{
		{"read", RightsRead, true},
		{"write", RightsAll, true},
		{"none", 0, true},
		{"list", RightList, true},
		{"read list", RightsRead, true},
		{"read create", RightRead | RightCreate, true},
		{"read list create overwrite delete properties", RightsAll, true},
		{"", 0, false},
		{"read write", 0, false},
		{"none list", 0, false},
		{"Read", 0, false},
	}
	for _, test := range tests {
		got, err := ParseRights(strings.Fields(test.words))
		if got != test.want || (err == nil) != test.good {
			t.Errorf("%q: got %v, %v", test.words, got, err)
		}
	}
}

// The oracle: the same rules, said as plainly as can be, over lists of components.

func oracleRights(rules []Rule, id Identity, share string, name string) Right {
	names := components(name)
	allowed := Right(0)
	for _, rule := range rules {
		if oracleSubject(rule, id) && slices.ContainsFunc(rule.Paths, func(p string) bool { return oracleCovers(components(p), names) }) {
			allowed = rule.Allow
			break
		}
	}
	if s := id.Scope; s != nil {
		if len(s.Shares) > 0 && !slices.Contains(s.Shares, share) || !hasPrefix(names, components(s.Path)) {
			return 0
		}
		if !s.Write {
			allowed &= RightRead | RightList
		}
	}
	return allowed
}

func oracleSubject(rule Rule, id Identity) bool {
	return slices.Contains(rule.Users, id.Name) || id.Name != "anonymous" && slices.Contains(rule.Users, "*") ||
		slices.ContainsFunc(id.Groups, func(g string) bool { return slices.Contains(rule.Groups, g) })
}

func oracleCovers(pattern, names []string) bool {
	for n := range len(names) + 1 {
		if oracleMatches(pattern, names[:n]) {
			return true
		}
	}
	return false
}

func oracleMatches(pattern, names []string) bool {
	switch {
	case len(pattern) == 0:
		return len(names) == 0
	case pattern[0] == "**":
		return oracleMatches(pattern[1:], names) || len(names) > 0 && oracleMatches(pattern, names[1:])
	case len(names) == 0:
		return false
	}
	ok, err := doublestar.Match(pattern[0], names[0])
	if !strings.ContainsAny(pattern[0], `*?[{\`) {
		ok = pattern[0] == names[0] // byte by byte, also where they are no UTF-8
	}
	return err == nil && ok && oracleMatches(pattern[1:], names[1:])
}

func components(path string) []string {
	return strings.FieldsFunc(strings.TrimPrefix(path, "."), func(r rune) bool { return r == '/' })
}

func hasPrefix(names, prefix []string) bool {
	return len(names) >= len(prefix) && slices.Equal(names[:len(prefix)], prefix)
}

// Names are few, so that rules and paths meet.
var (
	drawName    = rapid.SampledFrom([]string{"a", "ab", "b", "a.txt", "é"})
	drawWord    = rapid.SampledFrom([]string{"a", "ab", "b", "*", "**", "a*", "?", "*.txt", "{a,b}", "[^a]", "é", "**"})
	drawUsers   = rapid.SliceOfN(rapid.SampledFrom([]string{"alice", "bob", "*", "anonymous"}), 0, 2)
	drawGroups  = rapid.SliceOfN(rapid.SampledFrom([]string{"staff", "guests"}), 0, 2)
	drawTree    = rapid.Map(rapid.SliceOfN(drawName, 0, 4), treeName)
	drawPattern = rapid.Map(rapid.SliceOfN(drawWord, 0, 4), func(words []string) string { return "/" + strings.Join(words, "/") })
)

func treeName(names []string) string {
	if len(names) == 0 {
		return "."
	}
	return strings.Join(names, "/")
}

var drawRule = rapid.Custom(func(t *rapid.T) Rule {
	rule := Rule{
		Users: drawUsers.Draw(t, "users"), Groups: drawGroups.Draw(t, "groups"),
		Paths: rapid.SliceOfN(drawPattern, 1, 3).Draw(t, "paths"),
		Allow: rapid.SampledFrom([]Right{0, RightsRead, RightsAll, RightCreate}).Draw(t, "allow"),
	}
	if len(rule.Users)+len(rule.Groups) == 0 {
		rule.Users = []string{"*"}
	}
	return rule
})

var drawIdentity = rapid.Custom(func(t *rapid.T) Identity {
	id := Identity{Name: rapid.SampledFrom([]string{"alice", "carol", "anonymous"}).Draw(t, "name")}
	if !id.IsAnonymous() {
		id.Groups = drawGroups.Draw(t, "groups")
	}
	if rapid.Bool().Draw(t, "token") {
		id.Scope = &Scope{
			Shares: rapid.SliceOfN(rapid.SampledFrom([]string{"/films", "/music"}), 0, 2).Draw(t, "shares"),
			Path:   "/" + strings.TrimPrefix(drawTree.Draw(t, "scope"), "."),
			Write:  rapid.Bool().Draw(t, "write"),
		}
	}
	return id
})

// everyName are all names down to depth below dir.
func everyName(dir string, depth int, visit func(string)) {
	visit(dir)
	if depth == 0 {
		return
	}
	for _, c := range []string{"a", "ab", "b", "a.txt", "é"} {
		everyName(strings.TrimPrefix(dir+"/"+c, "./"), depth-1, visit)
	}
}

func TestRulesAgreeWithTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(drawRule, 0, 5).Draw(t, "rules")
		id := drawIdentity.Draw(t, "id")
		rules, err := NewRules(list)
		if err != nil {
			t.Fatal(err)
		}
		v := rules.For(id, "/films")
		everyName(".", 4, func(name string) {
			if got, want := v.Rights(name), oracleRights(list, id, "/films", name); got != want {
				t.Fatalf("%s: %v, the oracle says %v", name, got, want)
			}
		})
	})
}

func TestUniformIsNeverWrong(t *testing.T) {
	yes, no := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(drawRule, 0, 5).Draw(t, "rules")
		id := drawIdentity.Draw(t, "id")
		rules, err := NewRules(list)
		if err != nil {
			t.Fatal(err)
		}
		name := drawTree.Draw(t, "name")
		v := rules.For(id, "/films")
		if !v.Uniform(name) {
			no++
			return
		}
		yes++
		everyName(name, 4, func(below string) {
			if got, want := oracleRights(list, id, "/films", below), v.Rights(name); got != want {
				t.Fatalf("uniform below %s, but %s has %v, not %v", name, below, got, want)
			}
		})
	})
	if yes == 0 || no == 0 {
		t.Errorf("uniform %d times, not uniform %d times: the rules that were drawn try nothing", yes, no)
	}
}

// What a listing of a large directory asks must be cheap where nothing differs.
func TestUniformSeesThePlainCases(t *testing.T) {
	rules := mustRules(t,
		Rule{Users: []string{"alice"}, Paths: []string{"/private"}, Allow: 0},
		Rule{Users: []string{"alice"}, Paths: []string{"/docs/**/*.txt"}, Allow: RightsRead},
		Rule{Users: []string{"alice"}, Allow: RightsRead})
	v := rules.For(Identity{Name: "alice"}, "/")
	for name, want := range map[string]bool{".": false, "private": true, "docs": true, "films": true, "private/a/b": true} {
		if got := v.Uniform(name); got != want {
			t.Errorf("%s: uniform is %t, want %t", name, got, want)
		}
	}
	scoped := rules.For(Identity{Name: "alice", Scope: &Scope{Path: "/docs/x"}}, "/")
	for name, want := range map[string]bool{".": false, "docs": false, "docs/x": true, "docs/y": true, "films": true} {
		if got := scoped.Uniform(name); got != want {
			t.Errorf("with a scope, %s: uniform is %t, want %t", name, got, want)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"/", "/a", "/pub/**/*.txt", "/{a,b}/[^x]?", `/\*`, "/**/**"} {
		f.Add(s, "pub/a/b.txt")
	}
	f.Add("/\xb6", "\xdd")
	f.Add("/*\xb6", "\xdd")
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := compilePattern(text)
		if err != nil {
			return
		}
		names := components(name)
		if len(names) > 6 || len(p.parts) > 6 || slices.Contains(names, ".") {
			return // the oracle is exponential, and "." is no name
		}
		want := oracleCovers(components(text), names)
		if got := p.over(strings.Join(names, "/")) == covered; got != want {
			t.Errorf("%q covers %q: %t, the oracle says %t", text, names, got, want)
		}
	})
}

func BenchmarkRights(b *testing.B) {
	var list []Rule
	for i := range 20 {
		list = append(list, Rule{Users: []string{"alice"}, Paths: []string{fmt.Sprintf("/dir%d/**/*.txt", i), fmt.Sprintf("/other%d", i)}, Allow: RightsRead})
	}
	rules := mustRules(b, append(list, Rule{Users: []string{"*"}, Allow: RightsRead})...)
	v := rules.For(Identity{Name: "alice"}, "/")
	b.ReportAllocs()
	for b.Loop() {
		if v.Rights("docs/deep/below/a.txt") != RightsRead {
			b.Fatal("wrong")
		}
	}
}

// Whoever sees something is told so, and whoever a single rule shuts out is not.
func TestSeesAnythingMissesNothing(t *testing.T) {
	yes := 0
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(drawRule, 0, 4).Draw(t, "rules")
		id := drawIdentity.Draw(t, "id")
		rules, err := NewRules(list)
		if err != nil {
			t.Fatal(err)
		}
		seen := false
		everyName(".", 4, func(name string) { seen = seen || oracleRights(list, id, "/films", name) != 0 })
		if !seen {
			return
		}
		yes++
		if !rules.For(id, "/films").SeesAnything() {
			t.Fatal("says that there is nothing, but there is")
		}
	})
	if yes == 0 {
		t.Error("nobody saw anything")
	}
}

func TestSeesAnythingSeesThePlainCases(t *testing.T) {
	alice := Identity{Name: "alice"}
	scoped := func(s Scope) Identity { return Identity{Name: "alice", Scope: &s} }
	none := Rule{Users: []string{"*"}}
	on := func(allow Right, paths ...string) Rule {
		return Rule{Users: []string{"alice"}, Paths: paths, Allow: allow}
	}
	for _, test := range []struct {
		name  string
		id    Identity
		rules []Rule
		want  bool
	}{
		{"no rule of her", alice, []Rule{{Users: []string{"bob"}, Allow: RightsAll}}, false},
		{"nothing", alice, []Rule{none}, false},
		{"nothing first", alice, []Rule{none, on(RightsAll)}, false},
		{"nothing in the end", alice, []Rule{on(RightsRead, "/deep/down"), none}, true},
		{"nothing of just that", alice, []Rule{on(0, "/deep"), on(RightsAll, "/deep/down", "/deep/*/x")}, false},
		{"nothing of it by globs", alice, []Rule{on(0, "/*/**"), on(RightsAll, "/a/b", "/x*/y")}, false},
		{"more than that", alice, []Rule{on(0, "/deep"), on(RightsAll, "/deep/down", "/deeper")}, true},
		{"a token of another share", scoped(Scope{Shares: []string{"/music"}}), []Rule{on(RightsAll)}, false},
		{"a token that only reads what may only be made", scoped(Scope{}), []Rule{on(RightCreate)}, false},
		{"a token of what is beside it", scoped(Scope{Path: "/here"}), []Rule{on(RightsAll, "/there")}, false},
		{"a token of what is beneath", scoped(Scope{Path: "/here"}), []Rule{on(RightsAll, "/*/too")}, true},
		{"a token of what is closed", scoped(Scope{Path: "/here"}), []Rule{on(0, "/h*"), on(RightsAll)}, false},
	} {
		if got := mustRules(t, test.rules...).For(test.id, "/films").SeesAnything(); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
	if !(*Rules)(nil).For(alice, "/films").SeesAnything() {
		t.Error("without rules nothing is seen")
	}
}
