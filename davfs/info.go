package davfs

import (
	"context"
	"io/fs"
	"path"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// Info is what FileSystem.Stat and File.Stat return: an fs.FileInfo with the
// logical name, an entity tag and a content type.
type Info struct {
	fs.FileInfo
	name string // in the tree
	etag func() (string, error)
}

var (
	_ webdav.ETager       = Info{}
	_ webdav.ContentTyper = Info{}
)

func newInfo(name string, info *overlay.Info) Info {
	return Info{FileInfo: info, name: name, etag: func() (string, error) { return entityTag(info), nil }}
}

// Name is the last component of the name; "/" of the root.
func (i Info) Name() string {
	if i.name == "." {
		return "/"
	}
	return path.Base(i.name)
}

// ETag is a strong entity tag, quotes included (RFC 9110, section 8.8.3).
func (i Info) ETag(context.Context) (string, error) { return i.etag() }

// ContentType is the media type by the name alone: nothing is opened for it.
func (i Info) ContentType(context.Context) (string, error) { return contentType(i.name), nil }

// entityTag is the entity tag of a file. Collections and what has no content
// have none: what GET answers for them is made anew each time.
func entityTag(info *overlay.Info) string {
	if !info.Mode().IsRegular() {
		return ""
	}
	return string(appendEntityTag(nil, info))
}

// appendEntityTag appends the entity tag of a regular file.
func appendEntityTag(dst []byte, info *overlay.Info) []byte {
	return append(info.AppendETag(append(dst, '"')), '"')
}

func isSymlink(info *overlay.Info) bool { return info.Mode()&fs.ModeSymlink != 0 }
