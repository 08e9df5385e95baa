package overlay

import (
	"encoding/binary"
	"errors"
	"syscall"

	"overdav/overlay/internal/at"
)

// An originSource says how the file handles of one lower layer become origins.
type originSource struct {
	uuid [16]byte
	ok   bool // the file system has a UUID
}

// The bytes of struct ovl_fh, fs/overlayfs/overlayfs.h.
const (
	originVersion = 0
	originMagic   = 0xfb
	originHeader  = 21 // version, magic, length, flags, type, UUID
)

// originFlags says in which order the machine that made a handle keeps its
// bytes: 0 the least significant first, 1 the other.
var originFlags = func() byte {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return 1
	}
	return 0
}()

// encodeOrigin is the value of the origin mark: the header, then the file
// handle (compare struct ovl_fh). It is
// said to be of a lower object.
func encodeOrigin(uuid [16]byte, kind int32, handle []byte) []byte {
	value := make([]byte, 0, originHeader+len(handle))
	value = append(value, originVersion, originMagic, byte(originHeader+len(handle)), originFlags, byte(kind))
	value = append(value, uuid[:]...)
	return append(value, handle...)
}

// parseOrigin reads the value of an origin: the UUID of the file system that
// the handle in it belongs to. An empty value is of a file system without
// handles, and one of a later version or another byte order is not for us to
// judge (compare ovl_check_fb_len).
// Errors: ErrCorruptMark.
func parseOrigin(value []byte) (uuid [16]byte, err error) {
	bad := &markError{"origin", string(value), syscall.EINVAL}
	switch {
	case len(value) == 0:
		return uuid, nil
	case len(value) < originHeader || value[1] != originMagic || int(value[2]) != len(value):
		return uuid, bad
	case value[0] != originVersion:
		return uuid, nil
	}
	copy(uuid[:], value[5:originHeader])
	return uuid, nil
}

// setOrigin marks a copy with the handle of what it is a copy of. A file with
// several names gets none: the copy is one of them only.
func (fsys *FS) setOrigin(src *lowerObject, to attributes) error {
	if !src.st.IsDir() && src.st.Nlink > 1 {
		return nil
	}
	if fsys.marks.prefix == userPrefix && !src.st.IsDir() && !src.st.IsRegular() {
		return nil // user attributes are for files and directories (xattr(7))
	}
	kind, handle, err := src.at.Handle(src.name)
	var value []byte
	switch {
	case err == nil && src.layer.origin.ok:
		value = encodeOrigin(src.layer.origin.uuid, kind, handle)
	case err == nil:
		return nil // a handle that names no file system would mislead
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS):
		return nil // a sandbox forbids to ask; absent says less than empty
	case !errors.Is(err, syscall.EOPNOTSUPP):
		return err
	}
	err = to.Setxattr(fsys.marks.origin, value)
	if errors.Is(err, syscall.EPERM) && !src.st.IsDir() {
		return nil // an object that takes no attributes
	}
	return err
}

func newOriginSource(root *at.Dir) (o originSource) {
	o.uuid, o.ok = root.UUID()
	return o
}
