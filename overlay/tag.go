package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"sync"

	"overdav/overlay/internal/at"
)

// A tag identifies a content of a file: with every change of content a file
// gets another.
//
// It is made of inode, size, modification time and change time, of which
// nobody can set back the last. Where our own doing moves the change time and
// leaves the content, at a copy-up, a rename or a new attribute, the tag that
// the file had is written down, with the change time at which it still was
// true. Anybody else's change moves that on, and what was written counts no
// more. It is kept in staging, so that upper holds nothing but what the kernel
// would write.
type tag [16]byte

func (t tag) String() string { return hex.EncodeToString(t[:]) }

// derivedTag is the tag of an object by itself.
func derivedTag(st *at.Stat) (t tag) {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], st.Ino)
	binary.LittleEndian.PutUint64(b[8:], uint64(st.Size))
	binary.LittleEndian.PutUint64(b[16:], uint64(st.Mtime.UnixNano()))
	binary.LittleEndian.PutUint64(b[24:], uint64(st.Ctime.UnixNano()))
	sum := sha256.Sum256(b[:])
	copy(t[:], sum[:])
	return t
}

// A tagTable holds the tags that were written down, by the inode of upper's
// file. Losing it, or a part of it, costs clients a needless look at files
// that were moved; nothing else.
type tagTable struct {
	mu sync.RWMutex
	// +checklocks:mu
	known map[uint64]tagRecord
	// pinned are the tags of files whose content is being brought to them.
	// +checklocks:mu
	pinned map[uint64]tag
	// file is what they are appended to; nil keeps them in memory alone.
	// +checklocks:mu
	file *at.RWFile
	// written is how many records file holds, outdated ones too.
	// +checklocks:mu
	written int
}

// A tagRecord says that the file with this change time has this tag.
type tagRecord struct {
	ctime int64 // nanoseconds
	tag   tag
}

// On disk a record is its inode, change time, tag and CRC-32 of these.
const (
	tagFile       = "tags"
	tagRecordSize = 8 + 8 + 16 + 4
	maxTags       = 1 << 20 // some 64 MB; what is beyond gets tags by itself
)

// of is the tag of an object of upper.
func (t *tagTable) of(st *at.Stat) tag {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if tag, ok := t.pinned[st.Ino]; ok && st.IsRegular() {
		return tag
	}
	if r, ok := t.known[st.Ino]; ok && r.ctime == st.Ctime.UnixNano() && st.IsRegular() {
		return r.tag
	}
	return derivedTag(st)
}

// pin keeps the tag of a file of upper as it is until unpin, whatever is done to
// the file.
func (t *tagTable) pin(st *at.Stat) (kept tag) {
	kept = t.of(st)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pinned == nil {
		t.pinned = make(map[uint64]tag)
	}
	t.pinned[st.Ino] = kept
	return kept
}

func (t *tagTable) unpin(st *at.Stat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pinned, st.Ino)
}

// keep writes down that the file of which st tells still has a tag.
func (t *tagTable) keep(tag tag, st *at.Stat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.known[st.Ino]; !ok && len(t.known) >= maxTags {
		return
	}
	r := tagRecord{st.Ctime.UnixNano(), tag}
	t.known[st.Ino] = r
	t.written++
	t.write(r.encode(st.Ino))
}

// write appends records to the file.
// Preconditions: t.mu is locked.
func (t *tagTable) write(data []byte) {
	if t.file == nil || len(data) == 0 {
		return
	}
	_, _ = t.file.Write(data) // see tagTable: what is lost is cheap
	if t.written > 2*len(t.known)+spareTags {
		t.rewrite()
	}
}

// spareTags is how many outdated records are not worth writing the rest again.
const spareTags = 1024

// rewrite writes the file again without what is outdated. A crash meanwhile
// loses a part.
// Preconditions: t.mu is locked.
func (t *tagTable) rewrite() {
	t.written = len(t.known)
	if t.file.Truncate(0) != nil {
		return // it goes on growing, until the next time
	}
	if _, err := t.file.Seek(0, io.SeekStart); err == nil {
		_, _ = t.file.Write(encodeTags(t.known)) // see tagTable
	}
}

func encodeTags(known map[uint64]tagRecord) []byte {
	data := make([]byte, 0, len(known)*tagRecordSize)
	for ino, r := range known {
		data = append(data, r.encode(ino)...)
	}
	return data
}

func (r tagRecord) encode(ino uint64) []byte {
	b := make([]byte, 0, tagRecordSize)
	b = binary.LittleEndian.AppendUint64(b, ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.ctime))
	b = append(b, r.tag[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// decodeTags reads records up to the first that is torn; later ones win.
func decodeTags(data []byte) (known map[uint64]tagRecord, records int) {
	known = make(map[uint64]tagRecord)
	for ; len(data) >= tagRecordSize; data = data[tagRecordSize:] {
		body := data[:tagRecordSize-4]
		if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(data[len(body):]) {
			break
		}
		known[binary.LittleEndian.Uint64(body)] = tagRecord{int64(binary.LittleEndian.Uint64(body[8:])), tag(body[16:])}
		records++
	}
	return known, records
}

// loadTags reads what was written down in staging.
func loadTags(d *at.Dir) (known map[uint64]tagRecord, records int, err error) {
	f, err := d.OpenFile(tagFile)
	if err != nil {
		if at.IsMissing(err) {
			err = nil
		}
		return make(map[uint64]tagRecord), 0, err
	}
	defer f.Close()
	var st at.Stat
	if err := f.Stat(&st); err != nil {
		return nil, 0, err
	}
	data := make([]byte, min(st.Size, 4*maxTags*tagRecordSize))
	n, _ := f.ReadAt(data, 0) // what cannot be read is lost, see tagTable
	known, records = decodeTags(data[:n])
	return known, records, nil
}

// open reads what was written down and goes on from there, in a fresh file
// without what is outdated:
//
//  1. The fresh file is made in staging. A crash leaves it to the sweep.
//  2. It takes the old one's place.
func (t *tagTable) open(s *staging) error {
	known, _, err := loadTags(&s.dir.Dir)
	if err != nil {
		return err
	}
	if len(known) >= maxTags {
		clear(known)
	}
	fresh := s.reserve()
	defer fresh.close()
	file, err := fresh.dir.Create(fresh.name, 0o600)
	if err != nil {
		return err
	}
	file.Unmetered() // it is no part of the tree
	if _, err = file.Write(encodeTags(known)); err == nil {
		err = fresh.replace(s.dir, tagFile)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.file, t.written = known, file, len(known)
	return nil
}

func (t *tagTable) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// tagOf is the tag of what was found.
func (fsys *FS) tagOf(f *found) tag {
	if f.layer != 0 {
		return derivedTag(&f.st)
	}
	return fsys.tags.of(&f.st)
}

// keepTag keeps the tag that a file had over a change that just moved its
// change time.
func (fsys *FS) keepTag(tag tag, d *at.Dir, name string) {
	var st at.Stat
	if d.Stat(name, &st) == nil && st.IsRegular() {
		fsys.tags.keep(tag, &st)
	}
}
