package davfs

import (
	"errors"
	"io"
	"math"
	"syscall"
	"time"

	"overdav/overlay"
)

// A Reserve is what uploads, copies and copy-ups leave free in the upper's file system,
// so that it can still be cleared up when it is full: to delete a file of a
// lower is to write a whiteout. Of a small file system it is a hundredth, if
// that is less.
type Reserve struct {
	Bytes  int64
	Inodes int64
}

// errUploadTooLarge is a body beyond Options.MaxUpload: 413.
var errUploadTooLarge = errors.New("upload beyond the limit")

// left is how many bytes more may be written: at most available, so that the
// reserve stays.
// Errors: ENOSPC when nothing may.
func (r Reserve) left(total, available, inodes, freeInodes uint64) (int64, error) {
	// Some file systems have no fixed number of inodes, and say 0 (statfs(2)).
	if inodes > 0 && freeInodes <= min(uint64(r.Inodes), inodes/100) {
		return 0, syscall.ENOSPC
	}
	keep := min(uint64(r.Bytes), total/100)
	if available <= keep {
		return 0, syscall.ENOSPC
	}
	return int64(min(available-keep, math.MaxInt64)), nil
}

// room is how many bytes more may be written; it is asked because of at least
// want.
// Errors: EDQUOT when the quota leaves less than want or nothing; ENOSPC when
// the disk leaves nothing.
func (h *Handler) room(want int64) (int64, error) {
	limit, used, ok, err := h.tree.Quota(want)
	if err != nil {
		return 0, err
	}
	left := limit - used
	if ok && (left <= 0 || left < want) {
		return 0, syscall.EDQUOT
	}
	free, err := h.diskRoom()
	if ok {
		free = min(free, left)
	}
	return free, err
}

// diskRoom is what the disk has room for.
// Errors: ENOSPC when there is none.
func (h *Handler) diskRoom() (int64, error) {
	if known := h.ample.Load(); known != nil && time.Since(known.at) < ampleFor {
		return known.room, nil
	}
	space, err := h.tree.Space()
	if err != nil {
		return math.MaxInt64, nil // without knowing the room, the write will tell
	}
	room, err := h.opts.Reserve.left(space.Total, space.Available, space.Inodes, space.FreeInodes)
	if err == nil && room >= ampleRoom {
		h.ample.Store(&ample{time.Now(), room})
	}
	return room, err
}

// leavesReserve refuses to write bytes that would go into the reserve. It is what
// the tree asks before it copies content.
func (h *Handler) leavesReserve(bytes int64) error {
	room, err := h.diskRoom()
	if err == nil && room < bytes {
		err = syscall.ENOSPC
	}
	return err
}

// roomToCopyUp refuses, where there is only the reserve left, a change that would
// copy up what was seen. The content is the tree's to ask for, when it knows that
// no reflink will do.
func (h *Handler) roomToCopyUp(seen *overlay.Info) error {
	if seen == nil || seen.Layer() == 0 {
		return nil
	}
	return h.leavesReserve(1)
}

// An ample room is not asked for again in the time in which nobody fills it.
type ample struct {
	at   time.Time
	room int64
}

const (
	ampleRoom = 4 << 30
	ampleFor  = 100 * time.Millisecond
)

// hasRoom refuses an upload that says it is larger than what may be written. It
// is asked before the body is staged: afterwards the body itself is what fills.
func (h *Handler) hasRoom(rq *request) error {
	size := rq.ContentLength
	for _, name := range []string{"X-Expected-Entity-Length", "OC-Total-Length"} {
		if n, ok := parseDigits(rq.Header.Get(name)); ok {
			size = max(size, n)
		}
	}
	if h.opts.MaxUpload > 0 && size > h.opts.MaxUpload {
		return errUploadTooLarge
	}
	room, err := h.room(max(size, 0))
	if err != nil {
		return err
	}
	if size > room {
		return syscall.ENOSPC
	}
	rq.bounded = &boundedBody{body: rq.Body, h: h, room: min(room, roomStep)}
	return nil
}

// roomStep is how much of a body is taken before the room is asked for again:
// others write at the same time.
const roomStep = 64 << 20

// A boundedBody is a body that ends with an error where there is no room for
// more of it, or where it is longer than an upload may be.
type boundedBody struct {
	body io.Reader
	h    *Handler
	room int64 // to be read before the room is asked for again
	read int64
}

// Read is io.Reader's.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.room <= 0 {
		room, err := b.h.room(1)
		if err != nil {
			return 0, err
		}
		b.room = min(room, roomStep)
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.room)])
	b.room -= int64(n)
	b.read += int64(n)
	if limit := b.h.opts.MaxUpload; limit > 0 && b.read > limit {
		return n, errUploadTooLarge
	}
	return n, err
}
