//go:build !linux

package overlaytest

import "syscall"

func mountOverlay(dir, options string) error { return syscall.ENOSYS }

func unmount(dir string) error { return syscall.ENOSYS }

func newNamespaces(uid int) *syscall.SysProcAttr { return nil }

func asUser(uid int) *syscall.SysProcAttr { return nil }
