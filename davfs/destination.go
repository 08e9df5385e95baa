package davfs

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

var (
	// errOtherServer is a URL of another server, as a Destination: 502
	// (RFC 4918, section 9.9.4).
	errOtherServer = errors.New("another server")
	// errOutsideShare is a URL of this server that lies outside the share: as a
	// Destination 502, as a request target 404.
	errOutsideShare = errors.New("outside the share")
)

// maxForwarded is how many hosts are taken from each forwarding header.
const maxForwarded = 8

// A Site says where the server is for its clients, which behind a proxy is not
// what it sees itself.
type Site struct {
	// PublicURL is the address of the server's root as clients write it. Its
	// path, if any, stands before every path of the server. Nil means that the
	// server is where the Host header says.
	PublicURL *url.URL

	// TrustedProxies are the peers whose Forwarded and X-Forwarded-* headers
	// are believed. Peers on a Unix socket always are: whoever may write to it
	// was given the socket.
	TrustedProxies []netip.Prefix
}

// A front is the server as the client of one request sees it.
type front struct {
	site    *Site
	request *http.Request
	trusted bool // the request came through a proxy whose word counts

	prefix Path // what stands before the server's own paths under the names of hosts

	// A proxy that passes on its own name for the server may have put that into
	// the Destination as well, and then hostPrefix stands before the path.
	hostPrefix Path

	policy namePolicy
}

// front finds out how the client of r knows the server. Its error is the
// proxy's or the configuration's, never the client's.
func (s *Site) front(r *http.Request, policy namePolicy) (front, error) {
	f := front{site: s, request: r, trusted: s.trusts(r.RemoteAddr), policy: policy}
	prefix := ""
	if f.trusted {
		if elements := headerElements(r.Header, "X-Forwarded-Prefix"); len(elements) > 0 {
			prefix = elements[0]
		}
	}
	if s.PublicURL != nil {
		prefix = s.PublicURL.EscapedPath()
	}
	if prefix != "" {
		p, _, err := parsePath(prefix, namePolicy{})
		if err != nil {
			return front{}, fmt.Errorf("public prefix: %w", err)
		}
		f.prefix = p
	}
	if s.PublicURL == nil {
		f.hostPrefix = f.prefix
	}
	return f, nil
}

// hosts are the canonical names by which the client may call the server, but for
// that in its Host header.
func (f front) hosts() []string {
	var hosts []string
	if f.trusted {
		hosts = forwardedHosts(f.request.Header)
	}
	if f.site.PublicURL != nil {
		hosts = append(hosts, canonicalHost(f.site.PublicURL.Host))
	}
	return hosts
}

// trusts reports whether the peer is a proxy whose word counts.
func (s *Site) trusts(remoteAddr string) bool {
	if len(s.TrustedProxies) == 0 && remoteAddr != "" && remoteAddr[0] != '@' {
		return false
	}
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil { // a Unix socket's peer is "@" or ""
		return remoteAddr == "" || strings.HasPrefix(remoteAddr, "@")
	}
	addr := peer.Addr().Unmap().WithZone("")
	for _, prefix := range s.TrustedProxies {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// forwardedHosts returns the hosts that proxies say the client asked for:
// X-Forwarded-Host with X-Forwarded-Port, and the host parameters of Forwarded
// (RFC 7239, section 4).
func forwardedHosts(h http.Header) []string {
	var hosts []string
	port := strings.Trim(h.Get("X-Forwarded-Port"), " \t")
	for i, host := range headerElements(h, "X-Forwarded-Host") {
		if i == maxForwarded {
			break
		}
		hosts = append(hosts, canonicalHost(host))
		if port != "" && !strings.Contains(host, ":") {
			hosts = append(hosts, canonicalHost(host+":"+port))
		}
	}
	for i, element := range headerElements(h, "Forwarded") {
		if i == maxForwarded {
			break
		}
		for pair := range strings.SplitSeq(element, ";") {
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if strings.EqualFold(name, "host") {
				hosts = append(hosts, canonicalHost(strings.Trim(value, `"`)))
			}
		}
	}
	return hosts
}

// headerElements splits a list field at its commas, without the white space.
func headerElements(h http.Header, name string) []string {
	var elements []string
	for _, line := range h.Values(name) {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.Trim(element, " \t"); element != "" {
				elements = append(elements, element)
			}
		}
	}
	return elements
}

// canonicalHost brings the authority of a URL or a Host header into the form in
// which two of them can be compared: lower case, no user, no dot at the end, no
// port 80 or 443. Both ports go whatever the scheme, since behind a proxy that
// ends TLS the scheme is not what the client wrote.
func canonicalHost(authority string) string {
	host := strings.ToLower(authority[strings.LastIndexByte(authority, '@')+1:])
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
	}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		host = addr.String()
	}
	host = strings.TrimSuffix(host, ".")
	if port == "" || port == "80" || port == "443" {
		return host
	}
	return host + ":" + port
}

// requestPath returns the path that r names, from the server's root. A proxy has
// taken the public prefix away, if there is one.
//
// The path is read as it was sent. EscapedPath would not do: when it dislikes a
// character, it encodes the decoded path anew, and "%2f|" becomes a slash.
func requestPath(r *http.Request, policy namePolicy) (p Path, slash bool, err error) {
	escaped := r.URL.RawPath
	if escaped == "" { // then the two are the same
		escaped = r.URL.EscapedPath()
	}
	return parsePath(escaped, policy)
}

// resolve returns the path, from the server's root, of a URL that the client
// wrote into a header: a Destination or the tag of an If list (Simple-ref,
// RFC 4918, section 8.3). It may be absolute, with any scheme, or begin with a
// slash.
func (f front) resolve(ref string) (p Path, slash bool, err error) {
	authority, path, err := splitRef(ref)
	if err != nil {
		return Path{}, false, err
	}
	prefix := f.prefix
	if authority != "" {
		host := canonicalHost(authority)
		switch {
		case host != "" && slices.Contains(f.hosts(), host):
		case host != "" && host == canonicalHost(f.request.Host):
			prefix = f.hostPrefix
		default:
			return Path{}, false, fmt.Errorf("%w: %s", errOtherServer, host)
		}
	}
	p, slash, err = parsePath(path, f.policy)
	if err != nil {
		return Path{}, false, err
	}
	p, ok := p.below(prefix)
	if !ok {
		return Path{}, false, errOutsideShare
	}
	return p, slash, nil
}

// splitRef cuts a Simple-ref into its authority, "" if it has none, and its
// escaped path. A query or a fragment is refused: a client that forgot to
// encode a "?" or "#" means another name than the one before it.
func splitRef(ref string) (authority, path string, err error) {
	bad := fmt.Errorf("%w: no URL, or one with a query", errBadHeader) // which one is kept to itself: it may hold a password
	if len(ref) > 3*maxPath+maxTokenLength {
		return "", "", fmt.Errorf("%w: URL", errHeaderTooLarge)
	}
	if strings.ContainsAny(ref, "?#") {
		return "", "", bad
	}
	if strings.HasPrefix(ref, "/") {
		return "", ref, nil
	}
	scheme, rest, found := strings.Cut(ref, "://")
	if !found || !isScheme(scheme) {
		return "", "", bad
	}
	i := strings.IndexByte(rest, '/')
	switch {
	case i < 0 && rest != "":
		return rest, "/", nil
	case i > 0:
		return rest[:i], rest[i:], nil
	}
	return "", "", bad
}

// isScheme reports whether s is a URL scheme (RFC 3986, section 3.1).
func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		letter := 'a' <= c && c <= 'z'
		other := '0' <= s[i] && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return s != ""
}

// destination returns the path, from the server's root, that the Destination
// header names (RFC 4918, section 10.3).
func (f front) destination(h http.Header) (p Path, slash bool, err error) {
	ref, err := singleHeader(h, "Destination")
	if err != nil {
		return Path{}, false, err
	}
	if ref == "" {
		return Path{}, false, fmt.Errorf("%w: no Destination", errBadHeader)
	}
	return f.resolve(ref)
}
