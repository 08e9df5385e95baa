package main

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// keepMoving ends a request whose body, in either direction, has not moved for
// stallTimeout. http.Server's own ReadTimeout and WriteTimeout bound the whole
// request, which would cut off what is merely large.
func keepMoving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &movingBody{r.Body, rc}
		}
		next.ServeHTTP(&movingWriter{w, rc}, r)
		// What the server still has buffered goes out after this. It takes the
		// deadlines away itself before the next request.
		_ = rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // fails only on a connection that is gone
	})
}

type movingBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *movingBody) Read(p []byte) (int, error) {
	if err := b.rc.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return b.ReadCloser.Read(p)
}

type movingWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Unwrap lets http.ResponseController find the server's writer.
func (w *movingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *movingWriter) Write(p []byte) (int, error) {
	if err := w.extend(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

func (w *movingWriter) extend() error {
	err := w.rc.SetWriteDeadline(time.Now().Add(stallTimeout))
	if errors.Is(err, http.ErrNotSupported) { // under httptest.ResponseRecorder
		return nil
	}
	return err
}

// ReadFrom hands src on in pieces, each with a deadline of its own. The
// server's ReadFrom then uses sendfile(2) where src is a file, and it looks for
// one at most one io.LimitedReader deep: hence the unpacking.
func (w *movingWriter) ReadFrom(src io.Reader) (int64, error) {
	const piece = 1 << 20
	left := int64(-1) // no limit
	if lr, ok := src.(*io.LimitedReader); ok {
		src, left = lr.R, lr.N
		defer func() { lr.N = left }()
	}
	var total int64
	for left != 0 {
		if err := w.extend(); err != nil {
			return total, err
		}
		size := int64(piece)
		if left > 0 {
			size = min(size, left)
		}
		n, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: src, N: size})
		total += n
		if left > 0 {
			left -= n
		}
		if err != nil || n < size {
			return total, err
		}
	}
	return total, nil
}
