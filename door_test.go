package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"overdav/auth"
	"overdav/davfs"
)

func TestRightsAreThoseOfDavfs(t *testing.T) {
	for name, pair := range map[string][2]uint8{
		"read":      {uint8(auth.RightRead), uint8(davfs.RightRead)},
		"list":      {uint8(auth.RightList), uint8(davfs.RightList)},
		"create":    {uint8(auth.RightCreate), uint8(davfs.RightCreate)},
		"overwrite": {uint8(auth.RightOverwrite), uint8(davfs.RightOverwrite)},
		"delete":    {uint8(auth.RightDelete), uint8(davfs.RightDelete)},
		"props":     {uint8(auth.RightProps), uint8(davfs.RightProps)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %d in auth and %d in davfs", name, pair[0], pair[1])
		}
	}
}

// threeShares is the configuration of most tests here.
const threeShares = `
users:
  - { name: alice, password: ` + hashOfRight + `, groups: [staff] }
  - { name: bob, password: ` + hashOfRight + ` }
trusted_proxies: [127.0.0.1]
auth: { user_header: X-Remote-User, tokens: tokens.json }
shares:
  - { path: /closed, lower: [/srv], access: [{ groups: [staff], allow: write }] }
  - { path: /open, lower: [/srv/2], access: [{ users: ["*"], allow: write }, { users: anonymous, paths: /pub, allow: read }] }
  - { path: /free, lower: [/srv/3] }
`

// testDoor is a server whose shares say who is there and what they may do.
func testDoor(t *testing.T, text string) (http.Handler, *door, *bytes.Buffer) {
	t.Helper()
	c, err := configure("serve", []string{"--config", writeConfig(t, text)}, getenv(), nil)
	if err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	d, err := newDoor(c, zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	own := http.NewServeMux()
	if d.tokens != nil {
		(&tokenAPI{d.tokens, c, d.log, d.sees}).addTo(own)
	}
	places := []string{"/closed", "/open", "/free"}
	return newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		place := aboveShares
		for i, path := range places {
			if strings.HasPrefix(r.URL.Path, path) {
				place = i
			}
		}
		if strings.HasPrefix(r.URL.Path, ownPath) {
			place = ownPlace
		}
		if r = d.admit(w, r, place); r == nil {
			return
		}
		if place == ownPlace {
			own.ServeHTTP(w, r)
			return
		}
		rights := "all"
		if a := accessOf(r); a != nil {
			rights = auth.Right(a.Rights("pub/x")).String()
		}
		fmt.Fprintf(w, "%q %s", userOf(r), rights)
	}), zerolog.New(log), c).http.Handler, d, log
}

func get(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "from" {
			r.RemoteAddr = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func credentials(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func TestDoor(t *testing.T) {
	h, _, log := testDoor(t, threeShares)
	alice, bob := credentials("alice", "right"), credentials("bob", "right")
	tests := []struct {
		target  string
		headers []string
		status  int
		said    string // with 200
	}{
		{"/closed/x", nil, 401, ""},
		{"/closed/x", []string{"Authorization", alice}, 200, `"alice" read,list,create,overwrite,delete,properties`},
		{"/closed/x", []string{"Authorization", bob}, 200, `"bob" none`},
		{"/closed/x", []string{"Authorization", credentials("alice", "wrong")}, 401, ""},
		{"/open/x", nil, 200, `"" read,list`},
		{"/open/x", []string{"Authorization", bob}, 200, `"bob" read,list,create,overwrite,delete,properties`},
		{"/open/x", []string{"Authorization", credentials("bob", "wrong")}, 401, ""}, // not anonymous instead
		{"/free/x", nil, 401, ""},
		{"/free/x", []string{"Authorization", bob}, 200, `"bob" all`},
		{"/", nil, 200, `"" all`}, // the way to /open
		{"/free/x", []string{"X-Remote-User", "carol"}, 401, ""},
		{"/free/x", []string{"X-Remote-User", "carol", "from", "127.0.0.1:9"}, 200, `"carol" all`},
	}
	for _, test := range tests {
		w := get(h, "GET", test.target, test.headers...)
		if w.Code != test.status || test.status == 200 && w.Body.String() != test.said {
			t.Errorf("%s %v: %d %s, want %d %s", test.target, test.headers, w.Code, w.Body, test.status, test.said)
		}
		if got := w.Header().Get("WWW-Authenticate"); (got == auth.Challenge) != (test.status == 401) {
			t.Errorf("%s %v: challenge %q", test.target, test.headers, got)
		}
	}
	if !strings.Contains(log.String(), `"user":"alice"`) || !strings.Contains(log.String(), `"message":"auth-fail"`) {
		t.Errorf("the log does not tell who came and who did not:\n%s", log)
	}
	if strings.Contains(log.String(), "wrong") || strings.Contains(log.String(), alice[6:]) {
		t.Errorf("the log has a password in it:\n%s", log)
	}
}

// Nobody can tell from the answer what was wrong.
func TestRefusalsAreAllTheSame(t *testing.T) {
	h, _, _ := testDoor(t, threeShares)
	var first string
	for _, value := range []string{"", credentials("alice", "wrong"), credentials("nobody", "right"), credentials("alice", ""), "Bearer odt_x", "Digest x", credentials("alice", "odt_x")} {
		var headers []string
		if value != "" {
			headers = []string{"Authorization", value}
		}
		w := get(h, "GET", "/closed/x", headers...)
		w.Header().Del("Date")
		got := fmt.Sprint(w.Code, w.Header(), w.Body)
		if first == "" {
			first = got
		}
		if got != first {
			t.Errorf("%q is answered with\n%s, and no credentials with\n%s", value, got, first)
		}
	}
}

func TestDoorSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _ := testDoor(t, threeShares)
		alice := []string{"Authorization", credentials("alice", "right")}
		if w := get(h, "GET", "/free", alice...); w.Code != 200 {
			t.Fatal(w.Code)
		}
		for range 10 {
			get(h, "GET", "/free", "Authorization", credentials("alice", "wrong"))
		}
		began := time.Now()
		w := get(h, "GET", "/free", "Authorization", credentials("bob", "right"))
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || w.Header().Get("WWW-Authenticate") != "" {
			t.Errorf("status %d, header %v", w.Code, w.Header())
		}
		if held := time.Since(began); held != tarpitTime {
			t.Errorf("the answer came after %v", held)
		}
		began = time.Now()
		if w := get(h, "GET", "/free", "Authorization", credentials("bob", "right"), "from", "127.0.0.1:5", "X-Forwarded-For", "198.51.100.7"); w.Code != 200 {
			t.Errorf("from elsewhere: %d", w.Code)
		}
		if w := get(h, "GET", "/free", alice...); w.Code != 200 {
			t.Errorf("who is in: %d", w.Code)
		}
		if held := time.Since(began); held != 0 {
			t.Errorf("they were held for %v", held)
		}
	})
}

func TestDoorReloads(t *testing.T) {
	h, d, _ := testDoor(t, threeShares)
	read := func(text string) Config {
		t.Helper()
		c, err := configure("serve", []string{"--config", writeConfig(t, text)}, getenv(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	bob := []string{"Authorization", credentials("bob", "right")}
	apply, err := d.reload(read(strings.NewReplacer("groups: [staff], allow", "users: [bob], allow", "name: alice", "name: carol").Replace(threeShares)))
	if err != nil {
		t.Fatal(err)
	}
	if w := get(h, "GET", "/closed", bob...); w.Body.String() != `"bob" none` {
		t.Errorf("in force before it was applied: %s", w.Body)
	}
	apply()
	if w := get(h, "GET", "/closed", bob...); !strings.Contains(w.Body.String(), "read,list") {
		t.Errorf("not in force: %s", w.Body)
	}
	if w := get(h, "GET", "/free", "Authorization", credentials("alice", "right")); w.Code != 401 {
		t.Errorf("alice was removed: %d", w.Code)
	}
	c := read(threeShares)
	c.Users = append(c.Users, UserConfig{HTPasswd: "/nonexistent"})
	if _, err := d.reload(c); err == nil {
		t.Error("a file that is missing is no mistake")
	}
	if _, err := d.reload(read("shares: [{ lower: [/srv] }]")); err == nil {
		t.Error("nobody is asked any more, without a restart")
	}
	if w := get(h, "GET", "/free", bob...); w.Code != 200 {
		t.Errorf("what was refused is in force: %d", w.Code)
	}
}

// An admin ends the locks of others and resets what they changed, as long as they
// come by their password. Who has given no name is asked for one.
func TestWhatAdminsMayDo(t *testing.T) {
	dir := t.TempDir()
	h, d := configuredHandler(t, `
users: [{ name: alice, password: `+hashOfRight+` }, { name: bob, password: `+hashOfRight+` }]
auth: { admins: [Alice], tokens: `+dir+`/tokens }
shares: [{ lower: [`+mustMkdir(t, dir, "lower")+`], upper: `+mustMkdir(t, dir, "upper")+`, durability: none }]
`)
	secret, _, err := d.tokens.Create(auth.Token{User: "alice", Label: "x", Scope: auth.Scope{Write: true}})
	if err != nil {
		t.Fatal(err)
	}
	do := func(want int, method, target, body string, headers ...string) http.Header {
		t.Helper()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Host = "localhost"
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %s %v: %d %s, want %d", method, target, headers, w.Code, w.Body, want)
		}
		return w.Header()
	}
	const asks = "Authorization"
	alice, bob := credentials("alice", "right"), credentials("bob", "right")
	lock := do(201, "LOCK", "/f", `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`, asks, bob).Get("Lock-Token")
	do(403, "UNLOCK", "/f", "", asks, "Bearer "+secret, "Lock-Token", lock)
	for want, scope := range map[string]auth.Scope{"of a path": {Write: true, Path: "/d"}, "to read": {}} {
		limited, _, err := d.tokens.Create(auth.Token{User: "bob", Label: want, Scope: scope})
		if err != nil {
			t.Fatal(err)
		}
		do(403, "UNLOCK", "/f", "", asks, "Bearer "+limited, "Lock-Token", lock)
	}
	do(204, "UNLOCK", "/f", "", asks, alice, "Lock-Token", lock)
	const ofAll = `{"share": "/"}`
	do(403, "POST", resetPath, ofAll, asks, bob, "Content-Type", "application/json")
	do(403, "POST", resetPath, ofAll, asks, "Bearer "+secret, "Content-Type", "application/json")
	if got := do(401, "POST", resetPath, ofAll, "Content-Type", "application/json").Get("WWW-Authenticate"); got != auth.Challenge {
		t.Errorf("who gives no name is asked %q", got)
	}
	do(204, "POST", resetPath, ofAll, asks, alice, "Content-Type", "application/json")
}

func TestWithoutUsersNobodyIsAsked(t *testing.T) {
	h, _, _ := testDoor(t, "shares: [{ lower: [/srv], path: /closed }, { lower: [/srv/2], path: /open, access: [{ users: anonymous, allow: read }] }]")
	for target, want := range map[string]string{"/closed": `"" all`, "/open": `"" read,list`} {
		w := get(h, "GET", target, "Authorization", credentials("alice", "x"), "Host", "localhost")
		if w.Code == http.StatusMisdirectedRequest {
			r := httptest.NewRequest("GET", target, nil)
			r.Host = "localhost"
			w = httptest.NewRecorder()
			h.ServeHTTP(w, r)
		}
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s, want %s", target, w.Code, w.Body, want)
		}
	}
}

func post(h http.Handler, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", tokensAPIPath, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTokenAPI(t *testing.T) {
	h, d, log := testDoor(t, threeShares)
	alice := []string{"Authorization", credentials("alice", "right")}
	asJSON := append([]string{"Content-Type", "application/json; charset=utf-8"}, alice...)

	w := post(h, `{"label":"laptop","shares":["/free/"],"path":"/pub","expires":"2999-01-01T00:00:00Z"}`, asJSON...)
	var made madeJSON
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusCreated || made.Shares[0] != "/free" || made.Write || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s, %v", w.Code, w.Body, err)
	}
	use := []string{"Authorization", "Bearer " + made.Token}
	if w := get(h, "GET", "/free", use...); w.Body.String() != `"alice" read,list` {
		t.Errorf("with the token: %d %s", w.Code, w.Body)
	}
	if w := get(h, "GET", "/closed", use...); w.Body.String() != `"alice" none` {
		t.Errorf("in another share: %d %s", w.Code, w.Body)
	}
	if w := get(h, "GET", tokensAPIPath, use...); w.Code != http.StatusForbidden {
		t.Errorf("a token sees tokens: %d %s", w.Code, w.Body)
	}
	if w := get(h, "GET", tokensAPIPath, alice...); w.Code != 200 || !strings.Contains(w.Body.String(), made.ID) || strings.Contains(w.Body.String(), "sha256") || strings.Contains(w.Body.String(), made.Token) {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	if w := get(h, "GET", tokensAPIPath); w.Code != 401 {
		t.Errorf("nobody: %d", w.Code)
	}
	bob := []string{"Authorization", credentials("bob", "right")}
	if w := get(h, "GET", tokensAPIPath, bob...); w.Body.String() != "{\"tokens\":[]}\n" {
		t.Errorf("bob sees %s", w.Body)
	}
	if w := get(h, "DELETE", tokensAPIPath+"/"+made.ID, bob...); w.Code != http.StatusNotFound {
		t.Errorf("bob revokes: %d", w.Code)
	}
	if w := get(h, "DELETE", tokensAPIPath+"/"+made.ID, append([]string{"Origin", "https://evil.example"}, alice...)...); w.Code != http.StatusForbidden {
		t.Errorf("another site revokes: %d", w.Code)
	}
	if w := get(h, "DELETE", tokensAPIPath+"/"+made.ID, alice...); w.Code != http.StatusNoContent {
		t.Errorf("revoke: %d %s", w.Code, w.Body)
	}
	if w := get(h, "GET", "/free", use...); w.Code != 401 {
		t.Errorf("revoked: %d", w.Code)
	}
	for body, want := range map[string]int{
		`{"label":"x"`:               400,
		`{"label":"x"} {}`:           400,
		`{"label":"x","admin":true}`: 400,
		`{"label":"` + strings.Repeat("x", 20_000) + `"}`: 400,
		`{"label":""}`:                                   422,
		`{"label":"x","shares":["/nowhere"]}`:            422,
		`{"label":"x","path":"../.."}`:                   422,
		`{"label":"x","expires":"2001-01-01T00:00:00Z"}`: 422,
	} {
		if w := post(h, body, asJSON...); w.Code != want {
			t.Errorf("%.40s: %d, want %d: %s", body, w.Code, want, w.Body)
		}
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"} {
		if w := post(h, `{"label":"x"}`, append([]string{"Content-Type", kind}, alice...)...); w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %d", kind, w.Code)
		}
	}
	if w := post(h, `{"label":"x"}`, append([]string{"Sec-Fetch-Site", "cross-site"}, asJSON...)...); w.Code != http.StatusForbidden {
		t.Errorf("from another site: %d", w.Code)
	}
	if list, err := d.tokens.List(""); err != nil || len(list) != 0 {
		t.Errorf("made all the same: %+v, %v", list, err)
	}
	if strings.Contains(log.String(), made.Token) {
		t.Error("the token is in the log")
	}
}

func TestTokenPage(t *testing.T) {
	h, d, _ := testDoor(t, threeShares)
	if _, _, err := d.tokens.Create(auth.Token{User: "alice", Label: `<script>"&`, Scope: auth.Scope{Write: true}}); err != nil {
		t.Fatal(err)
	}
	alice := []string{"Authorization", credentials("alice", "right")}
	w := get(h, "GET", tokensPath, alice...)
	page := w.Body.String()
	if w.Code != 200 || strings.Contains(page, "<script>\"") || !strings.Contains(page, "&lt;script&gt;") || !strings.Contains(page, "<option>/closed</option>") {
		t.Errorf("%d\n%s", w.Code, page)
	}
	policy := w.Header().Get("Content-Security-Policy")
	if strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("policy %q", policy)
	}
	for name, kind := range map[string]string{"tokens.js": "text/javascript", "tokens.css": "text/css"} {
		if w := get(h, "GET", tokensPath+"/"+name, alice...); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
	}
	if w := get(h, "GET", tokensPath+"/tokens.html", alice...); w.Code != 404 {
		t.Errorf("the template is served: %d", w.Code)
	}
	if w := get(h, "GET", tokensPath); w.Code != 401 {
		t.Errorf("nobody: %d", w.Code)
	}
}

// What is wrong with the file is for the log; its place is nobody's business.
func TestADamagedTokenFileIsNotShown(t *testing.T) {
	h, d, log := testDoor(t, threeShares)
	secret, _, err := d.tokens.Create(auth.Token{User: "alice", Label: "x"})
	if err != nil {
		t.Fatal(err)
	}
	file := d.tokens.File()
	if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"list":   get(h, "GET", tokensAPIPath, "Authorization", credentials("alice", "right")),
		"page":   get(h, "GET", tokensPath, "Authorization", credentials("alice", "right")),
		"bearer": get(h, "GET", "/free", "Authorization", "Bearer "+secret),
	} {
		if w.Code < 500 || strings.Contains(w.Body.String(), "tokens.json") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if !strings.Contains(log.String(), "tokens.json") {
		t.Errorf("the log does not tell:\n%s", log)
	}
}
