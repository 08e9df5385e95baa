package overlay

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"overdav/overlay/internal/at"
)

// A plan is what was found out about the layers before any is opened for good.
type plan struct {
	lowers      []string // without symlinks
	upper, work string
	mounts      mountTable
	roots       []at.Stat // of all layers
	nested      bool      // a walk through one layer can reach another's root
	warnings    []string
}

// A layerPath is a directory as it is named and where it really is.
type layerPath struct {
	role string // "lower 1", "upper", "work"
	path string
	st   at.Stat
	// fsPath is the path within the file system, whatever is mounted where.
	fsPath string
}

// planLayers looks at every layer and refuses what cannot be an overlay
// together (compare ovl_check_overlapping_layers).
func planLayers(o Options) (*plan, error) {
	p := &plan{mounts: readMounts()}
	var all []layerPath
	for i, lower := range o.Lowers {
		l, err := p.look(fmt.Sprintf("lower %d", i+1), lower)
		if err != nil {
			return nil, err
		}
		p.lowers = append(p.lowers, l.path)
		all = append(all, l)
	}
	if o.Upper != "" {
		upper, err := p.look("upper", o.Upper)
		if err != nil {
			return nil, err
		}
		p.upper = upper.path
		all = append(all, upper)
	}
	if o.Work != "" && !o.ReadOnly {
		work, err := p.look("work", o.Work)
		if err != nil {
			return nil, err
		}
		p.work = work.path
		if err := refuseApart(all[len(all)-1], work); err != nil {
			return nil, err
		}
		all = append(all, work)
	}
	p.warnInUse()
	for i, a := range all {
		p.roots = append(p.roots, a.st)
		for _, b := range all[:i] {
			if err := p.compare(b, a); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// CheckLayers looks at the directories of o and returns why Open would refuse
// them for what they are and where. It opens and changes nothing, so they may be
// in use.
// Errors: ErrLayers.
func CheckLayers(o Options) error {
	_, err := planLayers(o)
	return err
}

func (p *plan) look(role, name string) (l layerPath, err error) {
	l.role = role
	if l.path, err = at.RealPath(name); err != nil {
		return l, layersError("%s %q: %w; make it, or name another", role, name, hostError(err))
	}
	d, err := at.Open(l.path)
	if err == syscall.ENOTDIR {
		return l, layersError("%s %q is not a directory; name another", role, name)
	}
	if err != nil {
		return l, layersError("%s %q: %w", role, name, err)
	}
	defer d.Close()
	if err := d.Stat(".", &l.st); err != nil {
		return l, layersError("%s %q: %w", role, name, err)
	}
	l.fsPath = p.mounts.within(l.st.MountID, l.path)
	return l, nil
}

// warnInUse warns of lowers that a live kernel mount writes to, as far as the
// table of mounts tells: to ask the kernel of each would cost a start its time.
func (p *plan) warnInUse() {
	for i, path := range p.lowers {
		if p.mounts.uses(path) {
			p.warnings = append(p.warnings, fmt.Sprintf("lower %d %q belongs to a mounted overlay, as its upper or work: "+
				"what is changed there may show here at once, late or in part", i+1, path))
		}
	}
}

// inUse says whether the directory at path is the upper or work of a live
// mount: the kernel's answer to a probe, or a mount that we can see.
func (p *plan) inUse(path string, answer error) bool {
	return errors.Is(answer, syscall.EBUSY) || p.mounts.uses(path)
}

// refuseApart refuses an upper and a work between which nothing can be renamed.
func refuseApart(upper, work layerPath) error {
	if upper.st.MountID != work.st.MountID || upper.st.Dev != work.st.Dev {
		return layersError("upper %q and work %q are on different mounts, so nothing can be renamed from one to the other; put work beside upper", upper.path, work.path)
	}
	return nil
}

// compare refuses two layers of which one is the other or inside it, as the
// kernel does. An upper or work inside a lower is only odd.
func (p *plan) compare(a, b layerPath) error {
	if a.st.Same(&b.st) {
		return layersError("%s and %s are the same directory %q; name each once", a.role, b.role, a.path)
	}
	if a.st.Dev != b.st.Dev {
		return nil
	}
	inner, outer := a, b
	if within(b.fsPath, a.fsPath) {
		inner, outer = b, a
	} else if !within(a.fsPath, b.fsPath) {
		return nil
	}
	writable := !strings.HasPrefix(inner.role, "lower")
	if writable && strings.HasPrefix(outer.role, "lower") {
		p.nested = true
		p.warnings = append(p.warnings, fmt.Sprintf("%s %q is inside %s %q: it does not show there", inner.role, inner.path, outer.role, outer.path))
		return nil
	}
	return layersError("%s %q is inside %s %q; the layers must be separate trees", inner.role, inner.path, outer.role, outer.path)
}

func within(inner, outer string) bool {
	return outer == "/" || strings.HasPrefix(inner, outer+"/")
}

// A mountTable is what proc_pid_mountinfo(5) tells of our mounts.
type mountTable []mount

type mount struct {
	id      uint64
	root    string // of the mount, within its file system
	point   string
	fsType  string
	options string // of the file system
}

// readMounts reads the table; it is empty where there is none.
func readMounts() mountTable {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil // the checks that need it fall back on paths
	}
	defer f.Close()
	var table mountTable
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok {
			table = append(table, m)
		}
	}
	return table
}

func parseMount(line string) (m mount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, more := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(more) < 3 {
		return m, false
	}
	id, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil {
		return m, false
	}
	return mount{id: id, root: unescape(fields[3]), point: unescape(fields[4]), fsType: more[0], options: more[2]}, true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// within is where a host path is within its file system, so that two ways to
// one directory, by bind mounts, are seen to be one.
func (t mountTable) within(id uint64, host string) string {
	for _, m := range t {
		if m.id == id && (within(host, m.point) || host == m.point) {
			return path.Join(m.root, strings.TrimPrefix(host, m.point))
		}
	}
	return host
}

// uses says whether an overlay that we can see has the directory at path as
// its upper or work.
func (t mountTable) uses(path string) bool {
	for _, m := range t {
		if m.fsType != "overlay" {
			continue
		}
		for option := range strings.SplitSeq(m.options, ",") {
			key, value, _ := strings.Cut(option, "=")
			if (key == "upperdir" || key == "workdir") && unescape(value) == path {
				return true
			}
		}
	}
	return false
}
