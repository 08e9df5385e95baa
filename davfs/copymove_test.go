package davfs

import (
	"strings"
	"testing"
)

// What x/net's Handler answers with the loss of the destination, or of all
// (golang.org/x/net/webdav v0.62.0), and the rest of RFC 4918, sections 9.8.5
// and 9.9.4: the tree after a refusal is the tree before.
func TestCopyAndMoveRefuseBeforeTheyTouchAnything(t *testing.T) {
	files := map[string]string{"f": "1", "g": "2", "p/a": "3", "p/d/x": "4", "q/y": "5"}
	const tree = "f=1 g=2 p/ p/a=3 p/d/ p/d/x=4 q/ q/y=5"
	for _, test := range []struct {
		name, method, src, dst string
		headers                []string
		want                   int
	}{
		{"a missing source onto a file", "MOVE", "/missing", "/f", []string{"Overwrite: T"}, 404},
		{"a missing source onto a file", "COPY", "/missing", "/f", []string{"Overwrite: T"}, 404},
		{"a file onto its collection", "MOVE", "/p/a", "/p", []string{"Overwrite: T"}, 403},
		{"a file onto its collection", "COPY", "/p/a", "/p", nil, 403},
		{"a collection onto its collection", "COPY", "/p/d", "/p", nil, 403},
		{"a collection onto its collection", "MOVE", "/p/d/", "/p/", nil, 403},
		{"a collection into itself", "MOVE", "/p", "/p/d", []string{"Overwrite: T"}, 403},
		{"a collection into itself, new", "MOVE", "/p", "/p/new", nil, 403},
		{"a collection into itself, new", "COPY", "/p", "/p/new", []string{"Depth: infinity"}, 403},
		{"a collection deep into itself", "COPY", "/p", "/p/d/e", nil, 403},
		{"a collection onto itself, with a slash", "MOVE", "/p", "/p/", nil, 403},
		{"a collection onto itself, with a slash", "COPY", "/p", "/p/", nil, 403},
		{"a collection into itself, without its members", "COPY", "/p", "/p/new", []string{"Depth: 0"}, 403},
		{"a file onto itself", "MOVE", "/f", "/f", nil, 403},
		{"a file onto itself, escaped", "COPY", "/f", "/%66", nil, 403},
		{"the root", "MOVE", "/", "/new", nil, 403},
		{"the root", "COPY", "/", "/new", nil, 403},
		{"onto the root", "MOVE", "/p", "/", nil, 403},
		{"onto the root", "COPY", "/f", "/", nil, 403},
		{"into a missing collection", "MOVE", "/f", "/no/f", nil, 409},
		{"into a missing collection", "COPY", "/f", "/no/f", nil, 409},
		{"a collection into a missing one", "COPY", "/p/", "/no/p/", nil, 409},
		{"into a file", "MOVE", "/g", "/f/g", nil, 409},
		{"into a file", "COPY", "/g", "/f/g", nil, 409},
		{"onto a file, Overwrite: F", "MOVE", "/f", "/g", []string{"Overwrite: F"}, 412},
		{"onto a file, Overwrite: F", "COPY", "/f", "/g", []string{"Overwrite: F"}, 412},
		{"onto a collection, Overwrite: F", "MOVE", "/p", "/q", []string{"Overwrite: F"}, 412},
		{"a file as a collection", "MOVE", "/f/", "/new", nil, 404},
		{"a file to the name of a collection", "MOVE", "/f", "/new/", nil, 409},
		{"Depth 1", "COPY", "/p", "/new", []string{"Depth: 1"}, 400},
		{"Depth 0", "MOVE", "/p", "/new", []string{"Depth: 0"}, 400},
		{"an Overwrite of neither", "MOVE", "/f", "/g", []string{"Overwrite: maybe"}, 400},
		{"to another server", "COPY", "/f", "http://other.example/f", nil, 502},
		{"to a traversal", "COPY", "/f", "/p/%2e%2e/h", nil, 400},
		{"to a name with a slash", "COPY", "/f", "/p%2fh", nil, 400},
		{"to a name with NUL", "COPY", "/f", "/h%00", nil, 400},
		{"to a name of 256 bytes", "MOVE", "/f", "/" + strings.Repeat("n", 256), nil, 414},
		{"to nowhere", "MOVE", "/f", "", nil, 400},
	} {
		t.Run(test.method+" "+test.name, func(t *testing.T) {
			s := serve(t, files)
			headers := test.headers
			if test.dst != "" {
				headers = append([]string{"Destination: " + test.dst}, headers...)
			}
			s.want(test.want, test.method, test.src, "", headers...)
			s.wantMerged(tree)
		})
	}
}

func TestCopyAndMove(t *testing.T) {
	for _, test := range []struct {
		name, method, src, dst string
		headers                []string
		want                   int
		tree                   string
	}{
		{"a file", "MOVE", "/f", "/h", nil, 201, "g=2 h=1 p/ p/a=3 p/d/ q/"},
		{"a file", "COPY", "/f", "/h", nil, 201, "f=1 g=2 h=1 p/ p/a=3 p/d/ q/"},
		{"over a file, Overwrite absent", "MOVE", "/f", "/g", nil, 204, "g=1 p/ p/a=3 p/d/ q/"},
		{"over a file", "COPY", "/f", "/g", []string{"Overwrite: T"}, 204, "f=1 g=1 p/ p/a=3 p/d/ q/"},
		{"a collection over a collection", "MOVE", "/q", "/p", nil, 204, "f=1 g=2 p/"},
		{"a collection over a collection", "COPY", "/q/", "/p/", nil, 204, "f=1 g=2 p/ q/"},
		{"a collection over a file", "MOVE", "/p", "/f", nil, 204, "f/ f/a=3 f/d/ g=2 q/"},
		{"a file over a collection", "COPY", "/f", "/p", nil, 204, "f=1 g=2 p=1 q/"},
		{"a collection", "COPY", "/p", "/n", nil, 201, "f=1 g=2 n/ n/a=3 n/d/ p/ p/a=3 p/d/ q/"},
		{"a collection without its members", "COPY", "/p", "/n", []string{"Depth: 0"}, 201, "f=1 g=2 n/ p/ p/a=3 p/d/ q/"},
		{"Depth: infinity said", "MOVE", "/p/", "/n/", []string{"Depth: infinity"}, 201, "f=1 g=2 n/ n/a=3 n/d/ q/"},
	} {
		t.Run(test.method+" "+test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "1", "g": "2", "p/a": "3", "p/d/": "", "q/": ""})
			s.want(test.want, test.method, test.src, "", append(test.headers, "Destination: {base}"+test.dst)...)
			s.wantMerged(test.tree)
		})
	}
}

func TestDeadPropertiesTravel(t *testing.T) {
	const set = `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><c xmlns="urn:x">red</c></D:prop></D:set></D:propertyupdate>`
	const find = `<D:propfind xmlns:D="DAV:"><D:prop><c xmlns="urn:x"/></D:prop></D:propfind>`
	for _, depth := range []string{"infinity", "0"} {
		s := serve(t, map[string]string{"p/a": "1"})
		s.want(207, "PROPPATCH", "/p/", set)
		s.want(207, "PROPPATCH", "/p/a", set)
		s.want(201, "COPY", "/p/", "", "Destination: /n/", "Depth: "+depth)
		s.want(201, "MOVE", "/p/", "", "Destination: /m/")
		names := []string{"/n/", "/m/", "/m/a"}
		if depth == "infinity" {
			names = append(names, "/n/a")
		}
		for _, name := range names {
			if got := s.want(207, "PROPFIND", name, find, "Depth: 0"); !strings.Contains(got.body, "red") {
				t.Errorf("Depth %s: %s has lost its property: %s", depth, name, got.body)
			}
		}
	}
}

// A MOVE of a lower directory with many members changes no member.
func TestMoveKeepsTimesAndTags(t *testing.T) {
	s := serve(t, map[string]string{"p/a": "1"})
	before := s.want(200, "GET", "/p/a", "")
	s.want(201, "MOVE", "/p", "", "Destination: /n")
	after := s.want(200, "GET", "/n/a", "")
	for _, name := range []string{"ETag", "Last-Modified"} {
		if got, want := after.header.Get(name), before.header.Get(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
