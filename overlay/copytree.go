package overlay

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"overdav/overlay/internal/at"
)

// A treeCopy copies an object to staging, and all that is in it. Where many
// directories wait to be copied, several copiers do it, each a directory at a
// time. A directory is open from when it is made until all that is in it is
// there: then it gets its attributes, of which the times come last.
type treeCopy struct {
	fsys    *FS
	shallow bool
	failed  atomic.Bool // with err: what is not begun is left
	others  sync.WaitGroup

	mu sync.Mutex
	// changed is signalled when work comes, and when none can come any more.
	changed *sync.Cond
	// waiting is what is to be copied; the last comes first, so that few
	// directories are open at once.
	// +checklocks:mu
	waiting []copyJob
	// +checklocks:mu
	busy int // copiers that have a job, which may bring others
	// +checklocks:mu
	copiers int
	// +checklocks:mu
	err error
}

// A copyJob is an object that is to be copied.
type copyJob struct {
	path string // merged
	to   *temp
	in   *dirCopy // that it waits in; nil for the top
}

// A dirCopy is a directory that is being copied.
type dirCopy struct {
	path string // merged
	src  *File
	to   *at.RWDir
	in   *dirCopy // nil for the top
	kept kept
	left int // jobs, directories in it and its own listing, for which its end waits; guarded by treeCopy.mu
}

// Another copier is worth its while when so many directories wait; more than
// maxCopiers would only wait for the disk.
const (
	waitingForOther = 4
	maxCopiers      = 4
)

func newTreeCopy(fsys *FS, shallow bool) *treeCopy {
	t := &treeCopy{fsys: fsys, shallow: shallow, copiers: 1}
	t.changed = sync.NewCond(&t.mu)
	return t
}

// run copies what the merged path shows.
func (t *treeCopy) run(path string, to *temp) error {
	t.later(copyJob{path: path, to: to})
	t.work()
	t.others.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// work does jobs until none waits and none can come. After a failure they are
// only taken off the list.
func (t *treeCopy) work() {
	c := &copier{treeCopy: t}
	for {
		job, ok := t.next()
		if !ok {
			return
		}
		if !t.failed.Load() {
			t.fail(c.copyPath(job.path, job.to, job.in))
		}
		c.leave(job.in)
		t.done()
	}
}

// later has an object copied when its turn comes.
func (t *treeCopy) later(job copyJob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if job.in != nil {
		job.in.left++
	}
	t.waiting = append(t.waiting, job)
	if len(t.waiting) >= waitingForOther && t.copiers < min(maxCopiers, runtime.GOMAXPROCS(0)) {
		t.copiers++
		t.others.Go(t.work)
	}
	t.changed.Signal()
}

// next takes a job; none when all is done.
func (t *treeCopy) next() (job copyJob, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.waiting) == 0 && t.busy > 0 {
		t.changed.Wait()
	}
	last := len(t.waiting) - 1
	if last < 0 {
		return job, false
	}
	job, t.waiting = t.waiting[last], t.waiting[:last]
	t.busy++
	return job, true
}

// done ends a job.
func (t *treeCopy) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy--
	t.changed.Broadcast()
}

// fail has the whole fail with err, if that is an error and the first.
func (t *treeCopy) fail(err error) {
	if err == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
		t.failed.Store(true)
	}
}

// copyDir copies the directory that the merged path shows; directories in it are
// left for later. in is the directory that the copy is made in.
func (c *copier) copyDir(path string, to *temp, in *dirCopy) error {
	src, err := c.fsys.open(path)
	if err != nil {
		return err
	}
	if src.dir == nil {
		_ = src.Close() // only read
		return fmt.Errorf("%s became a file while it was copied: %w", path, syscall.ENOTDIR)
	}
	inner, err := c.makeDir(to)
	if err != nil {
		_ = src.Close() // only read
		return err
	}
	d := &dirCopy{path: path, src: src, to: inner, in: in, left: 1}
	c.enter(in)
	defer c.leave(d)
	if c.shallow {
		return nil
	}
	err = c.copyMembers(d)
	c.fail(err) // before the end of d
	return err
}

// keep is what files keep that are made in d; nil when d is.
func (d *dirCopy) keep() *kept {
	if d == nil {
		return nil
	}
	return &d.kept
}

// makeDir makes a directory, which has that bit of its mode already that it has
// from the directory it is made in.
func (c *copier) makeDir(to *temp) (*at.RWDir, error) {
	if err := to.dir.Mkdir(to.name, 0o700); err != nil {
		return nil, err
	}
	return to.dir.OpenRWDir(to.name)
}

// enter has the end of d, if that is not nil, wait for one leave more.
func (t *treeCopy) enter(d *dirCopy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d != nil {
		d.left++
	}
}

// leave ends d if nothing more is to come into it, and then those that waited
// for d. d may be nil.
func (c *copier) leave(d *dirCopy) {
	for ; d != nil && c.isLast(d); d = d.in {
		if !c.failed.Load() {
			c.fail(c.setDirAttributes(d.to, d.src))
		}
		d.to.Close()
		_ = d.src.Close() // only read
	}
}

func (t *treeCopy) isLast(d *dirCopy) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.left--
	return d.left == 0
}

// setDirAttributes gives a copy the attributes of src. It keeps the bit of its
// mode that it has from the directory it was made in.
func (c *copier) setDirAttributes(to *at.RWDir, src *File) error {
	var made at.Stat
	if err := to.Stat(".", &made); err != nil {
		return err
	}
	attrs, err := c.fsys.clientXattrs(src.dir.top(), ".")
	if err != nil {
		return err
	}
	self := target{to, "."}
	late, err := c.fsys.setXattrs(attrs, self, true)
	if err != nil {
		return err
	}
	st := &src.info.st
	if err := c.fsys.setLateOfDir(self, st.Mode&0o1777|made.Mode&syscall.S_ISGID, late); err != nil {
		return err
	}
	return self.SetTimes(st.Atime, st.Mtime)
}

// copyMembers copies what is in d, but directories. Names are enough to go by: an
// open file tells more than a listing does.
func (c *copier) copyMembers(d *dirCopy) error {
	l := lister{fsys: c.fsys, d: d.src.dir, passing: true}
	defer l.close()
	if err := l.begin(); err != nil {
		return err
	}
	for !c.failed.Load() {
		name, source, dtype, err := l.nextName()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = c.copyMember(d, &l, name, source, dtype)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyMember copies a member of d, of which the listing l told. If it is a file,
// it is reached from there; else, and when it is another by now, by its path.
func (c *copier) copyMember(d *dirCopy, l *lister, name string, source int, dtype byte) error {
	if dtype != at.DTReg && dtype != at.DTDir {
		var info Info
		if ok, err := l.fsys.statIn(l.d, name, source, &info); !ok {
			return l.readError(source, err)
		}
		dtype = info.st.DType()
	}
	to := &temp{dir: d.to, name: name}
	switch dtype {
	case at.DTDir:
		c.later(copyJob{joinPath(d.path, name), to, d})
		return nil
	case at.DTReg:
		from, layer := l.d.source(source)
		src, err := c.open(l.d, from, layer, name)
		if err == nil {
			return c.copyFile(src, to, d.keep())
		}
		if err != errRaced {
			return err
		}
	}
	return c.copyPath(joinPath(d.path, name), to, d)
}
