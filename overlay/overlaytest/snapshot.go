package overlaytest

import (
	"fmt"
	"strings"
	"testing"
)

// A Snapshot is everything that can be seen of some directories: names,
// content, modes, owners, attributes and all times, by name.
type Snapshot map[string]string

// LowersUnchanged fails the test when, at its end, anything in the directories
// is other than now.
func LowersUnchanged(t testing.TB, dirs ...string) {
	t.Helper()
	before, err := TakeSnapshot(dirs...)
	if err != nil {
		t.Fatalf("lowers: %v", err)
	}
	t.Cleanup(func() {
		if err := before.Unchanged(dirs...); err != nil {
			t.Error(err)
		}
	})
}

// TakeSnapshot looks at some directories and all below them without leaving a
// trace, or, for who is not root, none but the access times of symlinks, which
// it then leaves out.
func TakeSnapshot(dirs ...string) (Snapshot, error) {
	snap := Snapshot{}
	for _, dir := range dirs {
		host, err := openHost(dir)
		if err != nil {
			return nil, err
		}
		err = snap.add(dir, host)
		host.root.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return snap, nil
}

func (snap Snapshot) add(dir string, host hostView) error {
	r := reader{view: host}
	if err := r.read("."); err != nil {
		return err
	}
	for _, e := range r.tree {
		st, err := host.stat(e.Name)
		if err != nil {
			return err
		}
		atime := fmt.Sprint(st.Atime.UnixNano())
		if st.IsSymlink() && !host.traceless {
			atime = "?"
		}
		snap[dir+"/"+e.Name] = fmt.Sprintf("%s (mode %o owner %d:%d size %d links %d inode %d atime %s mtime %d ctime %d)",
			e, st.Mode, st.UID, st.GID, st.Size, st.Nlink, st.Ino, atime, st.Mtime.UnixNano(), st.Ctime.UnixNano())
	}
	return nil
}

// Unchanged returns an error that names what is other in the directories than
// it was.
func (snap Snapshot) Unchanged(dirs ...string) error {
	now, err := TakeSnapshot(dirs...)
	if err != nil {
		return err
	}
	var b strings.Builder
	for name, was := range snap {
		if is, ok := now[name]; !ok {
			fmt.Fprintf(&b, "\n%s\n  was  %s\n  is gone", name, was)
		} else if is != was {
			fmt.Fprintf(&b, "\n%s\n  was  %s\n  is   %s", name, was, is)
		}
	}
	for name, is := range now {
		if _, ok := snap[name]; !ok {
			fmt.Fprintf(&b, "\n%s\n  is new: %s", name, is)
		}
	}
	if b.Len() > 0 {
		return fmt.Errorf("changed, though nothing may:%s", b.String())
	}
	return nil
}
