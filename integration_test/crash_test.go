package integration_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"overdav/overlay/overlaytest"
)

// A writer puts one file again and again, in a body that proves itself whole:
// a line with name and sequence number, padding, and the sum of all that.
type writer struct {
	name         string
	tried, acked int // sequence numbers; 0 is the lower's version
}

func (w *writer) body(seq int) []byte {
	b := fmt.Appendf(nil, "%s %d\n", w.name, seq)
	b = append(b, bytes.Repeat([]byte{byte('a' + seq%26)}, 1000+seq*7919%60000)...)
	return fmt.Appendf(b, "\n%x", sha256.Sum256(b))
}

// seq is the sequence number of the version in text.
func (w *writer) seq(text string) (int, error) {
	if text == "original" {
		return 0, nil
	}
	var name string
	var seq int
	if _, err := fmt.Sscanf(text, "%s %d\n", &name, &seq); err != nil {
		return 0, err
	}
	if text != string(w.body(seq)) {
		return 0, fmt.Errorf("torn: %d bytes that begin like version %d", len(text), seq)
	}
	return seq, nil
}

// put writes versions until the server is gone.
func (w *writer) put(s *server, acks *atomic.Int64) {
	for {
		w.tried++
		req, err := http.NewRequest("PUT", s.url(w.name), bytes.NewReader(w.body(w.tried)))
		if err != nil {
			panic(err) // the address was good the first time
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body) // the status is what counts
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
			return
		}
		w.acked = w.tried
		acks.Add(1)
	}
}

func TestKillDuringWritesLosesNothingAcknowledgedAndLeavesNothingHalf(t *testing.T) {
	lower := ""
	var writers []*writer
	for i := range 6 {
		w := &writer{name: fmt.Sprintf("dir%d/file", i)}
		writers = append(writers, w)
		lower += fmt.Sprintf("dir%d/\n", i)
		if i%2 == 0 { // the others are new
			lower += w.name + " = original\n"
		}
	}
	l := overlaytest.NewLayers(t, openDir(t), lower)
	overlaytest.LowersUnchanged(t, l.Lowers...)
	s := serve(t, flagsOf(l)...)
	for round := range 5 {
		var acks atomic.Int64
		var wg sync.WaitGroup
		for _, w := range writers {
			wg.Go(func() { w.put(s, &acks) })
		}
		for acks.Load() < int64(20+13*round) { // the writers are the clock
			select {
			case <-s.ended:
				t.Fatalf("the server ended by itself: %s", s.stderr.String())
			default:
			}
			if status, text := s.do("OPTIONS", "", ""); status != http.StatusOK {
				t.Fatalf("OPTIONS: %d: %s", status, text)
			}
		}
		s.kill()
		wg.Wait()

		s = serve(t, flagsOf(l)...) // after a crash a restart needs no unlock
		for _, w := range writers {
			status, text := s.do("GET", w.name, "")
			if status == http.StatusNotFound && w.acked == 0 {
				continue
			}
			seq, err := w.seq(text)
			switch {
			case status != http.StatusOK || err != nil:
				t.Errorf("round %d: %s: status %d, %v", round, w.name, status, err)
			case seq < w.acked || seq > w.tried:
				t.Errorf("round %d: %s is version %d; %d was acknowledged, %d tried", round, w.name, seq, w.acked, w.tried)
			}
			w.acked, w.tried = max(seq, w.acked), max(seq, w.tried)
		}
	}
	want := s.tree()
	s.stop()
	stagingIsEmpty(t, l)
	if os.Geteuid() != 0 {
		return // an ordinary user's upper is looked at in user_test.go
	}
	mnt, _ := overlaytest.KernelMount(t, l)
	sameTree(t, "the kernel's view after the crashes", diskTree(t, mnt), want)
}

func TestAfterACrashTheKernelNeedsUnlockAndOverdavDoesNot(t *testing.T) {
	overlaytest.NeedRoot(t)
	l, args := newShare(t)
	s := serve(t, args...)
	changeALot(s)
	u := s.begin("unfinished", 10)
	if _, err := io.WriteString(u.body, "half "); err != nil {
		t.Fatal(err)
	}
	s.kill()
	u.abort()

	data := "lowerdir=" + l.Lowers[0] + ",upperdir=" + l.Upper + ",workdir=" + l.Work
	mnt := t.TempDir()
	if err := syscall.Mount("overlay", mnt, "overlay", 0, data); err == nil {
		_ = syscall.Unmount(mnt, 0) // the test has failed anyhow
		t.Fatal("the kernel mounted an upper whose server died; the guard is gone")
	}
	out := run(t, command(t.TempDir(), "unlock", "--upper", l.Upper, "--work", l.Work))
	if !strings.Contains(out, l.Upper) {
		t.Errorf("unlock says %q", out)
	}
	mnt, unmount := overlaytest.KernelMount(t, l)
	sameTree(t, "the kernel's view after unlock", diskTree(t, mnt), changedALot)
	unmount()
	s = serve(t, args...)
	sameTree(t, "after all that", s.tree(), changedALot)
	s.stop()
}

func TestUnlockOfALivingServerIsRefused(t *testing.T) {
	l, args := newShare(t)
	s := serve(t, args...)
	cmd := command(t.TempDir(), "unlock", "--upper", l.Upper, "--work", l.Work)
	if out, err := runFor(giveUp, cmd); err == nil || !strings.Contains(out, filepath.Dir(l.Work)) {
		t.Errorf("unlock under a living server: %v: %s", err, out)
	}
	s.must(http.StatusCreated, "PUT", "still", "works")
	s.stop()
}

// A lock is a promise to an editor that has a file open; it must not end with
// the server.
func TestLocksOutliveTheServer(t *testing.T) {
	_, args := newShare(t)
	s := serve(t, args...)
	const info = `<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`
	status, text := s.do("LOCK", "a", info, "Depth", "0", "Timeout", "Second-3600")
	_, token, ok := strings.Cut(text, "<D:locktoken><D:href>")
	if status != http.StatusOK || !ok {
		t.Fatalf("LOCK: %d: %s", status, text)
	}
	token, _, _ = strings.Cut(token, "<")
	for _, end := range []func(*server){(*server).stop, (*server).kill} {
		end(s)
		s = serve(t, args...)
		s.must(http.StatusLocked, "PUT", "a", "by another")
		s.must(http.StatusNoContent, "PUT", "a", "by the holder", "If", "(<"+token+">)")
	}
	s.must(http.StatusNoContent, "UNLOCK", "a", "", "Lock-Token", "<"+token+">")
	s.stop()
}
