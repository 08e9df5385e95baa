package overlay

import (
	"syscall"

	"overdav/overlay/internal/at"
)

// A quota bounds what upper takes: the length of its files, each rounded up to
// 4 KiB, and 4 KiB for each directory, symlink and empty file. Whiteouts are
// free, and directories are counted but never refused, so that deleting always
// works. What is being written counts from its first byte, and what was deleted
// no more when it is gone from the disk; extended attributes do not count.
//
// What is there is measured at Open, which does not wait for it: reading goes on
// and the first change waits. From then on every change is counted.

// startQuota measures what upper takes. Staging has been swept.
func (fsys *FS) startQuota() error {
	if fsys.usage == nil {
		return nil
	}
	root, err := fsys.root.upper.OpenDir(".")
	if err != nil {
		return err
	}
	fsys.usage.Measure(func() (int64, error) {
		m := measurer{links: make(map[uint64]bool)}
		err := m.measure(root)
		return m.used, err
	})
	return nil
}

// Quota is what upper may take, and what it does; ok is false without a quota.
// While less than want is left it waits for what is being deleted.
func (fsys *FS) Quota(want int64) (limit, used int64, ok bool, err error) {
	if fsys.usage == nil {
		return 0, 0, false, nil
	}
	limit, used, err = fsys.usage.Room(want)
	return limit, used, true, err
}

// Used is what upper takes as the quota counts it; ok is false without a quota, and
// while that is being measured.
func (fsys *FS) Used() (used int64, ok bool) {
	if fsys.usage == nil {
		return 0, false
	}
	return fsys.usage.Used()
}

// SetQuota changes the quota of an FS that was opened with one, and says whether
// it was.
func (fsys *FS) SetQuota(limit int64) bool {
	if fsys.usage == nil {
		return false
	}
	fsys.usage.SetLimit(limit)
	return true
}

// A measurer adds up what a tree takes.
type measurer struct {
	used  int64
	links map[uint64]bool // inodes with several names that were counted
}

// measure counts everything in d, which it closes.
func (m *measurer) measure(d *at.Dir) error {
	defer d.Close()
	names, err := readNames(d)
	if err != nil {
		return err
	}
	for _, n := range names {
		var st at.Stat
		if err := d.Stat(n.name, &st); at.IsMissing(err) {
			continue // somebody works on upper underneath
		} else if err != nil {
			return err
		}
		if err := m.count(d, n.name, &st); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurer) count(d *at.Dir, name string, st *at.Stat) error {
	if !st.IsDir() && st.Nlink > 1 {
		if m.links[st.Ino] {
			return nil
		}
		m.links[st.Ino] = true
	}
	m.used += at.CostOf(st)
	if !st.IsDir() || st.MountRoot {
		return nil
	}
	inner, err := d.OpenDir(name)
	if at.IsMissing(err) || err == syscall.EXDEV {
		return nil
	}
	if err != nil {
		return err
	}
	return m.measure(inner)
}
