package davfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"overdav/overlay"
)

// A protocolError is an answer that a handler has decided on: a status, and
// the precondition or postcondition that failed, if RFC 4918 has a name for it
// (section 16).
type protocolError struct {
	status    int
	condition string   // the local name of an element in DAV:, "" for none
	hrefs     []string // the resources that the condition is about
	say       string   // to people, instead of the status in words
	err       error    // for the log
}

func (e *protocolError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return strings.ToLower(statusText(e.status))
}

func (e *protocolError) Unwrap() error { return e.err }

// refuse is a protocolError without a condition.
func refuse(status int, why string) error {
	return &protocolError{status: status, err: errors.New(why)}
}

// sourceError is an error about the resource that the request names where the
// request also makes another: without it, "not found" is of a parent.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// makers are the methods that make what they name: when something is missing,
// it is a parent.
const makers = "PUT MKCOL COPY MOVE LOCK PATCH"

// statuses is from error to status; the first row that fits is the answer. An
// empty method is every method.
var statuses = []struct {
	methods string
	err     error
	status  int
}{
	{makers, fs.ErrNotExist, http.StatusConflict},                   // RFC 4918, sections 9.7.1, 9.3.1, 9.8.5, 9.9.4, 9.10.4
	{makers, syscall.ENOTDIR, http.StatusConflict},                  // the same: the parent is no collection
	{makers, syscall.ENAMETOOLONG, http.StatusForbidden},            // RFC 9110, section 15.5.4: no retry helps
	{"COPY MOVE", syscall.EEXIST, http.StatusPreconditionFailed},    // RFC 4918, section 10.6
	{"COPY MOVE", syscall.ENOTEMPTY, http.StatusPreconditionFailed}, // the same
	{"COPY MOVE", syscall.EINVAL, http.StatusForbidden},             // RFC 4918, sections 9.8.5, 9.9.4: source and destination
	{"PUT PATCH", syscall.EEXIST, http.StatusPreconditionFailed},    // RFC 9110, section 13.1.2
	{"", fs.ErrNotExist, http.StatusNotFound},                       // RFC 9110, section 15.5.5
	{"", syscall.ENOTDIR, http.StatusNotFound},
	{"", syscall.ENAMETOOLONG, http.StatusNotFound},
	{"", syscall.EEXIST, http.StatusMethodNotAllowed}, // RFC 4918, section 9.3.1
	{"", syscall.EISDIR, http.StatusMethodNotAllowed}, // RFC 4918, section 9.7.2
	{"", syscall.EACCES, http.StatusForbidden},        // RFC 9110, section 15.5.4, and what follows
	{"", syscall.EPERM, http.StatusForbidden},
	{"", syscall.EROFS, http.StatusForbidden},
	{"", syscall.ELOOP, http.StatusForbidden},
	{"", syscall.ENXIO, http.StatusForbidden},      // a FIFO, a device, a socket
	{"", syscall.EOPNOTSUPP, http.StatusForbidden}, // a file system without attributes
	{"", syscall.EXDEV, http.StatusForbidden},      // a submount
	{"", syscall.EINVAL, http.StatusForbidden},     // a name that the file system does not take
	{"", syscall.EILSEQ, http.StatusForbidden},
	{"", syscall.EBUSY, http.StatusConflict}, // RFC 9110, section 15.5.10; 423 is for locks alone
	{"", syscall.ETXTBSY, http.StatusConflict},
	{"", syscall.ENOTEMPTY, http.StatusConflict},
	{"", syscall.ESTALE, http.StatusConflict},
	{"", overlay.ErrChanged, http.StatusConflict},        // somebody changes the tree without us
	{"", syscall.ENOSPC, http.StatusInsufficientStorage}, // RFC 4918, section 11.5
	{"", syscall.EDQUOT, http.StatusInsufficientStorage},
	{"", syscall.E2BIG, http.StatusInsufficientStorage},  // an attribute too large
	{"", syscall.ERANGE, http.StatusInsufficientStorage}, // the same, of other file systems
	{"", syscall.EMLINK, http.StatusInsufficientStorage},
	{"", syscall.EFBIG, http.StatusRequestEntityTooLarge}, // RFC 9110, section 15.5.14
	{"", errUploadTooLarge, http.StatusRequestEntityTooLarge},
	{"", syscall.EMFILE, http.StatusServiceUnavailable}, // RFC 9110, section 15.6.4
	{"", syscall.ENFILE, http.StatusServiceUnavailable},
	{"", syscall.ENOMEM, http.StatusServiceUnavailable},
	{"", syscall.EAGAIN, http.StatusServiceUnavailable},
	{"", context.DeadlineExceeded, http.StatusServiceUnavailable},
	{"", io.ErrUnexpectedEOF, http.StatusBadRequest},      // RFC 9112, section 8: an incomplete message
	{"", errBadPath, http.StatusBadRequest},               // RFC 9110, section 15.5.1
	{"", errPathTooLong, http.StatusRequestURITooLong},    // RFC 9110, section 15.5.15
	{"", ErrNotLockOwner, http.StatusForbidden},           // RFC 4918, section 6.4
	{"", ErrTooManyLocks, http.StatusInsufficientStorage}, // RFC 4918, section 11.5
	{"", ErrLockTableFull, http.StatusServiceUnavailable}, // RFC 9110, section 15.6.4
	{"", ErrLockOwnerTooLong, http.StatusRequestEntityTooLarge},
	{"", errBadXML, http.StatusBadRequest}, // RFC 4918, section 8.2
	{"", errXMLTooLarge, http.StatusRequestEntityTooLarge},
	{"", errBadHeader, http.StatusBadRequest},
	{"", errHeaderTooLarge, http.StatusRequestHeaderFieldsTooLarge},       // RFC 6585, section 5
	{"", errRangeNotSatisfiable, http.StatusRequestedRangeNotSatisfiable}, // RFC 9110, section 15.5.17
	{"COPY MOVE", errOtherServer, http.StatusBadGateway},                  // RFC 4918, sections 9.8.5, 9.9.4
	{"COPY MOVE", errOutsideShare, http.StatusBadGateway},
	{"", errOutsideShare, http.StatusNotFound},
}

// Status is the HTTP status that answers err in a request of a method: 500 for
// what has no row of its own, EIO for instance.
func Status(method string, err error) int {
	var decided *protocolError
	if errors.As(err, &decided) {
		return decided.status
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge // RFC 9110, section 15.5.14
	}
	var source sourceError
	if errors.As(err, &source) {
		method = ""
	}
	for _, row := range statuses {
		if row.methods != "" && !hasWord(row.methods, method) {
			continue
		}
		if errors.Is(err, row.err) {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

func hasWord(words, word string) bool {
	for w := range strings.FieldsSeq(words) {
		if w == word {
			return true
		}
	}
	return false
}

// statusText is the reason phrase, those of RFC 4918 included.
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return text
	}
	return "Status"
}

// writeError answers with the status of err. The body is the DAV:error element
// where a condition has a name (RFC 4918, section 16), else the status in
// words: nothing of err itself, which may tell of the host.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := Status(r.Method, err)
	switch status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "2")
	case http.StatusTooManyRequests: // RFC 6585, section 4
		w.Header().Set("Retry-After", "10")
	}
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	body, kind := []byte(wordsFor(status, err)+"\n"), "text/plain; charset=utf-8"
	if condition, hrefs := conditionOf(err); condition != "" {
		kind = xmlContentType
		body = appendError(nil, condition, hrefs...)
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// The client may be gone; there is nobody else to tell.
		_, _ = w.Write(body)
	}
}

// wordsFor are for people.
func wordsFor(status int, err error) string {
	var decided *protocolError
	if errors.As(err, &decided) && decided.say != "" {
		return decided.say
	}
	return statusText(status)
}

const xmlContentType = "application/xml; charset=utf-8"

// conditionOf is the element that says which condition of a method err is
// about, and the resources concerned; "" for none.
func conditionOf(err error) (condition string, hrefs []string) {
	var decided *protocolError
	switch {
	case errors.As(err, &decided):
		return decided.condition, decided.hrefs
	case errors.Is(err, syscall.EDQUOT):
		return "quota-not-exceeded", nil // RFC 4331, section 6
	case errors.Is(err, syscall.ENOSPC):
		return "sufficient-disk-space", nil // the same
	}
	return "", nil
}
