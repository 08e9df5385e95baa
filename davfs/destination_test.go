package davfs

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("n", maxSegment)
	for _, tt := range []struct {
		escaped string
		want    string
		slash   bool
		err     error
	}{
		{"/", "/", true, nil},
		{"/a", "/a", false, nil},
		{"/a/", "/a", true, nil},
		{"/a/b%20c", "/a/b c", false, nil},
		{"/%61", "/a", false, nil},
		{"/a%252fb", "/a%2fb", false, nil}, // decoded once
		{"/a+b&c;d=e", "/a+b&c;d=e", false, nil},
		{"/c%3a%5Cd", `/c:\d`, false, nil},
		{"/...", "/...", false, nil},
		{"/.hidden", "/.hidden", false, nil},
		{"/\u00e4/%C3%A4", "/\u00e4/\u00e4", false, nil},
		{"/a%0Ab", "/a\nb", false, nil}, // may be read and deleted, see checkCreate
		{"/" + long, "/" + long, false, nil},

		{"", "", false, errBadPath},
		{"a", "", false, errBadPath},
		{"*", "", false, errBadPath},
		{"//", "", false, errBadPath},
		{"//a", "", false, errBadPath},
		{"/a//b", "", false, errBadPath},
		{"/a//", "", false, errBadPath},
		{"/.", "", false, errBadPath},
		{"/./", "", false, errBadPath},
		{"/a/../b", "", false, errBadPath},
		{"/a/%2e%2E/b", "", false, errBadPath},
		{"/a/.%2e", "", false, errBadPath},
		{"/%2e", "", false, errBadPath},
		{"/a%2fb", "", false, errBadPath},
		{"/a%2F..%2Fb", "", false, errBadPath},
		{"/a%00b", "", false, errBadPath},
		{"/a\x00b", "", false, errBadPath},
		{"/%ff", "/\xff", false, nil}, // may be read and deleted, see checkCreate
		{"/\xff", "/\xff", false, nil},
		{"/%c0%af", "/\xc0\xaf", false, nil},
		{"/%ed%a0%80", "/\xed\xa0\x80", false, nil},
		{"/%", "", false, errBadPath},
		{"/%4", "", false, errBadPath},
		{"/%4g", "", false, errBadPath},
		{"/%u0041", "", false, errBadPath},
		{"/" + long + "n", "", false, errPathTooLong},
		{strings.Repeat("/"+long, 17), "", false, errPathTooLong},
		{"/" + strings.Repeat("a/", 3*maxPath), "", false, errPathTooLong},
	} {
		got, slash, err := parsePath(tt.escaped, namePolicy{})
		if tt.err != nil {
			if !errors.Is(err, tt.err) || got != (Path{}) || slash {
				t.Errorf("parsePath(%.60q) = %v, %v, %v; want %v", tt.escaped, got, slash, err, tt.err)
			}
			continue
		}
		if got.String() != tt.want || slash != tt.slash || err != nil {
			t.Errorf("parsePath(%.60q) = %v, %v, %v; want %v, %v", tt.escaped, got, slash, err, tt.want, tt.slash)
		}
	}
	if got, _, err := parsePath("/%ff", namePolicy{bytes: true}); got.String() != "/\xff" || err != nil {
		t.Errorf("with names of any bytes, /%%ff = %q, %v", got, err)
	}
}

func TestPathRelations(t *testing.T) {
	root, a, ab, abc := Path{}, at(t, "/a"), at(t, "/a/b"), at(t, "/a/bc")
	for _, tt := range []struct {
		p, q Path
		want bool
	}{
		{root, a, true},
		{root, ab, true},
		{a, ab, true},
		{root, root, false},
		{a, a, false},
		{ab, a, false},
		{ab, abc, false},
		{a, root, false},
	} {
		if got := tt.p.Contains(tt.q); got != tt.want {
			t.Errorf("%v contains %v = %v, want %v", tt.p, tt.q, got, tt.want)
		}
	}
	for _, tt := range []struct{ p, parent, name, base string }{
		{"/", "/", ".", ""}, {"/a", "/", "a", "a"}, {"/a/b", "/a", "a/b", "b"},
	} {
		p := at(t, tt.p)
		if p.Parent().String() != tt.parent || p.Name() != tt.name || p.Base() != tt.base {
			t.Errorf("%v: parent %v, name %q, base %q; want %v, %q, %q", p, p.Parent(), p.Name(), p.Base(), tt.parent, tt.name, tt.base)
		}
	}
	if got, ok := ab.below(a); got != at(t, "/b") || !ok {
		t.Errorf("%v below %v = %v, %v; want /b", ab, a, got, ok)
	}
	if got, ok := at(t, "/davfoo").below(at(t, "/dav")); ok {
		t.Errorf("/davfoo below /dav = %v; half a name is no prefix", got)
	}
	if got := a.join(ab); got != at(t, "/a/a/b") {
		t.Errorf("/a join /a/b = %v, want /a/a/b", got)
	}
	if got := a.child("x"); got != at(t, "/a/x") {
		t.Errorf("child = %v, want /a/x", got)
	}
}

func TestCheckCreate(t *testing.T) {
	for _, tt := range []struct {
		name          string
		any, portable bool
	}{
		{"plain.txt", true, true},
		{"with space", true, true},
		{"\u00e4\u202e", true, true},
		{"CONSOLE", true, true},
		{"com", true, true},
		{"a\nb", false, false},
		{"a\x7f", false, false},
		{"a\xff", false, false},
		{`a\b`, true, false},
		{"a:b", true, false},
		{"a?", true, false},
		{"dot.", true, false},
		{"space ", true, false},
		{"nul", true, false},
		{"NUL.txt", true, false},
		{"con .x", true, false},
		{"Lpt9.log", true, false},
	} {
		p := Path{}.child(tt.name)
		if got := (namePolicy{}).checkCreate(p) == nil; got != tt.any {
			t.Errorf("create %q: %v, want %v", tt.name, got, tt.any)
		}
		if got := (namePolicy{portable: true}).checkCreate(p) == nil; got != tt.portable {
			t.Errorf("create %q, portable: %v, want %v", tt.name, got, tt.portable)
		}
	}
}

func TestDestination(t *testing.T) {
	public := &url.URL{Scheme: "https", Host: "files.example.org", Path: "/dav"}
	bare := &url.URL{Scheme: "https", Host: "files.example.org"}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	const direct, proxy = "192.0.2.1:1234", "10.1.2.3:1234"
	for _, tt := range []struct {
		name   string
		site   Site
		peer   string
		host   string
		fields []string
		value  string
		want   string
		err    error
	}{
		{"absolute", Site{}, direct, "example.org", nil, "http://example.org/a/b", "/a/b", nil},
		{"path", Site{}, direct, "example.org", nil, "/a/b", "/a/b", nil},
		{"https before us", Site{}, direct, "example.org", nil, "https://example.org/a", "/a", nil},
		{"any scheme", Site{}, direct, "example.org", nil, "dav+x://example.org/a", "/a", nil},
		{"any case", Site{}, direct, "Example.org", nil, "HTTP://EXAMPLE.ORG/a", "/a", nil},
		{"default port", Site{}, direct, "example.org", nil, "http://example.org:80/a", "/a", nil},
		{"default port of the host", Site{}, direct, "example.org:443", nil, "https://example.org/a", "/a", nil},
		{"own port", Site{}, direct, "example.org:8080", nil, "http://example.org:8080/a", "/a", nil},
		{"no port at all", Site{}, direct, "example.org", nil, "http://example.org:/a", "/a", nil},
		{"user", Site{}, direct, "example.org", nil, "http://me:pw@example.org/a", "/a", nil},
		{"dot at the end", Site{}, direct, "example.org", nil, "http://example.org./a", "/a", nil},
		{"IPv6", Site{}, direct, "[::1]:8080", nil, "http://[0:0::1]:8080/a", "/a", nil},
		{"IPv6, default port", Site{}, direct, "[::1]", nil, "http://[::1]:80/a", "/a", nil},
		{"host alone", Site{}, direct, "example.org", nil, "http://example.org", "/", nil},
		{"escapes", Site{}, direct, "example.org", nil, "http://example.org/a%20b/%C3%A4", "/a b/\u00e4", nil},
		{"raw space and bytes", Site{}, direct, "example.org", nil, "/a b/\u00e4&;+", "/a b/\u00e4&;+", nil},
		{"decoded once", Site{}, direct, "example.org", nil, "/100%2525", "/100%25", nil},

		{"none", Site{}, direct, "example.org", nil, "", "", errBadHeader},
		{"relative", Site{}, direct, "example.org", nil, "a/b", "", errBadHeader},
		{"query", Site{}, direct, "example.org", nil, "/what?", "", errBadHeader},
		{"fragment", Site{}, direct, "example.org", nil, "http://example.org/a#b", "", errBadHeader},
		{"no host", Site{}, direct, "example.org", nil, "http:///a", "", errBadHeader},
		{"empty host", Site{}, direct, "", nil, "http://@/a", "", errOtherServer},
		{"no scheme", Site{}, direct, "example.org", nil, "://example.org/a", "", errBadHeader},
		{"two slashes", Site{}, direct, "example.org", nil, "//example.org/a", "", errBadPath},
		{"dots", Site{}, direct, "example.org", nil, "http://example.org/a/../b", "", errBadPath},
		{"hidden slash", Site{}, direct, "example.org", nil, "http://example.org/a%2fb", "", errBadPath},
		{"half an escape", Site{}, direct, "example.org", nil, "http://example.org/a%", "", errBadPath},
		{"other server", Site{}, direct, "example.org", nil, "http://example.com/a", "", errOtherServer},
		{"other port", Site{}, direct, "example.org", nil, "http://example.org:8080/a", "", errOtherServer},
		{"host in front", Site{}, direct, "example.org", nil, "http://example.org.evil/a", "", errOtherServer},
		{"too long", Site{}, direct, "example.org", nil, "/" + strings.Repeat("a", 20<<10), "", errHeaderTooLarge},

		{"public name", Site{PublicURL: bare}, direct, "127.0.0.1:8080", nil, "https://files.example.org/a", "/a", nil},
		{"public prefix goes", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "https://files.example.org/dav/a", "/a", nil},
		{"public prefix, path only", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "/dav/a", "/a", nil},
		{"public root", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "https://files.example.org/dav", "/", nil},
		{"half a public prefix", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "https://files.example.org/davfoo", "", errOutsideShare},
		{"outside the public prefix", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "https://files.example.org/a", "", errOutsideShare},
		{"the proxy rewrote it", Site{PublicURL: public}, direct, "127.0.0.1:8080", nil, "http://127.0.0.1:8080/a", "/a", nil},

		{"trusted host", Site{TrustedProxies: proxies}, proxy, "backend", []string{"X-Forwarded-Host", "files.example.org"}, "https://files.example.org/a", "/a", nil},
		{"mapped address", Site{TrustedProxies: proxies}, "[::ffff:10.1.2.3]:99", "backend", []string{"X-Forwarded-Host", "h"}, "https://h/a", "/a", nil},
		{"trusted list", Site{TrustedProxies: proxies}, proxy, "backend", []string{"X-Forwarded-Host", "a.example, b.example"}, "https://b.example/a", "/a", nil},
		{"trusted port", Site{TrustedProxies: proxies}, proxy, "backend", []string{"X-Forwarded-Host", "a.example", "X-Forwarded-Port", "8443"}, "https://a.example:8443/a", "/a", nil},
		{"trusted prefix", Site{TrustedProxies: proxies}, proxy, "backend", []string{"X-Forwarded-Host", "h", "X-Forwarded-Prefix", "/p%20q"}, "https://h/p%20q/a", "/a", nil},
		{"trusted prefix kept", Site{TrustedProxies: proxies}, proxy, "h", []string{"X-Forwarded-Prefix", "/p"}, "/p/a", "/a", nil},
		{"Forwarded", Site{TrustedProxies: proxies}, proxy, "backend", []string{"Forwarded", `for=1.2.3.4;host=h.example;proto=https, For="[::1]" ; Host="g.example:8443"`}, "https://g.example:8443/a", "/a", nil},
		{"Unix socket", Site{}, "@", "backend", []string{"X-Forwarded-Host", "h"}, "https://h/a", "/a", nil},
		{"untrusted host", Site{TrustedProxies: proxies}, direct, "backend", []string{"X-Forwarded-Host", "h", "Forwarded", "host=h"}, "https://h/a", "", errOtherServer},
		{"untrusted prefix", Site{TrustedProxies: proxies}, direct, "h", []string{"X-Forwarded-Prefix", "/p"}, "/p/a", "/p/a", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("MOVE", "/x", nil)
			r.Host, r.RemoteAddr = tt.host, tt.peer
			for i := 0; i < len(tt.fields); i += 2 {
				r.Header.Set(tt.fields[i], tt.fields[i+1])
			}
			f, err := tt.site.front(r, namePolicy{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.value != "" {
				r.Header.Set("Destination", tt.value)
			}
			got, _, err := f.destination(r.Header)
			if tt.err != nil {
				if !errors.Is(err, tt.err) || got != (Path{}) {
					t.Errorf("Destination %q = %v, %v; want %v", tt.value, got, err, tt.err)
				}
				return
			}
			if got.String() != tt.want || err != nil {
				t.Errorf("Destination %q = %v, %v; want %v", tt.value, got, err, tt.want)
			}
		})
	}
}

func TestDestinationKeepsTheSlash(t *testing.T) {
	f := front{site: new(Site), request: &http.Request{Host: "h"}}
	if _, slash, err := f.resolve("http://h/a/"); !slash || err != nil {
		t.Errorf("http://h/a/: slash = %v, %v; want true", slash, err)
	}
	if _, slash, err := f.resolve("/a"); slash || err != nil {
		t.Errorf("/a: slash = %v, %v; want false", slash, err)
	}
	if got := string(appendHref(nil, Path{}, Path{}, false)); got != "/" {
		t.Errorf("href of the root = %q, want /", got)
	}
}

// The path of a request is what stood in its first line.
func TestRequestPath(t *testing.T) {
	for _, tt := range []struct {
		target, want string
		slash        bool
		err          error
	}{
		{"/", "/", true, nil},
		{"/a%20b/%C3%A4/", "/a b/\u00e4", true, nil},
		{"/a|b[c]^", "/a|b[c]^", false, nil},
		{"/a?b=c", "/a", false, nil},
		{"http://example.org/a%25", "/a%", false, nil},
		{"/a%2fb", "", false, errBadPath},
		{"/a%2fb|", "", false, errBadPath},
		{"/a/%2e%2e/b|", "", false, errBadPath},
		{"//a", "", false, errBadPath},
		{"*", "", false, errBadPath},
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("PROPFIND " + tt.target + " HTTP/1.1\r\nHost: example.org\r\n\r\n")))
		if err != nil {
			t.Fatalf("%s: %v", tt.target, err)
		}
		got, slash, err := requestPath(r, namePolicy{})
		if !errors.Is(err, tt.err) || err == nil && (got.String() != tt.want || slash != tt.slash) {
			t.Errorf("%s = %v, %v, %v; want %v, %v, %v", tt.target, got, slash, err, tt.want, tt.slash, tt.err)
		}
	}
}

func TestBadPublicPrefixIsAnError(t *testing.T) {
	r := httptest.NewRequest("MOVE", "/x", nil)
	r.RemoteAddr = "@"
	r.Header.Set("X-Forwarded-Prefix", "/a/../b")
	if f, err := new(Site).front(r, namePolicy{}); err == nil {
		t.Errorf("front = %+v, want an error", f)
	}
}

// The path of an href is the path that a request for it names.
func FuzzPath(f *testing.F) {
	f.Add("/a/b%20c/")
	f.Add("/%2e%2e/%2f")
	f.Add("/\xff%ff")
	f.Fuzz(func(t *testing.T, escaped string) {
		p, slash, err := parsePath(escaped, namePolicy{bytes: true})
		if err != nil {
			return
		}
		if strings.Contains(p.name, "//") || strings.Contains(p.name+"/", "/../") || strings.Contains(p.name+"/", "/./") ||
			strings.Contains(p.name, "\x00") || len(p.name) > maxPath || p.name == "/" {
			t.Fatalf("%q = %q", escaped, p.name)
		}
		href := appendHref(nil, Path{}, p, slash)
		if bytes.ContainsAny(href, "<>&\"? #\\\x00\n") {
			t.Fatalf("href %q", href)
		}
		again, slash2, err := parsePath(string(href), namePolicy{bytes: true})
		if again != p || slash2 != slash || err != nil {
			t.Fatalf("%q = %q, whose href %q is %q, %v", escaped, p.name, href, again.name, err)
		}
		u, err := url.ParseRequestURI(string(href))
		if err != nil || u.Path != strings.TrimSuffix(p.String(), "/")+strings.Repeat("/", len(href)-len(strings.TrimSuffix(string(href), "/"))) {
			t.Fatalf("net/url reads %q as %v, %v", href, u, err)
		}
	})
}

// Whatever is accepted as a destination is the same for net/url, and the path
// and the host of an accepted URL are ours.
func FuzzDestination(f *testing.F) {
	f.Add("http://example.org/a/b%20c/")
	f.Add("https://me@EXAMPLE.org:443/dav/x")
	f.Add("//example.org/a")
	f.Fuzz(func(t *testing.T, ref string) {
		fr := front{site: new(Site), request: &http.Request{Host: "example.org"}, policy: namePolicy{bytes: true}}
		p, slash, err := fr.destination(http.Header{"Destination": {ref}})
		if err != nil {
			return
		}
		again, slash2, err := fr.resolve(string(appendHref(nil, Path{}, p, slash)))
		if again != p || slash2 != slash || err != nil {
			t.Fatalf("%q = %v, whose href is %v, %v", ref, p, again, err)
		}
		u, err := url.Parse(strings.Trim(ref, " \t"))
		if err != nil {
			return // ours is more lenient about what stands raw in a header
		}
		if strings.TrimSuffix(u.Path, "/") != strings.TrimSuffix(p.String(), "/") {
			t.Fatalf("%q = %q, for net/url %q", ref, p, u.Path)
		}
		if host := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."); u.Host != "" && host != "example.org" {
			t.Fatalf("%q was accepted with host %q", ref, host)
		}
	})
}
