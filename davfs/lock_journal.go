package davfs

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A lockJournal takes what changes in a table that waits for no disk: one write
// to the end of a file, which outlives the process, instead of a transaction.
// From time to time the store takes it over, and the journal is empty again.
//
// A record is the length and the CRC-32 of what follows: the length of the
// token, the token, and the lock as the store has it, or nothing for one that
// is gone. What is torn ends the journal.
type lockJournal struct {
	name string
	file *os.File // nil: there is none before the first change
	size int64    // of what counts: what a write left half done is written over

	// pending is what the store does not know yet, by token.
	pending map[string]*Lock

	wake, stop chan struct{}
	stopped    sync.WaitGroup
}

// journalDelay is how long changes gather before the store takes them over.
const journalDelay = 50 * time.Millisecond

// journalName is where the journal of a file of locks is.
func journalName(file string) string { return file + ".journal" }

// replayJournal reads what a process that died left to be taken over.
func replayJournal(file string) (states map[string]*Lock, err error) {
	data, err := os.ReadFile(journalName(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	states = make(map[string]*Lock)
	for len(data) >= 8 {
		n := binary.BigEndian.Uint32(data)
		if uint64(n) > uint64(len(data)-8) {
			break
		}
		body := data[8 : 8+n]
		if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(data[4:]) || len(body) < 2 {
			break
		}
		token, value := body[2:], []byte(nil)
		if at := int(binary.BigEndian.Uint16(body)); at <= len(token) {
			token, value = token[:at], token[at:]
		}
		var lock *Lock
		if len(value) > 0 {
			if lock, err = decodeLock(token, value); err != nil {
				return states, nil // nobody who knows the format wrote it
			}
		}
		states[string(token)] = lock
		data = data[8+n:]
	}
	return states, nil
}

// newJournal returns an empty journal.
func newJournal(file string) *lockJournal {
	return &lockJournal{name: journalName(file), pending: make(map[string]*Lock), wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// write takes states, all or none.
func (j *lockJournal) write(states map[string]*Lock) (err error) {
	if j.file == nil {
		if j.file, err = os.OpenFile(j.name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			j.file = nil
			return err
		}
	}
	var data []byte
	for token, lock := range states {
		var value []byte
		if lock != nil {
			var err error
			if value, err = encodeLock(lock); err != nil {
				return err
			}
		}
		body := binary.BigEndian.AppendUint16(nil, uint16(len(token)))
		body = append(append(body, token...), value...)
		data = binary.BigEndian.AppendUint32(data, uint32(len(body)))
		data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(body))
		data = append(data, body...)
	}
	if _, err := j.file.WriteAt(data, j.size); err != nil {
		return err
	}
	j.size += int64(len(data))
	for token, lock := range states {
		j.pending[token] = lock
	}
	select {
	case j.wake <- struct{}{}:
	default: // it is awake
	}
	return nil
}

// takenOver empties the journal: the store has all of it.
func (j *lockJournal) takenOver() error {
	clear(j.pending)
	if j.file == nil {
		return nil
	}
	if err := j.file.Truncate(0); err != nil {
		return err // it goes on growing, and is taken over once more
	}
	j.size = 0
	return nil
}

// run takes over, each time some changes have gathered, until close.
func (j *lockJournal) run(takeOver func()) {
	j.stopped.Go(func() {
		for {
			select {
			case <-j.wake:
			case <-j.stop:
				return
			}
			select {
			case <-time.After(journalDelay):
				takeOver()
			case <-j.stop:
				return
			}
		}
	})
}

// halt ends run.
func (j *lockJournal) halt() {
	close(j.stop)
	j.stopped.Wait()
}

// remove closes the journal and removes its file, when the store has all of it.
func (j *lockJournal) remove() error {
	if j.file == nil {
		return nil
	}
	return errors.Join(j.file.Close(), os.Remove(j.name))
}
