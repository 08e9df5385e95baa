package davfs

import (
	"bufio"
	"encoding/xml"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The files in testdata/clients are what clients that cannot run here send, in
// the order in which they send it, and what they need to get. A line is
//
//	--- title                 a new step
//	> METHOD target           its request; further ">" lines are headers, then
//	>| text                   the body's lines, or
//	>@ n                      a body of n bytes
//	< 207                     the status: a code, "2xx", or several with "|"
//	<h Name: text             a header of the answer has the text in it
//	<!h Name                  and none of that name
//	<b text                   the body has the text in it
//	<!b text                  and has it not
//	<save VAR header Name     {VAR} is from now on that header, without brackets
//	<save VAR xml name        or the text of the first element of that name
//
// {BASE} is the path of the share, {HOST} and {SCHEME} the server's.
func TestClients(t *testing.T) {
	files, err := filepath.Glob("testdata/clients/*.txt")
	mustDo(t, err)
	if len(files) == 0 {
		t.Fatal("no clients")
	}
	for _, prefix := range []string{"", "/dav"} {
		s := serve(t, nil, func(o *Options) { o.Prefix = prefix })
		for _, file := range files {
			t.Run(prefix+"/"+strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				p := player{t: t, vars: map[string]string{
					"BASE": prefix + "/", "HOST": s.Listener.Addr().String(), "SCHEME": "http",
				}}
				p.play(file)
			})
		}
	}
}

// A player plays one file.
type player struct {
	t    *testing.T
	vars map[string]string

	step           string
	method, target string
	header         http.Header
	body           strings.Builder
	hasBody        bool
	got            *answer // nil until the request is sent
}

func (p *player) play(file string) {
	f, err := os.Open(file)
	mustDo(p.t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "--- "):
			p.send() // a step without expectations
			p.step, p.got, p.method = line[4:], nil, ""
		case strings.HasPrefix(line, ">"):
			p.request(line[1:])
		case strings.HasPrefix(line, "<"):
			p.send()
			p.expect(p.expand(line[1:]))
		default:
			p.t.Fatalf("%s: what is %q?", p.step, line)
		}
	}
	p.send()
	mustDo(p.t, lines.Err())
}

func (p *player) expand(s string) string {
	for name, value := range p.vars {
		s = strings.ReplaceAll(s, "{"+name+"}", value)
	}
	return s
}

func (p *player) request(line string) {
	switch {
	case strings.HasPrefix(line, "|"):
		if p.hasBody {
			p.body.WriteByte('\n')
		}
		p.body.WriteString(strings.TrimPrefix(line[1:], " "))
		p.hasBody = true
	case strings.HasPrefix(line, "@"):
		n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		mustDo(p.t, err)
		p.body.WriteString(strings.Repeat("x", n))
		p.hasBody = true
	case strings.TrimSpace(line) == "":
	case p.method == "":
		p.method, p.target, _ = strings.Cut(p.expand(strings.TrimSpace(line)), " ")
		p.header = make(http.Header)
		p.body.Reset()
		p.hasBody = false
	default:
		name, value, _ := strings.Cut(p.expand(strings.TrimSpace(line)), ": ")
		p.header.Add(name, value)
	}
}

// send sends the request of the step, if it has not been sent.
func (p *player) send() {
	if p.method == "" || p.got != nil {
		return
	}
	var body io.Reader = strings.NewReader(p.body.String())
	if !p.hasBody {
		body = nil
	}
	r, err := http.NewRequest(p.method, "http://"+p.vars["HOST"]+p.target, body)
	mustDo(p.t, err)
	r.Header = p.header
	if p.header.Get("Transfer-Encoding") == "chunked" {
		r.ContentLength = -1
	}
	for _, name := range []string{"Transfer-Encoding", "Content-Length", "Connection", "Te", "Accept-Encoding"} {
		r.Header.Del(name) // net/http writes its own
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		p.t.Fatalf("%s: %s %s: %v", p.step, p.method, p.target, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	mustDo(p.t, err)
	p.got = &answer{response.StatusCode, response.Header, string(content)}
	if p.got.status >= 500 {
		p.t.Errorf("%s: %s %s: got %d", p.step, p.method, p.target, p.got.status)
	}
}

func (p *player) expect(line string) {
	kind, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	name, text, _ := strings.Cut(rest, ": ")
	name = strings.TrimSuffix(name, ":")
	switch kind {
	case "":
		if !p.statusIs(rest) {
			p.t.Fatalf("%s: %s %s: got %d %s, want %s", p.step, p.method, p.target, p.got.status, p.got.body, rest)
		}
	case "h":
		value := strings.Join(p.got.header.Values(name), ", ")
		if value == "" || !strings.Contains(value, text) {
			p.t.Errorf("%s: %s is %q, want %q in it", p.step, name, value, text)
		}
	case "!h":
		if value := p.got.header.Get(name); value != "" {
			p.t.Errorf("%s: %s is %q, want none", p.step, name, value)
		}
	case "b":
		if !strings.Contains(p.got.body, rest) {
			p.t.Errorf("%s: no %q in %s", p.step, rest, p.got.body)
		}
	case "!b":
		if strings.Contains(p.got.body, rest) {
			p.t.Errorf("%s: %q in %s", p.step, rest, p.got.body)
		}
	case "save":
		p.save(strings.Fields(rest))
	default:
		p.t.Fatalf("%s: what is <%s?", p.step, line)
	}
}

func (p *player) statusIs(want string) bool {
	got := strconv.Itoa(p.got.status)
	return slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool {
		return w == got || strings.HasSuffix(w, "xx") && w[0] == got[0]
	})
}

func (p *player) save(words []string) {
	if words[1] == "header" {
		p.vars[words[0]] = strings.Trim(p.got.header.Get(words[2]), "<>")
		return
	}
	d := xml.NewDecoder(strings.NewReader(p.got.body))
	inside := false
	for {
		token, err := d.Token()
		if err != nil {
			p.t.Fatalf("%s: no <%s> in %s", p.step, words[2], p.got.body)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = inside || token.Name.Local == words[2]
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); inside && text != "" {
				p.vars[words[0]] = text
				return
			}
		}
	}
}
