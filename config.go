package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"overdav/davfs"
	"overdav/overlay"
)

// Config is everything an operator can tell overdav. A field's yaml tag is its
// key in the file; oneof lists the values it may have. config.yaml at the root
// of the project shows all of them, and a test holds that page against
// defaultConfig.
type Config struct {
	Listen         string        `yaml:"listen"`      // host:port, unix:PATH or systemd
	SocketMode     string        `yaml:"socket_mode"` // of unix:PATH; "" is what the umask leaves
	TLS            TLSConfig     `yaml:"tls"`
	CORS           CORSConfig    `yaml:"cors"`
	Landlock       string        `yaml:"landlock" oneof:"try require off"`
	PublicURL      string        `yaml:"public_url"`      // of Listen's root, as clients write it; "" is what they say
	TrustedProxies []string      `yaml:"trusted_proxies"` // addresses, and ranges in CIDR notation
	Anonymous      bool          `yaml:"anonymous"`       // serve everybody who can reach Listen
	StopTimeout    time.Duration `yaml:"stop_timeout"`    // how long running requests may take to end
	Users          []UserConfig  `yaml:"users" reload:"yes"`
	Auth           AuthConfig    `yaml:"auth"`
	Log            LogConfig     `yaml:"log"`
	Audit          string        `yaml:"audit" reload:"yes"` // a file; "" is none
	Metrics        MetricsConfig `yaml:"metrics"`
	Limits         LimitsConfig  `yaml:"limits"`
	Shares         []ShareConfig `yaml:"shares"`
}

// LogConfig says what is written to standard error.
type LogConfig struct {
	Level  string `yaml:"level" oneof:"debug info warn error"`
	Format string `yaml:"format" oneof:"auto console json"` // auto: console on a terminal, else json
}

// ShareConfig is one merged tree and where clients find it.
type ShareConfig struct {
	Path             string     `yaml:"path"`  // in the server, as in an address
	Lower            []string   `yaml:"lower"` // topmost first
	Upper            string     `yaml:"upper"` // "" is the state directory's, see layers.go; {user} makes one for each user
	Work             string     `yaml:"work"`  // "" is beside upper
	Xattr            string     `yaml:"xattr" oneof:"auto trusted user"`
	RedirectDir      string     `yaml:"redirect_dir" oneof:"on off"`
	Metacopy         string     `yaml:"metacopy" oneof:"on off"`
	Durability       string     `yaml:"durability" oneof:"full ordered none"`
	ReadOnly         bool       `yaml:"read_only"`
	NoGuard          bool       `yaml:"no_guard"`
	Symlinks         string     `yaml:"symlinks" oneof:"within hide"`
	Names            string     `yaml:"names" oneof:"utf8 bytes portable"`
	Junk             string     `yaml:"junk" oneof:"store drop refuse"`
	PropfindInfinity int        `yaml:"propfind_infinity"` // resources in one answer; 0 refuses
	Locks            LockConfig `yaml:"locks"`

	Access []RuleConfig `yaml:"access" reload:"yes"` // nil: everybody who may come in may do everything

	Idle    time.Duration `yaml:"idle" reload:"yes"`     // with {user}: after this time without requests an upper is closed
	MaxOpen int           `yaml:"max_open" reload:"yes"` // with {user}: uppers at once
	TTL     time.Duration `yaml:"ttl" reload:"yes"`      // with {user}: after this time without requests an upper is removed; 0 is never
	Quota   ByteSize      `yaml:"quota" reload:"yes"`    // of an upper; 0 is none
}

// LockConfig bounds what clients may lock.
type LockConfig struct {
	Timeout time.Duration `yaml:"timeout"` // the longest; a lock can be refreshed
	PerUser int           `yaml:"per_user"`
	Total   int           `yaml:"total"`
}

func defaultConfig() Config {
	return Config{
		Listen:      "127.0.0.1:8080",
		TLS:         defaultTLS(),
		CORS:        defaultCORS(),
		Landlock:    "try",
		StopTimeout: 30 * time.Second,
		Auth:        defaultAuth(),
		Log:         LogConfig{Level: "info", Format: "auto"},
		Limits:      defaultLimits(),
		Shares:      []ShareConfig{defaultShare()},
	}
}

func defaultShare() ShareConfig {
	return ShareConfig{
		Path: "/", Xattr: "auto", RedirectDir: "on", Metacopy: "off", Durability: "full",
		Idle: 10 * time.Minute, MaxOpen: 256,
		Symlinks: "within", Names: "utf8", Junk: "store",
		Locks: LockConfig{Timeout: time.Hour, PerUser: 1000, Total: 10_000},
	}
}

// A ConfigError is one mistake in what the operator said.
type ConfigError struct {
	Where   string // file:line:column, the flag, or the variable
	Key     string // the key in the file; empty when Where says it
	Problem string // what is wrong; and, after a semicolon, what to do
}

func (e *ConfigError) Error() string {
	if e.Key == "" {
		return e.Where + ": " + e.Problem
	}
	return e.Where + ": " + e.Key + ": " + e.Problem
}

// An origin is where the value of a key came from.
type origin struct {
	where, key string // as in ConfigError
	wrong      bool   // a mistake in it has been reported: no use in checking the value
}

// origins has the origin of each key that was set, by its full name, as in
// "shares[0].upper".
type origins map[string]origin

// errorf returns a ConfigError about key, or nil when the operator has been
// told of one already. A key that nobody set is reported at its nearest parent.
func (o origins) errorf(key, format string, args ...any) error {
	at := origin{where: "overdav", key: key}
	for k := key; ; k = k[:max(strings.LastIndexAny(k, ".["), 0)] {
		if parent, ok := o[k]; ok {
			if parent.wrong {
				return nil
			}
			at.where = parent.where
			if k == key || parent.key == "" && k != "" { // of a flag, which says more than a key
				at.key = parent.key
			}
			break
		}
		if k == "" {
			break
		}
	}
	return &ConfigError{at.where, at.key, fmt.Sprintf(format, args...)}
}

// spoil notes that the operator has been told of the mistakes in err.
func (o origins) spoil(err error) {
	for _, mistake := range split(err) {
		var config *ConfigError
		if !errors.As(mistake, &config) {
			continue
		}
		for key, at := range o {
			if key != "" && at.where == config.Where {
				at.wrong = true
				o[key] = at
			}
		}
	}
}

// check returns every mistake that can be seen without touching a disk,
// joined, in the order of the keys.
func (c *Config) check(o origins) error {
	var errs []error
	report := func(key, format string, args ...any) {
		errs = append(errs, o.errorf(key, format, args...))
	}
	checkOneOf(reflect.ValueOf(c).Elem(), "", report)
	if err := c.checkListen(); err != nil {
		report("listen", "%v", err)
	}
	c.checkSocketMode(report)
	c.TLS.check(report)
	c.CORS.check(report)
	if _, err := c.publicURL(); err != nil {
		report("public_url", "%v", err)
	}
	for i, text := range c.TrustedProxies {
		if _, err := parseProxy(text); err != nil {
			report(fmt.Sprintf("trusted_proxies[%d]", i), "%v", err)
		}
	}
	if c.StopTimeout <= 0 {
		report("stop_timeout", "%v is no time to finish anything in; the default is 30s", c.StopTimeout)
	}
	c.checkUsers(report)
	c.checkAuth(report)
	c.Metrics.check("metrics.", c.authenticates(), report)
	c.Limits.check("limits.", report)
	if len(c.Shares) == 0 {
		report("shares", "there is none; name a directory: overdav serve DIR")
	}
	for i, s := range c.Shares {
		s.check(fmt.Sprintf("shares[%d].", i), report)
	}
	c.checkApart(report)
	c.checkAccess(report)
	return errors.Join(errs...)
}

func (s *ShareConfig) check(prefix string, report func(key, format string, args ...any)) {
	if !isPath(s.Path) {
		report(prefix+"path", "%q is not the path of an address; write it as in / or /films", s.Path)
	} else if s.Path == ownPath || strings.HasPrefix(s.Path, ownPath+"/") {
		report(prefix+"path", "what begins with %s is overdav's own; choose another", ownPath)
	}
	if len(s.Lower) == 0 {
		report(prefix+"lower", "nothing to serve; name a directory: overdav serve DIR")
	}
	if slices.Contains(s.Lower, "") {
		report(prefix+"lower", "an empty name is no directory; remove it")
	}
	if s.Work != "" && s.Upper == "" {
		report(prefix+"work", "a work directory without upper has no use; add upper or remove work")
	}
	switch {
	case s.Metacopy != "on":
	case s.Xattr == "user":
		report(prefix+"metacopy", "the kernel reads no metacopy whose marks are in user.*; set xattr to trusted, which needs root, or metacopy to off")
	case s.RedirectDir == "off":
		report(prefix+"metacopy", "a renamed file finds its content by a redirect; set redirect_dir to on, or metacopy to off")
	}
	s.checkUserParts(prefix, report)
	if s.Idle <= 0 {
		report(prefix+"idle", "%v would close uppers at once; the default is 10m", s.Idle)
	}
	if s.MaxOpen < 1 {
		report(prefix+"max_open", "%d would let nobody in; the default is 256", s.MaxOpen)
	}
	if s.TTL != 0 && (s.TTL < time.Minute || !strings.Contains(s.Upper, userPart)) {
		report(prefix+"ttl", "%v: uppers of users, those with {user}, can be removed after a minute or more; 0 keeps them", s.TTL)
	}
	if s.Quota > 0 && s.Quota < 1<<20 {
		report(prefix+"quota", "%v is hardly room for anything; write it as in 10GiB, or 0 for none", s.Quota)
	}
	if s.PropfindInfinity < 0 {
		report(prefix+"propfind_infinity", "%d is no number of resources; 0 refuses such requests", s.PropfindInfinity)
	}
	s.Locks.check(prefix+"locks.", report)
}

// checkUserParts refuses uppers of users that would get into each other's way:
// all that belongs to a user must be below a directory called like him.
func (s *ShareConfig) checkUserParts(prefix string, report func(key, format string, args ...any)) {
	const example = "write it as in /var/lib/overdav/{user}/upper"
	for _, place := range []struct{ key, dir string }{{"upper", s.Upper}, {"work", s.Work}} {
		before, after, found := strings.Cut(place.dir, userPart)
		switch other := placeholder.FindString(before + after); {
		case strings.Contains(after, userPart):
			report(prefix+place.key, "{user} can stand there once; %s", example)
		case other != "":
			report(prefix+place.key, "%s stands for nothing, only {user} does; %s", other, example)
		case found && (before != "" && !strings.HasSuffix(before, "/") || strings.Trim(after, "/") == "" || after[0] != '/'):
			report(prefix+place.key, "{user} must be the whole name of a directory above; %s", example)
		}
	}
	if s.Work == "" || s.Upper == "" {
		return
	}
	ofUpper, _, inUpper := strings.Cut(s.Upper, userPart)
	ofWork, _, inWork := strings.Cut(s.Work, userPart)
	if inUpper != inWork || inUpper && filepath.Clean(ofUpper) != filepath.Clean(ofWork) {
		report(prefix+"work", "work and upper must both be below the same directory of the user; leave work out, and it is beside upper")
	}
}

var placeholder = regexp.MustCompile(`\{[a-z]*\}`)

// checkApart refuses shares that would get into each other's way.
func (c *Config) checkApart(report func(key, format string, args ...any)) {
	for i, s := range c.Shares {
		for j, other := range c.Shares[:i] {
			key := fmt.Sprintf("shares[%d].", i)
			if isPath(s.Path) && samePath(s.Path, other.Path) {
				report(key+"path", "shares[%d] is at %s already; choose another", j, other.Path)
			}
			if s.Upper != "" && filepath.Clean(s.Upper) == filepath.Clean(other.Upper) {
				report(key+"upper", "shares[%d] has the same; each share keeps its changes in an upper of its own", j)
			}
			if s.Work != "" && filepath.Clean(s.Work) == filepath.Clean(other.Work) {
				report(key+"work", "shares[%d] has the same; each share needs a work directory of its own", j)
			}
			if s.Upper == "" && other.Upper == "" && !s.ReadOnly && !other.ReadOnly && slices.Equal(s.Lower, other.Lower) {
				report(key+"upper", "shares[%d] has the same lowers and would keep its changes in the same place; name an upper for one of them", j)
			}
		}
	}
}

// samePath says whether two paths of shares, which may be escaped differently,
// are one.
func samePath(a, b string) bool {
	p, err := davfs.NewPrefixes(a, b)
	return err == nil && p[0] == p[1]
}

func (l *LockConfig) check(prefix string, report func(key, format string, args ...any)) {
	const year = 365 * 24 * time.Hour
	if l.Timeout < time.Second || l.Timeout > year {
		report(prefix+"timeout", "%v is not between 1s and %v; the default is 1h", l.Timeout, year)
	}
	if l.PerUser < 1 {
		report(prefix+"per_user", "%d would let nobody lock anything; the default is 1000", l.PerUser)
	}
	if l.Total < 1 {
		report(prefix+"total", "%d would let nobody lock anything; the default is 10000", l.Total)
	}
}

// ownPath is where everything has its place that is no share.
const ownPath = "/.overdav"

// isPath says whether path, escaped as in an address, can be a share's. Who
// parses the paths of requests says so.
func isPath(path string) bool {
	_, err := davfs.NewPrefixes(path)
	return err == nil && strings.HasPrefix(path, "/")
}

// publicURL returns the address of the server's root, nil when it is not set.
func (c *Config) publicURL() (*url.URL, error) {
	if c.PublicURL == "" {
		return nil, nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.ContainsAny(c.PublicURL, "?#") || u.Path != "" && !isPath(u.EscapedPath()) || !utf8.ValidString(u.Path) {
		return nil, fmt.Errorf("%q is not the address of a server; write it as in https://files.example.org/dav", c.PublicURL)
	}
	return u, nil
}

// parseProxy reads an address or a range of addresses.
func parseProxy(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a range; write it as in 127.0.0.1 or 192.0.2.0/24", text)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("%q has bits behind its length; write %v, or %v for the one address", text, masked, prefix.Addr())
	}
	return prefix, nil
}

// checkOneOf holds every string that has a oneof tag against it.
func checkOneOf(v reflect.Value, prefix string, report func(key, format string, args ...any)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := prefix + f.Tag.Get("yaml")
			if list := f.Tag.Get("oneof"); list != "" {
				if words := strings.Fields(list); !slices.Contains(words, v.Field(i).String()) {
					report(key, "%q is not one of %s", v.Field(i).String(), strings.Join(words, ", "))
				}
				continue
			}
			if v.Field(i).Kind() == reflect.Struct {
				key += "."
			}
			checkOneOf(v.Field(i), key, report)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			for i := range v.Len() {
				checkOneOf(v.Index(i), fmt.Sprintf("%s[%d].", prefix, i), report)
			}
		}
	}
}

// checkListen refuses what is no address, and an address that checkReach
// refuses. Where systemd listens is seen when it hands over the sockets.
func (c *Config) checkListen() error {
	if c.Listen == listenSystemd {
		return nil
	}
	if path, ok := strings.CutPrefix(c.Listen, "unix:"); ok {
		if path == "" {
			return errors.New("unix: needs a path; as in unix:/run/overdav.sock")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("%q is not an address; write host:port, as in 127.0.0.1:8080, or unix:PATH", c.Listen)
	}
	addr, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("%q: %w; write host:port, as in 127.0.0.1:8080", c.Listen, err)
	}
	return c.checkReach(addr)
}

// checkReach refuses an address that others can reach while nobody has to say
// who they are, or where what they say could be overheard.
func (c *Config) checkReach(addr net.Addr) error {
	if isLocal(addr) {
		return nil
	}
	if !c.Anonymous && !c.authenticates() {
		return fmt.Errorf("%q can be reached from other machines, and nobody there would have to say who they are; "+
			"listen on 127.0.0.1, name users, or allow it with --anonymous", addr)
	}
	if c.plaintext() && !c.Auth.AllowPlaintext {
		return errors.New("passwords would cross the network for everybody to read; add tls, name a proxy that has TLS in trusted_proxies, or say auth.allow_plaintext_auth: true")
	}
	return nil
}

// isLocal says whether no other machine can reach the address.
func isLocal(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// absolute makes the relative names of files and directories begin at dir.
func (c *Config) absolute(dir string) {
	c.TLS.absolute(dir)
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if name, ok := strings.CutPrefix(c.Listen, "unix:"); ok && name != "" {
		abs(&name)
		c.Listen = "unix:" + name
	}
	abs(&c.Audit)
	abs(&c.Auth.Tokens)
	for i := range c.Users {
		abs(&c.Users[i].HTPasswd)
	}
	for i := range c.Shares {
		s := &c.Shares[i]
		for i := range s.Lower {
			abs(&s.Lower[i])
		}
		abs(&s.Upper)
		abs(&s.Work)
	}
}

// site says where clients find the server. The configuration has passed check.
func (c *Config) site() (davfs.Site, error) {
	var site davfs.Site
	var err error
	if site.PublicURL, err = c.publicURL(); err != nil {
		return davfs.Site{}, err
	}
	for _, text := range c.TrustedProxies {
		prefix, err := parseProxy(text)
		if err != nil {
			return davfs.Site{}, err
		}
		site.TrustedProxies = append(site.TrustedProxies, prefix)
	}
	return site, nil
}

// davOptions says the share in the words of the protocol. What a share does not
// decide alone is for newHandler to add. The share has passed check.
func (s *ShareConfig) davOptions() davfs.Options {
	return davfs.Options{
		Prefix:        strings.TrimSuffix(s.Path, "/"),
		ReadOnly:      s.ReadOnly,
		InfiniteDepth: s.PropfindInfinity,
		Junk: map[string]davfs.Junk{
			"store": davfs.JunkStore, "drop": davfs.JunkDrop, "refuse": davfs.JunkRefuse,
		}[s.Junk],
		ByteNames:     s.Names == "bytes",
		PortableNames: s.Names == "portable",
		HideSymlinks:  s.Symlinks == "hide",
	}
}

// lockOptions are the limits of the share's locks, and whether they are to
// survive a power cut: they are not worth more than the changes.
func (s *ShareConfig) lockOptions() davfs.LockOptions {
	return davfs.LockOptions{
		MaxTimeout: s.Locks.Timeout,
		MaxPerUser: s.Locks.PerUser,
		MaxLocks:   s.Locks.Total,
		NoSync:     s.Durability != "full",
	}
}

// engineOptions says the share in the engine's words. The share has passed check.
func (s *ShareConfig) engineOptions() overlay.Options {
	return overlay.Options{
		Lowers: s.Lower,
		Upper:  s.Upper,
		Work:   s.Work,
		Xattr: map[string]overlay.Namespace{
			"auto": overlay.XattrAuto, "trusted": overlay.XattrTrusted, "user": overlay.XattrUser,
		}[s.Xattr],
		NoRedirect: s.RedirectDir == "off",
		Metacopy:   s.Metacopy == "on",
		ReadOnly:   s.ReadOnly,
		Durability: map[string]overlay.Durability{
			"full": overlay.DurabilityFull, "ordered": overlay.DurabilityOrdered, "none": overlay.DurabilityNone,
		}[s.Durability],
		NoGuard: s.NoGuard,
		Quota:   int64(s.Quota),
	}
}
