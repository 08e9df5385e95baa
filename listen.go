package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// listenSystemd is the address of a server that is handed its sockets.
const listenSystemd = "systemd"

// checkSocketMode refuses what are no modes of a socket.
func (c *Config) checkSocketMode(report func(key, format string, args ...any)) {
	if c.SocketMode == "" {
		return
	}
	if _, err := parseMode(c.SocketMode); err != nil {
		report("socket_mode", "%v", err)
	} else if !strings.HasPrefix(c.Listen, "unix:") {
		report("socket_mode", "only a unix: socket has modes; remove it, or listen on unix:PATH")
	}
}

// parseMode reads the modes of a file as chmod(1) writes them.
func parseMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, fmt.Errorf("%q are no modes; write them as in 0660", text)
	}
	return fs.FileMode(mode), nil
}

// sockets are what the program listens on.
type sockets struct {
	served []net.Listener
	plain  []net.Listener // tls.http_listen's
}

// listen opens what c says to listen on, or takes what systemd has opened,
// which its socket units decide. c has passed check.
func listen(c Config) (sockets, error) {
	s, err := activated(c)
	if err != nil {
		return sockets{}, err
	}
	if len(s.served) == 0 {
		ln, err := listenAt(c)
		if err != nil {
			s.close()
			return sockets{}, err
		}
		s.served = append(s.served, ln)
	}
	if len(s.plain) == 0 && c.TLS.HTTPListen != "" {
		ln, err := net.Listen("tcp", c.TLS.HTTPListen)
		if err != nil {
			s.close()
			return sockets{}, &hintError{err, "tls.http_listen names an address that is free, or overdav-http.socket opens it"}
		}
		s.plain = append(s.plain, ln)
	}
	return s, nil
}

func listenAt(c Config) (net.Listener, error) {
	if c.Listen == listenSystemd {
		return nil, &hintError{errors.New("systemd has handed over no socket"), "start the socket unit, overdav.socket, or set listen to an address"}
	}
	if path, ok := strings.CutPrefix(c.Listen, "unix:"); ok {
		return listenUnix(path, c.SocketMode)
	}
	return listenTCP(c.Listen)
}

// plainSocket is what a socket unit calls a socket for plain HTTP
// (FileDescriptorName=; systemd.socket(5)).
const plainSocket = "http"

// activated returns the sockets that systemd has opened for this process
// (sd_listen_fds(3)), none if it was not systemd that started it.
func activated(c Config) (sockets, error) {
	var s sockets
	for _, f := range activation.Files(true) {
		ln, err := net.FileListener(f)
		_ = f.Close() // the listener has a descriptor of its own
		switch {
		case err != nil:
		case f.Name() != plainSocket:
			s.served = append(s.served, ln)
			err = c.checkReach(ln.Addr())
		default:
			s.plain = append(s.plain, ln)
			if !c.TLS.on() {
				err = errors.New("it is for sending clients on to TLS, and there is none; add tls, or give the socket another name")
			}
		}
		if err != nil {
			s.close()
			return sockets{}, fmt.Errorf("socket %s from systemd: %w", f.Name(), err)
		}
	}
	return s, nil
}

func (s *sockets) close() {
	for _, ln := range slices.Concat(s.served, s.plain) {
		_ = ln.Close() // the server has closed it already, as a rule
	}
}

// listenTCP sets no keep-alive, for which Go would make four calls for each
// connection: every wait for a client has a limit that finds out as well that it
// is gone.
func listenTCP(addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &hintError{err, "another program listens there; choose another --listen"}
	}
	return ln, err
}

// listenUnix opens a socket with the modes given, or those that the umask
// leaves.
func listenUnix(path, modes string) (net.Listener, error) {
	ln, err := bindUnix(path, modes)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	// A name is left behind when a server dies. It is in the way only while
	// somebody answers at it.
	conn, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		_ = conn.Close() // it told us what we wanted to know
		return nil, &hintError{err, "another server listens there; choose another --listen"}
	}
	info, statErr := os.Lstat(path)
	if !errors.Is(dialErr, syscall.ECONNREFUSED) || statErr != nil || info.Mode().Type() != fs.ModeSocket {
		return nil, &hintError{err, "something else has that name; choose another --listen"}
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return bindUnix(path, modes)
}

// bindUnix gives the socket its modes from the first moment on: bind(2) takes
// them from the umask, which is the whole process's, so nobody else may be
// making files.
func bindUnix(path, modes string) (net.Listener, error) {
	if modes == "" {
		return net.Listen("unix", path)
	}
	mode, err := parseMode(modes)
	if err != nil {
		return nil, err
	}
	defer syscall.Umask(syscall.Umask(0o777 &^ int(mode)))
	return net.Listen("unix", path)
}

// urlAt is where clients find path on a listener of addr.
func (c *Config) urlAt(addr net.Addr, path string) string {
	path = strings.TrimSuffix(path, "/")
	switch {
	case addr.Network() == "unix":
		return strings.TrimSuffix("unix:"+addr.String()+" "+path, " ")
	case c.TLS.on():
		return "https://" + addr.String() + path + "/"
	default:
		return "http://" + addr.String() + path + "/"
	}
}
