package davfs

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// at makes a Path from its escaped form.
func at(t testing.TB, escaped string) Path {
	t.Helper()
	p, _, err := parsePath(escaped, namePolicy{bytes: true})
	if err != nil {
		t.Fatalf("path %q: %v", escaped, err)
	}
	return p
}

// evalIf evaluates an If header of a request for own, where resources have the
// given states and the server is www.example.com.
func evalIf(t *testing.T, value, own string, states map[string]ifState) bool {
	t.Helper()
	h, err := parseIf(header("If", value))
	if err != nil {
		t.Fatalf("parseIf(%q): %v", value, err)
	}
	f := front{site: new(Site), request: &http.Request{Host: "www.example.com"}}
	resolve := func(tag string) (Path, error) {
		p, _, err := f.resolve(tag)
		return p, err
	}
	state := func(p Path) (ifState, error) { return states[p.String()], nil }
	ok, err := h.holds(at(t, own), resolve, state)
	if err != nil {
		t.Fatalf("If: %s: %v", value, err)
	}
	return ok
}

// The examples of RFC 4918, sections 7.5, 9.9, 9.10 and 10.4, each in states that
// make it hold and in states that do not.
func TestIfExamplesOfRFC4918(t *testing.T) {
	const (
		lock181 = "urn:uuid:181d4fae-7d8c-11d0-a765-00a0c91e6bf2"
		lock58f = "urn:uuid:58f202ac-22cf-11d1-b12d-002035b29092"
		lock150 = "urn:uuid:150852e2-3847-42d5-8cbe-0f4f296f26cf"
		lockF81 = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
		lockE71 = "urn:uuid:e71d4fae-5dec-22d6-fea5-00a0c91e6be4"
		lockFE1 = "urn:uuid:fe184f2e-6eec-41d0-c765-01adc56e6bb4"
		lockE45 = "urn:uuid:e454f3f3-acdc-452a-56c7-00a5c91e4b77"
	)
	type states = map[string]ifState
	tokens := func(s ...string) ifState { return ifState{tokens: s} }
	for _, tt := range []struct {
		section string
		own     string
		value   string
		states  states
		want    bool
	}{
		// A COPY that names the token of its destination.
		{
			"7.5.1", "/~fielding/index.html", "<http://www.example.com/users/f/fielding/index.html> (<" + lockF81 + ">)",
			states{"/users/f/fielding/index.html": tokens(lockF81)},
			true,
		},
		{"7.5.1, gone", "/~fielding/index.html", "<http://www.example.com/users/f/fielding/index.html> (<" + lockF81 + ">)", states{}, false},
		{
			"7.5.1, on the source instead", "/~fielding/index.html", "<http://www.example.com/users/f/fielding/index.html> (<" + lockF81 + ">)",
			states{"/~fielding/index.html": tokens(lockF81)},
			false,
		},

		// A member of a collection that is locked with depth infinity.
		{"7.5.2, untagged", "/locked/member", "(<" + lock150 + ">)", states{"/locked": tokens(lock150), "/locked/member": tokens(lock150)}, true},
		{"7.5.2, the collection", "/locked/member", "<http://www.example.com/locked/> (<" + lock150 + ">)", states{"/locked": tokens(lock150)}, true},
		{"7.5.2, the member", "/locked/member", "<http://www.example.com/locked/member> (<" + lock150 + ">)", states{"/locked/member": tokens(lock150)}, true},
		{"7.5.2, gone", "/locked/member", "(<" + lock150 + ">)", states{}, false},

		{"9.9.6", "/container/", "(<" + lockFE1 + ">) (<" + lockE45 + ">)", states{"/container": tokens(lockFE1)}, true},
		{"9.9.6, the other", "/container/", "(<" + lockFE1 + ">) (<" + lockE45 + ">)", states{"/container": tokens(lockE45)}, true},
		{"9.10.8", "/workspace/webdav/proposal.doc", "(<" + lockE71 + ">)", states{"/workspace/webdav/proposal.doc": tokens(lockE71)}, true},
		{"9.10.8, a longer token", "/workspace/webdav/proposal.doc", "(<" + lockE71 + ">)", states{"/workspace/webdav/proposal.doc": tokens(lockE71 + "0")}, false},

		{
			"10.4.6", "/r", `(<` + lock181 + `> ["I am an ETag"]) (["I am another ETag"])`,
			states{"/r": {tokens: []string{lock181}, etag: `"I am an ETag"`}},
			true,
		},
		{
			"10.4.6, other etag", "/r", `(<` + lock181 + `> ["I am an ETag"]) (["I am another ETag"])`,
			states{"/r": {etag: `"I am another ETag"`}},
			true,
		},
		{
			"10.4.6, AND within a list", "/r", `(<` + lock181 + `> ["I am an ETag"]) (["I am another ETag"])`,
			states{"/r": {tokens: []string{lock181}, etag: `"changed"`}},
			false,
		},
		{
			"10.4.6, token missing", "/r", `(<` + lock181 + `> ["I am an ETag"]) (["I am another ETag"])`,
			states{"/r": {etag: `"I am an ETag"`}},
			false,
		},

		{"10.4.7", "/r", `(Not <` + lock181 + `> <` + lock58f + `>)`, states{"/r": tokens(lock58f)}, true},
		{"10.4.7, has both", "/r", `(Not <` + lock181 + `> <` + lock58f + `>)`, states{"/r": tokens(lock181, lock58f)}, false},
		{"10.4.7, has none", "/r", `(Not <` + lock181 + `> <` + lock58f + `>)`, states{}, false},

		{"10.4.8", "/r", `(<` + lock181 + `>) (Not <DAV:no-lock>)`, states{}, true},
		{"10.4.8, AND", "/r", `(<` + lock181 + `> Not <DAV:no-lock>)`, states{}, false},

		{
			"10.4.9", "/resource1", `</resource1> (<` + lock181 + `> [W/"A weak ETag"]) (["strong ETag"])`,
			states{"/resource1": {tokens: []string{lock181}, etag: `W/"A weak ETag"`}},
			true,
		},
		{
			"10.4.9, strong", "/resource1", `</resource1> (<` + lock181 + `> [W/"A weak ETag"]) (["strong ETag"])`,
			states{"/resource1": {etag: `"strong ETag"`}},
			true,
		},
		{
			"10.4.9, neither", "/resource1", `</resource1> (<` + lock181 + `> [W/"A weak ETag"]) (["strong ETag"])`,
			states{"/resource1": tokens(lock181)},
			false,
		},

		{"10.4.10", "/specs/rfc2518.doc", `<http://www.example.com/specs/> (<` + lock181 + `>)`, states{"/specs": tokens(lock181)}, true},
		{"10.4.10, gone", "/specs/rfc2518.doc", `<http://www.example.com/specs/> (<` + lock181 + `>)`, states{}, false},

		{"10.4.11", "/specs/rfc2518.doc", `</specs/rfc2518.doc> (["4217"])`, states{"/specs/rfc2518.doc": {etag: `"4217"`}}, true},
		{"10.4.11, changed", "/specs/rfc2518.doc", `</specs/rfc2518.doc> (["4217"])`, states{"/specs/rfc2518.doc": {etag: `"4218"`}}, false},
		{"10.4.11, unmapped", "/specs/rfc2518.doc", `</specs/rfc2518.doc> (["4217"])`, states{}, false},
		{"10.4.11, Not", "/specs/rfc2518.doc", `</specs/rfc2518.doc> (Not ["4217"])`, states{}, true},
	} {
		if got := evalIf(t, tt.value, tt.own, tt.states); got != tt.want {
			t.Errorf("%s: If: %s = %v, want %v", tt.section, tt.value, got, tt.want)
		}
	}
}

// What golang.org/x/net/webdav v0.62.0 gets wrong about If, and other servers
// with it: each line is one of its answers, corrected.
func TestIfWhereServersFail(t *testing.T) {
	states := map[string]ifState{
		"/mine":   {tokens: []string{"urn:mine"}, etag: `"m"`},
		"/theirs": {tokens: []string{"urn:theirs"}, etag: `"t"`},
		"/free":   {etag: `"right"`},
	}
	for _, tt := range []struct {
		name, own, value string
		want             bool
	}{
		{"an entity tag alone can hold", "/free", `(["right"])`, true},
		{"a wrong entity tag beside a right token", "/mine", `(<urn:mine> ["wrong"])`, false},
		{"Not is not ignored", "/mine", `(Not <urn:mine>)`, false},
		{"Not of a token that nobody has", "/free", `(Not <DAV:no-lock>)`, true},
		{"any case of Not", "/free", `(nOT <DAV:no-lock>)`, true},
		{"no space after Not", "/free", `(Not<DAV:no-lock>)`, true},
		{"conditions of a list are ANDed", "/mine", `(<urn:mine> <urn:theirs>)`, false},
		{"lists are ORed", "/mine", `(<urn:theirs>) (<urn:mine>)`, true},
		{"lists of one tag are ORed", "/theirs", `</mine> (<urn:theirs>) (<urn:mine>)`, true},
		{"tags are ORed", "/theirs", `</free> (<urn:x>) </mine> (<urn:mine>)`, true},
		{"a tag with a path only", "/theirs", `</mine> (<urn:mine>)`, true},
		{"a tag with a port and a scheme", "/theirs", `<https://WWW.example.com:443/mine> (<urn:mine>)`, true},
		{"another server's resource is unknown", "/mine", `<http://other.example/mine> (<urn:mine>)`, false},
		{"and Not does not make it known", "/mine", `<http://other.example/mine> (Not <urn:mine>)`, false},
		{"a tag that is no path", "/mine", `<mine> (Not <urn:x>)`, false},
	} {
		if got := evalIf(t, tt.value, tt.own, states); got != tt.want {
			t.Errorf("%s: If: %s on %s = %v, want %v", tt.name, tt.value, tt.own, got, tt.want)
		}
	}
}

func TestIfTokensAreSubmittedWhereverTheyStand(t *testing.T) {
	h, err := parseIf(header("If", `</a> (<urn:1> Not <urn:2>) </b> (["x"] <urn:1>) (<urn:3>)`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.tokens(), []string{"urn:1", "urn:2", "urn:3"}; !slices.Equal(got, want) {
		t.Errorf("tokens = %q, want %q", got, want)
	}
}

func TestIfSyntax(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  []ifList
		err   error
	}{
		{"(<urn:x>)", []ifList{{false, "", []ifCondition{{token: "urn:x"}}}}, nil},
		{"\t( <urn:x>\t) ", []ifList{{false, "", []ifCondition{{token: "urn:x"}}}}, nil},
		{`([W/"x"])`, []ifList{{false, "", []ifCondition{{etag: `W/"x"`}}}}, nil},
		{`([ "x\" ])`, []ifList{{false, "", []ifCondition{{etag: `"x\"`}}}}, nil},
		{`(["]"]["<>"])`, []ifList{{false, "", []ifCondition{{etag: `"]"`}, {etag: `"<>"`}}}}, nil},
		{"</a>(<urn:x>)(<urn:y>)</b>(Not<urn:z>)", []ifList{
			{true, "/a", []ifCondition{{token: "urn:x"}}},
			{true, "/a", []ifCondition{{token: "urn:y"}}},
			{true, "/b", []ifCondition{{not: true, token: "urn:z"}}},
		}, nil},
		{"", nil, errBadHeader},
		{"()", nil, errBadHeader},
		{"(", nil, errBadHeader},
		{"(<urn:x>", nil, errBadHeader},
		{"<urn:x>", nil, errBadHeader},
		{"</a> </b> (<urn:x>)", nil, errBadHeader},
		{"(<urn:x>) </a> (<urn:x>)", nil, errBadHeader}, // the two forms do not mix
		{"(<urn:x>) junk", nil, errBadHeader},
		{"(<urn:x>), (<urn:y>)", nil, errBadHeader},
		{"(<>)", nil, errBadHeader},
		{"(<urn: x>)", nil, errBadHeader},
		{"(<urn:\xc3\xa4>)", nil, errBadHeader},
		{"(Not)", nil, errBadHeader},
		{"(Not Not <urn:x>)", nil, errBadHeader},
		{"([x])", nil, errBadHeader},
		{`(["x)`, nil, errBadHeader},
		{`(["x"`, nil, errBadHeader},
		{`(w/["x"])`, nil, errBadHeader},
		{"(urn:x)", nil, errBadHeader},
		{strings.Repeat("(<urn:x>)", maxIfLists+1), nil, errHeaderTooLarge},
		{"(" + strings.Repeat("<urn:x>", maxIfConditions+1) + ")", nil, errHeaderTooLarge},
		{"(<urn:x>)" + strings.Repeat(" ", maxIfLength) + "(<urn:x>)", nil, errHeaderTooLarge},
	} {
		h, err := parseIf(header("If", tt.value))
		if !reflect.DeepEqual(h.lists, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("parseIf(%.60q) = %+v, %v; want %+v, %v", tt.value, h.lists, err, tt.want, tt.err)
		}
	}
	for _, value := range []string{
		strings.Repeat("(<urn:x>)", maxIfLists),
		"(" + strings.Repeat("<urn:x>", maxIfConditions) + ")",
	} {
		if _, err := parseIf(header("If", value)); err != nil {
			t.Errorf("parseIf at its limit, %.60q: %v", value, err)
		}
	}
	if h, err := parseIf(header("If", "(<urn:x>)", "(<urn:y>)")); err == nil {
		t.Errorf("two If headers = %+v, want an error", h)
	}
	if h, err := parseIf(header("Depth", "0")); err != nil || h.given() {
		t.Errorf("no If header = %+v, %v; want none, nil", h, err)
	}
}

// An error of the file system is not an answer to the question.
func TestIfStateErrorEndsTheEvaluation(t *testing.T) {
	h, err := parseIf(header("If", `(["x"]) (Not <DAV:no-lock>)`))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	asked := 0
	ok, err := h.holds(Path{}, nil, func(Path) (ifState, error) { asked++; return ifState{}, broken })
	if ok || !errors.Is(err, broken) || asked != 1 {
		t.Errorf("holds = %v, %v after %d questions; want false, %v, 1", ok, err, asked, broken)
	}
}

func TestIfAsksForEachResourceOnce(t *testing.T) {
	h, err := parseIf(header("If", `(["x"]) (["y"]) (<urn:z>)`))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	if _, err := h.holds(Path{}, nil, func(Path) (ifState, error) { asked++; return ifState{}, nil }); err != nil || asked != 1 {
		t.Errorf("asked %d times, %v; want once", asked, err)
	}
}

// format writes an If header that means h.
func (h ifHeader) format() string {
	var b strings.Builder
	for _, l := range h.lists {
		if l.tagged {
			fmt.Fprintf(&b, "<%s>", l.tag)
		}
		b.WriteString("(")
		for _, c := range l.conditions {
			if c.not {
				b.WriteString("Not ")
			}
			if c.token != "" {
				fmt.Fprintf(&b, "<%s>", c.token)
			} else {
				fmt.Fprintf(&b, "[%s]", c.etag)
			}
		}
		b.WriteString(")")
	}
	return b.String()
}

// What is accepted stays within the limits, and written again it means the same;
// a list and its opposite never hold together.
func FuzzIf(f *testing.F) {
	f.Add(`(<urn:uuid:181d4fae-7d8c-11d0-a765-00a0c91e6bf2> ["I am an ETag"]) (["I am another ETag"])`)
	f.Add(`(Not <urn:1> <urn:2>)`)
	f.Add(`</resource1> (<urn:1> [W/"A weak ETag"]) (["strong ETag"])`)
	f.Add(`<http://www.example.com/users/f/fielding/index.html> (<urn:1>) <https://x/> (Not [""])`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseIf(header("If", s))
		if err != nil {
			if len(h.lists) > 0 {
				t.Fatalf("lists beside the error %v", err)
			}
			return
		}
		if len(h.lists) == 0 || len(h.lists) > maxIfLists {
			t.Fatalf("%d lists", len(h.lists))
		}
		if text := h.format(); len(text) <= maxIfLength {
			again, err := parseIf(header("If", text))
			if err != nil || !reflect.DeepEqual(again, h) {
				t.Fatalf("%q = %+v; written again %q = %+v, %v", s, h, text, again, err)
			}
		}
		state := ifState{tokens: h.tokens()[:min(1, len(h.tokens()))], etag: `"x"`}
		for _, l := range h.lists {
			if len(l.conditions) == 0 {
				t.Fatal("empty list")
			}
			c := l.conditions[0]
			opposite := ifCondition{!c.not, c.token, c.etag}
			if c.holds(state) == opposite.holds(state) {
				t.Fatalf("%+v and its opposite agree", c)
			}
		}
	})
}
