package main

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"overdav/auth"
	"overdav/web"
)

// Where users find their tokens.
const (
	tokensPath    = ownPath + "/tokens"        // the page
	tokensAPIPath = ownPath + "/api/v1/tokens" // what it asks
)

// maxTokenRequest is the largest body of a request for a token.
const maxTokenRequest = 16 << 10

// A tokenAPI lets users make, list and revoke their own tokens. It speaks JSON
// alone, and takes it from requests that say so: a browser sends that for a page
// of another site only after having asked, which nobody answers here.
type tokenAPI struct {
	tokens *auth.Tokens
	config Config
	log    zerolog.Logger
	sees   func(r *http.Request, share int) bool // as the door's
}

// configFor has only the shares that who makes r may know of.
func (api *tokenAPI) configFor(r *http.Request) Config {
	c := api.config
	c.Shares = nil
	for i, share := range api.config.Shares {
		if api.sees(r, i) {
			c.Shares = append(c.Shares, share)
		}
	}
	return c
}

// addTo puts the page and the API on mux.
func (api *tokenAPI) addTo(mux *http.ServeMux) {
	mux.Handle("GET "+tokensAPIPath, api.forUser(api.list))
	mux.Handle("POST "+tokensAPIPath, api.forUser(api.create))
	mux.Handle("DELETE "+tokensAPIPath+"/{id}", api.forUser(api.revoke))
	mux.Handle("GET "+tokensPath, api.forUser(api.page))
	mux.Handle("GET "+tokensPath+"/", http.StripPrefix(tokensPath, web.TokenAssets()))
}

// forUser lets in who has a name and gave a password: a token must not make
// another that is good for more.
func (api *tokenAPI) forUser(next func(http.ResponseWriter, *http.Request, auth.Identity)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := auth.From(r.Context())
		switch {
		case id.IsAnonymous() && mayIdentify(w.Header(), r):
			http.Error(w, "say who you are to see your tokens", http.StatusUnauthorized)
		case id.IsAnonymous(), id.Scope != nil:
			http.Error(w, "tokens are for those who give their name and password", http.StatusForbidden)
		default:
			w.Header().Set("Cache-Control", "no-store")
			next(w, r, id)
		}
	})
}

// tokenJSON is a token as the API tells of it.
type tokenJSON struct {
	ID      string     `json:"id"`
	Label   string     `json:"label"`
	Shares  []string   `json:"shares"` // empty: all
	Path    string     `json:"path"`   // "" : all
	Write   bool       `json:"write"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"` // null: never
}

// madeJSON is the answer to who made one, and the only one with the token in it.
type madeJSON struct {
	tokenJSON
	Token string `json:"token"`
}

// wantedJSON is what a client says of the token that it wants.
type wantedJSON struct {
	Label   string     `json:"label"`
	Shares  []string   `json:"shares"`
	Path    string     `json:"path"`
	Write   bool       `json:"write"`
	Expires *time.Time `json:"expires"`
}

func newTokenJSON(t auth.Token) tokenJSON {
	j := tokenJSON{ID: t.ID, Label: t.Label, Shares: t.Scope.Shares, Path: t.Scope.Path, Write: t.Scope.Write, Created: t.Created}
	if j.Shares == nil {
		j.Shares = []string{}
	}
	if !t.Expires.IsZero() {
		j.Expires = &t.Expires
	}
	return j
}

func (api *tokenAPI) list(w http.ResponseWriter, r *http.Request, id auth.Identity) {
	list, err := api.tokens.List(id.Name)
	if err != nil {
		api.fail(w, err)
		return
	}
	all := []tokenJSON{}
	for _, t := range list {
		all = append(all, newTokenJSON(t))
	}
	writeJSON(w, http.StatusOK, map[string]any{"tokens": all})
}

// readJSON reads the body of r, which has to be v and nothing else. When it is
// not, that is the answer: bad says what it has to be.
func readJSON(w http.ResponseWriter, r *http.Request, v any, bad string) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		writeError(w, http.StatusUnsupportedMediaType, "the body has to be application/json")
		return false
	}
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTokenRequest))
	in.DisallowUnknownFields()
	if err := in.Decode(v); err != nil {
		writeError(w, http.StatusBadRequest, bad)
		return false
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		writeError(w, http.StatusBadRequest, "the body goes on behind its JSON")
		return false
	}
	return true
}

func (api *tokenAPI) create(w http.ResponseWriter, r *http.Request, id auth.Identity) {
	var wanted wantedJSON
	if !readJSON(w, r, &wanted, "the body is not a token as this API knows it") {
		return
	}
	t := auth.Token{User: id.Name, Label: wanted.Label, Scope: auth.Scope{Shares: wanted.Shares, Path: wanted.Path, Write: wanted.Write}}
	if wanted.Expires != nil {
		t.Expires = *wanted.Expires
	}
	config := api.configFor(r)
	if err := config.canonicalScope(&t.Scope); err != nil {
		writeError(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	secret, made, err := api.tokens.Create(t)
	var bad *auth.TokenError
	switch {
	case errors.As(err, &bad):
		writeError(w, http.StatusUnprocessableEntity, bad.Error())
	case err != nil:
		api.fail(w, err)
	default:
		recordOf(r.Context()).about = "token " + made.ID
		writeJSON(w, http.StatusCreated, madeJSON{newTokenJSON(made), secret})
	}
}

func (api *tokenAPI) revoke(w http.ResponseWriter, r *http.Request, id auth.Identity) {
	switch err := api.tokens.Revoke(id.Name, r.PathValue("id")); {
	case errors.Is(err, auth.ErrNoToken):
		writeError(w, http.StatusNotFound, "you have no such token")
	case err != nil:
		api.fail(w, err)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (api *tokenAPI) page(w http.ResponseWriter, r *http.Request, id auth.Identity) {
	list, err := api.tokens.List(id.Name)
	if err != nil {
		api.fail(w, err)
		return
	}
	page := web.TokenPage{User: id.Name, Now: time.Now()}
	for _, t := range list {
		page.Tokens = append(page.Tokens, web.TokenRow{
			ID: t.ID, Label: t.Label, Scope: scopeText(t.Scope), Created: t.Created, Expires: t.Expires, Expired: t.Expired(page.Now),
		})
	}
	for _, share := range api.configFor(r).Shares {
		page.Shares = append(page.Shares, share.Path)
	}
	page.ServeHTTP(w, r)
}

// fail is for what is the server's fault. The cause has a path of the host in it
// and is for the log.
func (api *tokenAPI) fail(w http.ResponseWriter, err error) {
	api.log.Error().Err(err).Msg("tokens")
	writeError(w, http.StatusInternalServerError, "the tokens cannot be read or written; the log says why")
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"error": message})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // of types that always can be
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
