package davfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay"
)

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		methods string
		err     error
		want    int
	}{
		{"GET HEAD DELETE PROPFIND PROPPATCH", syscall.ENOENT, 404},
		{"GET DELETE PROPFIND PROPPATCH", syscall.ENOTDIR, 404},
		{"GET DELETE PROPFIND PROPPATCH", syscall.ENAMETOOLONG, 404},
		{"PUT MKCOL COPY MOVE LOCK", syscall.ENOENT, 409},
		{"PUT MKCOL COPY MOVE LOCK", syscall.ENOTDIR, 409},
		{"PUT MKCOL COPY MOVE LOCK", syscall.ENAMETOOLONG, 403},
		{"COPY MOVE", sourceError{syscall.ENOENT}, 404},
		{"COPY MOVE", syscall.EEXIST, 412},
		{"COPY MOVE", syscall.EINVAL, 403},
		{"MKCOL", syscall.EEXIST, 405},
		{"PUT", syscall.EISDIR, 405},
		{"GET PUT DELETE MKCOL COPY MOVE PROPPATCH LOCK", syscall.EACCES, 403},
		{"GET PUT DELETE MKCOL COPY MOVE PROPPATCH LOCK", syscall.EPERM, 403},
		{"PUT DELETE MKCOL COPY MOVE PROPPATCH LOCK", syscall.EROFS, 403},
		{"PUT DELETE MKCOL COPY MOVE PROPPATCH LOCK", syscall.ENOSPC, 507},
		{"PUT DELETE MKCOL COPY MOVE PROPPATCH LOCK", syscall.EDQUOT, 507},
		{"GET PUT", syscall.ELOOP, 403},
		{"GET PUT", syscall.ENXIO, 403},
		{"PUT DELETE MOVE", syscall.EBUSY, 409},
		{"PUT", syscall.EFBIG, 413},
		{"GET PUT DELETE MKCOL COPY MOVE PROPFIND", syscall.EMFILE, 503},
		{"GET PUT DELETE MKCOL COPY MOVE PROPFIND", syscall.ENFILE, 503},
		{"GET PUT DELETE MKCOL COPY MOVE PROPFIND", syscall.EIO, 500},
		{"GET", errors.New("whatever"), 500},
		{"PUT", &http.MaxBytesError{Limit: 1}, 413},
		{"PUT", io.ErrUnexpectedEOF, 400},
		{"PUT", context.DeadlineExceeded, 503},
		{"COPY MOVE", errOtherServer, 502},
		{"COPY MOVE", errOutsideShare, 502},
		{"GET PUT", errOutsideShare, 404},
		{"GET", fs.ErrNotExist, 404},
	} {
		for method := range strings.FieldsSeq(test.methods) {
			for name, err := range map[string]error{
				"bare":    test.err,
				"wrapped": &os.PathError{Op: "x", Path: "y", Err: fmt.Errorf("step: %w", test.err)},
			} {
				if got := Status(method, err); got != test.want {
					t.Errorf("%s, %v, %s: got %d, want %d", method, test.err, name, got, test.want)
				}
			}
		}
	}
}

// setHook gives the engine a hook whatever it calls the type of operations.
func setHook[H ~func(O, string) error, O ~string](hook *H, fn func() error) {
	*hook = func(O, string) error { return fn() }
}

// Every change of every method fails once, with each errno: the answer is the
// errno's, and the tree is as before, or, where the failure was of what
// follows the change, as after.
func TestEveryFaultHasItsStatusAndDamagesNothing(t *testing.T) {
	const before = "d/ d/e/ d/e/x=1 f=old g=2"
	for _, request := range []struct {
		method, path, body, after string
		headers                   []string
	}{
		{"PUT", "/f", "new", "d/ d/e/ d/e/x=1 f=new g=2", nil},
		{"PUT", "/d/n", "new", "d/ d/e/ d/e/x=1 d/n=new f=old g=2", nil},
		{"DELETE", "/f", "", "d/ d/e/ d/e/x=1 g=2", nil},
		{"DELETE", "/d", "", "f=old g=2", nil},
		{"MKCOL", "/d/n", "", "d/ d/e/ d/e/x=1 d/n/ f=old g=2", nil},
		{"MOVE", "/f", "", "d/ d/e/ d/e/x=1 g=old", []string{"Destination: /g"}},
		{"MOVE", "/d", "", "f=old g/ g/e/ g/e/x=1", []string{"Destination: /g"}},
		{"COPY", "/d", "", "d/ d/e/ d/e/x=1 f=old g/ g/e/ g/e/x=1", []string{"Destination: /g"}},
		{"PROPPATCH", "/f", patchSet("<x:a>1</x:a>"), before, nil},
		{"PATCH", "/f", "+", "d/ d/e/ d/e/x=1 f=old+ g=2", []string{"Content-Type: " + patchType, "X-Update-Range: append"}},
	} {
		for errno, want := range map[syscall.Errno]int{
			syscall.ENOSPC: 507, syscall.EDQUOT: 507, syscall.EROFS: 403, syscall.EACCES: 403, syscall.EIO: 500, syscall.EMFILE: 503,
		} {
			if testing.Short() && errno != syscall.ENOSPC {
				continue
			}
			t.Run(fmt.Sprintf("%s %s %v", request.method, request.path, errno), func(t *testing.T) {
				for n := 1; ; n++ {
					if n > 200 {
						t.Fatal("the method has no end of changes")
					}
					changes := 0
					armed := false
					s := serveOn(t, map[string]string{"f": "old", "g": "2", "d/e/x": "1"}, func(o *overlay.Options) {
						setHook(&o.Hook, func() error {
							if changes++; armed && changes == n {
								return errno
							}
							return nil
						})
					})
					changes, armed = 0, true
					got := s.do(request.method, request.path, request.body, request.headers...)
					armed = false
					made := changes
					status := got.status
					if status == http.StatusMultiStatus && strings.Contains(got.body, fmt.Sprintf("HTTP/1.1 %d ", want)) {
						status = want
					}
					switch tree := s.merged(); {
					case status/100 == 2 && tree != request.after:
						t.Errorf("change %d: answered %d, the tree is %q, want %q", n, status, tree, request.after)
					case status/100 != 2 && status != want:
						t.Errorf("change %d: got %d %q, want %d", n, status, got.body, want)
					case tree != before && tree != request.after:
						t.Errorf("change %d: answered %d, the tree is %q, neither before nor after", n, status, tree)
					}
					if made < n || errno != syscall.ENOSPC {
						return // all have failed once; for the other errnos, the first is enough
					}
				}
			})
		}
	}
}
