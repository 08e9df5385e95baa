package davfs

import (
	"encoding/xml"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// File is an open file or directory of a FileSystem, but for uploads. It costs
// one look at the name: the content is opened when it is first asked for.
//
// A File belongs to one goroutine at a time.
type File struct {
	fs   *FileSystem
	name string
	flag int
	info *overlay.Info // as of OpenFile

	content *overlay.File // nil until asked for
	entries []fs.FileInfo // what Readdir has yet to return; nil until asked for
	listed  bool
}

var (
	_ webdav.File            = (*File)(nil)
	_ webdav.DeadPropsHolder = (*File)(nil)
	_ syscall.Conn           = (*File)(nil)
)

// Stat tells of the file as OpenFile found it, or as it is open by now.
func (f *File) Stat() (fs.FileInfo, error) { return newInfo(f.name, f.info), nil }

// open opens the content. A file that was replaced since OpenFile is refused
// with ESTALE: its entity tag may have been sent already.
func (f *File) open() error {
	if f.content != nil {
		return nil
	}
	if f.info.IsDir() {
		return syscall.EISDIR
	}
	content, err := f.fs.tree.OpenFile(f.name, f.flag, 0)
	if err != nil {
		return err
	}
	now, err := content.Info()
	if err == nil && entityTag(now) != entityTag(f.info) {
		err = syscall.ESTALE
	}
	if err != nil {
		_ = content.Close() // nothing was written
		return err
	}
	f.content = content
	return nil
}

// Read reads on from the file's offset.
func (f *File) Read(p []byte) (int, error) {
	if err := f.open(); err != nil {
		return 0, flatten("read", f.name, err)
	}
	n, err := f.content.Read(p)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, flatten("read", f.name, err)
}

// Seek sets the file's offset.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	if err := f.open(); err != nil {
		return 0, flatten("seek", f.name, err)
	}
	n, err := f.content.Seek(offset, whence)
	return n, flatten("seek", f.name, err)
}

// Write writes at the file's offset, in place: for uploads see
// FileSystem.OpenFile.
func (f *File) Write(p []byte) (int, error) {
	if err := f.open(); err != nil {
		return 0, flatten("write", f.name, err)
	}
	n, err := f.content.Write(p)
	return n, flatten("write", f.name, err)
}

// Readdir returns the next count entries, or with count <= 0 all that remain.
// Symlinks are told of as what they lead to, or as themselves when they lead
// nowhere.
func (f *File) Readdir(count int) ([]fs.FileInfo, error) {
	if !f.info.IsDir() {
		return nil, flatten("readdir", f.name, syscall.ENOTDIR)
	}
	if !f.listed {
		infos, err := f.fs.tree.ReadDir(f.name)
		if err != nil {
			return nil, flatten("readdir", f.name, err)
		}
		for _, info := range infos {
			f.entries = append(f.entries, newInfo(join(f.name, info.Name()), followed(f.fs.tree, f.name, info)))
		}
		f.listed = true
	}
	if count <= 0 || count > len(f.entries) {
		if count > 0 && len(f.entries) == 0 {
			return nil, io.EOF
		}
		count = len(f.entries)
	}
	page := f.entries[:count]
	f.entries = f.entries[count:]
	return page, nil
}

// followed is the info of what an entry of dir leads to.
func followed(tree *overlay.FS, dir string, entry *overlay.Info) *overlay.Info {
	if !isSymlink(entry) {
		return entry
	}
	target, err := tree.Stat(join(dir, entry.Name()))
	if err != nil {
		return entry // a link that leads nowhere is listed as itself
	}
	return target
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// DeadProps returns the dead properties.
func (f *File) DeadProps() (map[xml.Name]webdav.Property, error) {
	props, err := readDeadProps(xattrsOf(f.fs.tree, f.name))
	if err != nil {
		return nil, flatten("deadprops", f.name, err)
	}
	byName := make(map[xml.Name]webdav.Property, len(props))
	for _, p := range props {
		byName[p.XMLName] = p
	}
	return byName, nil
}

// Patch sets and removes dead properties, all or none. Names in DAV: are
// acknowledged and left alone: webdav.Handler hands live properties to the
// target of a COPY.
func (f *File) Patch(patches []webdav.Proppatch) ([]webdav.Propstat, error) {
	defer f.fs.names.lock(f.name)()
	if err := patchDeadProps(f.fs.tree, f.name, withoutDAV(patches)); err != nil {
		return nil, flatten("patch", f.name, err)
	}
	return []webdav.Propstat{allPatched(patches)}, nil
}

// withoutDAV leaves out the properties in namespace DAV:.
func withoutDAV(patches []webdav.Proppatch) []webdav.Proppatch {
	kept := make([]webdav.Proppatch, 0, len(patches))
	for _, patch := range patches {
		only := webdav.Proppatch{Remove: patch.Remove}
		for _, p := range patch.Props {
			if p.XMLName.Space != "DAV:" {
				only.Props = append(only.Props, p)
			}
		}
		kept = append(kept, only)
	}
	return kept
}

// allPatched is the answer to patches that were all made.
func allPatched(patches []webdav.Proppatch) webdav.Propstat {
	done := webdav.Propstat{Status: 200}
	for _, patch := range patches {
		for _, p := range patch.Props {
			done.Props = append(done.Props, webdav.Property{XMLName: p.XMLName})
		}
	}
	return done
}

// SyscallConn lets net/http send the file without passing it through this
// process (sendfile(2)).
func (f *File) SyscallConn() (syscall.RawConn, error) {
	if err := f.open(); err != nil {
		return nil, flatten("syscallconn", f.name, err)
	}
	return f.content.SyscallConn()
}

// Close closes what was opened.
func (f *File) Close() error {
	if f.content == nil {
		return nil
	}
	err := f.content.Close()
	f.content = nil
	f.info, f.flag = nil, os.O_RDONLY
	return flatten("close", f.name, err)
}
