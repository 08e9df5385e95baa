package main

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
)

// limitMemory tells the runtime of the control group's memory limit, so that it
// collects garbage before the kernel kills the process. The runtime itself reads
// GOMEMLIMIT, and who sets that knows better.
func limitMemory(getenv func(string) string, root fs.FS, log zerolog.Logger) {
	if getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := cgroupMemory(root)
	if limit == math.MaxInt64 {
		return
	}
	// A tenth is for what the runtime does not count: the program's text, and
	// kernel memory, which for many names is not little.
	limit -= limit / 10
	debug.SetMemoryLimit(limit)
	log.Debug().Int64(keyBytes, limit).Msg("memory is limited by the control group")
}

// cgroupMemory is the smallest limit of the control group and of those above it;
// math.MaxInt64 is none, or none that can be read. root is the file system's.
func cgroupMemory(root fs.FS) int64 {
	limit := int64(math.MaxInt64)
	text, err := fs.ReadFile(root, "proc/self/cgroup") // cgroups(7)
	if err != nil {
		return limit // another system, or /proc is not mounted
	}
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		mount, file := "sys/fs/cgroup", "memory.max" // version 2: one hierarchy, no controllers named
		switch {
		case controllers == "":
		case hasController(controllers, "memory"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// In a container the path may be the host's, and only the root is there.
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			limit = min(limit, readLimit(root, path.Join(mount, dir, file)))
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

func hasController(list, name string) bool {
	for controller := range strings.SplitSeq(list, ",") {
		if controller == name {
			return true
		}
	}
	return false
}

// readLimit reads a file with a number of bytes; "max", and in version 1 a number
// near the largest, is no limit.
func readLimit(root fs.FS, name string) int64 {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return math.MaxInt64
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return n
}
