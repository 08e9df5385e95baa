package davfs

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPutAnswers(t *testing.T) {
	s := serve(t, map[string]string{"old": "1", "d/": ""})
	made := s.want(201, "PUT", "/new", "content")
	replaced := s.want(204, "PUT", "/old", "content")
	for name, got := range map[string]answer{"/new": made, "/old": replaced} {
		now := s.want(200, "HEAD", name, "")
		for _, field := range []string{"ETag", "Last-Modified"} {
			if got.header.Get(field) == "" || got.header.Get(field) != now.header.Get(field) {
				t.Errorf("PUT %s: %s is %q, HEAD then says %q", name, field, got.header.Get(field), now.header.Get(field))
			}
		}
		if got.body != "" {
			t.Errorf("PUT %s: the answer has a body: %q", name, got.body)
		}
		if strings.HasPrefix(got.header.Get("ETag"), "W/") {
			t.Errorf("PUT %s: a weak tag: %s", name, got.header.Get("ETag"))
		}
	}
	s.want(204, "PUT", "/old", "")
	if got := s.content("old"); got != "" {
		t.Errorf("an empty upload left %q", got)
	}
}

func TestPutRefusals(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		headers          []string
		want             int
	}{
		{"onto a collection", "/d", "x", nil, 405},
		{"onto a collection with a slash", "/d/", "x", nil, 405},
		{"to a name with a slash", "/new/", "x", nil, 409},
		{"onto a file with a slash", "/f/", "x", nil, 409},
		{"into a missing collection", "/no/f", "x", nil, 409},
		{"into a file", "/f/g", "x", nil, 409},
		{"onto a FIFO", "/fifo", "x", nil, 403},
		{"encoded content", "/f", "x", []string{"Content-Encoding: gzip"}, 415},
		{"a name of 256 bytes", "/" + strings.Repeat("n", 256), "x", nil, 414},
		{"a control character", "/a%0ab", "x", nil, 403},
		{"a dot segment", "/d/%2e%2e/f", "x", nil, 400},
		{"an empty segment", "/d//f", "x", nil, 400},
		{"a slash in a segment", "/d%2ff", "x", nil, 400},
		{"NUL", "/f%00", "x", nil, 400},
		{"If-None-Match: * of what exists", "/f", "x", []string{"If-None-Match: *"}, 412},
		{"If-Match: * of what does not", "/new", "x", []string{"If-Match: *"}, 412},
		{"If-Match of another tag", "/f", "x", []string{`If-Match: "other"`}, 412},
		{"If-Unmodified-Since of long ago", "/f", "x", []string{"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:01 GMT"}, 412},
		{"an If of another tag", "/f", "x", []string{`If: (["other"])`}, 412},
		{"an If that is none", "/f", "x", []string{"If: ("}, 400},
		{"the wrong SHA1", "/f", "x", []string{"OC-Checksum: SHA1:" + strings.Repeat("0", 40)}, 400},
		{"the wrong MD5", "/f", "x", []string{"OC-Checksum: MD5:" + strings.Repeat("0", 32)}, 400},
		{"the wrong Content-MD5", "/f", "x", []string{"Content-MD5: AAAAAAAAAAAAAAAAAAAAAA=="}, 400},
		{"a checksum that is none", "/f", "x", []string{"OC-Checksum: SHA1:xyz"}, 400},
		{"a Content-Range beyond the end", "/f", "x", []string{"Content-Range: bytes 100-100/*"}, 416},
		{"a Content-Range of another length", "/f", "x", []string{"Content-Range: bytes 0-4/*"}, 400},
		{"a Content-Range that is none", "/f", "x", []string{"Content-Range: bytes */5"}, 400},
		{"a Content-Range in other units", "/f", "x", []string{"Content-Range: lines 0-0/1"}, 400},
		{"more than there is room for", "/f", "x", []string{"X-Expected-Entity-Length: 9000000000000000000"}, 507},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "old", "d/": "", "fifo": "|"})
			got := s.want(test.want, "PUT", test.path, test.body, test.headers...)
			s.wantMerged("d/ f=old fifo~")
			if test.want == 405 && !strings.Contains(got.header.Get("Allow"), "PROPFIND") {
				t.Errorf("405 with Allow %q", got.header.Get("Allow"))
			}
		})
	}
}

// RFC 9110, section 14.5; sabre/dav's partial update.
func TestPartialWrites(t *testing.T) {
	patch := func(where string) []string {
		return []string{"Content-Type: application/x-sabredav-partialupdate", "X-Update-Range: " + where}
	}
	for _, test := range []struct {
		name, method, path, body string
		headers                  []string
		want                     int
		content                  string
	}{
		{"the middle", "PUT", "/f", "XY", []string{"Content-Range: bytes 2-3/10"}, 204, "01XY456789"},
		{"resumed", "PUT", "/f", "XY", []string{"Content-Range: bytes 10-11/12"}, 204, "0123456789XY"},
		{"resumed in a shorter whole", "PUT", "/f", "XY", []string{"Content-Range: bytes 2-3/4"}, 204, "01XY"},
		{"of unknown whole", "PUT", "/f", "XY", []string{"Content-Range: bytes 9-10/*"}, 204, "012345678XY"},
		{"the beginning of a new file", "PUT", "/new", "XY", []string{"Content-Range: bytes 0-1/10"}, 201, "XY"},
		{"a later part of a new file", "PUT", "/new", "XY", []string{"Content-Range: bytes 2-3/10"}, 416, "(no such file or directory)"},
		{"a span", "PATCH", "/f", "XY", patch("bytes=2-3"), 204, "01XY456789"},
		{"from", "PATCH", "/f", "XYZ", patch("bytes=8-"), 204, "01234567XYZ"},
		{"from the end", "PATCH", "/f", "XY", patch("bytes=-3"), 204, "0123456XY9"},
		{"append", "PATCH", "/f", "XY", patch("append"), 204, "0123456789XY"},
		{"beyond the end", "PATCH", "/f", "XY", patch("bytes=11-"), 416, "0123456789"},
		{"a span of another length", "PATCH", "/f", "XY", patch("bytes=2-4"), 400, "0123456789"},
		{"nowhere", "PATCH", "/f", "XY", patch(""), 400, "0123456789"},
		{"another format", "PATCH", "/f", "XY", []string{"Content-Type: application/json"}, 415, "0123456789"},
		{"nothing", "PATCH", "/new", "XY", patch("append"), 404, "(no such file or directory)"},
		{"a condition that fails", "PATCH", "/f", "XY", append(patch("append"), `If-Match: "x"`), 412, "0123456789"},
		{"a collection", "PATCH", "/d", "XY", patch("append"), 405, "(is a directory)"},
	} {
		t.Run(test.method+" "+test.name, func(t *testing.T) {
			s := serve(t, map[string]string{"f": "0123456789", "d/": ""})
			s.want(test.want, test.method, test.path, test.body, test.headers...)
			if got := s.content(test.path[1:]); got != test.content {
				t.Errorf("got %q, want %q", got, test.content)
			}
		})
	}
}

func TestModificationTimeOfUploads(t *testing.T) {
	s := serve(t, map[string]string{"f": "1", "d/": ""})
	const want = "Thu, 02 Jan 2020 03:04:05 GMT"
	header := "X-OC-Mtime: 1577934245"
	for _, test := range []struct{ method, path, name string }{
		{"PUT", "/new", "new"}, {"PUT", "/f", "f"}, {"MKCOL", "/c", "c"}, {"COPY", "/d", "copied"}, {"MOVE", "/d", "moved"},
	} {
		got := s.do(test.method, test.path, "", header, "Destination: /"+test.name)
		if got.status/100 != 2 || got.header.Get("X-OC-Mtime") != "accepted" {
			t.Errorf("%s: got %d, X-OC-Mtime %q", test.method, got.status, got.header.Get("X-OC-Mtime"))
		}
		info, err := s.tree.Stat(test.name)
		mustDo(t, err)
		if got := info.ModTime().UTC().Format(http.TimeFormat); got != want {
			t.Errorf("%s: got %s, want %s", test.method, got, want)
		}
	}
	if got := s.want(201, "PUT", "/bad", "x", "X-OC-Mtime: soon"); got.header.Get("X-OC-Mtime") != "" {
		t.Error("a time that is none was accepted")
	}
}

// A client that waits for 100 (Continue) is told of a refusal without having
// sent its body.
func TestRefusalComesBeforeTheBody(t *testing.T) {
	s := serve(t, map[string]string{"f": "old", "d/": ""})
	for _, test := range []struct {
		path, header string
		want         int
	}{
		{"/f", "If-None-Match: *", 412},
		{"/no/f", "X: y", 409},
		{"/d", "X: y", 405},
		{"/f", "X-Expected-Entity-Length: 9000000000000000000", 507},
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		mustDo(t, err)
		mustDo(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n%s\r\n\r\n", test.path, test.header)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s %s: %v", test.path, test.header, err)
		}
		if response.StatusCode != test.want {
			t.Errorf("%s %s: got %d, want %d", test.path, test.header, response.StatusCode, test.want)
		}
		mustDo(t, conn.Close())
	}
}

// An upload without a length ends where the connection does: a cut cannot be
// told from an end (RFC 9112, section 6.3).
func TestHTTP10NeedsALength(t *testing.T) {
	s := serve(t, nil)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	mustDo(t, err)
	defer conn.Close()
	mustDo(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, "PUT /f HTTP/1.0\r\nHost: h\r\n\r\nabc")
	mustDo(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	mustDo(t, err)
	if response.StatusCode != http.StatusLengthRequired {
		t.Errorf("got %d, want 411", response.StatusCode)
	}
}

// While one upload stalls, the file is read as it was and others may write it.
func TestStalledUploadBlocksNobody(t *testing.T) {
	s := serve(t, map[string]string{"f": "old"})
	body, feed := io.Pipe()
	done := make(chan answer, 1)
	r, err := http.NewRequest("PUT", s.URL+"/f", body)
	mustDo(t, err)
	go func() { done <- s.send(r) }()
	_, err = io.WriteString(feed, "slow")
	mustDo(t, err)
	if got := s.want(200, "GET", "/f", ""); got.body != "old" {
		t.Errorf("a reader sees %q, want the old content", got.body)
	}
	s.want(204, "PUT", "/f", "fast")
	mustDo(t, feed.Close())
	if got := <-done; got.status != 204 {
		t.Errorf("the slow upload: got %d, want 204", got.status)
	}
	if got := s.content("f"); got != "slow" {
		t.Errorf("got %q, want what was committed last", got)
	}
}

// The precondition holds at the commit, not only when the request began.
func TestPreconditionIsLookedAtAgainAtTheCommit(t *testing.T) {
	s := serve(t, nil)
	body, feed := io.Pipe()
	done := make(chan answer, 1)
	r, err := http.NewRequest("PUT", s.URL+"/f", body)
	mustDo(t, err)
	go func() { done <- s.send(r, "If-None-Match: *") }()
	_, err = io.WriteString(feed, "late")
	mustDo(t, err)
	s.want(201, "PUT", "/f", "first")
	mustDo(t, feed.Close())
	if got := <-done; got.status != http.StatusPreconditionFailed {
		t.Errorf("the late upload: got %d, want 412", got.status)
	}
	if got := s.content("f"); got != "first" {
		t.Errorf("got %q, want what was there at the commit", got)
	}
}

// Of many who create one file with If-None-Match, one does.
func TestOneOfManyCreates(t *testing.T) {
	s := serve(t, nil)
	const n = 16
	var wg sync.WaitGroup
	statuses := make(chan int, n)
	for i := range n {
		wg.Go(func() { statuses <- s.do("PUT", "/f", fmt.Sprint(i), "If-None-Match: *").status })
	}
	wg.Wait()
	close(statuses)
	made := 0
	for status := range statuses {
		switch status {
		case 201:
			made++
		case 412:
		default:
			t.Errorf("got %d, want 201 or 412", status)
		}
	}
	if made != 1 {
		t.Errorf("%d made the file, want one", made)
	}
}

// Of many appends none is lost without the client being told.
func TestNoUpdateIsLost(t *testing.T) {
	s := serve(t, map[string]string{"f": ""})
	const n = 16
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range n {
		wg.Go(func() {
			status := s.do("PATCH", "/f", "x", "Content-Type: "+patchType, "X-Update-Range: append").status
			mu.Lock()
			defer mu.Unlock()
			if status == 204 {
				done++
			} else if status != 409 {
				t.Errorf("got %d, want 204 or 409", status)
			}
		})
	}
	wg.Wait()
	if got := len(s.content("f")); got != done || done == 0 {
		t.Errorf("the file has %d appends, %d were acknowledged", got, done)
	}
}

func TestJunk(t *testing.T) {
	for _, test := range []struct {
		rule Junk
		want int
		tree string
	}{
		{JunkStore, 201, ".DS_Store=x ._f=x Thumbs.db=x f=1"},
		{JunkDrop, 201, "f=1"},
		{JunkRefuse, 403, "f=1"},
	} {
		s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.Junk = test.rule })
		for _, name := range []string{"._f", ".DS_Store", "Thumbs.db"} {
			s.want(test.want, "PUT", "/"+name, "x")
		}
		s.wantMerged(test.tree)
		s.want(204, "PUT", "/f", "1")
	}
}

func TestReadOnlyShareRefusesEveryChange(t *testing.T) {
	s := serve(t, map[string]string{"f": "1"}, func(o *Options) { o.ReadOnly = true })
	for name, m := range methods {
		got := s.do(name, "/f", "", "Destination: /g", "Depth: 0").status
		if m.changes != (got == http.StatusForbidden) {
			t.Errorf("%s: got %d", name, got)
		}
	}
	s.wantMerged("f=1")
}

// A client that stops sending, and is cut off by a deadline, is told so.
func TestStalledBodyIsATimeout(t *testing.T) {
	s := serve(t, map[string]string{"f": "old"})
	s.restart(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mustDo(t, http.NewResponseController(w).SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		s.handler.ServeHTTP(w, r)
	}))
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	mustDo(t, err)
	defer conn.Close()
	mustDo(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, "PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc")
	mustDo(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	mustDo(t, err)
	if response.StatusCode != http.StatusRequestTimeout {
		t.Errorf("got %d, want 408", response.StatusCode)
	}
	s.wantMerged("f=old")
}
