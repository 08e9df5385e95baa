package at

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ProbeOverlay asks the kernel for an overlay whose upper and work are one
// directory, which it refuses; what it answers tells whether that directory is
// in use. Nothing on disk changes.
// Errors: EBUSY, the directory is upper or work of a live overlay, in whatever
// mount namespace; EINVAL, it is free; EPERM, we may not ask.
func ProbeOverlay(upper string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Any lower does: upper is looked at first. "lowerdir+" is younger than most
	// kernels, which would refuse it and seem to say that upper is free.
	upper = strings.ReplaceAll(upper, `\`, `\\`)
	for _, option := range [][2]string{{"lowerdir", "/"}, {"upperdir", upper}, {"workdir", upper}, {"index", "on"}} {
		if err := unix.FsconfigSetString(fd, option[0], option[1]); err != nil {
			return err
		}
	}
	err = unix.FsconfigCreate(fd)
	if err == nil {
		return syscall.EINVAL // not mounted anywhere: it goes with the descriptor
	}
	return err
}

// ProbeOverlayUnprivileged is ProbeOverlay for who may not mount: mount(8) asks
// in user and mount namespaces of its own.
// Errors: as ProbeOverlay's; EPERM where such namespaces or mount(8) are not to
// be had.
func ProbeOverlayUnprivileged(upper string) error {
	cmd := exec.Command("mount", "-i", "-t", "overlay", "-o",
		"lowerdir=/,upperdir=.,workdir=.,index=on,userxattr", "overlay", ".")
	cmd.Dir = upper
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		return syscall.EPERM
	}
	switch {
	case bytes.Contains(out, []byte("busy")):
		return syscall.EBUSY
	case bytes.Contains(out, []byte("ermission")) || bytes.Contains(out, []byte("not permitted")):
		return syscall.EPERM
	}
	return syscall.EINVAL
}
