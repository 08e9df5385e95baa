package auth

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Tokens are the tokens in a file. Several processes can work on one file: who
// changes it holds a lock on its directory, and who reads notices that it is
// another file now.
//
// The file holds hashes only, but says who has tokens and what for, and whoever
// can write to it can come in as anybody: it is made with mode 0600, and a file
// that others can write to is refused.
type Tokens struct {
	file string

	// mu guards what follows.
	mu sync.Mutex
	// info is of the file that byHash was read from; nil if there was none.
	// +checklocks:mu
	info fs.FileInfo
	// byHash is nil before the first reading.
	// +checklocks:mu
	byHash map[string]*storedToken
}

// tokenFile is the file.
type tokenFile struct {
	Version int           `json:"version"`
	Tokens  []storedToken `json:"tokens"`
}

const tokenFileVersion = 1

// maxTokenFile bounds what is read: some 100,000 tokens.
const maxTokenFile = 32 << 20

// OpenTokens returns the tokens in file, which need not exist; its directory has
// to.
func OpenTokens(file string) (*Tokens, error) {
	if info, err := os.Stat(filepath.Dir(file)); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: filepath.Dir(file), Err: syscall.ENOTDIR}
	}
	t := &Tokens{file: file}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t, t.refreshLocked()
}

// refreshLocked reads the file again if it is not the one that was read.
//
// Preconditions: t.mu is locked.
func (t *Tokens) refreshLocked() error {
	info, err := os.Stat(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		t.info, t.byHash = nil, map[string]*storedToken{}
		return nil
	}
	if err != nil {
		return err
	}
	if t.byHash != nil && t.info != nil && sameFile(t.info, info) {
		return nil
	}
	list, info, err := readTokens(t.file)
	if err != nil {
		return err
	}
	t.setLocked(list, info)
	return nil
}

func (t *Tokens) setLocked(list []storedToken, info fs.FileInfo) {
	t.info, t.byHash = info, make(map[string]*storedToken, len(list))
	for i := range list {
		t.byHash[list[i].Hash] = &list[i]
	}
}

// sameFile says whether a and b are of one file that was not written to in
// between. Every change here makes a new file.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// readTokens reads a file that exists.
func readTokens(name string) ([]storedToken, fs.FileInfo, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, nil, fmt.Errorf("%s: others can write to it, and so come in as anybody; chmod 600 %s", name, name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxTokenFile {
		return nil, nil, fmt.Errorf("%s: larger than %d bytes", name, maxTokenFile)
	}
	list, err := parseTokens(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, info, nil
}

// parseTokens reads the content of a file. One token that it does not understand
// makes it refuse all: to leave it out would be to revoke it when the file is
// written next.
func parseTokens(data []byte) ([]storedToken, error) {
	var f tokenFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, errors.New("not a file of tokens") // err quotes what it does not understand
	}
	if f.Version != tokenFileVersion {
		return nil, fmt.Errorf("version %d of the format; this overdav writes %d", f.Version, tokenFileVersion)
	}
	seen := make(map[string]bool)
	for i := range f.Tokens {
		t := &f.Tokens[i]
		t.Expires = t.Expires.UTC()
		expires := t.Expires
		t.Expires = time.Time{} // one that has expired is not a mistake
		err := t.check(time.Time{})
		t.Expires = expires
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", i+1, err)
		}
		if len(t.Hash) != len(hashSecret("")) || t.ID == "" || seen[t.ID] || seen[t.Hash] {
			return nil, fmt.Errorf("token %d is damaged", i+1)
		}
		seen[t.ID], seen[t.Hash] = true, true
	}
	return f.Tokens, nil
}

// Lookup returns the token that secret is, and whether it is one that is in
// force. An error means that nobody can know at the moment.
func (t *Tokens) Lookup(secret string) (Token, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refreshLocked(); err != nil {
		return Token{}, false, err
	}
	found, ok := t.byHash[hashSecret(secret)]
	if !ok || found.Expired(time.Now()) {
		return Token{}, false, nil
	}
	return found.Token, true, nil
}

// List returns the tokens of user, or of all with "", by user and then in the
// order in which they were made.
func (t *Tokens) List(user string) ([]Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refreshLocked(); err != nil {
		return nil, err
	}
	var list []Token
	for _, stored := range t.byHash {
		if user == "" || stored.User == user {
			list = append(list, stored.Token)
		}
	}
	slices.SortFunc(list, func(a, b Token) int {
		return cmp.Or(cmp.Compare(a.User, b.User), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// Create makes a token from what t says: User, Label, Scope and Expires. It
// returns the token itself, which is nowhere else, and what is kept of it.
func (t *Tokens) Create(token Token) (secret string, made Token, err error) {
	now := time.Now().UTC().Truncate(time.Second)
	token.Created, token.Expires = now, token.Expires.UTC().Truncate(time.Second)
	if err := token.check(now); err != nil {
		return "", Token{}, err
	}
	secret = newSecret()
	err = t.change(func(list []storedToken) ([]storedToken, error) {
		list = slices.DeleteFunc(list, func(s storedToken) bool { return s.User == token.User && s.Expired(now) })
		own := 0
		for _, s := range list {
			if s.User == token.User {
				own++
			}
		}
		if own >= MaxTokens {
			return nil, badToken("%s has %d tokens; revoke one first", token.User, own)
		}
		token.ID = newTokenID()
		for slices.ContainsFunc(list, func(s storedToken) bool { return s.ID == token.ID }) {
			token.ID = newTokenID()
		}
		return append(list, storedToken{token, hashSecret(secret)}), nil
	})
	if err != nil {
		return "", Token{}, err
	}
	return secret, token, nil
}

// Revoke ends a token of user, or of anybody with "".
func (t *Tokens) Revoke(user, id string) error {
	return t.change(func(list []storedToken) ([]storedToken, error) {
		n := len(list)
		list = slices.DeleteFunc(list, func(s storedToken) bool { return s.ID == id && (user == "" || s.User == user) })
		if len(list) == n {
			return nil, ErrNoToken
		}
		return list, nil
	})
}

// change replaces the file:
//
//  1. lock the directory, against other processes
//  2. read the file
//  3. write what edit makes of it to a temporary file beside it, and sync that.
//     A crash leaves the old file, and the temporary one, which has the name
//     that the next change takes
//  4. rename it over the old one. A crash leaves either
//  5. sync the directory. A revoked token stays revoked from here on
func (t *Tokens) change(edit func([]storedToken) ([]storedToken, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, err := os.Open(filepath.Dir(t.file))
	if err != nil {
		return err
	}
	defer dir.Close() // nothing was written through it; this unlocks
	if err := lockFile(dir); err != nil {
		return &fs.PathError{Op: "lock", Path: dir.Name(), Err: err}
	}
	list, _, err := readTokens(t.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if list, err = edit(list); err != nil {
		return err
	}
	info, err := t.replace(list)
	if err != nil {
		return err
	}
	t.setLocked(list, info)
	return dir.Sync()
}

// replace does steps 3 and 4 of change. The temporary file has a name of its own
// that never changes: who holds the lock is the only one to write it.
func (t *Tokens) replace(list []storedToken) (fs.FileInfo, error) {
	data, err := json.MarshalIndent(tokenFile{tokenFileVersion, list}, "", "\t")
	if err != nil {
		return nil, err
	}
	temporary := t.file + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	info, err := t.writeSynced(temporary, append(data, '\n'))
	if err == nil {
		err = os.Rename(temporary, t.file)
	}
	if err != nil {
		_ = os.Remove(temporary) // the error that counts is err; the next change removes it
		return nil, err
	}
	return info, nil
}

// writeSynced writes a new file that only its owner can read.
func (t *Tokens) writeSynced(name string, data []byte) (fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err = t.giveAway(f); err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	info, statErr := f.Stat()
	return info, errors.Join(err, statErr, f.Close())
}

// giveAway makes f belong to whom the file belongs, or, while there is none, to
// whom its directory does: what root makes on the command line is for the server,
// which need not run as root. Who is not root keeps it.
func (t *Tokens) giveAway(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(t.file))
	}
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil // a system without owners
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// lockFile waits for the only lock on an open file.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// File is the name of the file.
func (t *Tokens) File() string { return t.file }
