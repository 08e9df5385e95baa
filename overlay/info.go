package overlay

import (
	"encoding/base64"
	"io/fs"
	"time"

	"overdav/overlay/internal/at"
)

// An Info tells of one object of the merged tree as it was at one moment. It is
// an fs.FileInfo and an fs.DirEntry.
type Info struct {
	name  string
	st    at.Stat
	layer int // 0 is upper
	tag   tag
	tags  *tagTable // has tag; nil when it was asked already, as by all but listings
	kept  keptRef   // of a listing that is kept, where it is in that

	without bool // it has not the attribute that its listing asks for, see File.Want
}

// newInfo tells of what was found, by the name that it is called.
func (fsys *FS) newInfo(name string, f *found) *Info {
	return &Info{name: name, st: f.st, layer: f.layer, tag: fsys.tagOf(f)}
}

// Name is the last component of the name.
func (i *Info) Name() string { return i.name }

// Size is the length of a regular file in bytes.
func (i *Info) Size() int64 { return i.st.Size }

// Mode is type and permissions.
func (i *Info) Mode() fs.FileMode { return i.st.FileMode() }

// Type is the type alone.
func (i *Info) Type() fs.FileMode { return i.st.FileMode().Type() }

// ModTime is the time of the last change of content.
func (i *Info) ModTime() time.Time { return i.st.Mtime }

// AccessTime is the time of the last reading, as far as the file system keeps it.
func (i *Info) AccessTime() time.Time { return i.st.Atime }

// Birth is the time of creation; zero where the file system keeps none. A
// copy-up creates anew.
func (i *Info) Birth() time.Time { return i.st.Btime }

// IsDir says whether it is a directory.
func (i *Info) IsDir() bool { return i.st.IsDir() }

// Sys is nil: what the merged tree shows has no inode of its own.
func (i *Info) Sys() any { return nil }

// Info is i itself (fs.DirEntry).
func (i *Info) Info() (fs.FileInfo, error) { return i, nil }

// Layer is where the object is: 0 is upper, 1 the topmost lower.
func (i *Info) Layer() int { return i.layer }

// Owner is the numeric user and group.
func (i *Info) Owner() (uid, gid int) { return int(i.st.UID), int(i.st.GID) }

// Links is how many names the object has in its layer; 1 for a directory, as
// the kernel shows merged ones.
func (i *Info) Links() int {
	if i.IsDir() {
		return 1
	}
	return int(i.st.Nlink)
}

// Blocks is the space the object takes, in bytes.
func (i *Info) Blocks() int64 { return i.st.Blocks * 512 }

// Device is the number of a device, as major<<32 | minor.
func (i *Info) Device() uint64 { return i.st.Rdev }

// ETag is an unquoted strong entity tag (RFC 9110, section 8.8.3): every change
// of the content changes it, even one that restores size and modification
// time; a copy-up, a rename and a restart do not.
func (i *Info) ETag() string { return string(i.AppendETag(nil)) }

// shownTag is how many bytes of a tag are shown: listings have one for each file.
const shownTag = 12

// shown is ETag of a file with the tag.
func (t tag) shown() string { return string(t.appendShown(nil)) }

func (t tag) appendShown(dst []byte) []byte {
	return base64.RawURLEncoding.AppendEncode(dst, t[:shownTag])
}

// AppendETag appends ETag to dst.
func (i *Info) AppendETag(dst []byte) []byte {
	t := i.tag
	switch {
	case i.tags == nil:
	case i.layer != 0:
		t = derivedTag(&i.st)
	default:
		t = i.tags.of(&i.st)
	}
	return t.appendShown(dst)
}
