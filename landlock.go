package main

import (
	"crypto/x509"
	"fmt"
	"mime"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/rs/zerolog"
)

// What a sandbox lets the program do beneath a directory.
const (
	readRights landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSReadDir
	// writeRights are all that making, changing and moving files takes, and
	// whiteouts, which are devices. Nothing is ever executed.
	writeRights landlock.AccessFSSet = readRights | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRefer |
		ll.AccessFSRemoveDir | ll.AccessFSRemoveFile |
		ll.AccessFSMakeChar | ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo |
		ll.AccessFSMakeBlock | ll.AccessFSMakeSym
	logRights    landlock.AccessFSSet = ll.AccessFSWriteFile | ll.AccessFSMakeReg // to open it anew after it was rotated
	socketRights landlock.AccessFSSet = ll.AccessFSRemoveFile                     // a Unix socket's name goes at a stop
)

// A sandbox is what the program may do with files once everything that it
// listens on is open: what is in force afterwards holds for a request that has
// found a way around every other check, too (Landlock; landlock.7).
//
// It does not govern what is open already, and no chmod, chown, utimes and
// setxattr.
type sandbox map[string]landlock.AccessFSSet // by directory

func (s sandbox) allow(rights landlock.AccessFSSet, dirs ...string) {
	for _, dir := range dirs {
		s[dir] |= rights
	}
}

// allowFile allows something with a file, which may be replaced by another of its
// name: hence with its directory, and that of what a symbolic link leads to.
func (s sandbox) allowFile(rights landlock.AccessFSSet, name string) {
	if name == "" {
		return
	}
	s.allow(rights, filepath.Dir(name))
	s.allow(rights, filepath.Dir(resolve(name)))
}

// newSandbox allows what c and its shares need. file is the configuration's.
func newSandbox(c Config, file string, all shares) sandbox {
	s := make(sandbox)
	s.allow(readRights, "/proc") // mounts, and what the program uses itself
	for _, share := range all {
		l := share.layers
		s.allow(readRights, l.Lower...)
		rights := writeRights
		if l.ReadOnly {
			rights = readRights
		}
		if l.Upper != "" {
			s.allow(rights, beforeUser(l.Upper), beforeUser(l.Work))
		}
	}
	s.allowFile(readRights, absolutePath(file))
	if c.TLS.ACME.on() {
		s.allow(writeRights, c.TLS.ACME.Cache)
		s.allowResolver()
	}
	s.allowFile(logRights, c.Audit)
	s.allowFile(writeRights, c.Auth.Tokens)
	for _, u := range c.Users {
		s.allowFile(readRights, u.HTPasswd)
	}
	for _, name := range []string{c.TLS.Cert, c.TLS.Key, c.TLS.ClientCA} {
		s.allowFile(readRights, name)
	}
	if path, ok := strings.CutPrefix(c.Listen, "unix:"); ok {
		s.allowFile(socketRights, absolutePath(path))
	}
	return s
}

// allowResolver allows what Go reads to find the authority. Where these are links,
// as resolv.conf is into a directory of who manages the network, they may be
// replaced; a file in /etc that is replaced is not read again before a restart,
// because /etc has more than we are to see.
func (s sandbox) allowResolver() {
	for _, name := range []string{"/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"} {
		target := resolve(name)
		if dir := filepath.Dir(target); dir != "/etc" {
			s.allow(readRights, dir)
		}
		s.allow(ll.AccessFSReadFile, target)
	}
}

// beforeUser is the directory in which a directory for each user is made, or dir
// itself if it is one for all.
func beforeUser(dir string) string {
	before, _, each := strings.Cut(dir, userPart)
	if each {
		return filepath.Dir(before)
	}
	return dir
}

func absolutePath(name string) string {
	if name == "" {
		return ""
	}
	abs, err := filepath.Abs(name)
	if err != nil { // there is no working directory; then nobody has opened the file either
		return ""
	}
	return abs
}

// enter puts the sandbox in force, for all threads and for good. With mode "try"
// as much of it as this kernel can; with "require" all or an error.
func (s sandbox) enter(c Config, log zerolog.Logger) error {
	mode := c.Landlock
	if mode == "off" {
		return nil
	}
	preload()
	config := landlock.Config{
		HandledAccessFS:  landlock.V5.HandledAccessFS,
		HandledAccessNet: ll.AccessNetBindTCP | ll.AccessNetConnectTCP,
	}
	if c.TLS.ACME.on() {
		config.HandledAccessNet &^= ll.AccessNetConnectTCP // to the authority
		_, _ = x509.SystemCertPool()                       // read and kept; who misses one says so
		net.DefaultResolver.PreferGo = true                // C's loads libraries
	}
	if mode == "try" {
		config = config.BestEffort()
	}
	if err := config.Restrict(s.rules()...); err != nil {
		return &hintError{fmt.Errorf("landlock: %w", err), "landlock: require needs Linux 6.10 with Landlock enabled; landlock: try takes what there is"}
	}
	version := 0
	if runtime.GOOS == "linux" {
		version, _ = ll.LandlockGetABIVersion() // an error is a kernel without
	}
	log.Info().Int("abi", version).Msg("landlock")
	return nil
}

func (s sandbox) rules() []landlock.Rule {
	var rules []landlock.Rule
	for dir, rights := range s {
		// What is not there yet, as an upper of a share without users, is made
		// by nobody else either.
		rules = append(rules, landlock.PathAccess(rights, dir).IgnoreIfMissing())
	}
	return rules
}

// preload reads what Go reads from files when it is first needed.
func preload() {
	_ = mime.TypeByExtension(".html")
	_ = time.Now().Local().String()
}
