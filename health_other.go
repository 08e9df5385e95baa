//go:build !linux

package main

import "os"

// readDir looks at a directory.
func readDir(dir string) error {
	_, err := os.Stat(dir)
	return err
}
