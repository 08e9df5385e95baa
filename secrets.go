package main

import (
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"
)

// A secret is a file, or a directory, that clients are not to see.
type secret struct{ key, name string } // of the configuration; key "" is the file itself

// secrets are those of c, which came from file.
func (c *Config) secrets(file string) []secret {
	all := []secret{{"tls.key", c.TLS.Key}, {"tls.acme.cache", c.TLS.ACME.Cache}, {"auth.tokens", c.Auth.Tokens}, {"audit", c.Audit}}
	hashes := false
	for _, u := range c.Users {
		hashes = hashes || u.Password != ""
		all = append(all, secret{"users[].htpasswd", u.HTPasswd})
	}
	if hashes && file != "" {
		all = append(all, secret{"users[].password", absolutePath(file)})
	}
	return all
}

// warnOfSecrets tells of secrets in trees that are served. Rules may keep clients
// from them, so nothing is refused.
func (all shares) warnOfSecrets(secrets []secret, log zerolog.Logger) {
	for _, s := range secrets {
		for _, share := range all {
			if s.name != "" && share.layers.show(s.name) {
				log.Warn().Str(keyKey, s.key).Str(keyShare, share.layers.Path).Msg("a file with secrets is in a tree that is served; keep it elsewhere")
			}
		}
	}
}

// show says whether name is in a layer, or in the upper of any user.
func (l *layers) show(name string) bool {
	name = resolve(name)
	for _, dir := range l.Lower {
		if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	upper := resolve(l.Upper)
	return l.Upper != "" && strings.Count(upper, "/") <= strings.Count(name, "/") && nested(upper, name, true)
}
