package davfs

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"overdav/overlay"
)

// Whatever a client sends, the answer is no failure of the server's, XML is
// well-formed, nothing outside the share is named, and the lower stays as it is.
func FuzzHandler(f *testing.F) {
	for _, seed := range [][6]string{
		{"PUT", "/f", "", "(<urn:uuid:x>)", "bytes 0-1/*", "ab"},
		{"MOVE", "/d", "/d/e", "</f> ([\"x\"] Not <a:b>)", "", ""},
		{"COPY", "/f", "http://h/%66", "", "", ""},
		{"PROPFIND", "/", "1", "", "", allprop},
		{"PROPFIND", "/d/", "infinity", "", "", named("D:getetag", "x")},
		{"PROPPATCH", "/f", "", "", "", patchSet("<x:a xml:lang='de'>1<x:b/></x:a><D:getlastmodified>Thu, 02 Jan 2020 03:04:05 GMT</D:getlastmodified>")},
		{"LOCK", "/new", "0", "", "Second-1", lockExclusive},
		{"UNLOCK", "/f", "", "", "<urn:uuid:x>", ""},
		{"PATCH", "/f", "", "", "bytes=-1", "z"},
		{"MKCOL", "/l/x", "", "", "", ""},
		{"DELETE", "/%64", "infinity", "", "", ""},
		{"GET", "/f", "", "", "bytes=0-0,1-1", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4], seed[5])
	}
	base := f.TempDir()
	lower := filepath.Join(base, "lower")
	for _, dir := range []string{"lower", "lower/d", "lower/d/e", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for _, name := range []string{"f", "d/g"} {
		if err := os.WriteFile(filepath.Join(lower, name), []byte("content"), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("d", filepath.Join(lower, "l")); err != nil {
		f.Fatal(err)
	}
	tree, err := overlay.Open(overlay.Options{
		Lowers: []string{lower}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
		Durability: overlay.DurabilityNone,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := tree.Close(); err != nil {
			f.Error(err)
		}
	})
	handler, err := NewHandler(NewFileSystem(tree), Options{InfiniteDepth: 100})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, dst, ifs, rng, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" || !isToken(method) {
			return // net/http refuses it
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI, r.Host = method, u, path, "h"
		for name, value := range map[string]string{
			"Destination": dst, "Depth": dst, "If": ifs, "If-Match": ifs, "Lock-Token": rng, "Timeout": rng,
			"Content-Range": rng, "X-Update-Range": rng, "Range": rng, "X-OC-Mtime": rng, "OC-Checksum": rng,
		} {
			if value != "" && !strings.ContainsAny(value, "\r\n\x00") {
				r.Header.Set(name, value)
			}
		}
		r.Header.Set("Content-Type", patchType)
		before := snapshot(t, lower)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if status := w.Code; status >= 500 && !slices.Contains([]int{http.StatusBadGateway, http.StatusInsufficientStorage, http.StatusServiceUnavailable}, status) {
			t.Errorf("got %d %s", status, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/xml") && w.Header().Get("Content-Encoding") == "" {
			wellFormed(t, w.Body.String())
		}
		if after := snapshot(t, lower); after != before {
			t.Errorf("the lower changed: %s, was %s", after, before)
		}
	})
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r) })
}

func wellFormed(t *testing.T, body string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(body))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("not XML: %v: %s", err, body)
		}
	}
}
