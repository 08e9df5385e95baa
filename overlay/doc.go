// Package overlay is a union of directory trees in user space: Linux
// overlayfs' semantics and disk format, over plain directories. An FS shows one
// upper directory over any number of lowers. What is changed goes to upper;
// the lowers stay as they are. Unmounted, an upper is the kernel's: `mount -t
// overlay` of the same directories shows the same tree, and back.
//
// # Words
//
// They are the kernel's (Documentation/filesystems/overlayfs.rst). A name is
// merged when directories of several layers are shown as one. A whiteout in
// upper deletes a name of a lower. An opaque directory hides what is below it.
// A redirect says that a directory's lowers are under another name. To copy up
// is to bring an object of a lower to upper before it is changed. A mark is any
// of the attributes trusted.overlay.* or user.overlay.* by which an object
// says more than itself; mark.go knows them, and nothing else does. The workdir
// is where things are made before they are shown: staging.
//
// # Promises
//
// A lower is never written to: its type has no methods that could. As root it
// is also held as a private read-only clone of its mount.
//
// Every change is a list of steps, numbered in its comment, of which one
// decides: before it the tree is as it was, after it as it shall be, and a
// crash between any two leaves what the next start sweeps. One exception is
// plain: writing into a file that is open for writing (File.Write), where a
// crash may leave a part; Staged replaces a file at once. Another concerns
// metacopies alone: see incomplete.complete.
//
// When a change returns without error it has reached the disk as far as
// Options.Durability says.
//
// Errors are *fs.PathError or *os.LinkError with the merged names; the cause
// inside says which layer and which step. What a layer answers other than "no
// such name" is never taken for one.
//
// # How it works
//
// One walk (walk.go) leads every operation from a name to a place: an open
// merged directory and a last component. It keeps nothing from one operation to
// the next but open directories (dircache.go) and what was listed in them
// (listing.go), and those only while it hears of every change in them, so what
// changes underneath shows at the next look. What a name is made of is an entry, and its presence is the whole of the union's semantics:
// six values, each of which says what a creator and a remover must do
// (lookup.go). Changes are made by a txn, which holds the locks, closes what it
// opened, and syncs what it changed once the locks are released (txn.go).
//
// # Locks
//
// In this order; a lock further right is taken later:
//
//	FS.copying, the name being copied up
//	    FS.treeMu
//	        FS.names, the lesser path first
//	            FS.filling, an inode
//	                FS.tags.mu
//	            staging.whiteMu
//	            listing.mu
//	                dirCache.mu
//
// copying lets one goroutine copy a file up while the others who need it wait;
// it is held while content is copied and nothing else is. treeMu is shared by
// whoever walks, and held alone by whoever moves or removes a directory, so
// that a merged path is true for as long as a txn lasts. names has one lock for
// the names in each merged directory: held alone by whoever changes them,
// shared by whoever lists them. Reading content holds no lock, nor does
// writing it: what clients send is staged first.
//
// # What differs from the kernel
//
//   - A directory of any kind can be renamed: where a redirect may not be
//     written, the directory is copied up whole first; the kernel answers EXDEV.
//   - Setuid, setgid and file capabilities do not survive a change of content,
//     nor a copy-up from a lower that is mounted nosuid or by an ordinary user.
//   - Whiteouts are hidden from every listing, also in directories where the
//     kernel would show names that it then cannot find.
//   - Hard links across copy-up are broken, as in the kernel without "index".
//   - A metacopy whose content cannot be found, or is not to be followed, is an
//     error when it is opened; the kernel also fails to look it up.
//   - An ordinary user who may not give files away owns what is copied up; the
//     kernel fails with EOVERFLOW.
//
// Not supported are index, nfs_export, data-only layers and fs-verity: an upper
// that needs one of them is refused, as is one that needs metacopy when
// Options.Metacopy is off.
package overlay
