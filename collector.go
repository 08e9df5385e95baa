package main

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// leastHeap is to where the heap may grow before it is collected, in bytes.
const leastHeap = 16 << 20

// tuneCollector has the garbage collector run when the heap is twice what is in
// use, as it would by itself, but not before it is leastHeap. A server that has
// little in use would else collect many times a second, for a tenth of its
// processor time. The runtime itself reads GOGC, and who sets that knows better.
func tuneCollector(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	percent := collectorPercent(0)
	debug.SetGCPercent(percent)
	afterCollections(func() {
		if now := collectorPercent(liveHeap()); now != percent {
			percent = now
			debug.SetGCPercent(percent)
		}
	})
}

// collectorPercent is how much garbage there may be, in percent of live bytes.
// It is rounded: to change it stops the program for some microseconds.
func collectorPercent(live uint64) int {
	const step, most = 50, 400 // the runtime itself collects nothing below 4 MiB at 100 percent, 16 MiB at 400
	if live == 0 {
		return most
	}
	percent := (leastHeap*100/int(live) - 100) / step * step
	return min(max(percent, 100), most)
}

// liveHeap is what the last collection found in use.
func liveHeap() uint64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64()
}

// afterCollections calls fn after each collection, in the goroutine that runs
// finalizers.
func afterCollections(fn func()) {
	type sentinel struct{ _ *byte } // with a pointer, or the allocator lets others share its block
	var arm func(*sentinel)
	arm = func(s *sentinel) {
		fn()
		runtime.SetFinalizer(s, arm)
	}
	runtime.SetFinalizer(new(sentinel), arm)
}
