//go:build !linux

package overlaytest

import "syscall"

func mountOverlay(dir, options string) error { return syscall.ENOSYS }

func unmount(dir string) error { return syscall.ENOSYS }

func detach(dir string) error { return syscall.ENOSYS }

func setFlags(path string, flags uint32) error { return errNoFlags }

func newNamespaces(uid int) *syscall.SysProcAttr { return nil }

func asUser(uid int) *syscall.SysProcAttr { return nil }
