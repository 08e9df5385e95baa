package davfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"overdav/overlay"
)

func TestReserve(t *testing.T) {
	const gib, mib = 1 << 30, 1 << 20
	r := Reserve{Bytes: 256 * mib, Inodes: 1000}
	for _, test := range []struct {
		name                                 string
		total, available, inodes, freeInodes uint64
		want                                 int64 // -1: nothing may be written
	}{
		{"a large one", 1000 * gib, 10 * gib, 1e9, 1e6, 10*gib - 256*mib},
		{"one byte above the reserve", 1000 * gib, 256*mib + 1, 1e9, 1e6, 1},
		{"at the reserve", 1000 * gib, 256 * mib, 1e9, 1e6, -1},
		{"below the reserve", 1000 * gib, 1, 1e9, 1e6, -1},
		{"a small one, above a hundredth", 100 * mib, mib + 1, 1e9, 1e6, 1},
		{"a small one, at a hundredth", 100 * mib, mib, 1e9, 1e6, -1},
		{"an inode above the reserve", 1000 * gib, gib, 1e9, 1001, 768 * mib},
		{"at the reserve of inodes", 1000 * gib, gib, 1e9, 1000, -1},
		{"few inodes, above a hundredth", 1000 * gib, gib, 1000, 11, 768 * mib},
		{"few inodes, at a hundredth", 1000 * gib, gib, 1000, 10, -1},
		{"inodes that nobody counts", 1000 * gib, gib, 0, 0, 768 * mib},
		{"more than can be said", math.MaxUint64, math.MaxUint64, 0, 0, math.MaxInt64},
	} {
		got, err := r.left(test.total, test.available, test.inodes, test.freeInodes)
		if errors.Is(err, syscall.ENOSPC) {
			got = -1
		}
		if got != test.want {
			t.Errorf("%s: %d bytes may be written (%v), want %d", test.name, got, err, test.want)
		}
	}
	if got, err := (Reserve{}).left(100, 1, 0, 0); got != 1 || err != nil {
		t.Errorf("without a reserve: %d, %v, want the last byte", got, err)
	}
}

func TestLimitOfUploads(t *testing.T) {
	s := serve(t, nil, func(o *Options) { o.MaxUpload = 10 })
	s.want(201, "PUT", "/at", "0123456789")
	s.want(413, "PUT", "/beyond", "0123456789a")
	s.want(413, "PUT", "/at", "0123456789a")
	for length, want := range map[int]int{10: 201, 11: 413} {
		// Without a length, the body itself tells.
		r, err := http.NewRequest("PUT", s.URL+"/chunked", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", length))})
		mustDo(t, err)
		resp, err := http.DefaultClient.Do(r)
		mustDo(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes without a length: status %d, want %d", length, resp.StatusCode, want)
		}
		if want == 201 {
			s.want(204, "DELETE", "/chunked", "")
		}
	}
	s.want(404, "GET", "/chunked", "")
	if got := s.want(200, "GET", "/at", ""); got.body != "0123456789" {
		t.Errorf("an upload that was refused left %q", got.body)
	}
}

// A body whose length nobody knows is asked for more only while there is room.
func TestBodyEndsWhereTheRoomDoes(t *testing.T) {
	s := serve(t, nil, func(o *Options) { o.Reserve = Reserve{Bytes: math.MaxInt64, Inodes: 0} })
	room, err := s.handler.room(1)
	mustDo(t, err) // the machine has a hundredth free
	body := &boundedBody{body: strings.NewReader("0123456789"), h: s.handler, room: 4}
	got := make([]byte, 10)
	if n, err := body.Read(got); n != 4 || err != nil {
		t.Errorf("read %d, %v, want the 4 bytes that there was room for", n, err)
	}
	if n, err := body.Read(got); n != 6 || err != nil || body.room != min(room, roomStep)-6 {
		t.Errorf("after asking again: read %d, %v, room %d", n, err, body.room)
	}
}

// A body that the server could not go on with, for want of a place at the disks,
// is not the client's fault.
func TestBodyOfARequestThatGaveWay(t *testing.T) {
	err := bodyError(fmt.Errorf("busy: %w", context.DeadlineExceeded))
	if got := Status("PUT", err); got != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", got)
	}
}

// shareWithoutRoom has room for 5 bytes more, for an hour.
func shareWithoutRoom(t *testing.T, files map[string]string, engine func(*overlay.Options)) *share {
	t.Helper()
	tree, _, upper := openTree(t, map[string]string{"probe": "probe"})
	probe := errors.New("asked")
	tree.SetRoom(func(int64) error { return probe })
	if err := tree.CopyUp("probe"); !errors.Is(err, probe) {
		t.Skipf("the file system of %s shares blocks, which takes no room (%v)", upper, err)
	}
	s := serveOn(t, files, engine)
	s.handler.ample.Store(&ample{time.Now().Add(time.Hour), 5})
	return s
}

const patchTime = `<propertyupdate xmlns="DAV:"><set><prop><getlastmodified>Sat, 01 Jan 2000 00:00:00 GMT</getlastmodified></prop></set></propertyupdate>`

// What copies up, or copies, keeps the reserve as uploads do, and leaves all as
// it was when it cannot.
func TestCopiesKeepTheReserve(t *testing.T) {
	files := map[string]string{
		"five": "12345", "six": "123456", "dir/six": "123456", "dir/five": "12345",
	}
	mark := `<propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x">1</x></prop></set></propertyupdate>`
	for _, test := range []struct {
		method, path, body string
		header             []string
	}{
		{method: "MOVE", path: "/six", header: []string{"Destination: /moved"}},
		{method: "COPY", path: "/six", header: []string{"Destination: /copied"}},
		{method: "COPY", path: "/dir", header: []string{"Destination: /copied"}},
		{method: "COPY", path: "/six", header: []string{"Destination: /five"}},
		{method: "PROPPATCH", path: "/six", body: mark},
		{method: "PROPPATCH", path: "/six", body: patchTime},
		{method: "PUT", path: "/six", body: "x", header: []string{"Content-Range: bytes 2-2/6"}},
		{method: "PATCH", path: "/six", body: "x", header: []string{"Content-Type: " + patchType, "X-Update-Range: bytes=2-2"}},
	} {
		t.Run(test.method+test.path, func(t *testing.T) {
			s := shareWithoutRoom(t, files, nil)
			before := s.merged() + snapshot(t, s.upper)
			status, got := 507, s.do(test.method, test.path, test.body, test.header...)
			if test.method == "PROPPATCH" {
				status = 207
			}
			if got.status != status || status == 207 && !strings.Contains(got.body, "507 Insufficient Storage") {
				t.Errorf("status %d: %s, want 507", got.status, got.body)
			}
			if after := s.merged() + snapshot(t, s.upper); after != before {
				t.Errorf("it left\n%s\nof\n%s", after, before)
			}
			s.handler.ample.Store(&ample{time.Now().Add(time.Hour), 1 << 20})
			if got := s.do(test.method, test.path, test.body, test.header...); got.status >= 300 || strings.Contains(got.body, "507") {
				t.Errorf("with room, status %d: %s", got.status, got.body)
			}
		})
	}
}

// Without redirects the files of a directory are copied one by one when it moves.
func TestMoveOfADirectoryKeepsTheReserve(t *testing.T) {
	s := shareWithoutRoom(t, map[string]string{"dir/sub/six": "123456"}, func(o *overlay.Options) { o.NoRedirect = true })
	before := s.merged()
	s.want(507, "MOVE", "/dir", "", "Destination: /moved")
	s.wantMerged(before)
	s.handler.ample.Store(&ample{time.Now().Add(time.Hour), 6})
	s.want(201, "MOVE", "/dir", "", "Destination: /moved")
}

// Where nothing may be written at all, nothing is copied up, be it empty; what is
// in upper can be moved, and everything be deleted.
func TestFullDiskCopiesNothingUp(t *testing.T) {
	s := serve(t, map[string]string{"empty": "", "dir/a": "a"})
	s.want(201, "PUT", "/own", "own")
	s.handler.ample.Store(&ample{time.Now().Add(time.Hour), 0})
	s.want(507, "MOVE", "/empty", "", "Destination: /moved")
	s.want(507, "MOVE", "/dir", "", "Destination: /moved")
	if got := s.want(207, "PROPPATCH", "/empty", patchTime); !strings.Contains(got.body, "507 Insufficient Storage") {
		t.Errorf("PROPPATCH: %s, want 507", got.body)
	}
	s.want(201, "MOVE", "/own", "", "Destination: /own2")
	if got := s.want(207, "PROPPATCH", "/own2", patchTime); strings.Contains(got.body, "507") {
		t.Errorf("PROPPATCH of what is in upper: %s", got.body)
	}
	for _, path := range []string{"/empty", "/dir", "/own2"} {
		s.want(204, "DELETE", path, "")
	}
}

// The log learns from which layer an answer is, and what was copied up for it.
func TestToldOfLayersAndCopyUps(t *testing.T) {
	var told string
	note := func(o *Options) {
		o.Layer = func(_ *http.Request, layer int) { told += fmt.Sprintf(" layer %d", layer) }
		o.CopiedUp = func(_ *http.Request, bytes int64) { told += fmt.Sprintf(" copied %d", bytes) }
	}
	s := serveOn(t, map[string]string{"a": "12345", "b": "1", "dir/c": "123", "dir/d": "12", "link": "-> a"}, func(o *overlay.Options) { o.NoRedirect = true }, note)
	for _, test := range []struct {
		method, path, body string
		header             []string
		want               string
	}{
		{"GET", "/a", "", nil, " layer 1"},
		{"HEAD", "/link", "", nil, " layer 1"},
		{"PROPFIND", "/a", "", []string{"Depth: 0"}, " layer 1"},
		{"GET", "/none", "", nil, ""},
		{"OPTIONS", "/a", "", nil, ""},
		{"PROPPATCH", "/a", patchTime, nil, " copied 5"},
		{"PROPPATCH", "/a", patchTime, nil, ""},
		{"GET", "/a", "", nil, " layer 0"},
		{"GET", "/a", "", []string{"Range: bytes=1-2"}, " layer 0"},
		{"PROPFIND", "/dir", "", []string{"Depth: 1"}, " layer 1"},
		{"MOVE", "/b", "", []string{"Destination: /e"}, " copied 1"},
		{"MOVE", "/e", "", []string{"Destination: /b"}, ""},
		{"MOVE", "/dir", "", []string{"Destination: /moved"}, " copied 5"},
		{"PUT", "/moved/c", "new", nil, ""},
	} {
		told = ""
		if s.do(test.method, test.path, test.body, test.header...); told != test.want {
			t.Errorf("%s %s: told%s, want%s", test.method, test.path, told, test.want)
		}
	}
}
