package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sharesOf is a server with a share for each of these rules, at its name.
func sharesOf(t *testing.T, access map[string]string) (h http.Handler, names []string) {
	t.Helper()
	dir := t.TempDir()
	text := "users:\n"
	for _, user := range []string{"alice", "bob", "carol"} {
		text += fmt.Sprintf("  - { name: %s, password: %s }\n", user, hashOfRight)
	}
	text += "auth: { tokens: " + filepath.Join(dir, "tokens") + " }\nshares:\n"
	for name := range access {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		lower := filepath.Join(dir, name)
		if err := os.MkdirAll(lower, 0o755); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - { path: /%s, lower: [%s], read_only: true, access: [%s] }\n", name, lower, access[name])
	}
	h, _ = configuredHandler(t, text)
	return h, names
}

// configuredHandler is what serve would answer with under the configuration text,
// and the door before it.
func configuredHandler(t *testing.T, text string) (http.Handler, *door) {
	t.Helper()
	c, err := configure("serve", []string{"--config", writeConfig(t, text)}, getenv(), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := openShares(t, c)
	d, err := newDoor(c, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	rt, err := newRouter(c, all, d)
	if err != nil {
		t.Fatal(err)
	}
	return newServer(rt, discardLog(), c).http.Handler, d
}

// A user learns of the shares in which he has a right to anything, and of no other:
// not above them, not where they are, not on the page of tokens.
func TestSharesAreToldToWhoSeesSomethingInThem(t *testing.T) {
	seers := map[string]string{ // who sees something
		"all":           "alice bob nobody",
		"deep":          "alice",
		"denied":        "alice",
		"named":         "alice bob",
		"nobodys":       "",
		"alices/secret": "alice",
		"public":        "nobody",
	}
	h, names := sharesOf(t, map[string]string{
		"all":           `{ users: ["*", anonymous], allow: read }`,
		"deep":          `{ users: [alice], paths: ["/a/*/b"], allow: read }`,
		"denied":        `{ users: [bob], allow: none }, { users: ["*"], allow: read }`,
		"named":         `{ users: ["*"], allow: read }`,
		"nobodys":       `{ users: [carol], allow: read }, { users: [bob], paths: [/x], allow: none }`,
		"alices/secret": `{ users: [alice], allow: write }`,
		"public":        `{ users: [anonymous], allow: read }`,
	})
	hrefs := regexp.MustCompile(`<D:href>/([^<]+)/</D:href>`)
	for _, user := range []string{"alice", "bob", "nobody"} {
		var headers []string
		if user != "nobody" {
			headers = []string{"Authorization", credentials(user, "right")}
		}
		var told, want []string
		for _, dir := range []string{"/", "/alices"} {
			w := get(h, "PROPFIND", dir, append(headers, "Depth", "1")...)
			for _, href := range hrefs.FindAllStringSubmatch(w.Body.String(), -1) {
				if !slices.Contains(told, href[1]) && href[1] != "alices" {
					told = append(told, href[1])
				}
			}
		}
		page := get(h, "GET", tokensPath, headers...).Body.String()
		for _, name := range names {
			sees := strings.Contains(seers[name], user)
			if sees {
				want = append(want, name)
			}
			if user == "nobody" {
				continue // who is asked for a name there, whatever there is
			}
			if strings.Contains(page, "/"+name+"<") != sees {
				t.Errorf("%s: the page of tokens tells of %s: %v", user, name, !sees)
			}
			for _, method := range []string{"OPTIONS", "PROPFIND", "GET", "PUT", "LOCK"} {
				there, none := get(h, method, "/"+name, append(headers, "Depth", "0")...), get(h, method, "/zzz", append(headers, "Depth", "0")...)
				if same := there.Code == none.Code && there.Body.String() == none.Body.String(); same == sees {
					t.Errorf("%s: %s of %s: %d, of nothing: %d", user, method, name, there.Code, none.Code)
				}
			}
			asked := post(h, `{"label":"x","shares":["/`+name+`"]}`, append(headers, "Content-Type", "application/json")...)
			if asked.Code == http.StatusCreated != sees {
				t.Errorf("%s: a token for %s: %d", user, name, asked.Code)
			}
		}
		slices.Sort(told)
		if !slices.Equal(told, want) {
			t.Errorf("%s is told of %q, want %q", user, told, want)
		}
		if way := get(h, "PROPFIND", "/", append(headers, "Depth", "1")...); strings.Contains(way.Body.String(), "alices") != (user == "alice") {
			t.Errorf("%s is told of the way to alices: %s", user, way.Body)
		}
	}
}
