package integration_test

import (
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// shown is how a browser writes text that it shows.
var shown = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// follow returns where a link of a page leads, as a browser would take it.
func follow(t *testing.T, page, base, text string) string {
	t.Helper()
	link := regexp.MustCompile(`<a href="([^"]*)"[^>]*>` + regexp.QuoteMeta(shown.Replace(text)) + `</a>`).FindStringSubmatch(page)
	if link == nil {
		t.Fatalf("no link %s in\n%s", text, page)
	}
	from, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	to, err := from.Parse(html.UnescapeString(link[1]))
	if err != nil {
		t.Fatal(err)
	}
	return to.String()
}

// From the address that overdav prints every file can be reached, whatever its
// name, and from there the way back.
func TestBrowserFollowsLinks(t *testing.T) {
	needProgram(t, "chromium")
	s, l := shareFor(t)
	const odd = `sp ace %41+#&é?"<b>.txt`
	s.must(http.StatusCreated, "PUT", "docs/deep/note.txt", "a note") // what has no known ending is downloaded
	s.must(http.StatusCreated, "PUT", odd, "an odd name")
	before := s.tree()
	for _, links := range [][]string{{"docs/", "deep/", "note.txt", "a note"}, {"docs/", "..", odd, "an odd name"}} {
		at := s.base + "/"
		page := browse(t, at)
		for _, link := range links[:3] {
			at = follow(t, page, at, link)
			page = browse(t, at)
		}
		if want := links[3]; !strings.Contains(page, ">"+want+"<") {
			t.Errorf("%q leads to %s with\n%s", links, at, page)
		}
	}
	s.finish(l, before)
}

// A page of the share that somebody opens has that person's rights, but cannot
// use them.
func TestBrowserPageOfTheShareWritesNothing(t *testing.T) {
	needProgram(t, "chromium")
	const attack = `<!doctype html><title>a page</title><body><script>
		const request = new XMLHttpRequest()
		request.open("PUT", "/docs/b", false)
		request.send("overwritten")
	</script>`

	// Where nothing hinders it the page does what it is meant to do.
	written := ""
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			body, _ := io.ReadAll(r.Body) // what was cut off is not what is awaited
			written = string(body)
		default:
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, attack) // the browser complains
		}
	}))
	defer control.Close()
	if browse(t, control.URL); written != "overwritten" {
		t.Fatalf("the page has written %q; it is not the attack it should be", written)
	}

	s, l := shareFor(t)
	s.must(http.StatusCreated, "PUT", "page.html", attack)
	s.must(http.StatusCreated, "PUT", "frame.html", `<iframe src="page.html"></iframe><iframe src="./"></iframe>`)
	before := s.tree()
	for _, name := range []string{"page.html", "frame.html"} {
		if page := browse(t, s.url(name)); !strings.Contains(page, "page") {
			t.Errorf("%s is not shown:\n%s", name, page)
		}
	}
	s.finish(l, before)
}
