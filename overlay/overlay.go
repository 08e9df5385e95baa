package overlay

import (
	"io/fs"
	"time"

	"overdav/overlay/internal/at"
)

// FS is a merged view of one upper layer and the lower layers beneath it.
type FS struct{}

// A Namespace is the class of extended attributes that holds the marks.
type Namespace int

// The namespaces.
const (
	XattrAuto    Namespace = iota // trusted where we may, else user
	XattrTrusted                  // trusted.overlay.*
	XattrUser                     // user.overlay.*, the kernel's "userxattr"
)

// Durability says what has reached the disk when a change returns.
type Durability int

// The durabilities.
const (
	DurabilityFull    Durability = iota // the change: content, then names
	DurabilityOrdered                   // content before the name that shows it
	DurabilityNone                      // nothing
)

// Options say what FS is made of.
type Options struct {
	Lowers      []string // topmost first
	Upper, Work string   // both or neither; neither is a read-only view
	Xattr       Namespace
	NoRedirect  bool // do not write redirects: renaming a directory of a lower copies it
	ReadOnly    bool // serve Upper too, but change nothing
	Durability  Durability
	NoGuard     bool // leave a kernel mount of an upper that is being served possible
	Events      Events
	Hook        at.Hook // for tests: asked before each change to the disk
}

// Events are told what the engine did that its caller did not ask for by name.
// Each may be nil; none may call back into the FS.
type Events struct {
	CopiedUp func(name string, bytes int64, took time.Duration)
	Warning  func(message string)
}

func Open(o Options) (*FS, error) { panic("todo") }

func (fsys *FS) Close() error                                                    { panic("todo") }
func (fsys *FS) Open(name string) (*File, error)                                 { panic("todo") }
func (fsys *FS) OpenFile(name string, flag int, perm fs.FileMode) (*File, error) { panic("todo") }
func (fsys *FS) Stat(name string) (*Info, error)                                 { panic("todo") }
func (fsys *FS) Lstat(name string) (*Info, error)                                { panic("todo") }
func (fsys *FS) ReadDir(name string) ([]*Info, error)                            { panic("todo") }
func (fsys *FS) Readlink(name string) (string, error)                            { panic("todo") }
func (fsys *FS) Mkdir(name string, perm fs.FileMode) error                       { panic("todo") }
func (fsys *FS) MkdirAll(name string, perm fs.FileMode) error                    { panic("todo") }
func (fsys *FS) Symlink(target, name string) error                               { panic("todo") }
func (fsys *FS) Link(oldname, newname string) error                              { panic("todo") }
func (fsys *FS) Remove(name string) error                                        { panic("todo") }
func (fsys *FS) RemoveAll(name string) error                                     { panic("todo") }
func (fsys *FS) Rename(oldname, newname string) error                            { panic("todo") }
func (fsys *FS) Move(src, dst string, overwrite bool) error                      { panic("todo") }
func (fsys *FS) Copy(src, dst string, o CopyOptions) error                       { panic("todo") }
func (fsys *FS) Stage(name string, perm fs.FileMode) (*Staged, error)            { panic("todo") }
func (fsys *FS) Chmod(name string, mode fs.FileMode) error                       { panic("todo") }
func (fsys *FS) Chown(name string, uid, gid int) error                           { panic("todo") }
func (fsys *FS) Chtimes(name string, atime, mtime time.Time) error               { panic("todo") }
func (fsys *FS) Getxattr(name, attr string) ([]byte, error)                      { panic("todo") }
func (fsys *FS) Setxattr(name, attr string, value []byte) error                  { panic("todo") }
func (fsys *FS) Removexattr(name, attr string) error                             { panic("todo") }
func (fsys *FS) Listxattr(name string) ([]string, error)                         { panic("todo") }
func (fsys *FS) CopyUp(name string) error                                        { panic("todo") }
func (fsys *FS) Check(report func(Problem)) error                                { panic("todo") }
func (fsys *FS) Layers() []Layer                                                 { panic("todo") }
func (fsys *FS) Space() (at.Space, error)                                        { panic("todo") }
func (fsys *FS) FS() fs.FS                                                       { panic("todo") }

// Unlock removes what a crashed server left that makes the kernel refuse an
// upper: the guard, and staging.
func Unlock(upper, work string) error { panic("todo") }

// CopyOptions say how Copy copies.
type CopyOptions struct {
	Overwrite bool // replace what stands at the destination, a full directory included
	Shallow   bool // a directory without its members (RFC 4918, section 9.8.3, Depth 0)
}

// A Layer is one of the trees an FS is made of.
type Layer struct {
	Index    int // 0 is upper
	Path     string
	Writable bool
}

// A Problem is something Check found in a layer.
type Problem struct {
	Layer int
	Path  string
	What  string
}

// File is an open file or directory of the merged tree.
type File struct{}

func (f *File) Name() string                                 { panic("todo") }
func (f *File) Stat() (fs.FileInfo, error)                   { panic("todo") }
func (f *File) Read(p []byte) (int, error)                   { panic("todo") }
func (f *File) ReadAt(p []byte, off int64) (int, error)      { panic("todo") }
func (f *File) Write(p []byte) (int, error)                  { panic("todo") }
func (f *File) WriteAt(p []byte, off int64) (int, error)     { panic("todo") }
func (f *File) Seek(offset int64, whence int) (int64, error) { panic("todo") }
func (f *File) Truncate(size int64) error                    { panic("todo") }
func (f *File) Sync() error                                  { panic("todo") }
func (f *File) Close() error                                 { panic("todo") }
func (f *File) ReadDir(n int) ([]fs.DirEntry, error)         { panic("todo") }

// Staged is a file that nobody sees yet.
type Staged struct{}

func (s *Staged) Write(p []byte) (int, error)                  { panic("todo") }
func (s *Staged) WriteAt(p []byte, off int64) (int, error)     { panic("todo") }
func (s *Staged) Stat() (*Info, error)                         { panic("todo") }
func (s *Staged) Commit() error                                { panic("todo") }
func (s *Staged) Abort()                                       { panic("todo") }
func (s *Staged) SetModTime(t time.Time)                       { panic("todo") }

// Info tells of one object of the merged tree; it is an fs.FileInfo and an
// fs.DirEntry.
type Info struct{}

func (i *Info) Name() string               { panic("todo") }
func (i *Info) Size() int64                { panic("todo") }
func (i *Info) Mode() fs.FileMode          { panic("todo") }
func (i *Info) Type() fs.FileMode          { panic("todo") }
func (i *Info) ModTime() time.Time         { panic("todo") }
func (i *Info) IsDir() bool                { panic("todo") }
func (i *Info) Sys() any                   { panic("todo") }
func (i *Info) Info() (fs.FileInfo, error) { return i, nil }
func (i *Info) Layer() int                 { panic("todo") }
func (i *Info) ETag() string               { panic("todo") }
func (i *Info) Birth() time.Time           { panic("todo") }
