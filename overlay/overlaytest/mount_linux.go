package overlaytest

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// mountOverlay mounts an overlay with the kernel's options at dir.
func mountOverlay(dir, options string) error {
	return os.NewSyscallError("mount", syscall.Mount("overlay", dir, "overlay", 0, options))
}

// unmount waits a little for whoever keeps the mount busy: somebody who looks
// around on the machine, or a process that is being made and has our
// descriptors until its exec.
func unmount(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		err := syscall.Unmount(dir, 0)
		if err != syscall.EBUSY || time.Now().After(deadline) {
			return os.NewSyscallError("umount", err)
		}
	}
}

// detach unmounts what may still be in use for a moment.
func detach(dir string) error {
	return os.NewSyscallError("umount", syscall.Unmount(dir, syscall.MNT_DETACH))
}

// FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of linux/fs.h where a long has 64 bits.
const (
	ioctlGetFlags = 0x80086601
	ioctlSetFlags = 0x40086602
)

// setFlags sets those flags of chattr(1) that overlays know of, of the file or
// directory at path.
func setFlags(path string, flags uint32) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var value uint32
	if err := ioctlFlags(f, ioctlGetFlags, &value); err != nil {
		return err
	}
	value = value&^knownFlags | flags
	return ioctlFlags(f, ioctlSetFlags, &value)
}

func ioctlFlags(f *os.File, request uintptr, value *uint32) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(value)))
	switch errno {
	case 0:
		return nil
	case syscall.EOPNOTSUPP, syscall.ENOTTY:
		return errNoFlags
	}
	return os.NewSyscallError("ioctl", errno)
}

// newNamespaces makes a child process root of a user namespace of its own in
// which it is uid outside, with mounts of its own.
func newNamespaces(uid int) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: ids,
		GidMappings: ids,
		Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	}
}

func asUser(uid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
}
