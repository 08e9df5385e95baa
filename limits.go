package main

import (
	"net/http"
	"runtime/debug"
	"time"

	"overdav/auth"
	"overdav/davfs"
)

// LimitsConfig bounds what clients can make the server wait for and hold. There
// is no bound on how long a request takes: a slow upload of a large file is fine
// as long as it moves (StallTimeout).
type LimitsConfig struct {
	HeaderBytes   ByteSize      `yaml:"header_bytes"`   // of a request, its first line included
	HeaderTimeout time.Duration `yaml:"header_timeout"` // until a request's header has come
	IdleTimeout   time.Duration `yaml:"idle_timeout"`   // of a connection between requests; clients want 60 s at least
	StallTimeout  time.Duration `yaml:"stall_timeout"`  // one read or write of a body

	Connections           int `yaml:"connections"`
	ConnectionsPerAddress int `yaml:"connections_per_address"` // IPv6: per /64; trusted proxies and loopback have no limit

	Operations    int           `yaml:"operations"`     // requests that use the disks of a share at once
	OperationWait time.Duration `yaml:"operation_wait"` // until one more is refused

	Upload     ByteSize `yaml:"upload"`      // of one; 0 is no limit
	FreeSpace  ByteSize `yaml:"free_space"`  // that uploads leave; a hundredth of the file system if that is less
	FreeInodes int      `yaml:"free_inodes"` // the same

	ZipsPerUser int      `yaml:"zips_per_user"` // collections that one user is sent as an archive at once; 0 offers none
	Zip         ByteSize `yaml:"zip"`           // of the files in one; 0 is no limit
	ZipEntries  int      `yaml:"zip_entries"`   // files and collections in one
}

func defaultLimits() LimitsConfig {
	return LimitsConfig{
		HeaderBytes: 64 << 10, HeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, StallTimeout: time.Minute,
		Connections: 4096, ConnectionsPerAddress: 256,
		Operations: 256, OperationWait: 10 * time.Second,
		FreeSpace: 256 << 20, FreeInodes: 1000,
		ZipsPerUser: 1, Zip: 10 << 30, ZipEntries: 100_000,
	}
}

func (l *LimitsConfig) check(prefix string, report func(key, format string, args ...any)) {
	def := defaultLimits()
	if l.HeaderBytes < 8<<10 || l.HeaderBytes > 16<<20 {
		report(prefix+"header_bytes", "%v is not between 8KiB and 16MiB; the default is %v", l.HeaderBytes, def.HeaderBytes)
	}
	for _, t := range []struct {
		key        string
		value, def time.Duration
	}{
		{"header_timeout", l.HeaderTimeout, def.HeaderTimeout},
		{"idle_timeout", l.IdleTimeout, def.IdleTimeout},
		{"stall_timeout", l.StallTimeout, def.StallTimeout},
		{"operation_wait", l.OperationWait, def.OperationWait},
	} {
		if t.value < time.Millisecond {
			report(prefix+t.key, "%v is no time to do anything in; the default is %v", t.value, t.def)
		}
	}
	for _, n := range []struct {
		key        string
		value, def int
	}{
		{"connections", l.Connections, def.Connections},
		{"connections_per_address", l.ConnectionsPerAddress, def.ConnectionsPerAddress},
		{"operations", l.Operations, def.Operations},
		{"zip_entries", l.ZipEntries, def.ZipEntries},
	} {
		if n.value < 1 || n.value > 1_000_000 {
			report(prefix+n.key, "%d is not between 1 and 1000000; the default is %d", n.value, n.def)
		}
	}
	if l.FreeInodes < 0 {
		report(prefix+"free_inodes", "%d is no number of inodes; 0 keeps none free, the default is %d", l.FreeInodes, def.FreeInodes)
	}
	if l.ZipsPerUser < 0 {
		report(prefix+"zips_per_user", "%d is no number of downloads; 0 offers none, the default is %d", l.ZipsPerUser, def.ZipsPerUser)
	}
}

// addTo says the limits that the protocol keeps in its words.
func (l *LimitsConfig) addTo(o *davfs.Options) {
	o.MaxUpload = int64(l.Upload)
	o.Reserve = davfs.Reserve{Bytes: int64(l.FreeSpace), Inodes: int64(l.FreeInodes)}
}

// archives are the bounds of what is sent as an archive, for all shares together.
func (l *LimitsConfig) archives() *davfs.Archives {
	return &davfs.Archives{PerUser: l.ZipsPerUser, Bytes: int64(l.Zip), Entries: l.ZipEntries, Of: userOrAddress}
}

// userOrAddress is who makes r as limits count: by name, or who has none by
// address, in IPv6 by /64.
func userOrAddress(r *http.Request) string {
	if id := auth.From(r.Context()); !id.IsAnonymous() {
		return id.Name
	}
	return "@" + network(recordOf(r.Context()).client.Addr()).String()
}

// maxHeaderBytes is the limit as http.Server wants it: it adds 4,096 bytes to
// what it is told (see initialReadLimitSize in net/http).
func (l *LimitsConfig) maxHeaderBytes() int { return int(l.HeaderBytes) - 4096 }

// allowThreads lets the runtime have as many threads as can be waiting for disks
// at once; by default it ends the program at 10,000. A connection can wait for
// one while it is sent a file, a request while it has a place at a gate.
func (l *LimitsConfig) allowThreads(shares int) {
	const others = 1000
	debug.SetMaxThreads(max(10_000, l.Connections+shares*l.Operations+others))
}
