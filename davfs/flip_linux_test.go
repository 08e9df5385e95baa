package davfs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"overdav/overlay"
	"overdav/overlay/overlaytest"
)

// Somebody with the layers in their hands changes a directory for a symlink to a
// tree outside and back, as fast as the kernel can, while clients read, write,
// delete and copy what is in it. Whatever the clients get, nothing outside is
// opened, told of, or changed.
func TestNoFlipLeadsOutside(t *testing.T) {
	t.Run("as it comes", func(t *testing.T) {
		flipAll(t, "lower/d outside/d", "upper/d outside/d", "lower/p outside", "upper/p outside", "lower/p/d outside/d")
	})
	// Root has clones of the layers through which the kernel follows no link;
	// others have nothing but the way in which each name is opened.
	t.Run("as an ordinary user", func(t *testing.T) {
		if overlaytest.AsOrdinaryUser(t) {
			flipAll(t, "lower/d outside/d", "upper/p outside")
		}
	})
}

// flipAll flips each place, in layers of its own, with a link to what is named
// beside it.
func flipAll(t *testing.T, places ...string) {
	for _, p := range places {
		place, outside, _ := strings.Cut(p, " ")
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			f := newFlipper(t)
			f.run(filepath.Join(f.base, place), filepath.Join(f.base, outside))
		})
	}
}

const (
	flips        = 20_000 // at least, of each place
	flipRequests = 150    // at least, of each client
)

// A flipper has layers with a directory d, one p/d, and the same outside.
type flipper struct {
	t       *testing.T
	base    string
	tree    *overlay.FS
	handler *Handler
	watch   int // inotify(7) on all that is outside
}

func newFlipper(t *testing.T) *flipper {
	f := &flipper{t: t, base: t.TempDir()}
	for _, layer := range []string{"lower", "upper", "outside"} {
		content := layer
		if layer == "outside" {
			content = mazeSecret
		}
		for _, name := range []string{"d/f", "d/g", "d/s/f", "p/d/f", "p/d/s/f", "f"} {
			makeFile(t, filepath.Join(f.base, layer, name), content, false)
		}
	}
	mustDo(t, os.Mkdir(filepath.Join(f.base, "work"), 0o755))
	var err error
	f.tree, err = overlay.Open(overlay.Options{
		Lowers: []string{filepath.Join(f.base, "lower")}, Upper: filepath.Join(f.base, "upper"), Work: filepath.Join(f.base, "work"),
		Durability: overlay.DurabilityNone,
	})
	mustDo(t, err)
	t.Cleanup(func() { mustDo(t, f.tree.Close()) })
	f.handler, err = NewHandler(NewFileSystem(f.tree), Options{InfiniteDepth: 100})
	mustDo(t, err)
	return f
}

func (f *flipper) run(place, outside string) {
	link := place + ".link"
	relative, err := filepath.Rel(filepath.Dir(place), outside)
	mustDo(f.t, err)
	mustDo(f.t, os.Symlink(relative, link)) // no way for RESOLVE_NO_XDEV to stand in for another flag
	before := snapshot(f.t, filepath.Join(f.base, "outside"))
	f.watchOutside()
	var asked, flipped atomic.Int64
	var clients sync.WaitGroup
	for _, queries := range [][][]string{
		{{"GET", "/d/f"}, {"GET", "/p/d/f"}, {"GET", "/p/d/s/f"}},
		{{"PUT", "/d/f", "x"}, {"PUT", "/p/d/f", "x"}, {"PUT", "/p/d/new", "x"}},
		{{"DELETE", "/d/g"}, {"DELETE", "/p/d/new"}, {"DELETE", "/d/made"}, {"PUT", "/d/g", "x"}},
		{{"COPY", "/d", "", "Destination: /copy"}, {"COPY", "/p", "", "Destination: /copy2"}, {"COPY", "/f", "", "Destination: /p/d/f"}},
		{{"PROPFIND", "/", "", "Depth: infinity"}, {"PROPFIND", "/p/d", "", "Depth: 1"}, {"GET", "/d/"}},
		{{"MKCOL", "/d/made"}, {"MKCOL", "/p/d/made"}, {"MOVE", "/d/made", "", "Destination: /p/d/moved"}, {"DELETE", "/p/d/moved"}},
		{{"PROPPATCH", "/d/s/f", patchSet("<x:a>1</x:a>")}, {"PUT", "/p/d/s/f", "x", "X-OC-Mtime: 1000000000"}, {"PUT", "/d/s/f", "x", "Content-Range: bytes 0-0/*"}},
		{{"LOCK", "/d/locked", lockExclusive, "Timeout: Second-1"}, {"LOCK", "/p/d/f", lockShared}, {"MOVE", "/p/d/s", "", "Destination: /s"}, {"MOVE", "/s", "", "Destination: /p/d/s"}},
	} {
		clients.Go(func() {
			for i := 0; i < flipRequests || flipped.Load() < flips; i++ {
				f.ask(queries[i%len(queries)])
				asked.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for open := true; open; {
		select {
		case <-done:
			open = false
		default:
			// The clients may have taken the place away with all in it.
			if err := unix.Renameat2(unix.AT_FDCWD, place, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil && err != unix.ENOENT {
				f.t.Fatal(err)
			}
			flipped.Add(1)
		}
	}
	if events := f.events(); len(events) > 0 {
		f.t.Errorf("what is outside was touched: %v", events)
	}
	if after := snapshot(f.t, filepath.Join(f.base, "outside")); after != before {
		f.t.Errorf("outside is now\n%s\nwas\n%s", after, before)
	}
	mustDo(f.t, f.tree.Close()) // what it deletes is gone then
	f.copied("upper")
	f.copied("work")
	f.t.Logf("%d flips, %d requests", flipped.Load(), asked.Load())
}

// ask makes one request: method, path, body, headers.
func (f *flipper) ask(q []string) {
	body := ""
	if len(q) > 2 {
		body = q[2]
	}
	r := httptest.NewRequest(q[0], q[1], strings.NewReader(body))
	for _, h := range q[min(3, len(q)):] {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	if answer := w.Body.String(); strings.Contains(answer, mazeSecret) || strings.Contains(answer, f.base) {
		f.t.Errorf("%s %s shows %s", q[0], q[1], answer)
	}
}

// watchOutside begins to note whatever is opened, read or changed outside.
func (f *flipper) watchOutside() {
	var err error
	f.watch, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	mustDo(f.t, err)
	f.t.Cleanup(func() { mustDo(f.t, unix.Close(f.watch)) })
	mustDo(f.t, filepath.WalkDir(filepath.Join(f.base, "outside"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			_, err = unix.InotifyAddWatch(f.watch, path, unix.IN_ALL_EVENTS)
		}
		return err
	}))
	// The walk lists directories that are watched already.
	for len(f.events()) > 0 {
	}
}

// events are those noted since it was asked last.
func (f *flipper) events() (events []string) {
	buf := make([]byte, 64<<10)
	n, err := unix.Read(f.watch, buf)
	if err == unix.EAGAIN {
		return nil
	}
	mustDo(f.t, err)
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; {
		mask, size := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint32(buf[12:])
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:][:size]), "\x00")
		events = append(events, fmt.Sprintf("%s %#x", name, mask))
		buf = buf[unix.SizeofInotifyEvent+size:]
	}
	return events
}

// copied looks whether a layer has become a copy of something outside.
func (f *flipper) copied(layer string) {
	mustDo(f.t, filepath.WalkDir(filepath.Join(f.base, layer), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(content), mazeSecret) {
			f.t.Errorf("%s is a copy of what is outside", path)
		}
		return err
	}))
}
