package integration_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"overdav/overlay/overlaytest"
)

// serveFile serves l by a configuration file; top are the keys of the server,
// share those of the share, a line each.
func serveFile(t *testing.T, l overlaytest.Layers, top, share []string) *server {
	t.Helper()
	text := strings.Join(top, "\n") + fmt.Sprintf("\nshares:\n  - lower: [%q]\n    upper: %q\n    work: %q\n", l.Lowers[0], l.Upper, l.Work)
	for _, line := range share {
		text += "    " + line + "\n"
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, "--config", file)
}

// Behind a proxy that takes a prefix away and passes on its own Host, clients
// name the server as they know it.
func TestShareBelowAPathBehindAProxy(t *testing.T) {
	l, _ := newShare(t)
	s := serveFile(t, l, []string{"public_url: https://files.example.org/dav", "trusted_proxies: [127.0.0.1]"}, []string{"path: /films"})
	backend, err := url.Parse(strings.TrimSuffix(s.base, "/films"))
	if err != nil || s.base == backend.String() {
		t.Fatalf("serving %s, want a path /films: %v", s.base, err)
	}
	proxy := httptest.NewServer(http.StripPrefix("/dav", httputil.NewSingleHostReverseProxy(backend)))
	defer proxy.Close()

	s.base = proxy.URL + "/dav"
	status, text := s.do("PROPFIND", "/", "", "Depth", "1")
	if status != http.StatusMultiStatus || !strings.Contains(text, "<D:href>/dav/films/</D:href>") {
		t.Errorf("above the share: %d %s", status, text)
	}
	if status, text = s.do("OPTIONS", "/", ""); status != http.StatusOK {
		t.Errorf("OPTIONS above the share: %d %s", status, text)
	}
	s.must(http.StatusNotFound, "GET", "/a", "")
	status, text = s.do("PROPFIND", "/films/docs", "", "Depth", "1")
	if status != http.StatusMultiStatus || !strings.Contains(text, "<D:href>/dav/films/docs/deep/</D:href>") {
		t.Errorf("in the share: %d %s", status, text)
	}
	s.must(http.StatusCreated, "MOVE", "/films/a", "", "Destination", "https://files.example.org/dav/films/moved")
	s.must(http.StatusBadGateway, "COPY", "/films/moved", "", "Destination", "https://other.example.org/dav/films/b")
	s.must(http.StatusBadGateway, "COPY", "/films/moved", "", "Destination", "https://files.example.org/dav/elsewhere")
	if _, page := s.do("GET", "/films/", ""); !strings.Contains(page, `href="./moved"`) {
		t.Errorf("the page is\n%s", page)
	}
	s.stop()
}

func TestRulesForNames(t *testing.T) {
	l, _ := newShare(t)
	if err := os.Symlink("docs", filepath.Join(l.Upper, "link")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		rule         string
		method, name string
		want         int
		shown        bool // the name in a listing afterwards
	}{
		{"junk: store", "PUT", "._a", http.StatusCreated, true},
		{"junk: drop", "PUT", "._b", http.StatusCreated, false},
		{"junk: refuse", "PUT", ".DS_Store", http.StatusForbidden, false},
		{"names: utf8", "PUT", "CON:", http.StatusCreated, true},
		{"names: utf8", "PUT", "\xff", http.StatusBadRequest, false},
		{"names: bytes", "PUT", "\xfe", http.StatusCreated, true},
		{"names: portable", "PUT", "AUX", http.StatusForbidden, false},
		{"symlinks: within", "GET", "link/b", http.StatusOK, true},
		{"symlinks: hide", "GET", "link/b", http.StatusNotFound, false},
	}
	for _, test := range tests {
		t.Run(test.rule+" "+strings.ToValidUTF8(test.name, "?"), func(t *testing.T) {
			s := serveFile(t, l, nil, []string{test.rule})
			s.must(test.want, test.method, test.name, "x")
			first, _, _ := strings.Cut(test.name, "/")
			_, list := s.do("PROPFIND", "/", "", "Depth", "1")
			if shown := strings.Contains(list, "<D:href>"+(&url.URL{Path: "/" + first}).EscapedPath()); shown != test.shown {
				t.Errorf("%q in the listing: %t, want %t\n%s", first, shown, test.shown, list)
			}
			_, page := s.do("GET", "/", "")
			if shown := strings.Contains(page, `href="./`+url.PathEscape(first)); shown != test.shown {
				t.Errorf("%q in the page: %t, want %t\n%s", first, shown, test.shown, page)
			}
			s.stop()
		})
	}
}

func TestPropfindOfInfiniteDepthHasItsBound(t *testing.T) {
	l, _ := newShare(t) // demo has ten resources, the root among them
	for rule, want := range map[string]int{
		"propfind_infinity: 0": http.StatusForbidden, "propfind_infinity: 10": http.StatusMultiStatus,
	} {
		s := serveFile(t, l, nil, []string{rule})
		status, text := s.do("PROPFIND", "/", "", "Depth", "infinity")
		if status != want {
			t.Errorf("%s: status %d, want %d", rule, status, want)
		}
		if all := strings.Count(text, "<D:response>"); status == http.StatusMultiStatus && all != 10 {
			t.Errorf("%s: %d resources, want 10:\n%s", rule, all, text)
		}
		s.stop()
	}
}

const lockBody = `<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`

func TestLocksHaveTheirBounds(t *testing.T) {
	l, _ := newShare(t)
	s := serveFile(t, l, nil, []string{"locks: { timeout: 90s, total: 1 }"})
	status, text := s.do("LOCK", "a", lockBody, "Timeout", "Second-4000")
	if status != http.StatusOK || !strings.Contains(text, "Second-90<") {
		t.Errorf("LOCK: %d %s", status, text)
	}
	if status, _ := s.do("LOCK", "docs/b", lockBody); status < 400 {
		t.Errorf("a second lock: status %d, want a refusal", status)
	}
	s.stop()
}

// What a power cut may take, it may not keep the server from starting.
func TestDamagedLocksAreForgottenUnlessDurable(t *testing.T) {
	for durability, starts := range map[string]bool{"full": false, "ordered": true, "none": true} {
		t.Run(durability, func(t *testing.T) {
			l, args := newShare(t)
			args = append(args, "--durability", durability)
			s := serve(t, args...)
			s.must(http.StatusOK, "LOCK", "a", lockBody)
			s.kill()
			s = serve(t, args...)
			s.must(http.StatusLocked, "PUT", "a", "locks survive kill -9")
			s.stop()
			file := filepath.Join(l.Work, "overdav", "locks")
			if err := os.WriteFile(file, []byte(strings.Repeat("damaged ", 8192)), 0o600); err != nil {
				t.Fatal(err)
			}
			if !starts {
				cmd := command(openDir(t), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
				if out, err := runFor(giveUp, cmd); err == nil || !strings.Contains(out, "remove the file") {
					t.Errorf("with damaged locks: %v\n%s", err, out)
				}
				return
			}
			s = serve(t, args...)
			s.must(http.StatusNoContent, "PUT", "a", "nobody has locked it")
			s.stop()
			if said := s.stderr.String(); !strings.Contains(said, "locks are damaged and forgotten") {
				t.Errorf("nothing in the log of forgotten locks:\n%s", said)
			}
		})
	}
}

// The line of a request says what it did, and names no directory of the host.
func TestLogNamesNoDirectoryOfTheHost(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	s.must(http.StatusNotFound, "GET", "none", "")
	s.stop()
	said := s.stderr.String()
	for _, dir := range []string{filepath.Dir(l.Upper), l.Upper, l.Lowers[0], l.Work, os.TempDir() + "/"} {
		if strings.Contains(said, dir) {
			t.Errorf("%s is in the log:\n%s", dir, said)
		}
	}
}

// What a client may ask of every name: the layer that shows it, and how it
// differs from the lowers.
func TestPropertiesTellWhatChanged(t *testing.T) {
	_, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	const ask = `<propfind xmlns="DAV:"><prop><layer xmlns="urn:overdav"/><state xmlns="urn:overdav"/></prop></propfind>`
	tests := []struct{ name, layer, state string }{
		{"a", "upper", "modified"},
		{"dir", "upper", "added"},
		{"sp ace %41+#&é", "1", "unchanged"},
		{"papers", "upper", "renamed"},
		{"papers/deep/c", "1", "unchanged"},
	}
	if os.Geteuid() != 0 { // a copy, since the kernel follows no redirect in an ordinary user's mount
		tests = tests[:3]
	}
	for _, test := range tests {
		status, text := s.do("PROPFIND", test.name, ask, "Depth", "0")
		if status != http.StatusMultiStatus || !strings.Contains(text, ":layer>"+test.layer+"<") || !strings.Contains(text, ":state>"+test.state+"<") {
			t.Errorf("%s: want layer %s, state %s: %d %s", test.name, test.layer, test.state, status, text)
		}
	}
	s.stop()
}
