// Package web has the pages that overdav shows to browsers. They are made on
// the server and need no scripts.
package web

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"overdav/davfs"
)

// Pages say what the pages offer.
type Pages struct {
	// Archives says that the server sends collections as archives: the page of one
	// in which there is something that may be read has a link to that.
	Archives bool
}

// Listing shows a directory: a page with names, sizes and times, sorted as
// ?sort= says (name, size or time; "-size" is the other way round), or with
// "Accept: application/json" the same as JSON. It is a davfs.Options.Listing:
// dir is a name of the tree, and members are all that the reader may know of.
// All links are relative, so that they hold behind any proxy, and whether or not
// the path of the request ends in a slash.
func (p Pages) Listing(w http.ResponseWriter, r *http.Request, dir string, members []davfs.Member) {
	l := newListing(r, dir, members)
	if !p.Archives {
		l.Archive = ""
	}
	body, kind, err := l.render(wantsJSON(r.Header))
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Vary", "Accept")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone
	}
}

// wantsJSON says whether the client names JSON before HTML.
func wantsJSON(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		kind, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		switch strings.ToLower(kind) {
		case "application/json":
			return true
		case "text/html", "application/xhtml+xml":
			return false
		}
	}
	return false
}

// A listing is what a page shows.
type listing struct {
	Path    string   `json:"path"` // from the root of the share, with a slash at both ends
	Crumbs  []crumb  `json:"-"`
	Parent  string   `json:"-"` // "" at the root
	Columns []column `json:"-"`
	Archive string   `json:"-"` // of the directory; "" where nothing would be in it
	Entries []row    `json:"entries"`
}

// A crumb is a directory on the way to the one that is shown.
type crumb struct{ Name, Href string }

// A column is a heading that sorts.
type column struct{ Title, Href, Sorted string }

// A row is one entry.
type row struct {
	Name       string    `json:"name"`
	Href       string    `json:"href"` // relative to the request
	Collection bool      `json:"collection"`
	Size       int64     `json:"size"`              // of a file, in bytes
	Modified   time.Time `json:"modified,omitzero"` // of what may be read
	Regular    bool      `json:"-"`                 // it has a size
}

func newListing(r *http.Request, dir string, members []davfs.Member) *listing {
	var names []string
	if dir != "." {
		names = strings.Split(dir, "/")
	}
	slash := strings.HasSuffix(r.URL.Path, "/")
	l := &listing{Path: "/" + strings.Join(append(slices.Clone(names), ""), "/")}
	here := "./"
	switch {
	case slash:
	case len(names) > 0:
		here += url.PathEscape(names[len(names)-1]) + "/"
	default: // the root of a share has no name but in the address
		address := r.URL.EscapedPath()
		here += address[strings.LastIndexByte(address, '/')+1:] + "/"
	}
	for _, m := range members {
		l.Entries = append(l.Entries, newRow(here, m))
		if m.Collection || m.Info != nil {
			l.Archive = here + "?zip"
		}
	}
	order := r.URL.Query().Get("sort")
	sortRows(l.Entries, order)
	l.Columns = columns(here, order)
	l.Crumbs = crumbs(names, slash)
	if len(names) > 0 {
		l.Parent = up(1, slash)
	}
	return l
}

func newRow(here string, m davfs.Member) row {
	e := row{Name: strings.ToValidUTF8(m.Name, "\uFFFD"), Href: here + url.PathEscape(m.Name), Collection: m.Collection}
	if e.Collection {
		e.Href += "/"
	}
	if m.Info == nil {
		return e
	}
	e.Modified = inFourDigits(m.Info.ModTime().UTC().Truncate(time.Second))
	if m.Info.Mode().IsRegular() {
		e.Regular, e.Size = true, m.Info.Size()
	}
	return e
}

// inFourDigits is t, or the nearest time of which the year has four digits: JSON
// can say no other (RFC 3339, section 1), and some file systems hold others.
func inFourDigits(t time.Time) time.Time {
	switch year := t.Year(); {
	case year < 0:
		return time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case year > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// sortRows sorts as order says; directories come first in any order.
func sortRows(rows []row, order string) {
	key, down := strings.CutPrefix(order, "-")
	slices.SortStableFunc(rows, func(a, b row) int {
		if a.Collection != b.Collection {
			if a.Collection {
				return -1
			}
			return 1
		}
		c := 0
		switch key {
		case "size":
			c = cmp.Compare(a.Size, b.Size)
		case "time":
			c = a.Modified.Compare(b.Modified)
		}
		if c == 0 {
			c = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		}
		if down {
			return -c
		}
		return c
	})
}

func columns(here, order string) []column {
	var all []column
	for _, c := range []struct{ title, key string }{{"Name", "name"}, {"Size", "size"}, {"Modified (UTC)", "time"}} {
		next, sorted := c.key, ""
		switch {
		case order == c.key, order == "" && c.key == "name":
			next, sorted = "-"+c.key, "ascending"
		case order == "-"+c.key:
			sorted = "descending"
		}
		all = append(all, column{Title: c.title, Href: here + "?sort=" + next, Sorted: sorted})
	}
	return all
}

// crumbs are the directories from the root of the share to the one shown, which
// comes last and is no link.
func crumbs(names []string, slash bool) []crumb {
	all := []crumb{{Name: "/"}}
	for _, name := range names {
		all = append(all, crumb{Name: strings.ToValidUTF8(name, "\uFFFD")})
	}
	for i := range all[:len(all)-1] {
		all[i].Href = up(len(all)-1-i, slash)
	}
	return all
}

// up is the relative reference to the directory n levels above.
func up(n int, slash bool) string {
	if !slash {
		n--
	}
	if n == 0 {
		return "./"
	}
	return strings.Repeat("../", n)
}

//go:embed listing.html
var listingHTML string

// listingTemplate is parsed when the first page is asked for: a start need not wait for it.
var listingTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("listing").Funcs(template.FuncMap{
		"visible": visible,
		"size":    formatSize,
		"date":    func(t time.Time) string { return t.Format(time.DateOnly) },
		"clock":   func(t time.Time) string { return t.Format(time.TimeOnly) },
	}).Parse(listingHTML))
})

// render makes the body and says of what media type it is.
func (l *listing) render(asJSON bool) (body []byte, kind string, err error) {
	if asJSON {
		if l.Entries == nil {
			l.Entries = []row{} // an empty list, not null
		}
		body, err = json.Marshal(l)
		return body, "application/json", err
	}
	var b bytes.Buffer
	err = listingTemplate().Execute(&b, l)
	return b.Bytes(), "text/html; charset=utf-8", err
}

// formatSize is a size for people, in units of 1,000.
func formatSize(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n)/1000, 0
	for value >= 999.95 && unit < len("kMGTPE")-1 {
		value /= 1000
		unit++
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + "kMGTPE"[unit:unit+1] + "B"
}

// visible is a name as people can look at it: with U+FFFD for control
// characters, and for those that turn the direction of what follows, by which
// a program could look like "exe.png".
func visible(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return utf8.RuneError
		}
		return r
	}, name)
}
