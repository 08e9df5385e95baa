package auth

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A LineError is a mistake in a line of a file.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// maxHTPasswd is the largest htpasswd file: some 100,000 users.
const maxHTPasswd = 16 << 20

// ReadHTPasswd reads an Apache htpasswd file, lines of NAME:HASH. Empty lines and
// those that begin with "#" are left out. It returns every mistake, joined; they
// are LineErrors and do not repeat what is in the file but the names. A hash
// after "!" or "*" is one of a user who may not come in.
func ReadHTPasswd(r io.Reader) ([]User, error) {
	var users []User
	var errs []error
	firstLine := make(map[string]int)
	limited := &io.LimitedReader{R: r, N: maxHTPasswd + 1}
	sc := bufio.NewScanner(limited)
	n := 0
	for sc.Scan() {
		n++
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, err := parseHTPasswdLine(line)
		if first := firstLine[user.Name]; err == nil && first > 0 {
			err = fmt.Errorf("%s is there already, in line %d; remove one", user.Name, first)
		}
		if err != nil {
			errs = append(errs, &LineError{n, err})
			continue
		}
		firstLine[user.Name], user.Line = n, n
		users = append(users, user)
	}
	if err := sc.Err(); err != nil {
		errs = append(errs, &LineError{n + 1, err})
	}
	if limited.N <= 0 {
		errs = append(errs, fmt.Errorf("more than %d bytes", maxHTPasswd))
	}
	return users, errors.Join(errs...)
}

func parseHTPasswdLine(line string) (User, error) {
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return User{}, errors.New("want NAME:HASH")
	}
	folded, ok := FoldName(name)
	if !ok {
		return User{}, fmt.Errorf("%q cannot be a user's name; a name is 1 to 32 of a-z, 0-9, dot, underscore, hyphen", name)
	}
	if strings.HasPrefix(hash, "!") || strings.HasPrefix(hash, "*") {
		return User{Name: folded, Disabled: true}, nil
	}
	h, err := ParseLegacyHash(hash)
	if errors.Is(err, ErrNotAHash) {
		err = errors.New("no hash that overdav reads; make one with htpasswd -B, or overdav hash-password")
	}
	return User{Name: folded, Password: h}, err
}
