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
