package at

import (
	"io/fs"
	"sync"
	"syscall"
)

// A Usage counts what a tree takes, and refuses what would take more than its
// limit. It is exact for what is done through the RWDirs and RWFiles that have
// it; what was there before is measured once, and changes wait for that.
//
// What counts is the length of files, not their blocks, which a file system
// gives out late, in advance, compressed or shared. So the same tree takes the
// same everywhere, and what is taken away counts what it counted when it came.
type Usage struct {
	mu sync.Mutex
	// changed is signalled when something was taken away or has been measured.
	changed *sync.Cond
	// +checklocks:mu
	state usageState
	// +checklocks:mu
	failed error // of the measuring
	// +checklocks:mu
	limit int64
	// +checklocks:mu
	used int64
	// +checklocks:mu
	leaving int // trees that are being taken away
}

type usageState int

const (
	usageOff usageState = iota // nothing is counted
	usageMeasuring
	usageOn
)

// NewUsage returns a Usage that counts nothing before Measure.
func NewUsage(limit int64) *Usage {
	u := &Usage{limit: limit}
	u.changed = sync.NewCond(&u.mu)
	return u
}

// usageUnit is what everything with an inode of its own takes at least, and to
// which files are rounded up.
const usageUnit = 4096

// CostOf is what an object counts for. A whiteout is free: where nothing more
// may be written, deleting works. A file with several names counts for the last.
func CostOf(st *Stat) int64 {
	switch {
	case st.IsRegular():
		return costOfSize(st.Size)
	case st.IsDir(), st.IsSymlink():
		return usageUnit
	}
	return 0
}

func costOfSize(size int64) int64 {
	return max(usageUnit, (size+usageUnit-1)/usageUnit*usageUnit)
}

// Measure has measure, which counts what is there, called by another goroutine.
// Changes wait for it; their error is its.
func (u *Usage) Measure(measure func() (int64, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = usageMeasuring
	go func() {
		used, err := measure()
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.state == usageMeasuring {
			u.state, u.used, u.failed = usageOn, used, err
		}
		u.changed.Broadcast()
	}()
}

// Stop ends the counting, and all waiting.
func (u *Usage) Stop() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = usageOff
	u.changed.Broadcast()
}

// SetLimit changes the limit; what is there already stays.
func (u *Usage) SetLimit(limit int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.limit = limit
}

// Used is what is used of the limit; ok is false while nobody knows.
func (u *Usage) Used() (used int64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.used, u.state == usageOn && u.failed == nil
}

// Room is the limit and what is used of it. It waits, while less than want is
// left, for what is being taken away.
func (u *Usage) Room(want int64) (limit, used int64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.awaitLocked(want)
	return u.limit, u.used, u.failed
}

// Leaving says that a tree is being taken away, until the function that it
// returns is called: who finds no room waits for that.
func (u *Usage) Leaving() (gone func()) {
	if u == nil {
		return func() {}
	}
	count := func(n int) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.leaving += n
		u.changed.Broadcast()
	}
	count(1)
	return func() { count(-1) }
}

// awaitLocked waits until what is there has been measured and, while less than
// want is left, for what is being taken away.
func (u *Usage) awaitLocked(want int64) {
	u.awaitMeasuredLocked()
	for u.state == usageOn && u.used+want > u.limit && u.leaving > 0 {
		u.changed.Wait()
	}
}

func (u *Usage) awaitMeasuredLocked() {
	for u.state == usageMeasuring {
		u.changed.Wait()
	}
}

// wait waits until changes may be made.
func (u *Usage) wait() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.awaitMeasuredLocked()
}

// take counts n more. must says that it may exceed the limit.
// Errors: EDQUOT.
func (u *Usage) take(n int64, must bool) error {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.takeLocked(n, must)
}

func (u *Usage) takeLocked(n int64, must bool) error {
	u.awaitMeasuredLocked()
	if !must {
		u.awaitLocked(n)
	}
	switch {
	case u.state == usageOff:
		return nil
	case u.failed != nil:
		return u.failed
	case !must && n > 0 && u.used+n > u.limit:
		return syscall.EDQUOT
	}
	u.used = max(u.used+n, 0)
	return nil
}

// give takes n away again.
func (u *Usage) give(n int64) {
	if u == nil || n == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state == usageOn {
		u.used = max(u.used-n, 0)
		u.changed.Broadcast()
	}
}

// grow makes room for a file of that size.
func (u *Usage) grow(f *RWFile, size int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	more := costOfSize(size) - f.charged
	if more <= 0 {
		return nil
	}
	err := u.takeLocked(more, false)
	if err == nil {
		f.charged += more
	}
	return err
}

// settle counts the file as it is.
func (u *Usage) settle(f *RWFile) {
	var st Stat
	if f.Stat(&st) != nil {
		return // what it counts for now is more than it has
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	cost := CostOf(&st)
	if u.state == usageOn {
		u.used = max(u.used+cost-f.charged, 0)
		u.changed.Broadcast()
	}
	f.charged = cost
}

// Meter has u count what is changed in d, and in what is opened in it from now
// on.
func (d *RWDir) Meter(u *Usage) { d.usage = u }

// takes makes a call that makes something that counts for one unit.
func (d *RWDir) takes(op Op, name string, must bool, call func() error) error {
	if err := d.usage.take(usageUnit, must); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	err := call()
	if err != nil {
		d.usage.give(usageUnit)
	}
	return err
}

// gives makes a call after which what has the name name is gone from d.
func (d *RWDir) gives(name string, call func() error) error {
	if d.usage == nil {
		return call()
	}
	d.usage.wait()
	var st Stat
	cost := int64(0)
	if d.Stat(name, &st) == nil && (st.IsDir() || st.Nlink <= 1) {
		cost = CostOf(&st)
	}
	err := call()
	if err == nil {
		d.usage.give(cost)
	}
	return err
}

// Unmetered has f, which is not part of the tree, count for nothing.
func (f *RWFile) Unmetered() { f.usage = nil }

// grows makes a call after which the file has at least that size.
func (f *RWFile) grows(op Op, size int64, call func() error) error {
	if f.usage == nil {
		return call()
	}
	if err := f.usage.grow(f, size); err != nil {
		return &fs.PathError{Op: string(op), Err: err}
	}
	err := call()
	if err != nil {
		f.usage.settle(f)
	}
	return err
}
