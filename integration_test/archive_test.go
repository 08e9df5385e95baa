package integration_test

import (
	"archive/zip"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// A collection can be had as a zip, with what the user may read and nothing else,
// by one user once at a time, whatever the share; who goes away makes room.
func TestCollectionAsZip(t *testing.T) {
	file, layers := writeShares(t, []string{
		"access:",
		"  - { users: [bob], paths: [/old, /docs/b], allow: none }",
		"  - { users: ['*', anonymous], allow: read }",
	}, "/one", "/two")
	text := readFile(t, file)
	writeFile(t, file, "auth: { user_header: X-User, allow_plaintext_auth: true }\ntrusted_proxies: [127.0.0.1]\nlog: { format: json }\n"+text)
	const long = 64 << 20 // more than what is buffered on the way
	if err := os.WriteFile(layers["/one"].Upper+"/film.mp4", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(layers["/one"].Upper+"/film.mp4", long); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", file)
	s.base = strings.TrimSuffix(s.base, "/one")

	_, body := s.do("GET", "/two", "", "X-User", "bob", "Accept", "text/html")
	if !strings.Contains(body, `<a href="./two/?zip" rel="nofollow">Download as zip</a>`) {
		t.Errorf("no link on the page:\n%s", body)
	}
	for user, want := range map[string]string{
		"bob":   `a docs/ docs/deep/ docs/deep/c sp ace %41+#&é`,
		"alice": `a docs/ docs/b docs/deep/ docs/deep/c old/ old/x old/y sp ace %41+#&é`,
	} {
		resp := askZip(t, s, "/two", "X-User", user)
		zipped, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", user, resp.StatusCode, err)
		}
		if got := namesInZip(t, string(zipped)); got != want {
			t.Errorf("%s gets %s, want %s", user, got, want)
		}
	}

	for _, who := range []struct{ is, same, other []string }{
		{[]string{"X-User", "alice"}, []string{"X-User", "alice", "X-Forwarded-For", "192.0.2.9"}, []string{"X-User", "bob"}},
		{[]string{"X-Forwarded-For", "192.0.2.1"}, []string{"X-Forwarded-For", "192.0.2.1"}, []string{"X-Forwarded-For", "192.0.2.2"}},
		{[]string{"X-Forwarded-For", "2001:db8::1"}, []string{"X-Forwarded-For", "2001:db8::2"}, []string{"X-Forwarded-For", "2001:db8:0:1::1"}},
	} {
		said := len(s.stderr.String())
		running := askZip(t, s, "/one", who.is...)
		if running.StatusCode != http.StatusOK {
			t.Fatalf("%v: %d", who.is, running.StatusCode)
		}
		for _, again := range []struct {
			who  []string
			want int
		}{{who.same, http.StatusTooManyRequests}, {who.other, http.StatusOK}} {
			resp := askZip(t, s, "/two", again.who...)
			resp.Body.Close()
			if resp.StatusCode != again.want || (resp.Header.Get("Retry-After") != "") != (again.want == http.StatusTooManyRequests) {
				t.Errorf("while %v is sent one, %v: %d, Retry-After %q", who.is, again.who, resp.StatusCode, resp.Header.Get("Retry-After"))
			}
		}
		running.Body.Close() // the client goes away
		s.awaitSaid(said, `"aborted":true`)
		resp := askZip(t, s, "/two", who.same...)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("when %v has gone: %d", who.is, resp.StatusCode)
		}
	}
	if said := s.stderr.String(); strings.Contains(said, `"error"`) {
		t.Errorf("a client that goes away is an error:\n%s", said)
	}
	s.stop()
}

// askZip asks for a collection as a zip. headers are pairs.
func askZip(t *testing.T, s *server, name string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("GET", s.url(name)+"?zip", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// namesInZip are the names in it, sorted; of each, the content is held against its
// checksum.
func namesInZip(t *testing.T, zipped string) string {
	t.Helper()
	z, err := zip.NewReader(strings.NewReader(zipped), int64(len(zipped)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		r.Close()
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
