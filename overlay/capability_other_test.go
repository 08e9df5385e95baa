//go:build !linux

package overlay_test

import "errors"

// putCapabilities is for Linux.
func putCapabilities(on bool) error { return errors.ErrUnsupported }
