package overlaytest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"
)

// NewHTTP is a WebDAV server as an Engine: base is the URL of the merged
// tree's root. It knows of the tree what any client would: names, kinds and
// content. Closing it calls stop.
func NewHTTP(base string, client *http.Client, stop func() error) Engine {
	return &httpEngine{base: strings.TrimSuffix(base, "/"), client: client, stop: stop}
}

type httpEngine struct {
	base   string
	client *http.Client
	stop   func() error
}

func (h *httpEngine) Close() error { return h.stop() }

func (h *httpEngine) url(name string) string {
	if name == "." {
		return h.base + "/"
	}
	u := url.URL{Path: "/" + name}
	return h.base + u.EscapedPath()
}

// do makes a request and reads its answer whole.
func (h *httpEngine) do(method, name, body string, header ...string) (int, []byte, error) {
	req, err := http.NewRequest(method, h.url(name), strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	content, err := io.ReadAll(resp.Body)
	return resp.StatusCode, content, errors.Join(err, resp.Body.Close())
}

// change makes a request and turns a refusal into an error.
func (h *httpEngine) change(method, name, body string, header ...string) error {
	status, content, err := h.do(method, name, body, header...)
	if err == nil && status/100 != 2 || status == http.StatusMultiStatus {
		err = fmt.Errorf("%s %s: status %d: %s", method, name, status, content)
	}
	return err
}

// stat is the kind of what is there, as a client has to ask before it does
// what rename(2) or rmdir(2) do.
func (h *httpEngine) stat(name string) (found, dir bool, err error) {
	members, err := h.propfind(name, "0")
	if err != nil || len(members) == 0 {
		return false, false, err
	}
	return true, members[0].dir(), nil
}

// A response is what PROPFIND tells of one resource (RFC 4918, section 9.1).
type response struct {
	Href       string    `xml:"DAV: href"`
	Collection []xmlName `xml:"DAV: propstat>prop>resourcetype>collection"`
}

type xmlName struct{ XMLName xml.Name }

func (r response) dir() bool { return len(r.Collection) > 0 }

func (h *httpEngine) propfind(name, depth string) ([]response, error) {
	const body = `<propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>`
	status, content, err := h.do("PROPFIND", name, body, "Depth", depth)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound:
		return nil, nil
	case status != http.StatusMultiStatus:
		return nil, fmt.Errorf("PROPFIND %s: status %d: %s", name, status, content)
	}
	var answer struct {
		Responses []response `xml:"DAV: response"`
	}
	err = xml.Unmarshal(content, &answer)
	return answer.Responses, err
}

func (h *httpEngine) Put(name, content string) error { return h.change("PUT", name, content) }
func (h *httpEngine) Mkdir(name string) error        { return h.change("MKCOL", name, "") }

func (h *httpEngine) Rm(name string) error {
	if _, dir, err := h.stat(name); dir || err != nil {
		return errors.Join(err, syscall.EISDIR)
	}
	return h.change("DELETE", name, "")
}

func (h *httpEngine) Rmdir(name string) error {
	found, dir, err := h.stat(name)
	if err != nil || found && !dir {
		return errors.Join(err, syscall.ENOTDIR)
	}
	if names, err := h.Ls(name); len(names) > 0 || err != nil {
		return errors.Join(err, syscall.ENOTEMPTY)
	}
	return h.change("DELETE", name, "")
}

func (h *httpEngine) Rmtree(name string) error { return h.change("DELETE", name, "") }

// Mv refuses what rename(2) refuses and MOVE does not.
func (h *httpEngine) Mv(from, to string) error {
	_, fromDir, err := h.stat(from)
	if err != nil {
		return err
	}
	found, toDir, err := h.stat(to)
	switch {
	case err != nil:
		return err
	case found && fromDir && !toDir:
		return syscall.ENOTDIR
	case found && !fromDir && toDir:
		return syscall.EISDIR
	}
	if toDir {
		if names, err := h.Ls(to); err != nil || len(names) > 0 {
			return errors.Join(err, syscall.ENOTEMPTY)
		}
	}
	return h.change("MOVE", from, "", "Destination", h.url(to), "Overwrite", "T")
}

func (h *httpEngine) Rename(from, to string) error { return h.Mv(from, to) }

func (h *httpEngine) Cp(from, to string) error {
	return h.change("COPY", from, "", "Destination", h.url(to), "Overwrite", "T")
}

func (h *httpEngine) Cat(name string) (string, error) {
	status, content, err := h.do("GET", name, "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d", name, status)
	}
	return string(content), err
}

func (h *httpEngine) Ls(name string) ([]string, error) {
	members, err := h.members(name)
	var names []string
	for _, m := range members {
		names = append(names, path.Base(m.Name))
	}
	sort.Strings(names)
	return names, err
}

// members lists a directory as entries without attributes.
func (h *httpEngine) members(name string) (Tree, error) {
	responses, err := h.propfind(name, "1")
	if err != nil {
		return nil, err
	}
	if len(responses) == 0 {
		return nil, syscall.ENOENT
	}
	base, err := url.Parse(h.url(name))
	if err != nil {
		return nil, err
	}
	var tree Tree
	for _, r := range responses {
		href, err := base.Parse(r.Href)
		if err != nil {
			return nil, err
		}
		if strings.Trim(href.Path, "/") == strings.Trim(base.Path, "/") {
			continue // the directory itself
		}
		line := quote(path.Join(name, path.Base(href.Path)), " =[]")
		if r.dir() {
			line += "/"
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, err
		}
		tree = append(tree, e)
	}
	return tree, nil
}

func (h *httpEngine) Tree() (string, error) {
	tree, err := h.tree(".")
	return tree.String(), err
}

func (h *httpEngine) tree(dir string) (Tree, error) {
	members, err := h.members(dir)
	tree := members
	for i, e := range members {
		if err != nil {
			return nil, err
		}
		if e.isDir() {
			var below Tree
			below, err = h.tree(e.Name)
			tree = append(tree, below...)
			continue
		}
		var content string
		content, err = h.Cat(e.Name)
		var f fileData
		f.add(0, []byte(content))
		tree[i].Size, tree[i].Data = int64(len(content)), f.stretches()
	}
	return tree, err
}

// AsHTTP is what a client of WebDAV sees of a merged tree's text; ok is false
// when there is something in it that WebDAV has no form for.
func AsHTTP(text string) (reduced string, ok bool) {
	tree, err := Parse(text)
	if err != nil {
		return text, false
	}
	kept := tree[:0]
	for _, e := range tree {
		kind := e.Mode & syscall.S_IFMT
		if kind != syscall.S_IFREG && kind != syscall.S_IFDIR || e.Link != "" || e.Refused != "" {
			return text, false
		}
		plain, err := parseEntry(quote(e.Name, " =[]"))
		if err != nil {
			return text, false
		}
		if e.isDir() {
			plain.Mode = syscall.S_IFDIR | 0o755
		}
		plain.Size, plain.Data = e.Size, e.Data
		kept = append(kept, plain)
	}
	return kept.String(), true
}

// The rest has no words in WebDAV.

func (h *httpEngine) Write(string, string) error              { return errors.ErrUnsupported }
func (h *httpEngine) Append(string, string) error             { return errors.ErrUnsupported }
func (h *httpEngine) WriteAt(string, int64, string) error     { return errors.ErrUnsupported }
func (h *httpEngine) Truncate(string, int64) error            { return errors.ErrUnsupported }
func (h *httpEngine) Ln(string, string) error                 { return errors.ErrUnsupported }
func (h *httpEngine) Symlink(string, string) error            { return errors.ErrUnsupported }
func (h *httpEngine) Mkfifo(string) error                     { return errors.ErrUnsupported }
func (h *httpEngine) Chmod(string, uint32) error              { return errors.ErrUnsupported }
func (h *httpEngine) Chown(string, int, int) error            { return errors.ErrUnsupported }
func (h *httpEngine) Touch(string, time.Time) error           { return errors.ErrUnsupported }
func (h *httpEngine) Setxattr(string, string, string) error   { return errors.ErrUnsupported }
func (h *httpEngine) Rmxattr(string, string) error            { return errors.ErrUnsupported }
func (h *httpEngine) Getxattr(string, string) (string, error) { return "", errors.ErrUnsupported }
func (h *httpEngine) Listxattr(string) ([]string, error)      { return nil, errors.ErrUnsupported }
func (h *httpEngine) Readlink(string) (string, error)         { return "", errors.ErrUnsupported }
