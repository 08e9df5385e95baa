package davfs

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"overdav/overlay"
)

// climbs are spellings of "the directory above" and of what somebody may take
// for it: once and twice encoded, overlong, in other alphabets, with what other
// servers take away.
var climbs = []string{
	"..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "%25252e%25252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%c0%2e%c0%2e",
	"%u002e%u002e", "%uff0e%uff0e", "\uff0e\uff0e", "\u2025", "%ef%bc%8e%ef%bc%8e", "..;", "..;x=y", ";/..", "..%00", "..%00x", "%00..", "..%20", "%20..", "..%09", "..%0a",
	"..%0d%0a", "...", "....", "....//", ".../...//", "..%2f", "..%2F", "%2e%2e%2f", "..%5c", "..%5C", "%2e%2e%5c", "..\\", "..%255c", "..%252f", "..%c0%af", "..%c1%9c",
	"..%ef%bc%8f", "..%e2%88%95", "./..", ".//..", "%2e/%2e%2e", "..//", "//..", "../.", "%2f..", "%2f%2e%2e", "~", "%7e", "..%3f", "..%23", "..?", "..#",
}

// spellings are paths to what is outside the share, and to what is closed in it.
func spellings() (all []string) {
	for _, up := range climbs {
		all = append(
			all, "/dav/open/"+up+"/no/f", "/dav/"+up+"/"+up+"/outside/canary", "/dav/open/"+up+"/"+up+"/"+up+"/outside/canary",
			"/"+up+"/outside/canary", "/dav"+up+"/no/f", "/dav/open/x"+up+"/"+up+"/no/f",
		)
	}
	return append(all, []string{
		"/dav/no/f", "/dav/no//f", "/dav//no/f", "//dav/no/f", "/dav/./no/f", "/dav/no/./f", "/dav/%6eo/f", "/dav/n%6f/%66", "/dav/no%2ff", "/dav/no%2Ff", "/dav/no%5cf", "/dav/no\\f",
		"/dav/NO/f", "/dav/No/F", "/dav/no/", "/dav/no/f/", "/dav/no/f%00", "/dav/no%00/f", "/dav/no/f;x", "/dav/no;x/f", "/dav/no/f?x", "/dav/no?/f", "/dav/no/f#x", "/dav/no%20/f",
		"/dav/no./f", "/dav/no/f.", "/dav/no/f::$DATA", "/dav/no/f%3a%3a$DATA", "/dav/open/l/f", "/dav/open/lf", "/dav/open/up/no/f", "/dav/open/up/open/up/no/f", "/dav/open/root/no/f",
		"/dav/open/out/canary", "/dav/open/outf", "/dav/open/abs", "/dav/open/far/outside/canary", "/dav/open/no/f", "/dav/open/no", "/dav/open/self/no/f",
		"http://h/dav/no/f", "http:///dav/no/f", "//h/dav/no/f", "http://h@other/dav/no/f", "http://h:80/dav/no/f", "http://h/dav/open/../no/f", "https://h/dav/open/%2e%2e/no/f",
		"http://h//dav/no/f", "file:///dav/no/f", "file:///etc/passwd", "dav/no/f", "./dav/no/f", "../dav/no/f", "C:/dav/no/f", "/dav/C:/no/f", "\\dav\\no\\f", "/proc/self/root/etc/passwd", "", "*", "?", "#", "%",
	}...)
}

// A maze is a tree with things that are closed, links to them and out of the
// tree, and something outside that nobody may touch.
type maze struct {
	base        string
	upper, work string
	n           int
	guarded     string // what must not change
	tree        *overlay.FS
	handler     *Handler
	odd         []string // names that Access was asked for and that are none
}

const mazeSecret = "what nobody may see"

func newMaze(t testing.TB) *maze {
	t.Helper()
	m := &maze{base: t.TempDir()}
	abs := filepath.Join(m.base, "outside")
	for name, content := range map[string]string{
		"outside/canary": mazeSecret, "lower/no/f": mazeSecret, "lower/no/d/g": mazeSecret, "lower/open/no/f": mazeSecret,
		"lower/open/f": "open", "lower/open/d/g": "open", "lower/nop/f": "open", "lower/open/e/h/i": "open",
		"lower/open/l": "-> ../no", "lower/open/lf": "-> ../no/f", "lower/open/up": "-> ..", "lower/open/root": "-> /", "lower/open/out": "-> ../../outside",
		"lower/open/outf": "-> ../../outside/canary", "lower/open/abs": "-> " + abs, "lower/open/far": "-> ../../../../../../../.." + m.base, "lower/open/self": "-> self/..",
	} {
		target := filepath.Join(m.base, name)
		mustDo(t, os.MkdirAll(filepath.Dir(target), 0o755))
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			mustDo(t, os.Symlink(to, target))
		} else {
			mustDo(t, os.WriteFile(target, []byte(content), 0o644))
		}
	}
	m.renew(t)
	m.guarded = m.look(t)
	t.Cleanup(func() { mustDo(t, m.tree.Close()) })
	return m
}

// Rights are none on whatever is called "no" and in it, and all on the rest.
func (m *maze) Rights(name string) Right {
	if name != path.Clean(name) || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) {
		m.odd = append(m.odd, name)
	}
	if slices.Contains(strings.Split(name, "/"), "no") {
		return 0
	}
	return allRights
}

// Uniform promises nothing.
func (m *maze) Uniform(string) bool { return false }

// renew begins with an upper that is empty.
func (m *maze) renew(t testing.TB) {
	t.Helper()
	if m.tree != nil {
		mustDo(t, m.tree.Close())
		mustDo(t, os.RemoveAll(m.upper))
		mustDo(t, os.RemoveAll(m.work))
	}
	m.n++
	m.upper = filepath.Join(m.base, fmt.Sprint("upper", m.n))
	m.work = filepath.Join(m.base, fmt.Sprint("work", m.n))
	mustDo(t, os.Mkdir(m.upper, 0o755))
	mustDo(t, os.Mkdir(m.work, 0o755))
	var err error
	m.tree, err = overlay.Open(overlay.Options{Lowers: []string{filepath.Join(m.base, "lower")}, Upper: m.upper, Work: m.work, Durability: overlay.DurabilityNone})
	mustDo(t, err)
	m.handler, err = NewHandler(NewFileSystem(m.tree), Options{
		Prefix: "/dav", InfiniteDepth: 1000, Archives: &Archives{PerUser: 1}, Access: func(*http.Request) Access { return m },
		Listing: func(w http.ResponseWriter, _ *http.Request, _ string, members []Member) { fmt.Fprintln(w, members) },
	})
	mustDo(t, err)
}

// look returns all that nobody may change: outside, and the closed places.
func (m *maze) look(t testing.TB) string {
	t.Helper()
	text := snapshotDir(t, filepath.Join(m.base, "outside"))
	entries, err := os.ReadDir(m.base)
	mustDo(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "upper") && !strings.HasPrefix(e.Name(), "work") {
			text += e.Name() + "\n"
		}
	}
	for _, dir := range []string{"no", "no/d", "open/no"} {
		infos, err := m.tree.ReadDir(dir)
		mustDo(t, err)
		for _, info := range infos {
			attrs, err := m.tree.Listxattr(dir + "/" + info.Name())
			mustDo(t, err)
			text += fmt.Sprintln(dir, info.Name(), info.Mode(), info.ModTime(), info.Layer(), info.ETag(), attrs)
		}
	}
	return text
}

// check holds what came of a request against what may come of any, and puts the
// tree back.
func (m *maze) check(t testing.TB, what, response string) {
	t.Helper()
	if strings.Contains(response, mazeSecret) || strings.Contains(response, "canary") && !strings.Contains(what, "canary") || strings.Contains(response, m.base) {
		t.Errorf("%s is answered:\n%s", what, response)
	}
	if after := m.look(t); after != m.guarded {
		t.Errorf("%s has changed\n%s\nto\n%s", what, m.guarded, after)
	}
	if len(m.odd) > 0 {
		t.Errorf("%s: rights are asked for of %q", what, m.odd)
		m.odd = nil
	}
	entries, err := os.ReadDir(m.upper)
	mustDo(t, err)
	if len(entries) > 0 {
		m.renew(t)
	}
}

func snapshotDir(t testing.TB, dir string) string {
	t.Helper()
	var text string
	mustDo(t, filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			text += fmt.Sprintln(name, info.Mode(), info.ModTime(), info.Size())
		}
		return err
	}))
	return text
}

// Each way to write a path that leads out of the share, or to what is closed in
// it, in each field that has a path, as bytes on the wire: nothing there is read
// or changed, and rights are asked for of canonical names alone.
func TestTraversal(t *testing.T) {
	t.Parallel()
	m := newMaze(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	count := 0
	try := func(method, target string, headers ...string) {
		count++
		request := method + " " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
		for _, h := range headers {
			request += h + "\r\n"
		}
		switch method {
		case "PUT", "PATCH":
			request += "Content-Type: " + patchType + "\r\nX-Update-Range: bytes=0-0\r\nContent-Length: 1\r\n\r\nx"
		case "LOCK":
			request += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(lockExclusive), lockExclusive)
		case "PROPPATCH":
			body := patchSet("<x:a>1</x:a>")
			request += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
		default:
			request += "\r\n"
		}
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		mustDo(t, err)
		defer c.Close()
		_, err = io.WriteString(c, request)
		mustDo(t, err)
		response, err := io.ReadAll(bufio.NewReader(c))
		mustDo(t, err)
		m.check(t, fmt.Sprintf("%s %q %q", method, target, headers), string(response))
	}
	all := spellings()
	for i, s := range all {
		for _, method := range []string{"GET", "PROPFIND", "PUT", "DELETE"} {
			try(method, s)
		}
		// The other methods go the same way to the same Path: each for some.
		other := []string{"HEAD", "OPTIONS", "PATCH", "MKCOL", "PROPPATCH", "LOCK", "UNLOCK", "TRACE"}[i%8]
		try(other, s, "Lock-Token: <urn:uuid:x>")
		try("GET", s+"?zip")
		if strings.ContainsAny(s, "\r\n\x00") {
			continue
		}
		for _, method := range []string{"COPY", "MOVE"} {
			try(method, s, "Destination: /dav/open/new")
			try(method, "/dav/open/f", "Destination: "+s)
			try(method, "/dav/open/d", "Destination: http://h"+s, "Overwrite: F")
		}
		try("PUT", "/dav/open/f", "If: <"+s+"> (Not <DAV:no-lock>)")
		try("GET", "/dav/open/f", "If: <http://h"+s+"> ([\"x\"])")
		try("GET", "/dav/open/f?path="+url.QueryEscape(s), "X-Original-URL: "+s, "X-Rewrite-URL: "+s, "X-HTTP-Method-Override: DELETE", "X-Forwarded-Prefix: "+s,
			"X-Forwarded-Host: "+s, "X-Forwarded-Path: "+s, "X-Sendfile: "+s, "X-Accel-Redirect: "+s, "Content-Location: "+s, "Lock-Token: <"+s+">", "Referer: "+s)
	}
	t.Logf("%d spellings, %d requests", len(all), count)
}

// Whatever a client sends: nothing that is closed, or outside, is read or
// changed, so that what was opened is what rights were asked for.
func FuzzRights(f *testing.F) {
	all := spellings()
	const families = 6 // of what is tried with each climb; here one of them will do
	for i, s := range all {
		if climb := i / families; climb < len(climbs) && i%families != climb%families {
			continue
		}
		method := []string{"GET", "PROPFIND", "PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH", "PATCH"}[i%8]
		f.Add(method, s, "", "")
		f.Add([]string{"COPY", "MOVE"}[i%2], "/dav/open/d", s, "<"+s+"> (Not <DAV:no-lock>)")
		f.Add([]string{"MOVE", "COPY"}[i%2], s, "/dav/open/new", "")
	}
	m := newMaze(f)
	f.Fuzz(func(t *testing.T, method, target, dst, ifs string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !isToken(method) {
			return // net/http refuses it
		}
		body := map[string]string{"PUT": "x", "PATCH": "x", "LOCK": lockExclusive, "PROPPATCH": patchSet("<x:a>1</x:a>")}[method]
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI, r.Host = method, u, target, "h"
		for name, value := range map[string]string{
			"Destination": dst, "If": ifs, "X-Forwarded-Prefix": dst, "Content-Type": patchType, "X-Update-Range": "bytes=0-0", "Lock-Token": "<urn:uuid:x>",
		} {
			if value != "" && !strings.ContainsAny(value, "\r\n\x00") {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, r)
		m.check(t, fmt.Sprintf("%s %q to %q if %q", method, target, dst, ifs), fmt.Sprint(w.Header(), w.Body))
	})
}
