//go:build !linux

package at

import (
	"syscall"
	"time"
)

// overdav serves on Linux. Elsewhere the packages above build and test, and
// whatever would touch a layer answers ENOSYS.

const (
	openDir = iota
	openPathDir
	openRead
	openReadWrite
)

func sysOpenHost(string) (int, error)                     { return -1, syscall.ENOSYS }
func sysOpenBeneath(int, string, int, bool) (int, error)  { return -1, syscall.ENOSYS }
func sysCloneMount(string) (int, error)                   { return -1, syscall.ENOSYS }
func sysClose(int) error                                  { return syscall.ENOSYS }
func sysStat(int, string, *Stat) error                    { return syscall.ENOSYS }
func sysReadlink(int, string) (string, error)             { return "", syscall.ENOSYS }
func sysFlistxattr(int, []byte) ([]byte, error)           { return nil, syscall.ENOSYS }
func sysFgetxattr(int, string) ([]byte, error)            { return nil, syscall.ENOSYS }
func sysHasXattr(int, string, string) error               { return syscall.ENOSYS }
func sysGetxattr(int, string, string) ([]byte, error)     { return nil, syscall.ENOSYS }
func sysSetxattr(int, string, string, []byte) error       { return syscall.ENOSYS }
func sysRemovexattr(int, string, string) error            { return syscall.ENOSYS }
func sysListxattr(int, string) ([]byte, error)            { return nil, syscall.ENOSYS }
func sysHandle(int, string) (int32, []byte, error)        { return 0, nil, syscall.ENOSYS }
func sysUUID(int) (uuid [16]byte, ok bool)                { return uuid, false }
func sysSpace(int) (Space, error)                         { return Space{}, syscall.ENOSYS }
func sysGetdents(int, []byte) (int, error)                { return 0, syscall.ENOSYS }
func parseDirent(buf []byte, _ int) ([]byte, byte, int)   { return nil, DTUnknown, len(buf) }
func sysSeek(int, int64, int) (int64, error)              { return 0, syscall.ENOSYS }
func sysNextData(int, int64, int64) (int64, int64, error) { return 0, 0, syscall.ENOSYS }
func sysRead(int, []byte) (int, error)                    { return 0, syscall.ENOSYS }
func sysReadEvents(int, []byte) (int, error)              { return 0, syscall.ENOSYS }
func sysPread(int, []byte, int64) (int, error)            { return 0, syscall.ENOSYS }
func sysWrite(int, []byte) (int, error)                   { return 0, syscall.ENOSYS }
func sysPwrite(int, []byte, int64) (int, error)           { return 0, syscall.ENOSYS }
func sysClone(int, int) error                             { return syscall.ENOSYS }
func sysCopyRange(int, int, int64, int) (int, error)      { return 0, syscall.ENOSYS }
func cannotCopyRange(error) bool                          { return true }
func sysMkdir(int, string, uint32) error                  { return syscall.ENOSYS }
func sysCreate(int, string, uint32) (int, error)          { return -1, syscall.ENOSYS }
func sysTmpfile(int, uint32) (int, error)                 { return -1, syscall.ENOSYS }
func sysSymlink(string, int, string) error                { return syscall.ENOSYS }
func sysMknod(int, string, uint32, uint64) error          { return syscall.ENOSYS }
func sysLink(int, string, int, string) error              { return syscall.ENOSYS }
func sysLinkFile(int, int, string) error                  { return syscall.ENOSYS }
func sysUnlink(int, string, bool) error                   { return syscall.ENOSYS }
func sysRename(int, string, int, string, uint) error      { return syscall.ENOSYS }
func sysChmod(int, string, uint32) error                  { return syscall.ENOSYS }
func sysFchmod(int, uint32) error                         { return syscall.ENOSYS }
func sysChown(int, string, int, int) error                { return syscall.ENOSYS }
func sysSetTimes(int, string, time.Time, time.Time) error { return syscall.ENOSYS }
func sysTruncate(int, int64) error                        { return syscall.ENOSYS }
func sysFsetxattr(int, string, []byte) error              { return syscall.ENOSYS }
func sysFremovexattr(int, string) error                   { return syscall.ENOSYS }
func sysFlags(int) uint32                                 { return 0 }
func sysSetFlags(int, uint32) error                       { return syscall.ENOSYS }
func sysFsync(int) error                                  { return syscall.ENOSYS }
func sysSyncfs(int) error                                 { return syscall.ENOSYS }
func sysOpenLock(int, string) (int, error)                { return -1, syscall.ENOSYS }
func sysFlock(int) error                                  { return syscall.ENOSYS }

// ProbeOverlay answers ENOSYS: only Linux has overlayfs.
func ProbeOverlay(upper string) error { return syscall.ENOSYS }

// ProbeOverlayUnprivileged answers ENOSYS: only Linux has overlayfs.
func ProbeOverlayUnprivileged(upper string) error { return syscall.ENOSYS }

func sysWatcher() (int, error)                { return -1, syscall.ENOSYS }
func sysWatch(int, int) (int32, error)        { return 0, syscall.ENOSYS }
func sysWatchContent(int, int) (int32, error) { return 0, syscall.ENOSYS }
func sysUnwatch(int, int32)                   {}
func isAgain(error) bool                      { return false }
func isInterrupted(error) bool                { return false }
func parseEvents([]byte, func(Event))         {}
func sysWatchable(int) bool                   { return false }

// MaxDescriptors is how many files this process may have open.
func MaxDescriptors() int { return 1024 }
