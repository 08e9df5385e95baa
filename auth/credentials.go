package auth

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"
)

// credentials are what a request says of who makes it.
type credentials struct {
	name   string // folded; "" if it cannot be a user's
	secret string
	bearer bool // a token, and no name
}

var (
	// ErrNoCredentials is a request that does not say who makes it.
	ErrNoCredentials = errors.New("no credentials")
	errMalformed     = errors.New("malformed credentials")
)

// maxAuthorization bounds the header: the longest name and password with room.
const maxAuthorization = 1024

// parseAuthorization reads the Authorization header (RFC 9110, section 11.6.2),
// Basic (RFC 7617) or Bearer (RFC 6750, section 2.1). Two headers could be read
// as one by us and as the other by a proxy.
func parseAuthorization(h http.Header) (credentials, error) {
	values := h["Authorization"]
	if len(values) == 0 {
		return credentials{}, ErrNoCredentials
	}
	if len(values) > 1 || len(values[0]) > maxAuthorization {
		return credentials{}, errMalformed
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	rest = strings.Trim(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		return parseBasic(rest)
	case strings.EqualFold(scheme, "Bearer") && rest != "":
		return credentials{secret: rest, bearer: true}, nil
	}
	return credentials{}, errMalformed
}

// parseBasic reads base64(NAME:PASSWORD). Padding may be missing, as in some
// clients. The password is UTF-8, as the challenge asks for.
func parseBasic(text string) (credentials, error) {
	var buf [maxAuthorization]byte
	text = strings.TrimRight(text, "=")
	n, err := base64.RawStdEncoding.Decode(buf[:], []byte(text))
	if err != nil {
		return credentials{}, errMalformed
	}
	name, password, ok := strings.Cut(string(buf[:n]), ":")
	if !ok || len(password) > maxPassword || !utf8.ValidString(password) || strings.IndexFunc(password, isControl) >= 0 {
		return credentials{}, errMalformed
	}
	if name == "" && password == "" {
		return credentials{}, ErrNoCredentials // curl -u :, and clients that were told to be nobody
	}
	if name == "" || password == "" {
		return credentials{}, errMalformed
	}
	name, _ = FoldName(name)
	return credentials{name: name, secret: password}, nil
}
