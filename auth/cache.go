package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"sync"
	"sync/atomic"
	"time"
)

// maxCached is how many credentials are remembered.
const maxCached = 10_000

// A cacheKey stands for a name and a password.
type cacheKey [sha256.Size]byte

// A cache remembers credentials that were right, until they have not been used
// for some time. It keeps neither the password nor what the password could be
// guessed from: its key is an HMAC, and the HMAC's key dies with the process.
//
// An entry is worth what the stored password is that it was verified against.
// When the configuration has been read again and has another, or no such user,
// the entry is no more; all others stay, as a reload would otherwise make every
// client's password be verified at once.
type cache struct {
	keep time.Duration
	macs sync.Pool // of *mac

	mu sync.RWMutex
	// +checklocks:mu
	entries map[cacheKey]*cacheEntry
}

type cacheEntry struct {
	stored  string       // the Hash.text that the password was verified against
	expires atomic.Int64 // Unix time in nanoseconds
}

func newCache(keep time.Duration) *cache {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails (since Go 1.24)
	return &cache{
		keep:    keep,
		macs:    sync.Pool{New: func() any { return &mac{Hash: hmac.New(sha256.New, key)} }},
		entries: make(map[cacheKey]*cacheEntry),
	}
}

// A mac makes keys, one after the other, and nothing on the heap.
type mac struct {
	hash.Hash
	text [maxName + 1 + maxPassword]byte
	sum  cacheKey
}

// key returns what stands for name and password. No name has a NUL in it.
func (c *cache) key(name, password string) cacheKey {
	m := c.macs.Get().(*mac)
	defer c.macs.Put(m)
	m.Reset()
	text := append(append(append(m.text[:0], name...), 0), password...)
	_, _ = m.Write(text) // never fails
	m.Sum(m.sum[:0])
	clear(text)
	return m.sum
}

// has says whether the password behind k was verified against stored.
func (c *cache) has(k cacheKey, stored string) bool {
	c.mu.RLock()
	e := c.entries[k]
	c.mu.RUnlock()
	if e == nil || e.stored != stored {
		return false
	}
	now := time.Now().UnixNano()
	left := e.expires.Load() - now
	if left <= 0 {
		return false
	}
	if left < int64(c.keep)/2 { // not at each request, which would cost other cores the line
		e.expires.Store(now + int64(c.keep))
	}
	return true
}

// add remembers that the password behind k was verified against stored.
func (c *cache) add(k cacheKey, stored string) {
	if c.keep <= 0 {
		return
	}
	e := &cacheEntry{stored: stored}
	e.expires.Store(time.Now().Add(c.keep).UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[k]; !ok && len(c.entries) >= maxCached {
		c.evictLocked()
	}
	c.entries[k] = e
}

// evictLocked makes room: of a few entries, as the map shuffles them, the one that
// expires first goes.
//
// Preconditions: c.mu is locked, and the cache is not empty.
func (c *cache) evictLocked() {
	var victim cacheKey
	first, looked := int64(0), 0
	for k, e := range c.entries {
		if at := e.expires.Load(); looked == 0 || at < first {
			victim, first = k, at
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(c.entries, victim)
}
