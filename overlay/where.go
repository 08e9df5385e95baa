package overlay

import "syscall"

// Where a name leads, symlinks being resolved, is for some callers as much a
// question as what is there: those who decide by the path who may see it. The
// answers here come from the very walk that found the object, so that nobody
// can put another in its place between the two.

// Locate is Stat, or without follow Lstat, that also answers where the object
// is: its merged path without symlinks.
func (fsys *FS) Locate(name string, follow bool) (info *Info, path string, err error) {
	err = fsys.see(name, follow, func(p place, f found) error {
		info, path = fsys.newInfo(baseName(name), &f), p.path()
		return nil
	})
	if err != nil {
		return nil, "", pathError("locate", name, err)
	}
	return info, path, nil
}

// GetxattrAt is Getxattr of what is at a path itself.
// Errors: ELOOP when a symlink is on the way or at its end.
func (fsys *FS) GetxattrAt(path, attr string) (value []byte, err error) {
	stored, err := fsys.marks.stored(attr)
	if err != nil {
		return nil, pathError("getxattr", path, err)
	}
	err = fsys.see(path, false, func(p place, f found) error {
		if f.st.IsSymlink() || p.path() != path {
			return syscall.ELOOP
		}
		value, err = f.at.Getxattr(p.name, stored)
		return err
	})
	return value, pathError("getxattr", path, err)
}

// Path is the merged path, without symlinks, that the file had when it was
// opened.
func (f *File) Path() string {
	if f.dir != nil {
		return f.dir.path
	}
	return joinPath(f.parent, f.base)
}

// Path is the merged path, without symlinks, of what Commit replaces or makes.
func (s *Staged) Path() string { return s.path }
