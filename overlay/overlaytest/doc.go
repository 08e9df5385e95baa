// Package overlaytest is the ground on which the engine is tried: trees written
// as text, file systems to keep layers on, the kernel's overlayfs as a second
// engine, and scripts that every engine runs against one expectation.
//
// # Trees
//
// A tree is a text with a line for each object, in the order of the names.
// The same text builds a layer, says what is on its disk, and says what a
// merged view shows:
//
//	docs/                            a directory, mode 0755
//	docs/ [opaque redirect=/old]     with marks
//	docs/a = one                     a file, mode 0644, holding "one" and no newline
//	docs/b = "two\nlines\n"          content, names and values are Go strings where they must be
//	docs/c 0600 1000:1000 @5.5 =     an empty file; mode, owner, mtime in seconds since 1970
//	docs/k chattr=ia =               with flags of chattr(1), of i, a, S and A
//	docs/d [user.color=red] = x      with an extended attribute
//	docs/e size=65536 +4096="data"   a file with holes: its size, and each stretch of data
//	l -> docs/a                      a symlink
//	m == docs/a                      one more name for the file docs/a (a hard link)
//	gone whiteout                    a character device 0:0
//	gone2 whiteout-xattr             an empty file with the mark whiteout
//	pipe fifo                        also: socket, chr 1:3, blk 7:0
//	bad !EINVAL                      a name that a merged view lists and refuses to show
//	./ 0700                          the root, left out where it has nothing to say
//
// What is usual is left out: mode 0755 of directories and 0644 of everything
// else, the owner who runs the test, and the mtime: an object that Build makes
// without a time gets Epoch, and neither Epoch nor a time of this test's run is
// shown. A time that matters is written out in the layer; then its loss shows.
//
// In brackets, a word without a dot is a mark: the private attribute
// trusted.overlay.<word> (user.overlay.<word> in a Class User layer), whose
// value is left out where it is the usual one. "overlay.x=1" is the escaped
// attribute trusted.overlay.overlay.x. Everything else is the attribute's
// whole name. Of origin only the presence is told; Build writes an empty one.
//
// Raw leaves out what two right engines may do differently
// (overlayfs.rst knows neither): the marks impure and uuid, and mode, owner and
// times of whiteouts. Exact shows the two marks.
package overlaytest
