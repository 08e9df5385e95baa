package at

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// No pointer is kept as a number. The runtime moves stacks and does not know of
// it; whoever then calls the kernel has it read, or write, what somebody else
// has there by now. That has set attributes to other values, so rarely that no
// test can wait for it.
func TestNoPointerIsKeptAsANumber(t *testing.T) {
	kept := regexp.MustCompile(`(=|:|\{)\s*(uint64\()?uintptr\(unsafe\.Pointer`)
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if line := kept.Find(source); line != nil {
			t.Errorf("%s: %s", file, line)
		}
	}
}
