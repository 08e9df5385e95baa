package main

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// An exchange is one request and its answer as the network sees them. Every
// byte of both bodies goes through it: it counts them, ends a body that stands
// still, and gives up the request's place at a gate while it waits for the
// network. It is also the request's context, so that the record of the request
// reaches every handler and costs no allocation of its own.
type exchange struct {
	context.Context
	record
	place

	w     http.ResponseWriter
	body  io.ReadCloser
	conn  deadlines     // nil where there are none, as in most tests
	stall time.Duration // how long one read or write of a body may take
	given time.Time     // when a write was last given its time
	plain bool          // HTTP/1 without TLS: the server has sendfile(2)
	tcp   *tcpConn      // of a plain exchange; nil in tests, and over a Unix socket
}

// deadlines are what http.ResponseController would look for.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// exchangeKey finds the exchange in a context.
type exchangeKey struct{}

// begin starts the exchange of r and returns r with it in its context and
// around its body.
func (x *exchange) begin(w http.ResponseWriter, r *http.Request) *http.Request {
	x.Context, x.w, x.body = r.Context(), w, r.Body
	x.conn, _ = w.(deadlines)
	x.plain = r.TLS == nil && r.ProtoMajor == 1
	if c := connectionOf(r); c != nil {
		x.tcp = c.tcp
	}
	r = r.WithContext(x)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = (*exchangeBody)(x)
	}
	return r
}

// end leaves the connection with a deadline for what the server still has
// buffered. The server takes deadlines away itself before the next request.
func (x *exchange) end() {
	_ = x.extend() // fails only on a connection that is gone
}

// Value is context.Context's.
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Context.Value(key)
}

// exchangeOf returns the exchange that a request is part of; nil if no server
// of ours has it, in tests.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// extend gives the next write its time, unless it was given but now.
// http.Server's own WriteTimeout bounds the whole answer, which would cut off
// what is merely large.
func (x *exchange) extend() error {
	now := time.Now()
	if x.conn == nil || now.Sub(x.given) < x.stall/64 {
		return nil
	}
	x.given = now
	return x.conn.SetWriteDeadline(now.Add(x.stall))
}

// Unwrap lets http.ResponseController find the server's writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.w }

// Header is http.ResponseWriter's.
func (x *exchange) Header() http.Header { return x.w.Header() }

// WriteHeader is http.ResponseWriter's.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 && x.status == 0 { // 1xx are not the answer
		x.status = status
	}
	x.w.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (x *exchange) Write(p []byte) (int, error) {
	if err := x.extend(); err != nil {
		return 0, err
	}
	x.started()
	x.leave()
	var n int
	var err error
	if x.tcp != nil && fitsNoBuffer(p) {
		n, err = x.writeHeld(p)
	} else {
		n, err = x.w.Write(p)
	}
	x.sent += int64(n)
	return n, x.backWriting(err)
}

// fitsNoBuffer says whether p is too long for net/http's buffer of a connection,
// but not for ours.
func fitsNoBuffer(p []byte) bool {
	const buffer, head = 4 << 10, 1 << 10 // bytes
	return len(p) > buffer-head && len(p) <= mostHeld
}

// writeHeld writes what is buffered already, the head of the answer or of a
// chunk, and p by one write(2).
func (x *exchange) writeHeld(p []byte) (int, error) {
	x.tcp.hold()
	n, err := x.w.Write(p)
	if ferr := x.flush(); err == nil {
		err = ferr
	}
	if serr := x.tcp.send(); serr != nil {
		return 0, serr
	}
	return n, err
}

// flush hands what net/http has buffered to the connection.
func (x *exchange) flush() error { return http.NewResponseController(x.w).Flush() }

func (x *exchange) started() {
	if x.status == 0 {
		x.status = http.StatusOK
	}
}

// backWriting is back for who was writing: an answer that has begun and cannot
// go on must not look finished.
func (x *exchange) backWriting(err error) error {
	if lost := x.back(x); lost != nil {
		x.torn = true
		if err == nil {
			err = lost
		}
	}
	return err
}

// FlushError sends what is buffered (http.ResponseController).
func (x *exchange) FlushError() error {
	if err := x.extend(); err != nil {
		return err
	}
	x.started()
	x.leave()
	return x.backWriting(x.flush())
}

// ReadFrom sends src. Where the server has sendfile(2) and src is a file, disk
// and network are one call: the request has no place at the gate then, and the
// bound on connections is that on such calls. Everywhere else it has its place
// while it reads, and so it is with what is short enough for one write.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	if x.plain && !(x.tcp != nil && isShort(src)) {
		return x.sendFrom(src)
	}
	buf := sendBuffers.Get().(*[]byte)
	defer sendBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{x}, struct{ io.Reader }{src}, *buf)
}

// isShort says whether a copy of src in memory costs less than sendfile(2),
// before which the head of the answer must be written by itself.
func isShort(src io.Reader) bool {
	lr, ok := src.(*io.LimitedReader)
	return ok && lr.N <= mostHeld
}

// sendBuffers are as large as a TLS record or a frame is at most, four times.
var sendBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// sendFrom hands src on in pieces, each with a deadline of its own. The
// server's ReadFrom then uses sendfile(2) where src is a file, and it looks for
// one at most one io.LimitedReader deep: hence the unpacking.
func (x *exchange) sendFrom(src io.Reader) (int64, error) {
	const piece = 1 << 20
	left := int64(-1) // no limit
	if lr, ok := src.(*io.LimitedReader); ok {
		src, left = lr.R, lr.N
		defer func() { lr.N = left }()
	}
	x.started()
	if x.tcp != nil { // net/http would else read a part of the body to see what it is
		if err := x.flush(); err != nil {
			return 0, err
		}
	}
	var total int64
	for left != 0 {
		if err := x.extend(); err != nil {
			return total, err
		}
		size := int64(piece)
		if left > 0 {
			size = min(size, left)
		}
		x.leave()
		n, err := io.Copy(x.w, &io.LimitedReader{R: src, N: size})
		x.sent += n
		err = x.backWriting(err)
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

// exchangeBody is the exchange as the body of its request.
type exchangeBody exchange

// Read is io.Reader's. http.Server's own ReadTimeout bounds the whole request.
func (b *exchangeBody) Read(p []byte) (int, error) {
	x := (*exchange)(b)
	if x.conn != nil {
		if err := x.conn.SetReadDeadline(time.Now().Add(x.stall)); err != nil {
			return 0, err
		}
	}
	x.leave()
	n, err := x.body.Read(p)
	x.received += int64(n)
	if lost := x.back(x); lost != nil { // also at the end, which would let the request go on
		err = lost
	}
	return n, err
}

// Close is io.Closer's.
func (b *exchangeBody) Close() error { return b.body.Close() }
