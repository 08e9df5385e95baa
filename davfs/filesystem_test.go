package davfs

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/webdav"
)

var ctx = context.Background()

func TestNamesAreCleaned(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"d/f": "1"})
	fsys := NewFileSystem(tree)
	for _, name := range []string{"d/f", "/d/f", "//d//f", "/d/f/", "/x/../d/f", "/../d/./f"} {
		if _, err := fsys.Stat(ctx, name); err != nil {
			t.Errorf("Stat(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "/", ".", "..", "/../.."} {
		info, err := fsys.Stat(ctx, name)
		if err != nil || !info.IsDir() {
			t.Errorf("Stat(%q): %v, want the root", name, err)
		}
	}
	if _, err := fsys.Stat(ctx, "/d\x00/f"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a name with NUL: got %v, want EINVAL", err)
	}
}

// webdav.Handler tells errors apart by os.IsNotExist, which does not unwrap,
// and drops entries from listings by the type *os.PathError.
func TestErrorsHoldTheErrnoDirectly(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"f": "1", "d/x": "2"})
	fsys := NewFileSystem(tree)
	_, statErr := fsys.Stat(ctx, "/missing")
	_, openErr := fsys.OpenFile(ctx, "/missing", os.O_RDONLY, 0)
	_, putErr := fsys.OpenFile(ctx, "/missing/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	for name, err := range map[string]error{
		"stat": statErr, "open": openErr, "put": putErr,
		"mkdir":  fsys.Mkdir(ctx, "/missing/d", 0o777),
		"remove": fsys.RemoveAll(ctx, "/missing"),
	} {
		if _, ok := err.(*os.PathError); !ok || !os.IsNotExist(err) {
			t.Errorf("%s: got %T %v, want an *os.PathError that os.IsNotExist knows", name, err, err)
		}
	}
	err := fsys.Rename(ctx, "/missing", "/g")
	if _, ok := err.(*os.LinkError); !ok || !os.IsNotExist(err) {
		t.Errorf("rename: got %T %v, want an *os.LinkError that os.IsNotExist knows", err, err)
	}
	if err := fsys.Mkdir(ctx, "/d", 0o777); !os.IsExist(err) {
		t.Errorf("mkdir of what exists: got %v, want one that os.IsExist knows", err)
	}
}

func TestTheRootCannotBeRemovedOrRenamed(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"d/x": "2"})
	fsys := NewFileSystem(tree)
	if err := fsys.RemoveAll(ctx, "/"); !errors.Is(err, syscall.EPERM) {
		t.Errorf("remove: got %v, want EPERM", err)
	}
	for _, names := range [][2]string{{"/", "/d"}, {"/d", "/"}, {"/d", "/d"}, {"/d", "/d/e"}, {"/d/x", "/d"}} {
		if err := fsys.Rename(ctx, names[0], names[1]); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("rename %q to %q: got %v, want EINVAL", names[0], names[1], err)
		}
	}
	if _, err := fsys.Stat(ctx, "/d/x"); err != nil {
		t.Errorf("the tree is damaged: %v", err)
	}
}

func TestSpecialFilesOpenWithoutHanging(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"fifo": "|", "dangling": "-> nowhere"})
	fsys := NewFileSystem(tree)
	for _, name := range []string{"/fifo", "/dangling"} {
		f, err := fsys.OpenFile(ctx, name, os.O_RDONLY, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info, err := f.Stat(); err != nil || info.Mode().IsRegular() || info.IsDir() {
			t.Errorf("%s: stat says %v %v", name, info.Mode(), err)
		}
		mustDo(t, f.Close())
	}
	if err := fsys.RemoveAll(ctx, "/dangling"); err != nil {
		t.Errorf("a dangling symlink cannot be removed: %v", err)
	}
}

func TestUploadIsSeenWhenClosed(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"f": "old"})
	s := &share{t: t, tree: tree}
	fsys := NewFileSystem(tree)
	const put = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	for _, test := range []struct {
		name string
		body io.Reader
		want string
	}{
		{"whole", strings.NewReader("new"), "new"},
		{"empty", http.NoBody, ""},
		{"cut", io.MultiReader(strings.NewReader("par"), brokenReader{}), "old"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := "/" + test.name
			f, err := fsys.OpenFile(ctx, name, put, 0o666)
			mustDo(t, err)
			_, err = io.Copy(f, strings.NewReader("old"))
			mustDo(t, err)
			mustDo(t, f.Close())

			f, err = fsys.OpenFile(ctx, name, put, 0o666)
			mustDo(t, err)
			_, copyErr := io.Copy(f, test.body)
			if got := s.content(test.name); got != "old" {
				t.Errorf("before Close: got %q, want the old content", got)
			}
			closeErr := f.Close()
			if (copyErr == nil) != (closeErr == nil) {
				t.Errorf("Copy: %v, Close: %v", copyErr, closeErr)
			}
			if got := s.content(test.name); got != test.want {
				t.Errorf("after Close: got %q, want %q", got, test.want)
			}
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestUploadTellsTheEntityTagOfWhatIsCommitted(t *testing.T) {
	tree, _, _ := openTree(t, nil)
	fsys := NewFileSystem(tree)
	f, err := fsys.OpenFile(ctx, "/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	mustDo(t, err)
	_, err = f.Write([]byte("content"))
	mustDo(t, err)
	info, err := f.Stat()
	mustDo(t, err)
	if info.Name() != "f" || info.Size() != 7 {
		t.Errorf("staged: got %q of %d bytes, want f of 7", info.Name(), info.Size())
	}
	mustDo(t, f.Close())
	got, err := info.(webdav.ETager).ETag(ctx)
	mustDo(t, err)
	later, err := fsys.Stat(ctx, "/f")
	mustDo(t, err)
	want, err := later.(webdav.ETager).ETag(ctx)
	mustDo(t, err)
	if got != want || got == "" {
		t.Errorf("got tag %q, want %q", got, want)
	}
}

func TestReaddirReturnsAll(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"a": "1", "b/": "", "c": "-> b", "d": "-> nowhere"})
	fsys := NewFileSystem(tree)
	for _, count := range []int{0, -1} {
		f, err := fsys.OpenFile(ctx, "/", os.O_RDONLY, 0)
		mustDo(t, err)
		infos, err := f.Readdir(count)
		mustDo(t, err)
		if len(infos) != 4 {
			t.Errorf("Readdir(%d): got %d entries, want 4", count, len(infos))
		}
		for _, info := range infos {
			if info.Name() == "c" && !info.IsDir() {
				t.Error("a symlink to a directory is listed as no directory")
			}
		}
		mustDo(t, f.Close())
	}
	f, err := fsys.OpenFile(ctx, "/", os.O_RDONLY, 0)
	mustDo(t, err)
	defer f.Close()
	seen := 0
	for {
		infos, err := f.Readdir(3)
		seen += len(infos)
		if err == io.EOF {
			break
		}
		mustDo(t, err)
	}
	if seen != 4 {
		t.Errorf("by pages: got %d entries, want 4", seen)
	}
}

func TestDeadPropertiesOfAFileSurviveItsReplacement(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"f": "1", "d/": ""})
	fsys := NewFileSystem(tree)
	name := xml.Name{Space: "urn:x", Local: "color"}
	for _, path := range []string{"/f", "/d"} {
		f, err := fsys.OpenFile(ctx, path, os.O_RDWR, 0)
		mustDo(t, err)
		holder := f.(webdav.DeadPropsHolder)
		_, err = holder.Patch([]webdav.Proppatch{{Props: []webdav.Property{{XMLName: name, InnerXML: []byte("red")}}}})
		mustDo(t, err)
		mustDo(t, f.Close())
	}
	f, err := fsys.OpenFile(ctx, "/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	mustDo(t, err)
	mustDo(t, f.Close())
	for _, path := range []string{"/f", "/d"} {
		f, err := fsys.OpenFile(ctx, path, os.O_RDONLY, 0)
		mustDo(t, err)
		props, err := f.(webdav.DeadPropsHolder).DeadProps()
		mustDo(t, err)
		if got := string(props[name].InnerXML); got != "red" {
			t.Errorf("%s: got %q, want red", path, got)
		}
		mustDo(t, f.Close())
	}
}

// A GET must reach sendfile(2): net/http asks the source for a descriptor.
func TestFileGivesItsDescriptor(t *testing.T) {
	tree, _, _ := openTree(t, map[string]string{"f": "1"})
	f, err := NewFileSystem(tree).OpenFile(ctx, "/f", os.O_RDONLY, 0)
	mustDo(t, err)
	defer f.Close()
	conn, err := f.(syscall.Conn).SyscallConn()
	mustDo(t, err)
	var st syscall.Stat_t
	err = conn.Control(func(fd uintptr) { mustDo(t, syscall.Fstat(int(fd), &st)) })
	mustDo(t, err)
	if st.Size != 1 {
		t.Errorf("the descriptor is of something with %d bytes, want 1", st.Size)
	}
}

// What a broken upload leaves, through both handlers, by each way to break off.
func TestBrokenUploadLeavesTheOldFile(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, map[string]string) *share{
		"bare":    serveBare,
		"Handler": func(t *testing.T, files map[string]string) *share { return serveWith(t, files) },
	} {
		for kind, request := range map[string]string{
			"short":            "PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc",
			"chunked, no last": "PUT /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
			"bad chunk":        "PUT /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				s := serve(t, map[string]string{"f": "old"})
				conn, err := net.Dial("tcp", s.Listener.Addr().String())
				mustDo(t, err)
				_, err = io.WriteString(conn, request)
				mustDo(t, err)
				mustDo(t, conn.(*net.TCPConn).CloseWrite())
				// The end of the answer is the end of the request.
				mustDo(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
				_, _ = io.Copy(io.Discard, conn) // the server may reset it
				mustDo(t, conn.Close())
				if got := s.content("f"); got != "old" {
					t.Errorf("got %q, want the old content", got)
				}
			})
		}
	}
}

func serveWith(t *testing.T, files map[string]string) *share { return serve(t, files) }

// A body that comes in pieces is written when the buffer is full or the body
// over, and its own error ends the copy, whatever that is.
func TestCopyBufferedGathers(t *testing.T) {
	for _, size := range []int64{-1, 5, 100 << 10, 1 << 20} {
		for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, errors.New("gone")} {
			body := strings.Repeat("x", int(max(size, 5)))
			var w pieces
			n, err := copyBuffered(&w, io.MultiReader(iotest.OneByteReader(strings.NewReader(body)), iotest.ErrReader(end)), size)
			if n != int64(len(body)) || err != end && (end != io.EOF || err != nil) {
				t.Errorf("%d bytes that end with %v: copied %d, %v", len(body), end, n, err)
			}
			if len(w.sizes) != 1 {
				t.Errorf("%d bytes were written in pieces of %v", len(body), w.sizes)
			}
		}
	}
	closed, w := io.Pipe()
	closed.Close()
	if _, err := copyBuffered(w, strings.NewReader("x"), 1); err != io.ErrClosedPipe {
		t.Errorf("a write that failed: %v", err)
	}
}
