package overlay_test

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"overdav/overlay"
)

// An object is what a name can be: N stands for the name.
type object struct {
	name         string
	upper, lower string
}

// objects has every kind of thing in every presence.
var objects = []object{
	{"absent", "", ""},
	{"whitedOut", "N whiteout", "N = low"},
	{"lowerOnly file", "", "N 0640 7:8 @5 [user.k=v] = low"},
	{"pureUpper file", "N 0600 @6 [user.k=v] = up", ""},
	{"covering file", "N 0600 @6 [user.k=v] = up", "N @5 = low"},
	{"lowerOnly symlink", "", "N -> nowhere"},
	{"pureUpper symlink", "N -> nowhere", ""},
	{"covering symlink", "N -> nowhere", "N -> elsewhere"},
	{"lowerOnly fifo", "", "N fifo"},
	{"covering fifo", "N fifo", "N = low"},
	{"lowerOnly empty directory", "", "N/ 0750 7:8 [user.k=v]"},
	{"pureUpper empty directory", "N/", ""},
	{"covering empty directory", "N/ [opaque]", "N/\nN/x = low"},
	{"merged empty directory", "N/\nN/x whiteout", "N/\nN/x = low"},
	{"lowerOnly full directory", "", "N/ 0750 7:8 [user.k=v]\nN/a = low\nN/s/\nN/s/b = low"},
	{"pureUpper full directory", "N/\nN/a = up\nN/s/\nN/s/b = up", ""},
	{"covering full directory", "N/ [opaque]\nN/a = up", "N/\nN/x = low"},
	{"merged full directory", "N/\nN/a = up\nN/gone whiteout", "N/\nN/a = low\nN/gone = low\nN/s/\nN/s/b = low"},
	{"renamed full directory", "N/ [redirect=/old]\nN/a = up\n/old whiteout", "/old/\n/old/a = low\n/old/s/\n/old/s/b = low"},
}

func (o object) isDir() bool { return strings.HasSuffix(o.name, "directory") }
func (o object) exists() bool {
	return o.name != "absent" && o.name != "whitedOut"
}

// objectNamed is one of objects.
func objectNamed(name string) object {
	i := slices.IndexFunc(objects, func(o object) bool { return o.name == name })
	return objects[i]
}

// at is the object's lines with its name filled in; a line that begins with a
// slash is of the layer's root.
func (o object) at(path string) (upper, lower string) {
	fill := func(text string) string {
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if rooted, ok := strings.CutPrefix(line, "/"); ok {
				lines[i] = rooted
			} else if len(line) > 0 {
				lines[i] = path + line[1:]
			}
		}
		return strings.Join(lines, "\n") + "\n"
	}
	return fill(o.upper), fill(o.lower)
}

// The parents that names are put into.
const (
	parentsUpper = "m/\npu/\n"
	parentsLower = "m/\nlo/\n"
)

// onObject makes a case of an operation on one object.
func onObject(method string, parent string, o object, op func(fsys *overlay.FS, name string) error) faultCase {
	upper, lower := o.at(parent + "/n")
	return faultCase{
		name:    method + " of " + o.name + " in " + parent,
		methods: []string{"FS." + method},
		upper:   parentsUpper + upper, lower: parentsLower + lower,
		op: func(fsys *overlay.FS) error { return op(fsys, parent+"/n") },
	}
}

// onTwo makes a case of an operation on two objects.
func onTwo(method, from string, src object, to string, dst object, op func(fsys *overlay.FS, src, dst string) error) faultCase {
	srcUpper, srcLower := src.at(from + "/src")
	dstUpper, dstLower := dst.at(to + "/dst")
	// Both may be of the one directory "old".
	dstUpper, dstLower = strings.ReplaceAll(dstUpper, "old", "old2"), strings.ReplaceAll(dstLower, "old", "old2")
	return faultCase{
		name:    method + " of " + src.name + " from " + from + " to " + dst.name + " in " + to,
		methods: []string{"FS." + method},
		upper:   parentsUpper + srcUpper + dstUpper, lower: parentsLower + srcLower + dstLower,
		op:   func(fsys *overlay.FS) error { return op(fsys, from+"/src", to+"/dst") },
		pair: true,
	}
}

// faultCases are the operations that TestEveryFault disturbs.
func faultCases() []faultCase {
	return slices.Concat(attributeFaults(), singleFaults(), writeFaults(), renameFaults(), moveFaults(), seenFaults(), copyFaults(), metacopyFaults())
}

var someTime = time.Unix(77, 5)

// attributeFaults change attributes: one of them on everything, the others,
// which go the same way, where they differ.
func attributeFaults() (cases []faultCase) {
	chmod := func(fsys *overlay.FS, name string) error { return fsys.Chmod(name, 0o711) }
	for _, o := range objects {
		cases = append(cases, onObject("Chmod", "m", o, chmod))
	}
	for _, name := range []string{"lowerOnly file", "merged full directory", "lowerOnly symlink"} {
		o := objectNamed(name)
		cases = append(cases,
			onObject("Chmod", "lo", o, chmod),
			onObject("Chown", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Chown(name, 3, 4) }),
			onObject("Lchown", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Lchown(name, 3, 4) }),
			onObject("Chtimes", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Chtimes(name, someTime, someTime) }),
			onObject("Setxattr", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Setxattr(name, "user.k2", []byte("v2")) }),
			onObject("Removexattr", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Removexattr(name, "user.k") }),
		)
	}
	rich := object{"lowerOnly file with everything", "", `N 06755 7:8 @5 [security.capability="\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" trusted.t=1 user.a=1 user.b=2 overlay.opaque=y] size=300000 +4096=data +200000=more`}
	return append(cases, onObject("CopyUp", "lo", rich, (*overlay.FS).CopyUp))
}

// singleFaults make, copy up and remove one name.
func singleFaults() (cases []faultCase) {
	for _, o := range objects {
		cases = append(cases,
			onObject("CopyUp", "m", o, (*overlay.FS).CopyUp),
			onObject("Remove", "m", o, (*overlay.FS).Remove),
			onObject("RemoveAll", "m", o, (*overlay.FS).RemoveAll),
		)
	}
	for _, o := range objects {
		for _, parent := range []string{"m", "lo", "pu"} {
			if parent != "m" && (o.exists() || parent == "lo" && o.upper != "" || parent == "pu" && o.lower != "") {
				continue
			}
			cases = append(cases,
				onObject("Mkdir", parent, o, func(fsys *overlay.FS, name string) error { return fsys.Mkdir(name, 0o750) }),
				onObject("Symlink", parent, o, func(fsys *overlay.FS, name string) error { return fsys.Symlink("target", name) }),
				onObject("Create", parent, o, create),
			)
		}
	}
	for _, name := range []string{"lowerOnly file", "lowerOnly full directory"} {
		cases = append(cases,
			onObject("CopyUp", "lo", objectNamed(name), (*overlay.FS).CopyUp),
			onObject("Remove", "lo", objectNamed(name), (*overlay.FS).Remove),
			onObject("RemoveAll", "lo", objectNamed(name), (*overlay.FS).RemoveAll),
		)
	}
	deep := onObject("MkdirAll", "lo", objectNamed("absent"), func(fsys *overlay.FS, name string) error {
		return fsys.MkdirAll(name+"/b/c", 0o700)
	})
	deep.between = []func(*overlay.FS) error{
		func(fsys *overlay.FS) error { return fsys.MkdirAll("lo/n", 0o700) },
		func(fsys *overlay.FS) error { return fsys.MkdirAll("lo/n/b", 0o700) },
	}
	return append(cases, deep, inheriting())
}

// inheriting is a creation in a directory that passes on its group and an ACL.
func inheriting() faultCase {
	const acl = `system.posix_acl_default="\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"`
	return faultCase{
		name: "Mkdir where a group and an ACL are inherited", methods: []string{"FS.Mkdir"},
		upper: "d/n whiteout\n", lower: "d/ 02775 0:9 [" + acl + "]\nd/n = low\n",
		op: func(fsys *overlay.FS) error { return fsys.Mkdir("d/n", 0o775) },
	}
}

func create(fsys *overlay.FS, name string) error {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// writeFaults change content: by Stage in one step, by OpenFile in place.
func writeFaults() (cases []faultCase) {
	for _, name := range []string{"absent", "whitedOut", "lowerOnly file", "pureUpper file", "covering file", "lowerOnly symlink", "merged full directory"} {
		o := objectNamed(name)
		c := onObject("Stage", "m", o, stage)
		c.methods = append(c.methods, "Staged.Write", "Staged.WriteAt", "Staged.Truncate", "Staged.SetModTime", "Staged.Commit", "Staged.Abort")
		cases = append(cases, c)
		for _, flag := range []struct {
			name string
			flag int
		}{{"RDWR", os.O_RDWR}, {"TRUNC", os.O_WRONLY | os.O_TRUNC}, {"CREATE", os.O_RDWR | os.O_CREATE}, {"APPEND", os.O_WRONLY | os.O_APPEND}} {
			c := onObject("OpenFile", "m", o, func(fsys *overlay.FS, name string) error { return writeInPlace(fsys, name, flag.flag, 4) })
			c.name += " with " + flag.name
			c.methods = append(c.methods, "File.Write", "File.WriteAt", "File.Truncate", "File.Sync", "File.Close")
			for steps := range 4 {
				c.between = append(c.between, func(fsys *overlay.FS) error {
					if err := writeInPlace(fsys, "m/n", flag.flag, steps); !refusesContent(err) {
						return err
					}
					return nil
				})
			}
			cases = append(cases, c)
		}
	}
	for _, parent := range []string{"lo", "pu"} {
		cases = append(cases, onObject("Stage", parent, objectNamed("absent"), stage))
	}
	c := onObject("Stage", "m", objectNamed("lowerOnly file"), stageFrom)
	c.name = "Staged.CopyContent"
	c.methods = []string{"Staged.CopyContent"}
	cases = append(cases, c)
	for _, name := range []string{"absent", "covering file"} {
		c := onObject("Stage", "m", objectNamed(name), func(fsys *overlay.FS, name string) error { return stageNoted(fsys, name, "user.note") })
		c.name += " with a note"
		c.methods = []string{"Staged.SetNote"}
		c.between = []func(*overlay.FS) error{func(fsys *overlay.FS) error { return stageNoted(fsys, "m/n", "") }}
		cases = append(cases, c)
	}
	return cases
}

// refusesContent says that the object is none that is written.
func refusesContent(err error) bool { return err != nil }

// stageNoted stages with a note, unless attr is empty.
func stageNoted(fsys *overlay.FS, name, attr string) error {
	s, err := fsys.Stage(name, 0o640)
	if err != nil {
		return err
	}
	defer s.Abort()
	if _, err := s.Write([]byte("staged")); err != nil {
		return err
	}
	s.SetNote(attr, func(string) []byte { return []byte("noted") })
	_, err = s.Commit()
	return err
}

func stage(fsys *overlay.FS, name string) error {
	s, err := fsys.Stage(name, 0o640)
	if err != nil {
		return err
	}
	defer s.Abort()
	if _, err := s.Write([]byte("staged")); err != nil {
		return err
	}
	if _, err := s.WriteAt([]byte("S"), 0); err != nil {
		return err
	}
	if err := s.Truncate(5); err != nil {
		return err
	}
	s.SetModTime(someTime)
	_, err = s.Commit()
	return err
}

func stageFrom(fsys *overlay.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := fsys.Stage(name, 0o640)
	if err != nil {
		return err
	}
	defer s.Abort()
	if err := s.CopyContent(f); err != nil {
		return err
	}
	_, err = s.Commit()
	return err
}

// writeInPlace does the first steps of a change of content.
func writeInPlace(fsys *overlay.FS, name string, flag, steps int) error {
	f, err := fsys.OpenFile(name, flag, 0o640)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { _, err := f.Write([]byte("written")); return err },
		func() error { _, err := f.WriteAt([]byte("W"), 0); return err },
		func() error { return f.Truncate(3) },
		f.Sync,
	}[:steps] {
		err = errors.Join(err, step())
		if err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

// renameFaults try each kind of source against each kind of destination in one
// directory, and the directories against each other.
func renameFaults() (cases []faultCase) {
	rename := func(fsys *overlay.FS, src, dst string) error { return fsys.Rename(src, dst) }
	for _, src := range objects {
		for _, dst := range objects {
			if src.exists() && !(dst.isDir() && !src.isDir()) && !(src.isDir() && dst.exists() && !dst.isDir()) {
				cases = append(cases, onTwo("Rename", "m", src, "m", dst, rename))
			}
		}
	}
	for _, src := range []string{"lowerOnly file", "pureUpper full directory", "lowerOnly full directory", "merged full directory", "renamed full directory"} {
		for _, way := range [][2]string{{"m", "lo"}, {"m", "pu"}, {"m", "m/deep"}} {
			c := onTwo("Rename", way[0], objectNamed(src), way[1], objectNamed("absent"), rename)
			c.lower += "m/deep/\n"
			cases = append(cases, c)
		}
		flat := onTwo("Rename", "m", objectNamed(src), "pu", objectNamed("absent"), rename)
		if src != "renamed full directory" { // which no engine without redirects makes
			flat.name += " without redirects"
			flat.options = func(o *overlay.Options) { o.NoRedirect = true }
			cases = append(cases, flat)
		}
	}
	for _, dst := range []string{"absent", "whitedOut", "lowerOnly file"} {
		cases = append(cases,
			onTwo("RenameNoReplace", "m", objectNamed("lowerOnly file"), "m", objectNamed(dst), (*overlay.FS).RenameNoReplace),
			onTwo("RenameNoReplace", "m", objectNamed("merged full directory"), "m", objectNamed(dst), (*overlay.FS).RenameNoReplace),
		)
	}
	for _, src := range []string{"lowerOnly file", "covering file", "lowerOnly symlink", "lowerOnly full directory"} {
		for _, dst := range []string{"absent", "whitedOut", "lowerOnly file"} {
			cases = append(cases, onTwo("Link", "m", objectNamed(src), "m", objectNamed(dst), (*overlay.FS).Link))
		}
		cases = append(cases, onTwo("Link", "m", objectNamed(src), "lo", objectNamed("absent"), (*overlay.FS).Link))
	}
	return cases
}

// moveFaults are what Move does beyond Rename: what rename(2) does not replace.
func moveFaults() (cases []faultCase) {
	move := func(fsys *overlay.FS, src, dst string) error { return fsys.Move(src, dst, true) }
	for _, src := range []string{"lowerOnly file", "covering file", "pureUpper file", "lowerOnly symlink", "pureUpper full directory", "covering full directory", "lowerOnly full directory", "merged full directory", "renamed full directory"} {
		for _, dst := range []string{"absent", "whitedOut", "lowerOnly file", "pureUpper file", "merged empty directory", "lowerOnly full directory", "pureUpper full directory", "covering full directory", "merged full directory", "renamed full directory"} {
			cases = append(cases, onTwo("Move", "m", objectNamed(src), "m", objectNamed(dst), move))
		}
		cases = append(cases, onTwo("Move", "m", objectNamed(src), "lo", objectNamed("lowerOnly full directory"), move))
	}
	for _, dst := range []string{"absent", "whitedOut", "merged full directory"} {
		c := onTwo("Move", "m", objectNamed("merged full directory"), "m", objectNamed(dst), func(fsys *overlay.FS, src, dst string) error {
			return fsys.Move(src, dst, false)
		})
		c.name += " not to be replaced"
		flat := onTwo("Move", "m", objectNamed("merged full directory"), "m", objectNamed(dst), move)
		flat.name += " without redirects"
		flat.options = func(o *overlay.Options) { o.NoRedirect = true }
		cases = append(cases, c, flat)
	}
	return cases
}

// seenFaults are the changes on condition of what was seen.
func seenFaults() (cases []faultCase) {
	for _, name := range []string{"absent", "whitedOut", "lowerOnly file", "covering file", "lowerOnly symlink", "merged full directory"} {
		put := onObject("StageSeen", "m", objectNamed(name), stageSeen)
		put.methods = append(put.methods, "Staged.CommitOver")
		cases = append(cases, put, onObject("RemoveSeen", "m", objectNamed(name), removeSeen))
	}
	for _, name := range []string{"absent", "whitedOut", "covering file"} {
		put := onObject("StageSeen", "m", objectNamed(name), stageSeen) // where something is, they change places
		put.name += " without durability"
		put.options = func(o *overlay.Options) { o.Durability = overlay.DurabilityNone }
		cases = append(cases, put)
	}
	for _, parent := range []string{"m", "lo"} {
		for _, name := range []string{"absent", "whitedOut"} {
			if parent == "lo" && name == "whitedOut" {
				continue // upper would have the directory
			}
			cases = append(cases,
				onObject("MkdirSeen", parent, objectNamed(name), mkdirSeen),
				onObject("CreateSeen", parent, objectNamed(name), createSeen))
		}
	}
	for _, src := range []string{"lowerOnly file", "covering file", "merged full directory"} {
		for _, dst := range []string{"absent", "pureUpper file", "merged full directory"} {
			cases = append(cases, onTwo("MoveSeen", "m", objectNamed(src), "m", objectNamed(dst), moveSeen))
		}
	}
	return cases
}

// untilSeen looks and changes until both meet the same.
func untilSeen(fsys *overlay.FS, change func(sights []overlay.Sight) error, names ...string) error {
	for {
		var sights []overlay.Sight
		for _, name := range names {
			s, err := fsys.Look(name, false)
			if err != nil {
				return err
			}
			sights = append(sights, s)
		}
		if err := change(sights); !errors.Is(err, overlay.ErrChanged) {
			return err
		}
	}
}

func stageSeen(fsys *overlay.FS, name string) error {
	return untilSeen(fsys, func(sights []overlay.Sight) error {
		s, err := fsys.StageSeen(sights[0], 0o640)
		if err != nil {
			return err
		}
		defer s.Abort()
		if _, err := s.Write([]byte("staged")); err != nil {
			return err
		}
		_, err = s.CommitOver(sights[0])
		return err
	}, name)
}

func removeSeen(fsys *overlay.FS, name string) error {
	return untilSeen(fsys, func(sights []overlay.Sight) error { return fsys.RemoveSeen(sights[0]) }, name)
}

func mkdirSeen(fsys *overlay.FS, name string) error {
	return untilSeen(fsys, func(sights []overlay.Sight) error { return fsys.MkdirSeen(sights[0], 0o750) }, name)
}

func createSeen(fsys *overlay.FS, name string) error {
	return untilSeen(fsys, func(sights []overlay.Sight) error { return fsys.CreateSeen(sights[0], 0o640) }, name)
}

func moveSeen(fsys *overlay.FS, src, dst string) error {
	return untilSeen(fsys, func(sights []overlay.Sight) error {
		_, err := fsys.MoveSeen(sights[0], sights[1], true)
		return err
	}, src, dst)
}

func copyFaults() (cases []faultCase) {
	cp := func(o overlay.CopyOptions) func(fsys *overlay.FS, src, dst string) error {
		return func(fsys *overlay.FS, src, dst string) error { return fsys.Copy(src, dst, o) }
	}
	for _, src := range []string{"lowerOnly file", "covering file", "lowerOnly fifo", "lowerOnly full directory", "merged full directory"} {
		for _, dst := range []string{"absent", "whitedOut", "lowerOnly file", "covering file", "merged empty directory", "lowerOnly full directory", "merged full directory", "renamed full directory"} {
			cases = append(cases, onTwo("Copy", "m", objectNamed(src), "m", objectNamed(dst), cp(overlay.CopyOptions{Overwrite: true})))
		}
		shallow := onTwo("Copy", "m", objectNamed(src), "lo", objectNamed("absent"), cp(overlay.CopyOptions{Shallow: true}))
		shallow.name += " alone"
		cases = append(cases, shallow)
	}
	wide := object{"directories for two copiers", "", "N/\nN/1/\nN/1/f = 1\nN/2/\nN/2/s/\nN/2/s/t/\nN/3/\nN/3/f = 3\nN/4/\nN/5/\nN/5/f = 5"}
	return append(cases, onObject("Copy", "m", wide, func(fsys *overlay.FS, name string) error {
		return fsys.Copy(name, "lo/copy", overlay.CopyOptions{})
	}))
}

// readers are the methods that change nothing.
var readers = []string{
	"FS.Check", "FS.FS", "FS.Getxattr", "FS.GetxattrAt", "FS.Layers", "FS.Listxattr", "FS.Locate", "FS.Hold", "FS.Look", "FS.Lstat", "FS.Metacopy", "FS.Namespace", "FS.Open", "FS.Quota", "FS.Used", "FS.ReadDir",
	"FS.ReadOnly", "FS.Readlink", "FS.Redirects", "FS.Resolve", "FS.Space", "FS.Stat", "FS.State",
	"File.Info", "File.Infos", "File.MemberXattr", "File.Name", "File.Opened", "File.Path", "File.Read", "File.ReadAt", "File.ReadDir", "File.ReadInfos", "File.Seek", "File.Stat", "File.SyscallConn", "File.Want",
	"Staged.Path", "Staged.ReadAt", "Staged.Stat",
}

// TestEveryFaultKnowsEveryMethod fails for a method that nobody has thought of.
func TestEveryFaultKnowsEveryMethod(t *testing.T) {
	known := slices.Concat(readers, []string{
		"FS.Close",    // see TestEveryFaultOfEnd
		"FS.SetQuota", // of numbers in memory
		"FS.SetRoom",
		"Discarding.Discard", "Discarding.Delete", "Discarding.RemoveWork", // see TestEveryFaultOfDiscard
	})
	for _, c := range faultCases() {
		known = append(known, c.methods...)
	}
	for _, of := range []any{new(overlay.FS), new(overlay.File), new(overlay.Staged), new(overlay.Discarding)} {
		typ := reflect.TypeOf(of)
		for i := range typ.NumMethod() {
			if name := typ.Elem().Name() + "." + typ.Method(i).Name; !slices.Contains(known, name) {
				t.Errorf("%s neither has a case in faultCases nor is among readers", name)
			}
		}
	}
}
