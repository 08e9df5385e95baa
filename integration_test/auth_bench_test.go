package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// quantile is the value below which a part q of times lies.
func quantile(times []time.Duration, q float64) time.Duration {
	slices.Sort(times)
	return times[min(int(q*float64(len(times))), len(times)-1)]
}

// hurry lets clients ask until stop is called, each as fast as it is answered.
func hurry(clients int, ask func(client, round int)) (stop func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for round := 0; !stopped.Load(); round++ {
				ask(i, round)
			}
		})
	}
	return func() { stopped.Store(true); wg.Wait() }
}

// pace lets clients ask in turn, so many a second in all, until stop is called.
func pace(clients, perSecond int, ask func(client, round int)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			each := time.Second * time.Duration(clients) / time.Duration(perSecond)
			select {
			case <-done:
				return
			case <-time.After(each * time.Duration(i) / time.Duration(clients)):
			}
			tick := time.NewTicker(each)
			defer tick.Stop()
			for round := 0; ; round++ {
				select {
				case <-done:
					return
				case <-tick.C:
					ask(i, round)
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

// BenchmarkAttack measures what alice notices of 500 clients with bad passwords,
// while 499 others work: her latency without the attack and with it. The passwords
// are stored as overdav hash-password stores them.
func BenchmarkAttack(b *testing.B) {
	s := serve(b, "--config", attackConfig(b, hashOf(b, "right")), "--log-level", "error")
	a := newAsker(s.url("a"))
	defer a.client.CloseIdleConnections()
	must := func(name string, from int) time.Duration {
		began := time.Now()
		if status, err := a.ask(name, "right", from); err != nil || status != http.StatusOK {
			b.Errorf("%s: %d, %v", name, status, err)
		}
		return time.Since(began)
	}
	for i := range goodUsers {
		must(fmt.Sprintf("good%d", i), 5000)
	}
	must("alice", 6000)
	alice := func() (times []time.Duration) {
		const long = 5 * time.Second
		for began := time.Now(); time.Since(began) < long; {
			times = append(times, must("alice", 6000))
		}
		return times
	}
	report := func(what string, times []time.Duration) {
		b.ReportMetric(float64(quantile(times, 0.5).Microseconds()), what+"-p50-µs")
		b.ReportMetric(float64(quantile(times, 0.99).Microseconds()), what+"-p99-µs")
	}
	stopGood := pace(goodClients-1, 100, func(client, _ int) { must(fmt.Sprintf("good%d", client%goodUsers), 5000) })
	defer stopGood()
	bad := func(client, round int) {
		if status, err := a.bad(client, round); err != nil || status == http.StatusOK {
			b.Errorf("an attacker: %d, %v", status, err)
		}
	}
	for b.Loop() {
		report("quiet", alice())
		stopBad := pace(badClients, 500, bad)
		report("attack", alice())
		stopBad()
		stopBad = hurry(badClients, bad)
		report("hurried", alice())
		stopBad()
	}
}

// BenchmarkRefusedLogin measures how long a wrong password takes for a name that
// there is and for one that there is not.
func BenchmarkRefusedLogin(b *testing.B) {
	s := serve(b, "--config", attackConfig(b, hashOf(b, "right", "--argon2id")), "--log-level", "error")
	a := newAsker(s.url("a"))
	defer a.client.CloseIdleConnections()
	times := make(map[string][]time.Duration)
	from := 0
	for b.Loop() {
		// In turn, as what disturbs one disturbs the other, and each first as often as
		// second: the collector of the 19 MiB of a hash has a beat of its own.
		names := []string{"good", "nobody"}
		if from%2 == 1 {
			slices.Reverse(names)
		}
		for _, name := range names {
			began := time.Now()
			// A name of its own each time would be none that there is; ten users have ten
			// tries each.
			if status, err := a.ask(fmt.Sprintf("%s%d", name, from%goodUsers), fmt.Sprint(from), from); err != nil || status != http.StatusUnauthorized {
				b.Skipf("after %d tries each: %d, %v", from, status, err)
			}
			times[name] = append(times[name], time.Since(began))
		}
		from++
		if from == goodUsers*9 {
			break
		}
	}
	for name, t := range times {
		b.ReportMetric(float64(quantile(t, 0.5).Microseconds()), name+"-p50-µs")
	}
}

// BenchmarkBasic measures requests of 1,000 users, each of which is known already,
// against the same requests of nobody.
func BenchmarkBasic(b *testing.B) {
	const users = 1000
	for _, kind := range []string{"anonymous", "basic"} {
		b.Run(kind, func(b *testing.B) {
			file := attackConfig(b, cheapHash)
			text, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			_, shares, _ := strings.Cut(string(text), "shares:")
			config := ""
			if kind == "basic" {
				config = "users:\n"
				for i := range users {
					config += fmt.Sprintf("  - { name: user%d, password: %s }\n", i, cheapHash)
				}
			}
			if err := os.WriteFile(file, []byte(config+"shares:"+shares), 0o600); err != nil {
				b.Fatal(err)
			}
			s := serve(b, "--config", file, "--log-level", "error")
			a := newAsker(s.url("a"))
			defer a.client.CloseIdleConnections()
			for i := range users {
				if status, err := a.ask(fmt.Sprintf("user%d", i), "right", 0); err != nil || status != http.StatusOK {
					b.Fatal(status, err)
				}
			}
			before := processorTime(b, s.cmd.Process.Pid)
			b.ResetTimer()
			for i := range b.N {
				if status, err := a.ask(fmt.Sprintf("user%d", i%users), "right", 0); err != nil || status != http.StatusOK {
					b.Fatal(status, err)
				}
			}
			b.StopTimer()
			spent := processorTime(b, s.cmd.Process.Pid) - before
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "server-µs/op")
		})
	}
}

// processorTime is what a process has used of processors, user and system.
func processorTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int64
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}
