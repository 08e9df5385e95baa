package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// TokenPrefix is what every token begins with, so that people and the programs
// that look for secrets in other places know what they have found.
const TokenPrefix = "odt_"

const (
	tokenBytes    = 20 // 160 random bits
	tokenIDBytes  = 5
	maxTokenLabel = 64 // bytes

	// MaxTokens is how many tokens one user can have.
	MaxTokens = 100
)

// A Token is what is known of a token once it has been made. The token itself is
// not: whoever reads the file of tokens cannot come in with it.
type Token struct {
	ID      string    `json:"id"`   // to revoke it by; not secret
	User    string    `json:"user"` // whose it is
	Label   string    `json:"label"`
	Scope   Scope     `json:"scope"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// Expired says whether the token's time is over at now.
func (t *Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// storedToken is a Token as it is in the file.
type storedToken struct {
	Token
	Hash string `json:"sha256"` // of the token, in hexadecimal
}

// A TokenError says why a token is not made as it was asked for.
type TokenError struct{ Problem string }

func (e *TokenError) Error() string { return e.Problem }

func badToken(format string, args ...any) error { return &TokenError{fmt.Sprintf(format, args...)} }

// ErrNoToken is an ID that no token of the user has.
var ErrNoToken = errors.New("there is no such token")

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newSecret makes a token.
func newSecret() string {
	b := make([]byte, tokenBytes)
	_, _ = rand.Read(b) // never fails (since Go 1.24)
	return TokenPrefix + tokenText.EncodeToString(b)
}

func newTokenID() string {
	b := make([]byte, tokenIDBytes)
	_, _ = rand.Read(b) // never fails (since Go 1.24)
	return tokenText.EncodeToString(b)
}

// hashSecret is what is kept of a token. It needs neither salt nor cost: nobody
// guesses 160 random bits.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// check makes t canonical and says what is wrong with it.
func (t *Token) check(now time.Time) error {
	name, ok := FoldName(t.User)
	if !ok {
		return badToken("%q cannot be a user's name", t.User)
	}
	t.User = name
	t.Label = strings.TrimSpace(t.Label)
	switch {
	case t.Label == "" || len(t.Label) > maxTokenLabel || !utf8.ValidString(t.Label) || strings.IndexFunc(t.Label, isControl) >= 0:
		return badToken("a token needs a label that says what it is for, of 1 to %d bytes without control characters", maxTokenLabel)
	case !t.Expires.IsZero() && !t.Expires.After(now):
		return badToken("the token would have expired already; give a later time")
	}
	return t.Scope.check()
}

// check makes s canonical and says what is wrong with it.
func (s *Scope) check() error {
	for _, share := range s.Shares {
		if !strings.HasPrefix(share, "/") {
			return badToken("share %q does not begin with a slash; write it as in /films", share)
		}
	}
	slices.Sort(s.Shares)
	s.Shares = slices.Compact(s.Shares)
	if s.Path == "" {
		return nil
	}
	clean := path.Clean(s.Path)
	if !strings.HasPrefix(s.Path, "/") || clean != s.Path && clean+"/" != s.Path || !utf8.ValidString(s.Path) || strings.ContainsRune(s.Path, 0) {
		return badToken("path %q; write it from the root of the share, as in /docs", s.Path)
	}
	if s.Path = clean; clean == "/" {
		s.Path = ""
	}
	return nil
}

// isToken says whether a password is meant to be a token.
func isToken(secret string) bool { return strings.HasPrefix(secret, TokenPrefix) }
