package overlay

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// A tag identifies a content of a file. Two files may have one tag only if
// their content is the same; a file gets another with every change of content.
//
// By itself a file's tag is made of its inode, size, modification time and
// change time, of which nobody can set back the last. Where the change time
// moves and the content stays, at a copy-up, a rename or a new attribute, the
// tag is kept in a mark of upper's file, beside the time up to which it was
// true: a later change time means that something changed since which was not
// us, and the mark counts no more.
type tag [16]byte

func (t tag) String() string { return hex.EncodeToString(t[:]) }

// tagSlack is how far ahead a mark is said to be true, for the change time that
// setting it brings about.
const tagSlack = 10 * time.Millisecond

// derivedTag is the tag of a file that has no mark.
func derivedTag(st *at.Stat) (t tag) {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], st.Ino)
	binary.LittleEndian.PutUint64(b[8:], uint64(st.Size))
	binary.LittleEndian.PutUint64(b[16:], uint64(st.Mtime.UnixNano()))
	binary.LittleEndian.PutUint64(b[24:], uint64(st.Ctime.UnixNano()))
	h := fnv.New128a()
	h.Write(b[:]) // never fails
	h.Sum(t[:0])
	return t
}

// newTag is a tag that nothing has.
func newTag() (t tag) {
	rand.Read(t[:]) // never fails
	return t
}

// tagOf is the tag of the object that get reads the marks of.
func (m *marks) tagOf(st *at.Stat, get func(attr string) ([]byte, error)) tag {
	if !st.IsRegular() {
		return derivedTag(st)
	}
	value, err := get(m.tag)
	if err != nil || len(value) != 8+len(tag{}) {
		return derivedTag(st) // no mark, or none that we may read
	}
	until := int64(binary.LittleEndian.Uint64(value))
	if st.Ctime.UnixNano() > until {
		return derivedTag(st)
	}
	return tag(value[8:])
}

// keepTag keeps a tag over the change that was just made to the file on which
// set sets marks. Without success the file gets a tag by itself, which costs
// its readers a needless look.
func (m *marks) keepTag(t tag, set func(attr string, value []byte) error) {
	value := binary.LittleEndian.AppendUint64(nil, uint64(time.Now().Add(tagSlack).UnixNano()))
	_ = set(m.tag, append(value, t[:]...)) // as said
}

// dropTag ends what keepTag began: the content of an open file is about to
// change.
func (m *marks) dropTag(file *at.RWFile) error {
	err := file.Removexattr(m.tag)
	if errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}
