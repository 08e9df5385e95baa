package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"overdav/overlay/internal/at"
)

// FS is a merged view of one upper layer and the lower layers beneath it. A
// method here does to the merged tree what the os.Root method of the same name
// does to a directory; names are slash-separated as in io/fs, "." is the root,
// and may be any bytes.
//
// Symlinks are resolved inside the merged tree, whatever a layer holds; an
// absolute target counts from the tree's root. Submounts of a layer are not
// entered. Changes made to a layer underneath show at the next look; a change
// to the upper directory of a served FS by anybody else may get lost, but
// breaks nothing.
//
// It is safe for use by many goroutines. Close it when done.
type FS struct {
	root            *dir // never closed before FS
	layers          []Layer
	marks           marks
	staging         *staging   // nil: read-only
	locks           []*at.File // of upper and of work, held while upper is ours
	work            *at.RWDir
	followRedirects bool
	writeRedirects  bool
	metacopy        bool // content may be left below, and is read there
	durability      Durability
	privileged      bool      // may give files away and set any attribute
	openDirs        uint32    // what the modes of copied directories grant at least: to an ordinary user, whom they hold for, all
	traps           []at.Stat // layer roots, where one lies inside another
	events          Events
	flattened       sync.Once // the warning about it
	room            atomic.Pointer[func(bytes int64) error]

	usage      *at.Usage   // of upper and staging; nil without a quota
	tags       tagTable    // of upper's files
	rootImpure atomic.Bool // the root of upper is marked impure

	// treeMu is shared by whoever walks the tree, and held alone by whoever
	// moves or removes a directory, or closes FS.
	treeMu sync.RWMutex
	// +checklocks:treeMu
	closed bool

	lookers sync.WaitGroup // at names in the root, for listings of it

	cache   *dirCache // nil: nothing is kept between operations
	names   nameLocks // the names in a directory, by its merged path
	copying nameLocks // copy-ups under way, by the name asked for
	syncs   dirSyncs  // of directories of upper
	filling nameLocks // metacopies that are getting their content, or other attributes, by inode
}

// A Namespace is the class of extended attributes that holds the marks.
type Namespace int

// The namespaces.
const (
	XattrAuto    Namespace = iota // trusted as root, else user
	XattrTrusted                  // trusted.overlay.*, which takes CAP_SYS_ADMIN
	XattrUser                     // user.overlay.*, the kernel's mount option "userxattr"
)

// String is the namespace as the command line calls it.
func (n Namespace) String() string {
	switch n {
	case XattrTrusted:
		return "trusted"
	case XattrUser:
		return "user"
	}
	return "auto"
}

// Durability says what has reached the disk when a change returns.
type Durability int

// The durabilities.
const (
	DurabilityFull    Durability = iota // all of it: content, then names
	DurabilityOrdered                   // content before the name that shows it: never torn, the last seconds may be lost
	DurabilityNone                      // nothing
)

// Options say what an FS is made of.
type Options struct {
	Lowers      []string // topmost first
	Upper, Work string   // both or neither; without, the view is read-only
	Xattr       Namespace
	NoRedirect  bool // never write a redirect: renaming a directory of a lower copies it
	Metacopy    bool // leave a file's content in the lower until it is written to: see metacopy.go
	ReadOnly    bool // show Upper too, but change nothing, not even in Work
	Durability  Durability
	Quota       int64 // what upper may take, in bytes (quota.go); 0 is all there is room for
	NoGuard     bool  // do not keep the kernel from mounting an upper that is being served
	Made        bool  // Upper and Work were made for this Open: no mount can have them
	Events      Events
	Hook        at.Hook // for tests: asked before each change to the disk
}

// Events are told what the engine did that nobody asked for by name. Each may
// be nil; none may call back into the FS.
type Events struct {
	// CopiedUp: content of that many bytes was copied from a lower to upper.
	CopiedUp func(name string, bytes int64, took time.Duration)
	// Warning: somebody should look. The text names host paths.
	Warning func(message string)
	// Purging: what was removed is being deleted, which nobody waits for; or no
	// longer is.
	Purging func(begins bool)
}

// A Layer is one of the trees an FS is made of.
type Layer struct {
	Index    int // 0 is upper
	Path     string
	Writable bool
}

// Layers are the trees, topmost first.
func (fsys *FS) Layers() []Layer { return fsys.layers }

// Namespace is where the marks are.
func (fsys *FS) Namespace() Namespace {
	if fsys.marks.prefix == userPrefix {
		return XattrUser
	}
	return XattrTrusted
}

// Redirects says whether renaming a directory of a lower writes a redirect.
func (fsys *FS) Redirects() bool { return fsys.writeRedirects }

// Metacopy says whether content is left in the lowers until it is written to.
func (fsys *FS) Metacopy() bool { return fsys.metacopy }

func (fsys *FS) readOnly() bool { return fsys.staging == nil }

// ReadOnly says whether every change is refused (EROFS).
func (fsys *FS) ReadOnly() bool { return fsys.readOnly() }

// Stat tells of what name shows, following symlinks.
func (fsys *FS) Stat(name string) (*Info, error) { return fsys.stat("stat", name, true) }

// Lstat is Stat for a symlink itself.
func (fsys *FS) Lstat(name string) (*Info, error) { return fsys.stat("lstat", name, false) }

func (fsys *FS) stat(op, name string, follow bool) (info *Info, err error) {
	err = fsys.see(name, follow, func(_ place, f found) error {
		info = fsys.newInfo(baseName(name), &f)
		return nil
	})
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return info, nil
}

// Readlink returns the target of a symlink, as it is written.
func (fsys *FS) Readlink(name string) (target string, err error) {
	err = fsys.see(name, false, func(p place, f found) error {
		if !f.st.IsSymlink() {
			return syscall.EINVAL
		}
		target, err = f.at.Readlink(p.name)
		return err
	})
	return target, pathError("readlink", name, err)
}

// Space tells of the room for changes; of the topmost lower's file system when
// there can be none.
func (fsys *FS) Space() (s at.Space, err error) {
	t, err := fsys.look()
	if err != nil {
		return s, err
	}
	s, err = fsys.root.top().Space()
	return s, t.end(err)
}

// SetRoom has room asked before content is copied to upper that can share no
// blocks with its source: of how many bytes. Its error ends the change, whether
// that is a copy-up, a copy or the replacement of a part of a file, and leaves
// what the tree shows as it was. Nil asks nobody, as at first.
func (fsys *FS) SetRoom(room func(bytes int64) error) {
	if room == nil {
		fsys.room.Store(nil)
		return
	}
	fsys.room.Store(&room)
}

// hasRoom asks who was named by SetRoom.
func (fsys *FS) hasRoom(bytes int64) error {
	if room := fsys.room.Load(); room != nil {
		return (*room)(bytes)
	}
	return nil
}

// FS is the tree as an fs.FS, whose names must be valid UTF-8.
func (fsys *FS) FS() fs.FS { return ioFS{fsys} }

type ioFS struct{ fsys *FS }

func (i ioFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, pathError("open", name, fs.ErrInvalid)
	}
	f, err := i.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (i ioFS) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, pathError("stat", name, fs.ErrInvalid)
	}
	return noNil(i.fsys.Stat(name))
}

func (i ioFS) Lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, pathError("lstat", name, fs.ErrInvalid)
	}
	return noNil(i.fsys.Lstat(name))
}

func (i ioFS) ReadLink(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	return i.fsys.Readlink(name)
}

// noNil keeps a nil *Info from becoming an interface that is not nil.
func noNil(info *Info, err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Close waits for what is running, deletes what waits in the trash, removes
// the guard and lets upper go: the kernel can mount it now. Files that are open
// stay readable.
func (fsys *FS) Close() error {
	fsys.usage.Stop() // who waits for it keeps the tree
	fsys.treeMu.Lock()
	was := fsys.closed
	fsys.closed = true
	fsys.treeMu.Unlock()
	if was {
		return nil
	}
	// What looks or changes now is refused; who is still copying finds that out
	// and lets go of staging.
	fsys.lookers.Wait()
	var err error
	if fsys.staging != nil {
		fsys.staging.users.Wait()
		err = fsys.releaseUpper()
	}
	fsys.treeMu.Lock()
	defer fsys.treeMu.Unlock()
	if fsys.cache != nil {
		fsys.cache.close()
	}
	fsys.root.closeLayers()
	return err
}

// releaseUpper ends the writing:
//
//  1. The trash is emptied, then staging, where a note of a move that was
//     undone or done may be left.
//  2. What was written reaches the disk, if durability says so.
//  3. The guard is removed, then the lock. A crash before leaves the guard for
//     the next start or for Unlock.
func (fsys *FS) releaseUpper() error {
	s := fsys.staging
	s.purges.Wait()
	close(s.purge)
	var err error
	if s.unfinished.Load() {
		err = errors.New("a move that failed half way is finished by the next start")
	} else {
		err = errors.Join(sweep(s), s.removeNote())
	}
	if fsys.durability != DurabilityNone {
		err = errors.Join(err, fsys.work.SyncAll())
	}
	if err == nil {
		err = removeGuard(fsys.work)
	}
	err = errors.Join(err, fsys.tags.close())
	s.close()
	fsys.work.Close()
	return errors.Join(err, fsys.unlock())
}

// unlock lets another overdav have upper.
func (fsys *FS) unlock() (err error) {
	for _, lock := range fsys.locks {
		err = errors.Join(err, lock.Close())
	}
	fsys.locks = nil
	return err
}

func layersError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrLayers, fmt.Errorf(format, args...))
}

// hostError is err about a host path without the path, which the text around
// it names.
func hostError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}
