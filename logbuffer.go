package main

import (
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// A logBuffer gathers the lines of a log, so that one call writes those of many
// requests: each on its own costs as much as the rest of a small one. What is
// worse than information goes out at once, with all before it.
type logBuffer struct {
	out   io.Writer
	delay time.Duration // the longest that a line waits

	mu sync.Mutex
	// +checklocks:mu
	lines []byte
	// timer writes what waits; it runs while lines are there.
	// +checklocks:mu
	timer *time.Timer
}

const (
	logDelay      = 50 * time.Millisecond
	logBufferSize = 32 << 10 // bytes; more are written at once
)

func newLogBuffer(out io.Writer) *logBuffer {
	b := &logBuffer{out: out, delay: logDelay, lines: make([]byte, 0, logBufferSize)}
	b.timer = time.AfterFunc(time.Hour, b.flush)
	b.timer.Stop()
	return b
}

// Write is io.Writer's, for lines of no level.
func (b *logBuffer) Write(line []byte) (int, error) { return b.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel is zerolog.LevelWriter's.
func (b *logBuffer) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines) == 0 {
		b.timer.Reset(b.delay)
	}
	b.lines = append(b.lines, line...)
	if level > zerolog.InfoLevel || len(b.lines) >= logBufferSize {
		return len(line), b.flushLocked()
	}
	return len(line), nil
}

// flush writes what waits. A nil buffer has nothing.
func (b *logBuffer) flush() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.flushLocked() // there is no other place to tell that the log cannot be written
}

// flushLocked is flush, with mu held.
//
// +checklocks:b.mu
func (b *logBuffer) flushLocked() error {
	b.timer.Stop()
	if len(b.lines) == 0 {
		return nil
	}
	_, err := b.out.Write(b.lines)
	b.lines = b.lines[:0]
	return err
}
