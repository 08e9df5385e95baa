package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"overdav/overlay/overlaytest"
)

// hostileNames try to put the address of somebody else where fail2ban looks for
// that of the client, or to look like another line.
var hostileNames = []string{
	"bob", "", " ", `"`, `\`, `\"`, "1.2.3.4", `bob","ip":"1.2.3.4`, `bob\","ip":"1.2.3.4","port":1,"user":"x`,
	"bob\n" + `{"level":"warn","ip":"1.2.3.4","port":1,"user":"x","reason":"bad-credentials","message":"auth-fail"}`,
	"bob\r\nauth-fail ip=1.2.3.4 port=1", `","reason":"x","time":"2026-01-01T00:00:00.000Z","message":"auth-fail"}`,
	`time":"2020-01-01T00:00:00.000Z"`, "host overdav[1]: {\"level\":\"warn\",\"ip\":\"1.2.3.4\"", "\x00\x1b[2J\x7f", "\xff\xfe", "\u202eevil", "\u2028",
	strings.Repeat("a", 5000), "<ADDR>", "%(ip)s", "ip=1.2.3.4 port=1 user=\"x\" reason=bad-credentials",
}

// hostileLog is a log in which every hostile name could not log in, each from an
// address of its own, and was used as a path and a user as well.
func hostileLog() (text []byte, addrs []string) {
	var buf bytes.Buffer
	log := newLog(LogConfig{Level: "info", Format: "json"}, &buf)
	for i, name := range hostileNames {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 4711)
		if i%2 == 1 {
			client = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)), 0)
		}
		rec := record{method: name, path: name, user: name, peer: name, status: 401, client: client}
		rec.authFailed(&log, name, "bad-credentials")
		rec.access(&log, false)
		addrs = append(addrs, client.Addr().String())
	}
	return buf.Bytes(), addrs
}

const filterFile = "dist/fail2ban/filter.d/overdav.conf"

// failregex is the filter's pattern in Go's words.
func failregex(t *testing.T) *regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile(filterFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if pattern, ok := strings.CutPrefix(line, "failregex = "); ok {
			return regexp.MustCompile(strings.Replace(strings.TrimSpace(pattern), "<ADDR>", `([0-9a-f.:]+)`, 1))
		}
	}
	t.Fatal("the filter has no failregex")
	return nil
}

func TestFail2banFilterFindsTheAddressAndNoOther(t *testing.T) {
	text, want := hostileLog()
	re := failregex(t)
	var got []string
	for line := range bytes.Lines(text) {
		if m := re.FindSubmatch(bytes.TrimSuffix(line, []byte("\n"))); m != nil {
			got = append(got, string(m[1]))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n, want := bytes.Count(text, []byte("\n")), 2*len(hostileNames); n != want {
		t.Errorf("%d lines, want %d", n, want)
	}
}

// The same, asked of fail2ban.
func TestFail2banItselfFindsTheAddressAndNoOther(t *testing.T) {
	_, err := exec.LookPath("fail2ban-regex")
	overlaytest.Need(t, err == nil, "the program fail2ban-regex (make deps)")
	text, want := hostileLog()
	file := filepath.Join(t.TempDir(), "overdav.log")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("fail2ban-regex", "--out", "ip", file, filterFile).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// authFailLine is what the log says, in that format, of a user whom peer gave with a
// wrong password.
func authFailLine(format, peer, user string) string {
	var buf bytes.Buffer
	log := newLog(LogConfig{Level: "info", Format: format}, &buf)
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = peer
	rec := newRecord(r, nil)
	rec.authFailed(&log, user, "bad-credentials")
	return buf.String()
}

// A client of a Unix socket that nobody named has no address, and none is made up.
func TestAuthFailLineOfNobodyKnowsWhom(t *testing.T) {
	line := authFailLine("json", "@", "bob")
	if want := `{"level":"warn","ip":"","port":0,"user":"bob",`; !strings.HasPrefix(line, want) {
		t.Errorf("got %s, want %s first", line, want)
	}
	if failregex(t).MatchString(strings.TrimSpace(line)) {
		t.Error("fail2ban finds somebody to ban in it")
	}
}

// People read the same line as the words that fail2ban's users know.
func TestAuthFailLineForPeople(t *testing.T) {
	line := authFailLine("console", "192.0.2.7:4711", `x reason="none"`)
	plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(line, "")
	if want := `auth-fail ip=192.0.2.7 port=4711 user="x reason=\"none\"" reason=bad-credentials`; !strings.Contains(plain, want) {
		t.Errorf("got %q, want %s in it", plain, want)
	}
}
