package overlay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// Move is Rename as WebDAV means it (RFC 4918, section 9.9): with overwrite,
// whatever stands at dst is replaced, a full directory included, and goes only
// when src has taken its place.
//
// Errors: ENOENT; EEXIST without overwrite; EINVAL onto itself, into itself or
// over what it is in; EBUSY for the root. Whatever goes wrong, both are as they
// were.
func (fsys *FS) Move(src, dst string, overwrite bool) error {
	return linkError("move", src, dst, fsys.move(src, dst, overwrite))
}

// MoveSeen is Move of what was seen at src to where dst was seen.
// copied is how many bytes of content were copied up for it.
// Errors: ErrChanged when either is something else now.
func (fsys *FS) MoveSeen(src, dst Sight, overwrite bool) (copied int64, err error) {
	r := renaming{fsys: fsys, replace: overwrite, distinct: true, from: renamed{seen: &src}, to: renamed{seen: &dst}}
	copied, err = r.moveUntilDone(src.Path, dst.Path)
	return copied, linkError("move", src.Path, dst.Path, err)
}

func (fsys *FS) move(src, dst string, overwrite bool) error {
	_, err := renaming{fsys: fsys, replace: overwrite, distinct: true}.moveUntilDone(src, dst)
	return err
}

func (r renaming) moveUntilDone(src, dst string) (copied int64, err error) {
	a := attempt{exclusive: r.from.seen.isDir() || r.to.seen.isDir(), seen: r.from.seen != nil}
	if r.isSmallAndNew() {
		if a.copy, err = r.fsys.copyToMove(src, r.from.seen); err != nil {
			return 0, err
		}
	}
	return r.fsys.untilRenamed(a, func(a attempt) (string, error) {
		r.copy = a.copy
		return r.tryMove(src, dst, a.full, a.exclusive)
	})
}

// isSmallAndNew says that a small file of a lower was seen, and nothing where
// it is to go: it is copied before the first attempt, which would find nothing
// but that it must be.
func (r *renaming) isSmallAndNew() bool {
	return r.from.seen != nil && r.from.seen.Here != nil && r.from.seen.Here.layer != 0 && r.from.seen.Here.st.IsRegular() &&
		r.from.seen.Here.st.Size <= smallFile && r.to.seen.Here == nil
}

// errInTheWay: what is at the destination must go by way of a placeholder.
var errInTheWay = errors.New("something that rename does not replace is in the way")

// tryMove moves once. full says that the destination may be anything.
func (r renaming) tryMove(src, dst string, full, exclusive bool) (path string, err error) {
	if !full {
		path, err = r.try(src, dst, exclusive)
		if err == errInTheWay && !r.replace {
			err = syscall.EEXIST
		}
		if r.replace && (errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR)) {
			return path, errInTheWay
		}
		return path, err
	}
	t, err := r.fsys.changeTree()
	if err != nil {
		return "", err
	}
	r.full = true
	if err := r.begin(t, src, dst); err != nil {
		return "", t.end(err)
	}
	path = r.from.path()
	if err = r.look(); err != nil {
		return path, t.end(err)
	}
	if r.from.is == lowerOnly && !r.from.entry.isDir() {
		return path, t.endFor(errNotUp)
	}
	if err = r.raise(); err == nil {
		err = r.moveOver()
	}
	return path, t.end(err)
}

// moveOver moves to a name that something has which a rename does not replace:
//
//  1. What is about to happen is written down, and synced.
//  2. An empty placeholder of the source's kind changes places with what has
//     the name; that waits in staging.
//  3. The source is renamed over the placeholder.
//  4. The note is removed, and then what waited.
//
// A crash after 1 changes nothing. After 2 the next start finds the placeholder
// in place and goes on with 3; until then the guard keeps the kernel from
// mounting. After 3 it is done. When 3 fails, 2 is undone.
func (r *renaming) moveOver() error {
	if r.from.entry.isDir() && r.from.entry.dir.isMerged() {
		if _, err := r.redirect(); err != nil {
			return err // before anything is done
		}
	}
	if !r.from.entry.isDir() {
		if err := r.mark(); err != nil {
			return err // likewise
		}
	}
	s := r.fsys.staging
	holder := s.reserve()
	defer holder.close()
	note, err := r.makePlaceholder(holder)
	if err != nil {
		return err
	}
	if err := s.writeNote(note); err != nil {
		return err
	}
	exchanged := r.to.entry.inUpper
	if exchanged {
		err = holder.exchange(r.to.dir.upper, r.to.name)
	} else {
		err = holder.place(r.to.dir.upper, r.to.name)
	}
	if err == nil {
		err = r.moveOverPlaceholder()
		if err != nil {
			if undone := r.undo(holder, exchanged); undone != nil {
				holder.name = "" // what waits is kept, and the note: a start goes on with 3
				s.unfinished.Store(true)
				return errors.Join(err, undone)
			}
		}
	}
	_ = s.removeNote() // without its placeholder it means nothing
	if err == nil && exchanged {
		holder.retire()
	}
	return err
}

func (r *renaming) makePlaceholder(holder *temp) (note moveNote, err error) {
	fsys := r.fsys
	if r.from.entry.isDir() {
		if err = holder.dir.Mkdir(holder.name, 0o700); err == nil {
			err = fsys.setOwnXattr(holder.dir, holder.name, fsys.marks.opaque, opaqueYes)
		}
	} else {
		holder.file, err = holder.dir.Create(holder.name, 0o600)
	}
	if err != nil {
		return note, err
	}
	var st at.Stat
	err = holder.dir.Stat(holder.name, &st)
	return moveNote{r.from.path(), r.to.path(), placeholderID(&st)}, err
}

// moveOverPlaceholder renames the source over the placeholder.
func (r *renaming) moveOverPlaceholder() error {
	r.full, r.to.seen = false, nil // the placeholder is there now
	if err := r.look(); err != nil {
		return err
	}
	return r.move()
}

// undo puts what had the name back into its place.
func (r *renaming) undo(holder *temp, exchanged bool) error {
	if exchanged {
		return holder.exchange(r.to.dir.upper, r.to.name)
	}
	holder.name = r.fsys.staging.newName()
	return r.to.dir.upper.Rename(r.to.name, holder.dir, holder.name, at.RenamePlain)
}

// A moveNote says which move was under way.
type moveNote struct {
	from, to string // merged paths
	id       string // of the placeholder
}

// placeholderID tells a placeholder from whatever gets its inode later.
func placeholderID(st *at.Stat) string { return fmt.Sprintf("%d/%d", st.Ino, st.Btime.UnixNano()) }

// moveNoteName is the note's name in <workdir>/overdav.
const moveNoteName = "moving"

func (s *staging) writeNote(n moveNote) error {
	_ = s.removeNote() // one that could not be removed when it was done with
	f, err := s.dir.Create(moveNoteName, 0o600)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s\n%s\n%s\n", n.id, strconv.Quote(n.from), strconv.Quote(n.to))
	_, err = f.Write([]byte(text))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = s.dir.Sync()
	}
	if err != nil {
		_ = s.removeNote() // without a placeholder in place it means nothing
	}
	return err
}

func (s *staging) removeNote() error {
	err := s.dir.Unlink(moveNoteName)
	if errors.Is(err, syscall.ENOENT) {
		err = nil
	}
	return err
}

// readNote returns the note of a move that was cut short.
func (s *staging) readNote() (n moveNote, ok bool, err error) {
	f, err := s.dir.OpenFile(moveNoteName)
	if err != nil {
		if at.IsMissing(err) {
			err = nil
		}
		return n, false, err
	}
	defer f.Close()
	var buf [4 * 4096]byte
	size, _ := f.ReadAt(buf[:], 0) // what is short does not parse
	lines := strings.Split(string(buf[:size]), "\n")
	if len(lines) != 4 {
		return n, false, nil // written down in part: nothing was done yet
	}
	n.id = lines[0]
	if n.from, err = strconv.Unquote(lines[1]); err == nil {
		n.to, err = strconv.Unquote(lines[2])
	}
	return n, err == nil, nil
}

// finishMove completes a move that a crash cut short between its second and
// its third step.
func (fsys *FS) finishMove() error {
	n, ok, err := fsys.staging.readNote()
	if err != nil {
		return err
	}
	inPlace := false
	if ok {
		if inPlace, err = fsys.holdsPlace(n); err != nil {
			return err
		}
	}
	if inPlace {
		switch err := fsys.rename(n.from, n.to, true); {
		case errors.Is(err, syscall.ENOENT):
			fsys.warn(fmt.Sprintf("a move of %q to %q that a crash cut short cannot be finished: the former is gone", n.from, n.to))
		case err != nil:
			return fmt.Errorf("finish the move of %q to %q that was cut short: %w; if that cannot be mended, remove %s/%s from work, and %s stays empty", n.from, n.to, err, stagingDir, moveNoteName, n.to)
		}
	}
	_ = fsys.staging.removeNote() // without its placeholder it means nothing
	return nil
}

// holdsPlace says whether the placeholder of a move is where the move was to.
func (fsys *FS) holdsPlace(n moveNote) (inPlace bool, err error) {
	err = fsys.see(n.to, false, func(_ place, f found) error {
		inPlace = f.layer == 0 && placeholderID(&f.st) == n.id
		return nil
	})
	if at.IsMissing(err) {
		err = nil
	}
	return inPlace, err
}
