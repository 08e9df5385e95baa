package davfs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/webdav"
)

// bareHandler is x/net's handler over its file system in memory and our locks.
func bareHandler(t *testing.T, l *Locks) http.Handler {
	t.Helper()
	fs := webdav.NewMemFS()
	return &webdav.Handler{FileSystem: fs, LockSystem: l.LockSystem("me", func(p Path) (string, bool, error) {
		_, err := fs.Stat(context.Background(), p.String())
		if errors.Is(err, os.ErrNotExist) {
			return "", false, nil
		}
		return `"tag"`, true, err
	})}
}

// do sends a request whose fields are name, value, name, value...
func do(h http.Handler, method, target, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const exclusiveLock = `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`

// What webdav.NewMemLS gets wrong under the same handler.
func TestLockSystemUnderABareHandler(t *testing.T) {
	l := NewLocks(LockOptions{})
	h := bareHandler(t, l)
	want := func(what string, w *httptest.ResponseRecorder, status int) {
		t.Helper()
		if w.Code != status {
			t.Errorf("%s: %d, want %d", what, w.Code, status)
		}
	}
	want("PUT", do(h, "PUT", "/f", "x"), 201)
	w := do(h, "LOCK", "/f", exclusiveLock, "Timeout", "Second-60", "Depth", "0")
	want("LOCK", w, 200)
	token := w.Header().Get("Lock-Token")
	if !strings.HasPrefix(token, "<urn:uuid:") {
		t.Fatalf("Lock-Token %q", token)
	}
	want("PUT without the token", do(h, "PUT", "/f", "x"), 423)
	want("PUT with it", do(h, "PUT", "/f", "x", "If", "("+token+")"), 201)
	want("Not is no decoration", do(h, "PUT", "/f", "x", "If", "(Not "+token+")"), 412)
	want("an entity tag beside it", do(h, "PUT", "/f", "x", "If", "("+token+` ["tag"])`), 201)
	want("a wrong one", do(h, "PUT", "/f", "x", "If", "("+token+` ["other"])`), 412)
	want("PUT", do(h, "PUT", "/g", "x"), 201)
	want("an entity tag alone", do(h, "PUT", "/g", "x", "If", `(["tag"])`), 201)
	want("all of a list", do(h, "PUT", "/f", "x", "If", "("+token+" <urn:other>)"), 412)
	want("a second LOCK", do(h, "LOCK", "/f", exclusiveLock), 423)
	want("an infinite LOCK above", do(h, "LOCK", "/", exclusiveLock), 423)
	want("MOVE of what is locked", do(h, "MOVE", "/f", "", "If", "("+token+")", "Destination", "/h"), 201)
	want("UNLOCK", do(h, "UNLOCK", "/f", "", "Lock-Token", token), 204)
	want("UNLOCK again", do(h, "UNLOCK", "/f", "", "Lock-Token", token), 409)

	want("MKCOL", do(h, "MKCOL", "/d", ""), 201)
	token = do(h, "LOCK", "/d", exclusiveLock, "Depth", "0").Header().Get("Lock-Token")
	want("a new member of a locked collection", do(h, "PUT", "/d/new", "x"), 423)
	want("with the token", do(h, "PUT", "/d/new", "x", "If", "<http://example.com/d> ("+token+")"), 201)
	if got := len(l.All()); got != 1 {
		t.Errorf("%d locks are left, want 1: x/net's own go with their requests", got)
	}
}

func TestLockSystemErrors(t *testing.T) {
	l := NewLocks(LockOptions{})
	s := l.LockSystem("me", func(Path) (string, bool, error) { return "", true, nil })
	now := time.Now()
	theirs := mustLock(t, l, LockRequest{Root: at(t, "/theirs"), Principal: "they"})
	if err := s.Unlock(now, theirs.Token); !errors.Is(err, webdav.ErrForbidden) {
		t.Errorf("Unlock of a foreign lock: %v, want %v", err, webdav.ErrForbidden)
	}
	if err := s.Unlock(now, "urn:none"); !errors.Is(err, webdav.ErrNoSuchLock) {
		t.Errorf("Unlock of none: %v, want %v", err, webdav.ErrNoSuchLock)
	}
	if _, err := s.Refresh(now, "urn:none", 0); !errors.Is(err, webdav.ErrNoSuchLock) {
		t.Errorf("Refresh of none: %v, want %v", err, webdav.ErrNoSuchLock)
	}
	if _, err := s.Confirm(now, "/theirs", "", webdav.Condition{Token: theirs.Token}); !errors.Is(err, webdav.ErrConfirmationFailed) {
		t.Errorf("Confirm with a foreign token: %v, want %v", err, webdav.ErrConfirmationFailed)
	}
	release, err := s.Confirm(now, "/free/", "/other", webdav.Condition{Not: true, Token: "DAV:no-lock"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(now, webdav.LockDetails{Root: "/free", Duration: -1}); !errors.Is(err, webdav.ErrLocked) {
		t.Errorf("Create during a write: %v, want %v", err, webdav.ErrLocked)
	}
	release()
	token, err := s.Create(now, webdav.LockDetails{Root: "//free/.", Duration: -1, ZeroDepth: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Refresh(now, token, -1)
	if want := (webdav.LockDetails{Root: "/free", Duration: time.Hour, ZeroDepth: true}); d != want || err != nil {
		t.Errorf("Refresh = %+v, %v; want %+v", d, err, want)
	}
	if _, err := s.Create(now, webdav.LockDetails{Root: "/a\x00b"}); !errors.Is(err, errBadPath) {
		t.Errorf("Create of a name with NUL: %v, want %v", err, errBadPath)
	}
}
