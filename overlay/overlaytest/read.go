package overlaytest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"overdav/overlay"
	"overdav/overlay/internal/at"
)

// makeDir makes a directory of a test's: mode 0755 whatever the umask.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return nil
}

// Raw is the text of the layer in dir as it is on disk, marks of class Trusted.
func Raw(t testing.TB, dir string) string {
	t.Helper()
	text, err := Trusted.Raw(dir)
	if err != nil {
		t.Fatalf("raw %s: %v", dir, err)
	}
	return text
}

// Raw is the text of the layer in dir as it is on disk, without the marks that
// two right engines may set differently: impure and uuid.
func (c Class) Raw(dir string) (string, error) {
	tree, err := c.Read(dir)
	for _, e := range tree {
		delete(e.Marks, "impure")
		delete(e.Marks, "uuid")
	}
	return tree.String(), err
}

// Exact is Raw with all marks.
func (c Class) Exact(dir string) (string, error) {
	tree, err := c.Read(dir)
	return tree.String(), err
}

// Read is the layer in dir as it is on disk.
func (c Class) Read(dir string) (Tree, error) {
	host, err := openHost(dir)
	if err != nil {
		return nil, err
	}
	defer host.root.Close()
	r := reader{view: host, class: c, links: map[[2]uint64]string{}}
	err = r.read(".")
	return r.tree, err
}

// Merged is the text of what the directory dir shows: a mounted overlay. Hard
// links are not told.
func Merged(t testing.TB, dir string) string {
	t.Helper()
	text, err := MergedDir(dir)
	if err != nil {
		t.Fatalf("merged %s: %v", dir, err)
	}
	return text
}

// MergedDir is Merged for those who have no test at hand.
func MergedDir(dir string) (string, error) {
	host, err := openHost(dir)
	if err != nil {
		return "", err
	}
	defer host.root.Close()
	return readMerged(host)
}

// MergedFS is the text of what fsys shows, the same as that of a kernel's
// mount of the same layers.
func MergedFS(fsys *overlay.FS) (string, error) { return readMerged(engineView{fsys}) }

func readMerged(v view) (string, error) {
	r := reader{view: v}
	err := r.read(".")
	return r.tree.String(), err
}

// A view is where a tree is read from. Names are slash-separated, "." the root.
type view interface {
	stat(name string) (at.Stat, error)
	names(dir string) ([]string, error)
	readlink(name string) (string, error)
	xattrs(name string) (map[string]string, error)
	// data calls with what is not hole in a regular file of a size.
	data(name string, size int64, add func(off int64, p []byte)) error
}

type reader struct {
	view
	class Class                // of the marks; "" where there are none to see
	links map[[2]uint64]string // names of files that have more than one; nil where links are not told
	tree  Tree
}

func (r *reader) read(name string) error {
	st, err := r.stat(name)
	if errors.Is(err, fs.ErrNotExist) && name != "." {
		return nil // a name that the kernel lists and denies
	}
	if err != nil {
		r.tree = append(r.tree, Entry{Name: name, Refused: ErrClass(err)})
		return nil
	}
	e := Entry{
		Name: name, Mode: st.Mode, UID: int(st.UID), GID: int(st.GID),
		Rdev: st.Rdev, Mtime: st.Mtime, Size: st.Size,
	}
	if err := r.fill(&e, &st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.tree = append(r.tree, e)
	if !st.IsDir() {
		return nil
	}
	names, err := r.names(name)
	if err != nil && name != "." {
		// Whether the look or the listing refuses is the same to who looks.
		r.tree[len(r.tree)-1] = Entry{Name: name, Refused: ErrClass(err)}
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", name, err)
	}
	slices.Sort(names) // so that of hard links the first name has the content
	for _, member := range names {
		if err := r.read(path.Join(name, member)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) fill(e *Entry, st *at.Stat) (err error) {
	if r.links != nil && st.Nlink > 1 && !st.IsDir() && !e.isWhiteout() {
		id := [2]uint64{st.Dev, st.Ino}
		if e.Link = r.links[id]; e.Link != "" {
			return nil
		}
		r.links[id] = e.Name
	}
	switch {
	case st.IsSymlink():
		e.Target, err = r.readlink(e.Name)
	case st.IsRegular():
		var f fileData
		err = r.data(e.Name, st.Size, f.add)
		e.Data = f.stretches()
	}
	if err != nil {
		return err
	}
	if host, ok := r.view.(hostView); ok && r.class != "" {
		e.Flags = host.flags(e.Name, st) & knownFlags
	}
	attrs, err := r.xattrs(e.Name)
	for attr, value := range attrs {
		r.class.sort(e, attr, value)
	}
	return err
}

// sort puts an attribute among the marks or the others.
func (c Class) sort(e *Entry, attr, value string) {
	mark, private := strings.CutPrefix(attr, string(c))
	switch {
	case attr == "security.selinux": // the machine's, not the layer's
	case strings.HasPrefix(attr, "trusted.SGI_ACL_"): // XFS' second name for system.posix_acl_*
	case c == "" || !private:
		e.xattr(attr, value)
	case strings.HasPrefix(mark, "overlay."):
		e.xattr(mark, value)
	default:
		e.mark(mark, value)
	}
}

// fileData gathers a file's content and finds the holes again that a file
// system or a copy filled with zeros.
type fileData struct {
	found []Stretch
}

// minHole is how many zeros make a hole: fewer may be content.
const minHole = 64

// zeros is to pass holes quickly.
var zeros = make([]byte, 4096)

// maxData is how much of a stretch is written out; of more, a sum is.
const maxData = 512

func (f *fileData) add(off int64, p []byte) {
	for i := 0; i < len(p); {
		if bytes.HasPrefix(p[i:], zeros) {
			i += len(zeros)
			continue
		}
		if p[i] == 0 {
			i++
			continue
		}
		end := i
		for j := i; j < len(p) && j-end < minHole; j++ {
			if p[j] != 0 {
				end = j + 1
			}
		}
		f.append(off+int64(i), string(p[i:end]))
		i = end
	}
}

// append joins what was cut where two reads met.
func (f *fileData) append(off int64, data string) {
	if n := len(f.found); n > 0 {
		last := &f.found[n-1]
		gap := off - last.Off - int64(len(last.Data))
		if gap < minHole {
			last.Data += strings.Repeat("\x00", int(gap)) + data
			return
		}
	}
	f.found = append(f.found, Stretch{off, data})
}

func (f *fileData) stretches() []Stretch {
	for i, d := range f.found {
		if len(d.Data) > maxData {
			f.found[i].Data = fmt.Sprintf("(%d bytes, sha256 %x)", len(d.Data), sha256.Sum256([]byte(d.Data)))
		}
	}
	return f.found
}

// hostView reads a directory of the host.
type hostView struct {
	root      *at.Dir
	traceless bool // reading leaves no access times
}

// openHost opens dir so that reading leaves no trace in it, if we may.
func openHost(dir string) (hostView, error) {
	if root, err := at.OpenReadOnlyClone(dir); err == nil {
		return hostView{root, true}, nil
	}
	root, err := at.Open(dir)
	return hostView{root, false}, err
}

// in calls with the open directory of name and its last component.
func (v hostView) in(name string, call func(dir *at.Dir, name string) error) error {
	if name == "." {
		return call(v.root, ".")
	}
	dir, err := v.root.OpenPath(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return call(dir, path.Base(name))
}

func (v hostView) stat(name string) (st at.Stat, err error) {
	err = v.in(name, func(dir *at.Dir, name string) error { return dir.Stat(name, &st) })
	return st, err
}

func (v hostView) names(name string) (names []string, err error) {
	dir, err := v.root.OpenPath(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	r, err := dir.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		name, _, ok, err := r.Next()
		if err != nil || !ok {
			return names, err
		}
		names = append(names, string(name))
	}
}

func (v hostView) readlink(name string) (target string, err error) {
	err = v.in(name, func(dir *at.Dir, name string) (err error) {
		target, err = dir.Readlink(name)
		return err
	})
	return target, err
}

func (v hostView) xattrs(name string) (map[string]string, error) {
	attrs := map[string]string{}
	err := v.in(name, func(dir *at.Dir, name string) error {
		names, err := dir.Listxattr(name)
		if err != nil && err != syscall.EOPNOTSUPP {
			return err
		}
		for _, attr := range names {
			value, err := dir.Getxattr(name, attr)
			if err != nil {
				return fmt.Errorf("xattr %s: %w", attr, err)
			}
			attrs[attr] = string(value)
		}
		return nil
	})
	return attrs, err
}

// flags are those of chattr(1); none where they cannot be told.
func (v hostView) flags(name string, st *at.Stat) (flags uint32) {
	// The error is the same as no flags: a look has failed before, or will.
	_ = v.in(name, func(dir *at.Dir, name string) error {
		switch {
		case st.IsDir():
			d, err := dir.OpenPath(name)
			if err != nil {
				return err
			}
			defer d.Close()
			flags = d.Flags()
		case st.IsRegular():
			f, err := dir.OpenFile(name)
			if err != nil {
				return err
			}
			defer f.Close()
			flags = f.Flags()
		}
		return nil
	})
	return flags
}

func (v hostView) data(name string, size int64, add func(off int64, p []byte)) error {
	return v.in(name, func(dir *at.Dir, name string) error {
		f, err := dir.OpenFile(name)
		if err != nil {
			return err
		}
		defer f.Close()
		for off := int64(0); off < size; {
			start, end, err := f.NextData(off, size)
			if err != nil {
				return err
			}
			if err := readStretch(f, start, end, add); err != nil {
				return err
			}
			off = end
		}
		return nil
	})
}

func readStretch(f io.ReaderAt, start, end int64, add func(off int64, p []byte)) error {
	p := make([]byte, min(1<<20, end-start))
	for start < end {
		n, err := f.ReadAt(p[:min(int64(len(p)), end-start)], start)
		add(start, p[:n])
		start += int64(n)
		if n == 0 {
			if err == io.EOF {
				return nil // shorter than its size said
			}
			return err
		}
	}
	return nil
}

// engineView reads through the engine.
type engineView struct{ fsys *overlay.FS }

func (v engineView) stat(name string) (at.Stat, error) {
	info, err := v.fsys.Lstat(name)
	if err != nil {
		return at.Stat{}, err
	}
	st := at.Stat{
		Mode: at.Perm(info.Mode()) | kindOf(info.Mode()), Rdev: info.Device(),
		Size: info.Size(), Mtime: info.ModTime(), Atime: info.AccessTime(),
	}
	uid, gid := info.Owner()
	st.UID, st.GID = uint32(uid), uint32(gid)
	return st, nil
}

// kindOf is the type of a mode as st_mode has it.
func kindOf(mode fs.FileMode) uint32 {
	switch mode.Type() {
	case fs.ModeDir:
		return syscall.S_IFDIR
	case fs.ModeSymlink:
		return syscall.S_IFLNK
	case fs.ModeNamedPipe:
		return syscall.S_IFIFO
	case fs.ModeSocket:
		return syscall.S_IFSOCK
	case fs.ModeDevice:
		return syscall.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		return syscall.S_IFCHR
	}
	return syscall.S_IFREG
}

func (v engineView) names(dir string) ([]string, error) {
	infos, err := v.fsys.ReadDir(dir)
	var names []string
	for _, info := range infos {
		names = append(names, info.Name())
	}
	return names, err
}

func (v engineView) readlink(name string) (string, error) { return v.fsys.Readlink(name) }

// xattrs has none of a symlink: asked for them, the engine follows it.
func (v engineView) xattrs(name string) (map[string]string, error) {
	attrs := map[string]string{}
	if info, err := v.fsys.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return attrs, err
	}
	names, err := v.fsys.Listxattr(name)
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) { // as of a lower without attributes
		return nil, err
	}
	for _, attr := range names {
		value, err := v.fsys.Getxattr(name, attr)
		if err != nil {
			return nil, fmt.Errorf("xattr %s: %w", attr, err)
		}
		attrs[attr] = string(value)
	}
	return attrs, nil
}

func (v engineView) data(name string, size int64, add func(off int64, p []byte)) error {
	f, err := v.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, w := range windows(size) {
		if err := readStretch(f, w[0], w[1], add); err != nil {
			return err
		}
	}
	return nil
}

// windows are the parts of a file that are read of an engine, which does not
// tell of holes: all of most files, and of a huge one what is near its start,
// its end, and 4 GiB, where numbers of 32 bits wrap.
func windows(size int64) [][2]int64 {
	const near, wrap = 64 << 20, 4 << 30
	if size <= 8*near {
		return [][2]int64{{0, size}}
	}
	parts := [][2]int64{{0, near}}
	if size > wrap+2*near {
		parts = append(parts, [2]int64{wrap - near, wrap + near})
	}
	return append(parts, [2]int64{size - near, size})
}
