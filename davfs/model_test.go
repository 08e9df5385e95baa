package davfs

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A model is a WebDAV share in thirty lines: what exists, and who locked what.
type model struct {
	tree  map[string]string // from path to content; "/" for a collection
	locks []modelLock
}

type modelLock struct {
	root, user, token string
	infinite          bool
}

func parentOf(path string) string {
	if path == "/" {
		return "/"
	}
	if dir := path[:strings.LastIndexByte(path, '/')]; dir != "" {
		return dir
	}
	return "/"
}

func within(dir, path string) bool {
	return dir == "/" && path != "/" || strings.HasPrefix(path, dir+"/")
}

func (m *model) isDir(path string) bool { return m.tree[path] == "/" }

func (m *model) exists(path string) bool { _, ok := m.tree[path]; return ok }

// blocked says whether user lacks a token for one of the paths, or of what is
// locked below those with a star at their end.
func (m *model) blocked(user string, submits bool, paths ...string) bool {
	for _, l := range m.locks {
		for _, p := range paths {
			p, tree := strings.CutSuffix(p, "*")
			hit := l.root == p || l.infinite && within(l.root, p) || tree && within(p, l.root)
			if hit && (l.user != user || !submits) {
				return true
			}
		}
	}
	return false
}

// remove takes a resource out, with its locks.
func (m *model) remove(path string) {
	maps.DeleteFunc(m.tree, func(p, _ string) bool { return p == path || within(path, p) })
	m.unlockTree(path)
}

func (m *model) unlockTree(path string) {
	m.locks = slices.DeleteFunc(m.locks, func(l modelLock) bool { return l.root == path || within(path, l.root) })
}

func (m *model) copyTo(src, dst string) {
	for p, content := range maps.Clone(m.tree) {
		if p == src || within(src, p) {
			m.tree[dst+strings.TrimPrefix(p, src)] = content
		}
	}
}

// TestModel plays random requests of two users against the model: each answer
// and every tree is as the model says. Nothing slips past a lock, and nothing is
// refused that nobody has locked.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tree, _, _ := openTree(t, map[string]string{"a/a": "lower", "a/b/a": "lower", "b": "lower"})
		handler, err := NewHandler(NewFileSystem(tree), Options{User: func(r *http.Request) string { return r.Header.Get("Test-User") }})
		if err != nil {
			rt.Fatal(err)
		}
		p := &modelPlayer{t: rt, handler: handler, view: &share{t: t, tree: tree}, m: model{tree: map[string]string{
			"/": "/", "/a": "/", "/a/a": "lower", "/a/b": "/", "/a/b/a": "lower", "/b": "lower",
		}}}
		rt.Repeat(map[string]func(*rapid.T){
			"put": p.put, "delete": p.delete, "mkcol": p.mkcol, "copy": p.transfer("COPY"), "move": p.transfer("MOVE"),
			"lock": p.lock, "unlock": p.unlock, "": p.compare,
		})
	})
}

type modelPlayer struct {
	t       *rapid.T
	handler http.Handler
	view    *share
	m       model
}

func drawPath(t *rapid.T, label string) string {
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 3).Draw(t, label)
	return "/" + strings.Join(names, "/")
}

// do makes a request as one of the users, who may submit the tokens they have.
func (p *modelPlayer) do(t *rapid.T, method, path, body string, headers ...string) (user string, submits bool, answer *httptest.ResponseRecorder) {
	user = rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "user")
	submits = rapid.Bool().Draw(t, "submits")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Test-User", user)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	var tokens []string
	for _, l := range p.m.locks {
		if l.user == user {
			tokens = append(tokens, "(Not <"+l.token+">)", "(<"+l.token+">)")
		}
	}
	if submits && len(tokens) > 0 {
		r.Header.Set("If", strings.Join(tokens, " "))
	}
	answer = httptest.NewRecorder()
	p.handler.ServeHTTP(answer, r)
	return user, submits, answer
}

// want compares a status with the model's: the first of the verdicts that holds.
func want(t *rapid.T, answer *httptest.ResponseRecorder, verdicts ...any) bool {
	for i := 0; i+1 < len(verdicts); i += 2 {
		if verdicts[i].(bool) {
			if status := verdicts[i+1].(int); answer.Code != status {
				t.Fatalf("got %d %s, the model says %d", answer.Code, answer.Body, status)
			}
			return verdicts[i+1].(int)/100 == 2
		}
	}
	panic("the last verdict must hold")
}

func (p *modelPlayer) put(t *rapid.T) {
	path := drawPath(t, "path")
	content := rapid.SampledFrom([]string{"x", "y", ""}).Draw(t, "content")
	touched := []string{path}
	if !p.m.exists(path) {
		touched = append(touched, parentOf(path))
	}
	user, submits, answer := p.do(t, "PUT", path, content)
	if want(t, answer,
		p.m.blocked(user, submits, touched...), 423,
		p.m.isDir(path), 405,
		!p.m.isDir(parentOf(path)), 409,
		p.m.exists(path), 204,
		true, 201,
	) {
		p.m.tree[path] = content
	}
}

func (p *modelPlayer) delete(t *rapid.T) {
	path := drawPath(t, "path")
	user, submits, answer := p.do(t, "DELETE", path, "")
	if want(t, answer,
		p.m.blocked(user, submits, path+"*", parentOf(path)), 423,
		!p.m.exists(path), 404,
		true, 204,
	) {
		p.m.remove(path)
	}
}

func (p *modelPlayer) mkcol(t *rapid.T) {
	path := drawPath(t, "path")
	user, submits, answer := p.do(t, "MKCOL", path, "")
	if want(t, answer,
		p.m.blocked(user, submits, path, parentOf(path)), 423,
		p.m.exists(path), 405,
		!p.m.isDir(parentOf(path)), 409,
		true, 201,
	) {
		p.m.tree[path] = "/"
	}
}

func (p *modelPlayer) transfer(method string) func(*rapid.T) {
	return func(t *rapid.T) {
		src, dst := drawPath(t, "src"), drawPath(t, "dst")
		overwrite := rapid.SampledFrom([]string{"", "T", "F"}).Draw(t, "overwrite")
		touched := []string{dst + "*"}
		if !p.m.exists(dst) {
			touched = append(touched, parentOf(dst))
		}
		if method == "MOVE" {
			touched = append(touched, src+"*", parentOf(src))
		}
		user, submits, answer := p.do(t, method, src, "", "Destination", dst, "Overwrite", overwrite)
		existed := p.m.exists(dst)
		if !want(t, answer,
			!p.m.exists(src), 404,
			src == dst || within(src, dst) || within(dst, src), 403,
			p.m.blocked(user, submits, touched...), 423,
			existed && overwrite == "F", 412,
			!p.m.isDir(parentOf(dst)), 409,
			existed, 204,
			true, 201,
		) {
			return
		}
		wasDir := p.m.isDir(dst)
		maps.DeleteFunc(p.m.tree, func(q, _ string) bool { return q == dst || within(dst, q) })
		if existed && (method == "MOVE" || wasDir) {
			p.m.unlockTree(dst)
		}
		p.m.copyTo(src, dst)
		if method == "MOVE" {
			p.m.remove(src)
		}
	}
}

func (p *modelPlayer) lock(t *rapid.T) {
	path := drawPath(t, "path")
	depth := rapid.SampledFrom([]string{"0", "infinity"}).Draw(t, "depth")
	covered := slices.ContainsFunc(p.m.locks, func(l modelLock) bool {
		return l.root == path || l.infinite && within(l.root, path)
	})
	members := slices.ContainsFunc(p.m.locks, func(l modelLock) bool {
		return depth == "infinity" && within(path, l.root)
	})
	existed := p.m.exists(path)
	user, submits, answer := p.do(t, "LOCK", path, lockExclusive, "Depth", depth)
	if want(t, answer,
		!existed && p.m.blocked(user, submits, parentOf(path)), 423,
		covered, 423,
		members, 207,
		!existed && !p.m.isDir(parentOf(path)), 409,
		existed, 200,
		true, 201,
	) && !members {
		token := strings.Trim(answer.Header().Get("Lock-Token"), "<>")
		p.m.locks = append(p.m.locks, modelLock{path, user, token, depth == "infinity"})
		if !existed {
			p.m.tree[path] = ""
		}
	}
}

func (p *modelPlayer) unlock(t *rapid.T) {
	if len(p.m.locks) == 0 {
		t.Skip("nothing is locked")
	}
	i := rapid.IntRange(0, len(p.m.locks)-1).Draw(t, "lock")
	l := p.m.locks[i]
	user, _, answer := p.do(t, "UNLOCK", l.root, "", "Lock-Token", "<"+l.token+">")
	if want(t, answer, user != l.user, 403, true, 204) {
		p.m.locks = slices.Delete(p.m.locks, i, i+1)
	}
}

func (p *modelPlayer) compare(t *rapid.T) {
	var lines []string
	for path, content := range p.m.tree {
		switch {
		case path == "/":
		case content == "/":
			lines = append(lines, path[1:]+"/")
		default:
			lines = append(lines, path[1:]+"="+content)
		}
	}
	slices.Sort(lines)
	if got, want := p.view.merged(), strings.Join(lines, " "); got != want {
		t.Fatal(fmt.Sprintf("the tree is %q, the model's is %q", got, want))
	}
}
