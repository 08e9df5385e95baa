package main

import (
	"net/http"

	"overdav/davfs"
	"overdav/web"
)

// router sends each request to the share it is for: the one with the longest
// path of whole names. What begins with ownPath is no share's.
//
// It looks at paths itself, as the shares do: http.ServeMux cleans them and
// redirects, and WebDAV clients follow no redirect with a PUT.
type router struct {
	door     *door
	prefixes davfs.Prefixes // of the shares; the last is ownPath
	shares   shares
	own      *http.ServeMux
	parents  *davfs.Parents // what is left
}

func newRouter(c Config, all shares, d *door) (*router, error) {
	site, err := c.site()
	if err != nil {
		return nil, err
	}
	var paths []string
	writable := false
	for _, s := range all {
		paths = append(paths, s.layers.Path)
		writable = writable || !s.layers.readOnly()
	}
	ofShares, err := davfs.NewPrefixes(paths...)
	if err != nil {
		return nil, err
	}
	withOwn, err := davfs.NewPrefixes(append(paths, ownPath)...)
	if err != nil {
		return nil, err
	}
	own := http.NewServeMux()
	if d.tokens != nil {
		(&tokenAPI{d.tokens, c, d.log, d.sees}).addTo(own)
	}
	(&resetAPI{all, d}).addTo(own)
	parents := davfs.NewParents(site, ofShares, writable, d.sees)
	parents.Listing = web.Pages{}.Listing
	return &router{door: d, prefixes: withOwn, shares: all, own: own, parents: parents}, nil
}

// ServeHTTP answers every request that the server lets in.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i := rt.prefixes.Find(r)
	switch {
	case i < 0:
		i = aboveShares
	case i == len(rt.shares):
		i = ownPlace
	}
	if r = rt.door.admit(w, r, i); r == nil {
		return
	}
	if i >= 0 && rt.door.hides(r, i) {
		i = aboveShares // where nothing is but the way to what he sees
	}
	switch i {
	case aboveShares:
		rt.parents.ServeHTTP(w, r)
	case ownPlace:
		rt.own.ServeHTTP(w, r)
	default:
		rt.shares[i].ServeHTTP(w, r)
	}
}
