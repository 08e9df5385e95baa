package overlay_test

import (
	"os"
	"slices"
	"time"

	"overdav/overlay"
)

// metacopies are the files whose content may be left where it is.
var metacopies = []object{
	objectNamed("lowerOnly file"),
	{"metacopy", "N 0640 7:8 @6 [metacopy origin user.k=v] size=3", "N @5 = low"},
	{"renamed metacopy", "N 0640 @6 [metacopy origin redirect=/moved] size=3\n/moved whiteout", "/moved = low"},
	{"metacopy of two names", "/twin 0640 @6 [metacopy origin redirect=/moved] size=3\nN == twin\n/moved whiteout", "/moved = low"},
	{"metacopy with capabilities", `N 0755 @6 [metacopy origin security.capability="\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"] size=300000`, "N @5 size=300000 +4096=data"},
}

// metacopyFaults are operations with metacopies on.
func metacopyFaults() (cases []faultCase) {
	rename := func(fsys *overlay.FS, src, dst string) error { return fsys.Rename(src, dst) }
	move := func(fsys *overlay.FS, src, dst string) error { return fsys.Move(src, dst, true) }
	cp := func(fsys *overlay.FS, src, dst string) error {
		return fsys.Copy(src, dst, overlay.CopyOptions{Overwrite: true})
	}
	for _, o := range metacopies {
		cases = append(cases,
			onObject("Chmod", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Chmod(name, 0o711) }),
			onObject("Chtimes", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Chtimes(name, someTime, someTime) }),
			onObject("Setxattr", "m", o, func(fsys *overlay.FS, name string) error { return fsys.Setxattr(name, "user.k2", []byte("v2")) }),
			onObject("Remove", "m", o, (*overlay.FS).Remove),
			onObject("Stage", "m", o, stageFrom),
			onCompleting("CopyUp", o, (*overlay.FS).CopyUp),
		)
		for _, flag := range []int{os.O_RDWR, os.O_WRONLY | os.O_TRUNC} {
			c := onCompleting("OpenFile", o, func(fsys *overlay.FS, name string) error { return writeInPlace(fsys, name, flag, 4) })
			for steps := range 4 {
				c.between = append(c.between, func(fsys *overlay.FS) error { return writeInPlace(fsys, "m/n", flag, steps) })
			}
			cases = append(cases, c)
		}
		for _, dst := range []string{"absent", "whitedOut", "covering file", "lowerOnly full directory"} {
			d := objectNamed(dst)
			if !d.isDir() {
				cases = append(cases, onTwo("Rename", "m", o, "m", d, rename))
			}
			cases = append(cases, onTwo("Move", "m", o, "m", d, move), onTwo("Copy", "m", o, "m", d, cp))
		}
		for _, to := range []string{"lo", "pu"} {
			cases = append(cases, onTwo("Rename", "m", o, to, objectNamed("absent"), rename))
		}
		cases = append(cases,
			onTwo("Link", "m", o, "lo", objectNamed("absent"), (*overlay.FS).Link),
			onTwo("Link", "m", o, "m", objectNamed("whitedOut"), (*overlay.FS).Link),
		)
	}
	for i := range cases {
		cases[i].name = "with metacopies, " + cases[i].name
		cases[i].options = func(o *overlay.Options) { o.Metacopy = true }
		cases[i].upper = cases[i].upper + "\n"
	}
	return slices.Clip(cases)
}

// onCompleting is onObject for what brings the content of a metacopy up, where a
// crash may leave the time at which that was done, and no capabilities.
func onCompleting(method string, o object, op func(fsys *overlay.FS, name string) error) faultCase {
	c := onObject(method, "m", o, op)
	now := func(fsys *overlay.FS) error { return fsys.Chtimes("m/n", time.Time{}, time.Now()) }
	c.between = append(c.between, now, func(fsys *overlay.FS) error {
		_ = fsys.Removexattr("m/n", "security.capability") // most have none
		return now(fsys)
	}, func(fsys *overlay.FS) error {
		_ = fsys.Removexattr("m/n", "security.capability") // likewise
		return nil
	})
	return c
}
