package web

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A TokenPage is where a user sees, makes and revokes the tokens that they gave
// to programs. It is served at .../tokens; its script speaks to
// .../api/v1/tokens beside it, and its assets are TokenAssets.
type TokenPage struct {
	User   string
	Tokens []TokenRow
	Shares []string // paths to choose from
	Now    time.Time
}

// A TokenRow is one token. The token itself is not known any more.
type TokenRow struct {
	ID, Label, Scope string
	Created, Expires time.Time // Expires is zero for never
	Expired          bool
}

//go:embed tokens.html tokens.js tokens.css
var tokenFiles embed.FS

var tokenTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("tokens.html").Funcs(template.FuncMap{
		"visible": visible,
		"date":    func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
	}).ParseFS(tokenFiles, "tokens.html"))
})

// tokenPolicy lets the page do what it has to and nothing else.
const tokenPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP answers with the page.
func (p *TokenPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if err := tokenTemplate().Execute(&body, p); err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Content-Security-Policy", tokenPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body.Bytes()) // the client may be gone
	}
}

// TokenAssets serves the script and the style of TokenPage, at /tokens.js and
// /tokens.css below where it is mounted.
func TokenAssets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := ""
		switch r.URL.Path {
		case "/tokens.js":
			kind = "text/javascript; charset=utf-8"
		case "/tokens.css":
			kind = "text/css; charset=utf-8"
		default:
			http.NotFound(w, r)
			return
		}
		body, err := tokenFiles.ReadFile(r.URL.Path[1:])
		if err != nil { // it is in the program
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusOK)
		if r.Method != http.MethodHead {
			_, _ = w.Write(body) // the client may be gone
		}
	})
}
