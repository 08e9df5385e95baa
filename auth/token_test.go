package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func newTokens(t testing.TB) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(filepath.Join(t.TempDir(), "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func mustCreate(t testing.TB, tokens *Tokens, token Token) (string, Token) {
	t.Helper()
	secret, made, err := tokens.Create(token)
	if err != nil {
		t.Fatal(err)
	}
	return secret, made
}

func mustLookup(t testing.TB, tokens *Tokens, secret string) (Token, bool) {
	t.Helper()
	token, ok, err := tokens.Lookup(secret)
	if err != nil {
		t.Fatal(err)
	}
	return token, ok
}

func TestTokenIsMadeFoundListedRevoked(t *testing.T) {
	tokens := newTokens(t)
	secret, made := mustCreate(t, tokens, Token{User: "Alice", Label: " backup ", Scope: Scope{Shares: []string{"/b", "/a", "/b"}, Path: "/docs/", Write: true}})
	if !regexp.MustCompile(`^odt_[a-z2-7]{32}$`).MatchString(secret) {
		t.Errorf("the token is %q", secret)
	}
	if made.User != "alice" || made.Label != "backup" || fmt.Sprint(made.Scope.Shares) != "[/a /b]" || made.Scope.Path != "/docs" {
		t.Errorf("made %+v", made)
	}
	other, _ := mustCreate(t, tokens, Token{User: "bob", Label: "x"})
	if got, ok := mustLookup(t, tokens, secret); !ok || got.ID != made.ID {
		t.Errorf("found %+v, %t", got, ok)
	}
	for _, wrong := range []string{"", secret[:len(secret)-1], secret + "a", strings.ToUpper(secret), hashSecret(secret)} {
		if _, ok := mustLookup(t, tokens, wrong); ok {
			t.Errorf("%q is a token", wrong)
		}
	}
	if list, err := tokens.List("alice"); err != nil || len(list) != 1 || list[0].ID != made.ID {
		t.Errorf("list: %+v, %v", list, err)
	}
	if list, err := tokens.List(""); err != nil || len(list) != 2 || list[1].User != "bob" {
		t.Errorf("list of all: %+v, %v", list, err)
	}
	if err := tokens.Revoke("bob", made.ID); !errors.Is(err, ErrNoToken) {
		t.Errorf("bob revokes alice's token: %v", err)
	}
	if err := tokens.Revoke("alice", made.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := mustLookup(t, tokens, secret); ok {
		t.Error("a revoked token is found")
	}
	if _, ok := mustLookup(t, tokens, other); !ok {
		t.Error("another token went with it")
	}
}

func TestTokenExpires(t *testing.T) {
	tokens := newTokens(t)
	synctest.Test(t, func(t *testing.T) {
		secret, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x", Expires: time.Now().Add(time.Hour)})
		time.Sleep(time.Hour - time.Second)
		if _, ok := mustLookup(t, tokens, secret); !ok {
			t.Error("expired early")
		}
		time.Sleep(2 * time.Second)
		if _, ok := mustLookup(t, tokens, secret); ok {
			t.Error("did not expire")
		}
		if _, err := OpenTokens(tokens.file); err != nil {
			t.Errorf("an expired token damages the file: %v", err)
		}
		mustCreate(t, tokens, Token{User: "alice", Label: "y"})
		if list, err := tokens.List("alice"); err != nil || len(list) != 1 {
			t.Errorf("the expired one stays in the file: %+v, %v", list, err)
		}
	})
}

func TestTheFileHasNoTokenAndNobodyElseReadsIt(t *testing.T) {
	tokens := newTokens(t)
	secret, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	data, err := os.ReadFile(tokens.file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(secret[len(TokenPrefix):])) {
		t.Error("the token is in the file")
	}
	info, err := os.Stat(tokens.file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(filepath.Dir(tokens.file)); err != nil || len(names) != 1 {
		t.Errorf("beside it lies something: %v, %v", names, err)
	}
}

// What the command does, a running server sees; and the other way round.
func TestSeveralProcessesShareTheFile(t *testing.T) {
	server := newTokens(t)
	command, err := OpenTokens(server.file)
	if err != nil {
		t.Fatal(err)
	}
	secret, made := mustCreate(t, command, Token{User: "alice", Label: "x"})
	if _, ok := mustLookup(t, server, secret); !ok {
		t.Error("the server does not see a new token")
	}
	if err := command.Revoke("", made.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := mustLookup(t, server, secret); ok {
		t.Error("the server does not see that it was revoked")
	}
	if err := os.Remove(server.file); err != nil {
		t.Fatal(err)
	}
	if list, err := server.List(""); err != nil || list != nil {
		t.Errorf("without the file: %v, %v", list, err)
	}
}

func TestNoChangeIsLostBetweenProcesses(t *testing.T) {
	file := newTokens(t).file
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			tokens, err := OpenTokens(file)
			if err != nil {
				t.Error(err)
				return
			}
			for range 5 {
				if _, _, err := tokens.Create(Token{User: fmt.Sprintf("u%d", i), Label: "x"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := tokens.List(""); err != nil || len(list) != 20 {
		t.Errorf("%d tokens, want 20 (%v)", len(list), err)
	}
}

func TestTokensThatAreNotMade(t *testing.T) {
	tokens := newTokens(t)
	good := Token{User: "alice", Label: "x"}
	for name, spoil := range map[string]func(*Token){
		"user":          func(t *Token) { t.User = "anonymous" },
		"no label":      func(t *Token) { t.Label = " " },
		"long label":    func(t *Token) { t.Label = strings.Repeat("x", 65) },
		"control":       func(t *Token) { t.Label = "a\nb" },
		"expired":       func(t *Token) { t.Expires = time.Now().Add(-time.Second) },
		"share":         func(t *Token) { t.Scope.Shares = []string{"films"} },
		"relative path": func(t *Token) { t.Scope.Path = "docs" },
		"path with ..":  func(t *Token) { t.Scope.Path = "/a/../b" },
		"path with //":  func(t *Token) { t.Scope.Path = "//a" },
		"path with NUL": func(t *Token) { t.Scope.Path = "/a\x00" },
	} {
		token := good
		spoil(&token)
		if _, _, err := tokens.Create(token); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	if _, err := os.Stat(tokens.file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made for nothing (%v)", err)
	}
	for range MaxTokens {
		mustCreate(t, tokens, good)
	}
	if _, _, err := tokens.Create(good); err == nil {
		t.Error("there is no bound")
	}
	mustCreate(t, tokens, Token{User: "bob", Label: "x"})
}

func TestDamagedTokenFiles(t *testing.T) {
	tokens := newTokens(t)
	secret, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	good, err := os.ReadFile(tokens.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"not JSON":    "tokens",
		"cut off":     string(good[:len(good)/2]),
		"empty":       "",
		"later":       `{"version":2,"tokens":[]}`,
		"no hash":     `{"version":1,"tokens":[{"id":"a","user":"alice","label":"x"}]}`,
		"no user":     strings.Replace(string(good), `"alice"`, `""`, 1),
		"relative":    strings.Replace(string(good), `"scope": {}`, `"scope": {"path": "docs"}`, 1),
		"twice a one": strings.Replace(string(good), `"tokens": [`, `"tokens": [`+string(good[bytes.IndexByte(good, '[')+1:bytes.LastIndexByte(good, ']')])+",", 1),
	} {
		if text == string(good) {
			t.Fatalf("%s: nothing is damaged", name)
		}
		if err := os.WriteFile(tokens.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenTokens(tokens.file); err == nil {
			t.Errorf("%s: opened", name)
		}
		if _, ok, err := tokens.Lookup(secret); err == nil || ok {
			t.Errorf("%s: looked up: %t, %v", name, ok, err)
		}
		if _, _, err := tokens.Create(Token{User: "bob", Label: "x"}); err == nil {
			t.Errorf("%s: written over", name)
		}
	}
	if err := os.WriteFile(tokens.file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tokens.file, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(tokens.file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can write to: %v", err)
	}
	if _, err := OpenTokens(filepath.Join(tokens.file, "x")); err == nil {
		t.Error("a file for a directory")
	}
}

// What a crash leaves beside the file is in nobody's way.
func TestALeftTemporaryFileIsReplaced(t *testing.T) {
	tokens := newTokens(t)
	if err := os.WriteFile(tokens.file+".new", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	secret, _ := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	if _, ok := mustLookup(t, tokens, secret); !ok {
		t.Error("not made")
	}
}

func TestAChangeThatFailsChangesNothing(t *testing.T) {
	tokens := newTokens(t)
	secret, made := mustCreate(t, tokens, Token{User: "alice", Label: "x"})
	// A directory that is not empty is in the way of the temporary file, for root too.
	if err := os.MkdirAll(tokens.file+".new/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Revoke("alice", made.ID); err == nil {
		t.Fatal("revoked")
	}
	if _, ok := mustLookup(t, tokens, secret); !ok {
		t.Error("the token went though the change failed")
	}
}

func FuzzTokenFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"tokens":[{"id":"a","user":"alice","label":"x","scope":{"shares":["/"],"path":"/a"},"sha256":"` + hashSecret("x") + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseTokens(data)
		for i := range list {
			if _, ok := FoldName(list[i].User); !ok && err == nil {
				t.Errorf("user %q", list[i].User)
			}
		}
		if err == nil && slices.ContainsFunc(list, func(s storedToken) bool { return len(s.Hash) != 64 }) {
			t.Error("a hash of another length")
		}
	})
}

// What root makes for a server that runs as somebody else has to be that
// server's.
func TestRootMakesTheFileForWhomTheDirectoryIs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	tokens := newTokens(t)
	const nobody = 65534
	if err := os.Chown(filepath.Dir(tokens.file), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{nobody, nobody - 1} {
		mustCreate(t, tokens, Token{User: "alice", Label: "x"})
		info, err := os.Stat(tokens.file)
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != want || int(stat.Gid) != want {
			t.Errorf("the file is of %d:%d, want %d", stat.Uid, stat.Gid, want)
		}
		if err := os.Chown(tokens.file, nobody-1, nobody-1); err != nil { // and it stays theirs
			t.Fatal(err)
		}
	}
}
