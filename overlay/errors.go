package overlay

import (
	"errors"
	"io/fs"
	"os"
)

// What Open may refuse with. The error's text says what to do.
var (
	// ErrInUse: another overdav, or a kernel mount, has the upper directory.
	ErrInUse = errors.New("in use")
	// ErrLayers: the layers cannot be an overlay together.
	ErrLayers = errors.New("unsuitable layers")
	// ErrUnsupported: the upper file system lacks something that an upper needs.
	ErrUnsupported = errors.New("unsupported upper file system")
)

// What any operation may meet.
var (
	// ErrCorruptMark: a mark in a layer has a value that cannot be.
	ErrCorruptMark = errors.New("corrupt overlay mark")
)

// pathError is err as it leaves the package: with the caller's word and the
// merged name. The step that failed is inside.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func linkError(op, oldname, newname string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: oldname, New: newname, Err: err}
}
