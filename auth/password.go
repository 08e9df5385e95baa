package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds on what one verification may cost: a hash is written by an operator,
// and verified for whoever asks.
const (
	maxBcryptCost   = 14         // about 1.5 s
	maxArgonMemory  = 256 << 10  // KiB
	maxArgonWork    = 1024 << 10 // KiB, over all passes
	maxArgonThreads = 16
	maxCryptRounds  = 1_000_000
)

// What is weaker than this is still accepted, see [Hash.Weak].
const (
	minBcryptCost  = 10
	minArgonMemory = 12 << 10 // KiB; with fewer than three passes 19 MiB are advised
)

const (
	maxBcryptPassword = 72  // bytes; bcrypt looks at no more
	maxPassword       = 256 // bytes; some hashes take longer for longer ones
)

// The cost of what this package hashes.
const (
	BcryptCost = 12

	argonTime, argonMemory, argonThreads = 2, 19 << 10, 1 // the second choice of RFC 9106 is heavier: 64 MiB, 3 passes
	argonSalt, argonKey                  = 16, 32         // bytes; RFC 9106, section 4
)

// A Hash is a password as it is stored. The zero Hash is of no password: it
// verifies none.
type Hash struct {
	text string
	weak string // why it should be replaced

	argon  *argonHash
	legacy htpasswd.EncodedPasswd
}

// argonHash is a string of the PHC form, taken apart.
type argonHash struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// ErrNotAHash is a text that is no stored password.
var ErrNotAHash = errors.New("not a bcrypt or argon2id hash")

// ParseHash reads a bcrypt or an argon2id hash. Its errors do not repeat text.
func ParseHash(text string) (Hash, error) {
	switch {
	case isBcrypt(text):
		return parseBcrypt(text)
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon(text)
	case strings.HasPrefix(text, "$argon2"), strings.HasPrefix(text, "$2x$"):
		return Hash{}, fmt.Errorf("%w, but one of a related kind", ErrNotAHash)
	}
	return Hash{}, ErrNotAHash
}

// ParseLegacyHash reads also what htpasswd files hold besides: apr1 and other
// MD5, SHA-1 with or without salt, and the SHA-2 of crypt(3). It reads neither
// passwords in the clear nor those of the old crypt(3), which are eight characters.
func ParseLegacyHash(text string) (Hash, error) {
	h, err := ParseHash(text)
	if !errors.Is(err, ErrNotAHash) {
		return h, err
	}
	if err := checkCrypt(text); err != nil {
		return Hash{}, err
	}
	for _, kind := range []struct {
		parse htpasswd.PasswdParser
		weak  string
	}{
		{htpasswd.AcceptMd5, "MD5 is guessed quickly"},
		{htpasswd.AcceptSha, "SHA-1 without salt is guessed at once"},
		{htpasswd.AcceptSsha, "SHA-1 is guessed quickly"},
		{htpasswd.AcceptCryptSha, ""},
	} {
		m, parseErr := kind.parse(text)
		if parseErr != nil {
			return Hash{}, errors.New("a damaged hash") // parseErr has the hash in it
		}
		if m != nil {
			return Hash{text: text, legacy: m, weak: kind.weak}, nil
		}
	}
	return Hash{}, err
}

func isBcrypt(text string) bool {
	return strings.HasPrefix(text, "$2a$") || strings.HasPrefix(text, "$2b$") || strings.HasPrefix(text, "$2y$")
}

// bcryptLen is the length of every bcrypt hash: the version, two digits of cost,
// 22 letters of salt and 31 of the sum.
const bcryptLen = 60

func parseBcrypt(text string) (Hash, error) {
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != bcryptLen || !isBcryptText(text[len("$2y$12$"):]) {
		return Hash{}, errors.New("a damaged bcrypt hash")
	}
	if cost > maxBcryptCost {
		return Hash{}, fmt.Errorf("bcrypt cost %d keeps a processor busy for seconds at each login; at most %d", cost, maxBcryptCost)
	}
	h := Hash{text: text}
	if cost < minBcryptCost {
		h.weak = fmt.Sprintf("bcrypt cost %d is guessed quickly", cost)
	}
	return h, nil
}

// isBcryptText says whether text is in bcrypt's own base 64. Without that a
// damaged hash would be found out only when somebody comes in.
func isBcryptText(text string) bool {
	return strings.Trim(text, "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// parseArgon reads $argon2id$v=19$m=19456,t=2,p=1$SALT$KEY.
func parseArgon(text string) (Hash, error) {
	damaged := errors.New("a damaged argon2id hash; it looks like $argon2id$v=19$m=19456,t=2,p=1$SALT$KEY")
	fields := strings.Split(text, "$")
	if len(fields) != 6 || fields[2] != "v="+strconv.Itoa(argon2.Version) {
		return Hash{}, damaged
	}
	var a argonHash
	var err error
	if a.memory, a.time, a.threads, err = parseArgonCost(fields[3]); err != nil {
		return Hash{}, damaged
	}
	if a.salt, err = base64.RawStdEncoding.Strict().DecodeString(fields[4]); err != nil || len(a.salt) < 8 || len(a.salt) > 64 {
		return Hash{}, damaged
	}
	if a.key, err = base64.RawStdEncoding.Strict().DecodeString(fields[5]); err != nil || len(a.key) < 16 || len(a.key) > 64 {
		return Hash{}, damaged
	}
	switch {
	case a.threads > maxArgonThreads:
		return Hash{}, fmt.Errorf("argon2id p=%d; at most %d", a.threads, maxArgonThreads)
	case a.memory > maxArgonMemory:
		return Hash{}, fmt.Errorf("argon2id m=%d takes too much memory at each login; at most %d", a.memory, maxArgonMemory)
	case uint64(a.memory)*uint64(a.time) > maxArgonWork:
		return Hash{}, fmt.Errorf("argon2id m=%d,t=%d keeps a processor busy for seconds at each login; m times t at most %d", a.memory, a.time, maxArgonWork)
	}
	h := Hash{text: text, argon: &a}
	if a.memory < minArgonMemory {
		h.weak = fmt.Sprintf("argon2id with %d KiB is guessed quickly", a.memory)
	}
	return h, nil
}

func parseArgonCost(text string) (memory, time uint32, threads uint8, err error) {
	var m, t, p uint64
	rest := text
	for _, f := range []struct {
		name string
		bits int
		v    *uint64
	}{{"m=", 32, &m}, {"t=", 32, &t}, {"p=", 8, &p}} {
		var field string
		field, rest, _ = strings.Cut(rest, ",")
		digits, ok := strings.CutPrefix(field, f.name)
		if !ok {
			return 0, 0, 0, ErrNotAHash
		}
		if *f.v, err = strconv.ParseUint(digits, 10, f.bits); err != nil || *f.v == 0 {
			return 0, 0, 0, ErrNotAHash
		}
	}
	if rest != "" || m < 8*p { // RFC 9106, section 3.1
		return 0, 0, 0, ErrNotAHash
	}
	return uint32(m), uint32(t), uint8(p), nil
}

// cryptSHA is what crypt(5) has of the kinds $5$ and $6$: rounds, a salt, a sum.
// Who verifies passwords against anything else panics, at a login.
var cryptSHA = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\$(?:5|6)\$(?:rounds=([1-9][0-9]{3,8})\$)?[./0-9A-Za-z]{1,16}\$([./0-9A-Za-z]+)$`)
})

// checkCrypt refuses $5$ and $6$ hashes that are damaged or too dear. Any other
// text passes.
func checkCrypt(text string) error {
	if !strings.HasPrefix(text, "$5$") && !strings.HasPrefix(text, "$6$") {
		return nil
	}
	parts := cryptSHA().FindStringSubmatch(text)
	if parts == nil || len(parts[2]) != map[byte]int{'5': 43, '6': 86}[text[1]] {
		return errors.New("a damaged hash")
	}
	if n, err := strconv.Atoi(parts[1]); err == nil && n > maxCryptRounds { // none are the usual 5000
		return fmt.Errorf("%d rounds keep a processor busy for seconds at each login; at most %d", n, maxCryptRounds)
	}
	return nil
}

// Weak says why the password should be stored in another way; "" if it need not.
func (h Hash) Weak() string { return h.weak }

// isZero says that there is no password.
func (h Hash) isZero() bool { return h.text == "" }

// verify takes the time of one hash, whatever password is, unless h is zero.
func (h Hash) verify(password string) bool {
	switch {
	case h.isZero():
		return false
	case h.legacy != nil:
		return h.legacy.MatchesPassword(password) && password != ""
	case h.argon != nil:
		a := h.argon
		key := argon2.IDKey([]byte(password), a.salt, a.time, a.memory, a.threads, uint32(len(a.key)))
		return subtle.ConstantTimeCompare(key, a.key) == 1 && password != ""
	default:
		// bcrypt looks at 72 bytes. A longer password is none of the user's, even if
		// its beginning is: Hash functions here refuse to make one from it.
		err := bcrypt.CompareHashAndPassword([]byte(h.text), []byte(password[:min(len(password), maxBcryptPassword)]))
		return err == nil && password != "" && len(password) <= maxBcryptPassword
	}
}

// HashBcrypt returns a hash of password for the configuration. It refuses what
// no client could send, and more than 72 bytes.
func HashBcrypt(password string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	if len(password) > maxBcryptPassword {
		return "", fmt.Errorf("bcrypt looks at the first %d bytes of a password, and this one has %d; choose a shorter one, or argon2id", maxBcryptPassword, len(password))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), BcryptCost)
	return string(hash), err
}

// HashArgon2id returns a hash of password for the configuration.
func HashArgon2id(password string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails (since Go 1.24)
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// checkPassword refuses what cannot be sent with Basic (RFC 7617, section 2),
// and what is no password.
func checkPassword(password string) error {
	switch {
	case password == "":
		return errors.New("an empty password lets everybody in; choose another")
	case len(password) > maxPassword:
		return fmt.Errorf("a password of %d bytes; at most %d", len(password), maxPassword)
	case isToken(password):
		return fmt.Errorf("what begins with %s would be taken for a token; choose another password", TokenPrefix)
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8, as clients send it; is the terminal set to another encoding?")
	case strings.IndexFunc(password, isControl) >= 0:
		return errors.New("a password with control characters cannot be sent by clients; choose another")
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
