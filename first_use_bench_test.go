package main

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// BenchmarkFirstUse is a user's first request, which makes his upper, and his
// first since his upper was closed, which opens it. What the processor spends is
// reported beside, for the time waits for the disk.
func BenchmarkFirstUse(b *testing.B) {
	for _, durability := range []string{"full", "none"} {
		s, _ := userShare(b, func(c *ShareConfig) { c.Durability = durability })
		ask := func(b *testing.B, user string) {
			if status, body := as(s, user, "GET", "/a", ""); status != http.StatusOK {
				b.Fatalf("%s: %d %s", user, status, body)
			}
		}
		closed := func(b *testing.B, user string) {
			if err := s.trees.whileClosed(b.Context(), user, func() error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
		users := 0
		b.Run(durability+"/made", func(b *testing.B) {
			var cpu cpuTimer
			for b.Loop() {
				users++
				user := fmt.Sprintf("u%d", users)
				cpu.start()
				ask(b, user)
				cpu.stop()
				b.StopTimer()
				closed(b, user)
				b.StartTimer()
			}
			cpu.report(b)
		})
		b.Run(durability+"/opened", func(b *testing.B) {
			var cpu cpuTimer
			for b.Loop() {
				cpu.start()
				ask(b, "u1")
				cpu.stop()
				b.StopTimer()
				closed(b, "u1")
				b.StartTimer()
			}
			cpu.report(b)
		})
	}
}

// A cpuTimer adds up what this process spends of a processor while it runs.
type cpuTimer struct{ began, spent time.Duration }

func (c *cpuTimer) start() { c.began = processorTime() }
func (c *cpuTimer) stop()  { c.spent += processorTime() - c.began }

func (c *cpuTimer) report(b *testing.B) {
	b.ReportMetric(float64(c.spent.Microseconds())/float64(b.N), "cpu-µs/op")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail with this argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
