// Package overlay is a union of directory trees in user space: Linux
// overlayfs' semantics and its disk format, over plain directories.
package overlay
