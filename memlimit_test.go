package main

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemoryLimitOfControlGroups(t *testing.T) {
	tests := []struct {
		name, groups string
		files        map[string]string
		want         int64
	}{
		{"version 2", "0::/a/b\n", map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n"}, 1000},
		{"version 2, above", "0::/a/b\n", map[string]string{"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "500\n"}, 500},
		{"the smallest", "0::/a/b\n", map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/memory.max": "2000\n"}, 1000},
		{"in a container", "0::/\n", map[string]string{"sys/fs/cgroup/memory.max": "700\n"}, 700},
		{"no limit", "0::/a\n", map[string]string{"sys/fs/cgroup/a/memory.max": "max\n"}, math.MaxInt64},
		{"version 1", "3:cpu,cpuacct:/x\n2:memory:/a\n", map[string]string{"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "900\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 900},
		{"version 1 in a container", "2:memory:/docker/1234\n", map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "800\n"}, 800},
		{"both", "2:memory:/a\n0::/a\n", map[string]string{"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "900\n", "sys/fs/cgroup/a/memory.max": "300"}, 300},
		{"a path out of the hierarchy", "0::/../../x\n", map[string]string{"sys/fs/cgroup/x/memory.max": "100\n", "x/memory.max": "1\n"}, 100},
		{"nonsense", "0::/a\nwhat\n:\n", map[string]string{"sys/fs/cgroup/a/memory.max": "much\n"}, math.MaxInt64},
	}
	for _, test := range tests {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(test.groups)}}
		for name, text := range test.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := cgroupMemory(root); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
	if got := cgroupMemory(fstest.MapFS{}); got != math.MaxInt64 {
		t.Errorf("without /proc: got %d", got)
	}
	if got := cgroupMemory(os.DirFS("/")); got <= 0 {
		t.Errorf("of this machine: got %d", got)
	}
}

func TestMemoryLimitLeavesRoomAndGivesWay(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	root := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}, "sys/fs/cgroup/memory.max": {Data: []byte("1000000000000")}}
	limitMemory(getenv("GOMEMLIMIT", "1GiB"), root, discardLog())
	if got := debug.SetMemoryLimit(-1); got != old {
		t.Errorf("GOMEMLIMIT was overruled with %d", got)
	}
	limitMemory(getenv(), root, discardLog())
	if got := debug.SetMemoryLimit(-1); got != 900_000_000_000 {
		t.Errorf("got %d, want nine tenths", got)
	}
}
