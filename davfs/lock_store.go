package davfs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors of OpenLocks.
var (
	// ErrLocksInUse means that another process has the file of locks open.
	ErrLocksInUse = errors.New("lock file in use by another process")
	// ErrLocksCorrupt means that the file is damaged, or is not a file of locks.
	// Nothing of it is used; to remove it is to forget the locks and no more.
	ErrLocksCorrupt = errors.New("lock file corrupt or not ours")
)

// The format: a bucket "meta" that says which it is, and a bucket "locks" from
// tokens to records. A record is JSON after the CRC-32 of both, since bbolt has
// check sums for its own first pages only.
const (
	lockFormat      = "overdav locks 1"
	lockFileTimeout = time.Second // how long to wait for a process that is about to end
	maxLockRecord   = 64 << 10    // bytes; path, user and owner have lower limits of their own
)

var (
	lockMetaBucket = []byte("meta")
	lockFormatKey  = []byte("format")
	lockBucket     = []byte("locks")
)

// A lockStore is a file of locks. There is none before the first lock: most trees
// never see one, and to make the file takes as long as all else that opening a
// tree takes.
type lockStore struct {
	file   string
	noSync bool
	db     *bbolt.DB // nil: nothing was written yet
}

// openLockStore opens the store and returns the locks in it.
func openLockStore(file string, noSync bool) (*lockStore, []*Lock, error) {
	s := &lockStore{file: file, noSync: noSync}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return s, nil, nil
	}
	locks, err := s.open()
	return s, locks, err
}

// make makes the file, if there is none.
// Errors: ErrLocksInUse when somebody else has made it since the store was opened.
func (s *lockStore) make() error {
	if s.db != nil {
		return nil
	}
	_, err := os.Lstat(s.file)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", s.file, ErrLocksInUse)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, err = s.open()
	return err
}

// lockRecord is a Lock on disk. Names and users are bytes, which JSON keeps
// whether or not they are UTF-8.
type lockRecord struct {
	Root       []byte    `json:"root"`
	Collection bool      `json:"collection,omitempty"`
	Infinite   bool      `json:"infinite,omitempty"`
	Shared     bool      `json:"shared,omitempty"`
	Principal  []byte    `json:"principal"`
	Owner      []byte    `json:"owner,omitempty"`
	Seconds    int64     `json:"seconds"`
	Expires    time.Time `json:"expires"`
}

// open opens or makes the file and returns the locks in it.
func (s *lockStore) open() (locks []*Lock, err error) {
	var opened *os.File
	defer func() {
		if err != nil && opened != nil {
			// After a panic the file is still mapped, which would keep it locked
			// although it is closed. If bbolt has closed it, neither does anything.
			_ = syscall.Flock(int(opened.Fd()), syscall.LOCK_UN)
			_ = opened.Close()
		}
	}()
	// bbolt takes its pages on trust. Following a damaged one it panics, or
	// leaves the mapped file.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			locks, err = nil, fmt.Errorf("%s: %w: %v", s.file, ErrLocksCorrupt, r)
		}
	}()
	db, err := bbolt.Open(s.file, 0o600, &bbolt.Options{
		Timeout:      lockFileTimeout,
		FreelistType: bbolt.FreelistMapType,
		NoSync:       s.noSync,
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			opened, err = os.OpenFile(name, flag, mode)
			return opened, err
		},
	})
	if err != nil {
		return nil, lockOpenError(s.file, err)
	}
	locks, err = loadLocks(db, opened)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.file, err), db.Close())
	}
	s.db = db
	return locks, nil
}

// lockOpenError says what bbolt's errors mean to whoever starts the server.
func lockOpenError(file string, err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%s: %w", file, ErrLocksInUse)
	}
	// What the system says about the file is not about what is in it.
	if errors.As(err, new(*fs.PathError)) || errors.As(err, new(syscall.Errno)) {
		return fmt.Errorf("lock file: %w", err)
	}
	return fmt.Errorf("%s: %w: %w", file, ErrLocksCorrupt, err)
}

// loadLocks reads all records, and marks a new file as ours.
func loadLocks(db *bbolt.DB, f *os.File) (locks []*Lock, err error) {
	err = db.Update(func(tx *bbolt.Tx) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: %d bytes of %d", ErrLocksCorrupt, info.Size(), tx.Size())
		}
		if first, _ := tx.Cursor().First(); first == nil {
			return initLocks(tx)
		}
		meta, records := tx.Bucket(lockMetaBucket), tx.Bucket(lockBucket)
		if meta == nil || records == nil || string(meta.Get(lockFormatKey)) != lockFormat {
			return fmt.Errorf("%w: it does not say %q", ErrLocksCorrupt, lockFormat)
		}
		err = records.ForEach(func(token, value []byte) error {
			lock, err := decodeLock(token, value)
			locks = append(locks, lock)
			return err
		})
		if err != nil {
			return err
		}
		return checkPages(tx)
	})
	return locks, err
}

// checkPages finds what reading all records does not: whether the pages that are
// free are truly free. Lengths come first, since bbolt's own check believes them.
func checkPages(tx *bbolt.Tx) (err error) {
	pages := int(tx.Size()) / tx.DB().Info().PageSize
	for id := 0; id < pages; id++ {
		p, err := tx.Page(id)
		if err != nil {
			return err
		}
		if p.Type == "free" {
			continue // what stands in it means nothing
		}
		if id += p.OverflowCount; id >= pages {
			return fmt.Errorf("%w: page %d ends behind the file", ErrLocksCorrupt, p.ID)
		}
	}
	for damage := range tx.Check() { // to its end, or its goroutine stays
		err = fmt.Errorf("%w: %w", ErrLocksCorrupt, damage)
	}
	return err
}

func initLocks(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucket(lockMetaBucket)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucket(lockBucket); err != nil {
		return err
	}
	return meta.Put(lockFormatKey, []byte(lockFormat))
}

// write stores locks by token, and deletes those that are nil, all or none. It
// returns after they are on disk, unless the store was opened with noSync.
func (s *lockStore) write(states map[string]*Lock) (err error) {
	if err := s.make(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil { // damage that came after opening
			err = fmt.Errorf("%w: %v", ErrLocksCorrupt, r)
		}
	}()
	return s.db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket(lockBucket)
		for token, lock := range states {
			if lock == nil {
				if err := records.Delete([]byte(token)); err != nil {
					return err
				}
				continue
			}
			value, err := encodeLock(lock)
			if err != nil {
				return err
			}
			if err := records.Put([]byte(token), value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *lockStore) close() error {
	if s.db == nil {
		return nil
	}
	var err error
	if s.db.NoSync {
		err = s.db.Sync()
	}
	return errors.Join(err, s.db.Close())
}

// encodeLock makes the record of a lock.
func encodeLock(lock *Lock) ([]byte, error) {
	text, err := json.Marshal(lockRecord{
		Root: []byte(lock.Root.name), Collection: lock.Collection, Infinite: lock.Infinite, Shared: lock.Shared,
		Principal: []byte(lock.Principal), Owner: []byte(lock.Owner),
		Seconds: int64(lock.Timeout / time.Second), Expires: lock.Expires,
	})
	if err != nil {
		return nil, err
	}
	if len(text) > maxLockRecord-4 {
		return nil, fmt.Errorf("lock of %.50q: record too long", lock.Principal)
	}
	return append(lockSum([]byte(lock.Token), text), text...), nil
}

// lockSum is the check sum over a token and its record.
func lockSum(token, text []byte) []byte {
	sum := crc32.Update(crc32.ChecksumIEEE(token), crc32.IEEETable, text)
	return binary.BigEndian.AppendUint32(nil, sum)
}

// decodeLock reads a record. Nothing about it is true before the sum is checked,
// not even the lengths.
func decodeLock(token, value []byte) (*Lock, error) {
	if len(token) > maxTokenLength || len(value) < 4 || len(value) > maxLockRecord {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrLocksCorrupt, len(value))
	}
	bad := fmt.Errorf("%w: record of %.50q", ErrLocksCorrupt, token)
	text := value[4:]
	if !bytes.Equal(value[:4], lockSum(token, text)) {
		return nil, bad
	}
	var r lockRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", bad, err)
	}
	const century = 100 * 365 * 24 * 3600
	root, ok := pathFromName(string(r.Root))
	if !ok || r.Seconds < 1 || r.Seconds > century {
		return nil, bad
	}
	return &Lock{
		Token: string(token), Root: root, Collection: r.Collection, Infinite: r.Infinite, Shared: r.Shared,
		Principal: string(r.Principal), Owner: string(r.Owner),
		Timeout: time.Duration(r.Seconds) * time.Second, Expires: r.Expires,
	}, nil
}
