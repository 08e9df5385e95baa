package at

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// watchMask is what tells that a name leads elsewhere. Others may watch the same
// directory, for more: what they asked for stays.
const watchMask = unix.IN_MASK_ADD | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// contentMask is what tells of a file that may have other content, or will:
// who opens it may write through a mapping, of which nothing tells.
const contentMask = unix.IN_OPEN | unix.IN_MODIFY | unix.IN_CLOSE_WRITE

func sysWatcher() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) }

func sysWatch(fd, dirfd int) (int32, error) {
	watch, err := unix.InotifyAddWatch(fd, procFD(dirfd), watchMask)
	return int32(watch), err
}

func sysWatchContent(fd, dirfd int) (int32, error) {
	watch, err := unix.InotifyAddWatch(fd, procFD(dirfd), watchMask|contentMask)
	return int32(watch), err
}

func sysUnwatch(fd int, watch int32) {
	_, _ = unix.InotifyRmWatch(fd, uint32(watch)) // EINVAL: it went with its directory
}

func isAgain(err error) bool { return err == unix.EAGAIN }

func isInterrupted(err error) bool { return err == unix.EINTR }

// parseEvents takes the structs inotify_event out of buf.
func parseEvents(buf []byte, fn func(Event)) {
	for len(buf) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:end], []byte{0})
		content := mask&contentMask != 0
		if !content || len(name) > 0 && mask&unix.IN_ISDIR == 0 { // opening a directory changes nothing
			fn(Event{
				Watch: watch, Name: string(name), Content: content,
				Attributes: mask&^unix.IN_ISDIR == unix.IN_ATTRIB,
				Lost:       mask&unix.IN_Q_OVERFLOW != 0,
			})
		}
		buf = buf[end:]
	}
}

func sysWatchable(fd int) bool {
	var sfs unix.Statfs_t
	if unix.Fstatfs(fd, &sfs) != nil {
		return false
	}
	switch int64(sfs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.F2FS_SUPER_MAGIC, unix.ISOFS_SUPER_MAGIC:
		return true
	}
	return false
}

// MaxDescriptors is how many files this process may have open.
func MaxDescriptors() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1024 // the least that is usual
	}
	return int(min(limit.Cur, 1<<20))
}
