package overlay_test

import "golang.org/x/sys/unix"

// putCapabilities makes those that the thread may have effective, or none.
func putCapabilities(on bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Effective = 0
		if on {
			data[i].Effective = data[i].Permitted
		}
	}
	return unix.Capset(&header, &data[0])
}
