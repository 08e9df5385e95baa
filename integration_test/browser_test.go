package integration_test

import (
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// The address that overdav prints can be opened in a browser, and asked by a
// program.
func TestAddressShowsAPageOrJSON(t *testing.T) {
	_, args := newShare(t)
	s := serve(t, args...)
	s.must(http.StatusCreated, "PUT", "docs/new", "12345")

	status, page := s.do("GET", "docs/", "", "Accept", "text/html,*/*;q=0.8")
	if status != http.StatusOK {
		t.Errorf("page: status %d", status)
	}
	for _, want := range []string{"<title>/docs/</title>", `<a href="./new">new</a>`, `<a href="./deep/">deep/</a>`, "5 B"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}

	_, text := s.do("GET", "docs", "", "Accept", "application/json")
	var list struct {
		Path    string
		Entries []struct {
			Name, Href string
			Collection bool
			Size       int64
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var got []string
	for _, e := range list.Entries {
		got = append(got, e.Name)
	}
	if names := strings.Join(got, " "); list.Path != "/docs/" || names != "deep b new" {
		t.Errorf("%s has %s, want /docs/ and deep b new", list.Path, names)
	}
	s.must(http.StatusNotFound, "GET", "none/", "")
	s.stop()
}

// browse returns a page as a browser has it after loading it and running what
// it runs.
func browse(t *testing.T, url string) string {
	t.Helper()
	dir := openDir(t)
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+dir+"/profile", "--dump-dom", url)
	cmd.Dir = dir
	cmd.Env = append(script(dir, "").Env, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	return run(t, cmd)
}

// Neither the name of a file nor what is in it may run in the pages' origin,
// where it could change everything.
func TestBrowserRunsNothingOfTheShare(t *testing.T) {
	needProgram(t, "chromium")
	const attack = `<script>document.title="it ran"</script>`
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<title>harmless</title>" + attack)) // the browser complains
	}))
	defer control.Close()
	if page := browse(t, control.URL); !strings.Contains(page, "<title>it ran</title>") {
		t.Fatalf("the browser runs no scripts at all:\n%s", page)
	}

	_, args := newShare(t)
	s := serve(t, args...)
	names := []string{`<img src=x onerror=document.title="it ran">.txt`, `"><svg onload=document.title=1>`, "javascript:document.title=1", "a&amp;b"}
	for _, name := range names {
		s.must(http.StatusCreated, "PUT", name, "x")
	}
	page := browse(t, s.base+"/")
	if !strings.Contains(page, "<title>/</title>") {
		t.Errorf("the title is not what overdav sent:\n%s", page)
	}
	for _, name := range names {
		// What a browser writes as text, it has read as text.
		text := strings.NewReplacer("&#34;", `"`, "&#39;", "'").Replace(html.EscapeString(name))
		if !strings.Contains(page, ">"+text+"</a>") {
			t.Errorf("no text %s in\n%s", text, page)
		}
	}

	for _, name := range []string{"page.html", "picture.svg", "page.xhtml"} {
		body := "<title>harmless</title>" + attack
		if !strings.HasSuffix(name, ".html") {
			body = `<html xmlns="http://www.w3.org/1999/xhtml"><head><title>harmless</title></head><body>` + attack + `</body></html>`
		}
		s.must(http.StatusCreated, "PUT", name, body)
		if page := browse(t, s.url(name)); !strings.Contains(page, "harmless") || strings.Contains(page, "<title>it ran") {
			t.Errorf("%s in a browser is\n%s", name, page)
		}
	}

	// The browser's own viewer is not kept from showing what it would show anyway.
	without := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pdf")
		_, _ = w.Write([]byte(onePage)) // the browser complains
	}))
	defer without.Close()
	s.must(http.StatusCreated, "PUT", "paper.pdf", onePage)
	viewer := func(url string) string {
		page, _, _ := strings.Cut(browse(t, url), "</html>") // what follows are complaints of the browser's
		return page[max(strings.Index(page, "<html "), 0):]  // it has attributes; a page of ours, or about an error, has others
	}
	if got, want := viewer(s.url("paper.pdf")), viewer(without.URL+"/paper.pdf"); got != want {
		t.Errorf("a PDF in a browser is\n%s\nand elsewhere\n%s", got, want)
	}
	s.stop()
}

// onePage is a PDF of one red page; readers find the objects without a table.
const onePage = `%PDF-1.4
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 400 300] /Contents 4 0 R >> endobj
4 0 obj << /Length 27 >> stream
1 0 0 rg 0 0 400 300 re f
endstream endobj
trailer << /Size 5 /Root 1 0 R >>
%%EOF`
