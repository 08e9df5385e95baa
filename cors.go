package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rs/cors"
)

// CORSConfig says which pages of other sites may use the server from a visitor's
// browser, beyond links and pictures (Fetch Standard, "CORS protocol").
type CORSConfig struct {
	Origins     []string      `yaml:"origins"`     // as in https://app.example.org; "*" is every site; none: nothing
	Credentials bool          `yaml:"credentials"` // with what the browser knows of the visitor, as passwords
	MaxAge      time.Duration `yaml:"max_age"`     // for how long a browser need not ask again
}

func defaultCORS() CORSConfig { return CORSConfig{MaxAge: 10 * time.Minute} }

func (c *CORSConfig) check(report func(key, format string, args ...any)) {
	for i, origin := range c.Origins {
		switch {
		case origin == "*" && c.Credentials:
			report("cors.credentials", "every site on the web could act for your users; name the origins, or leave credentials out")
		case origin != "*" && !isOrigin(origin):
			report(fmt.Sprintf("cors.origins[%d]", i), "%q is not the origin of a page; write it as in https://app.example.org, without a path, or \"*\"", origin)
		}
	}
	if c.Credentials && len(c.Origins) == 0 {
		report("cors.credentials", "without origins nobody sends them; add cors.origins")
	}
	if c.MaxAge < 0 {
		report("cors.max_age", "%v is no time; 0 has browsers ask each time", c.MaxAge)
	}
}

// isOrigin says whether text is what browsers send as Origin: RFC 6454, section 6.2.
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" &&
		text == strings.ToLower(u.Scheme+"://"+u.Host) && !strings.Contains(u.Host, "*")
}

// What pages may use of WebDAV.
var (
	corsMethods = []string{
		"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK",
	}
	corsRequestHeaders = []string{
		"Accept", "Authorization", "Content-Type", "Content-Range", "Depth", "Destination", "If", "If-Match", "If-Modified-Since",
		"If-None-Match", "If-Range", "If-Unmodified-Since", "Lock-Token", "OC-Checksum", "Overwrite", "Prefer", "Range", "Timeout",
		"X-OC-Mtime", "X-Requested-With", "X-Update-Range",
	}
	corsResponseHeaders = []string{
		"Accept-Ranges", "Allow", "Content-Disposition", "Content-Length", "Content-Range", "DAV", "ETag", "Last-Modified", "Location",
		"Lock-Token", "OC-Checksum", "Preference-Applied", "Retry-After", "WWW-Authenticate", "X-OC-Mtime",
	}
)

// handler lets pages of the origins use next. Who asks first (a preflight) says
// no name, so the answer comes before anybody is asked for one.
func (c *CORSConfig) handler(next http.Handler) http.Handler {
	if len(c.Origins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins:   c.Origins,
		AllowCredentials: c.Credentials,
		AllowedMethods:   corsMethods,
		AllowedHeaders:   corsRequestHeaders,
		ExposedHeaders:   corsResponseHeaders,
		MaxAge:           int(c.MaxAge / time.Second),
	}).Handler(next)
}

// trust lets the protection against requests of other sites know the origins.
// "*" names none: pages of every site may read then, and change nothing.
func (c *CORSConfig) trust(protection *http.CrossOriginProtection) {
	for _, origin := range c.Origins {
		if origin != "*" {
			_ = protection.AddTrustedOrigin(origin) // fails only on what check refuses
		}
	}
}
