package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"overdav/auth"
)

// UserConfig is a user, or a file of users.
type UserConfig struct {
	Name     string `yaml:"name"`
	Password string `yaml:"password"` // a hash; "" lets nobody in by a password
	Groups   Words  `yaml:"groups"`
	Disabled bool   `yaml:"disabled"` // nobody comes in under the name

	HTPasswd string `yaml:"htpasswd"` // a file; all users in it are in Groups
}

// AuthConfig says how users come in.
type AuthConfig struct {
	UserHeader     string        `yaml:"user_header" reload:"yes"` // in which a trusted proxy says who makes a request
	Admins         Words         `yaml:"admins" reload:"yes"`      // who may reset what is not their own, and end others' locks
	Tokens         string        `yaml:"tokens"`                   // a file; "" is no tokens
	Cache          time.Duration `yaml:"cache"`                    // for how long right credentials are remembered after their last use
	AllowPlaintext bool          `yaml:"allow_plaintext_auth"`     // over plain HTTP from other machines
}

func defaultAuth() AuthConfig { return AuthConfig{Cache: auth.DefaultKeep} }

// authenticates says whether requests have to say who makes them.
func (c *Config) authenticates() bool { return len(c.Users) > 0 || c.Auth.UserHeader != "" }

func (c *Config) checkUsers(report func(key, format string, args ...any)) {
	for i, name := range c.Auth.Admins {
		if _, ok := auth.FoldName(name); !ok {
			report(fmt.Sprintf("auth.admins[%d]", i), "%q is not the name of a user", name)
		}
	}
	seen := make(map[string]string)
	for i := range c.Users {
		prefix := fmt.Sprintf("users[%d].", i)
		u := &c.Users[i]
		u.check(prefix, report)
		name, ok := auth.FoldName(u.Name)
		if !ok {
			continue
		}
		if first := seen[name]; first != "" {
			report(prefix+"name", "%s is called %q already; capitals make no difference", first, name)
		}
		seen[name] = strings.TrimSuffix(prefix, ".")
	}
}

func (u *UserConfig) check(prefix string, report func(key, format string, args ...any)) {
	switch _, ok := auth.FoldName(u.Name); {
	case u.HTPasswd != "" && (u.Name != "" || u.Password != "" || u.Disabled):
		report(prefix+"htpasswd", "names and passwords are in the file; write a user of your own as another item of users")
	case u.HTPasswd != "":
	case u.Name == "":
		report(strings.TrimSuffix(prefix, "."), "has neither name nor htpasswd; write { name: alice, password: HASH } or { htpasswd: FILE }")
	case !ok:
		report(prefix+"name", "%q cannot be a user's name; it is 1 to 32 of a-z, 0-9, dot, underscore, hyphen, and not anonymous", u.Name)
	}
	if u.Password != "" {
		if _, err := auth.ParseHash(u.Password); err != nil {
			report(prefix+"password", "%v; make one with overdav hash-password", err)
		}
	}
	for j, group := range u.Groups {
		if _, ok := auth.FoldName(group); !ok {
			report(fmt.Sprintf("%sgroups[%d]", prefix, j), "%q cannot be the name of a group; it is 1 to 32 of a-z, 0-9, dot, underscore, hyphen", group)
		}
	}
}

func (c *Config) checkAuth(report func(key, format string, args ...any)) {
	a := &c.Auth
	if a.UserHeader != "" {
		if !isHeaderName(a.UserHeader) {
			report("auth.user_header", "%q cannot be the name of a header; write it as in X-Remote-User", a.UserHeader)
		} else if len(c.TrustedProxies) == 0 && !c.onSocket() && c.Listen != listenSystemd {
			report("auth.user_header", "nobody is trusted to send it; name the proxy in trusted_proxies, or listen on unix:PATH")
		}
	}
	if a.Cache < 0 || a.Cache > 24*time.Hour {
		report("auth.cache", "%v is not between 0s and 24h; the default is %v", a.Cache, auth.DefaultKeep)
	}
	if a.Tokens != "" && !c.authenticates() {
		report("auth.tokens", "there are no users whom tokens could belong to; add users, or remove it")
	}
}

// onSocket says whether those who connect were given a Unix socket.
func (c *Config) onSocket() bool { return strings.HasPrefix(c.Listen, "unix:") }

// plaintext says whether users who come from other machines send their
// passwords over plain HTTP.
func (c *Config) plaintext() bool {
	return len(c.Users) > 0 && !c.TLS.on() && len(c.TrustedProxies) == 0
}

// isHeaderName says whether text is a token (RFC 9110, section 5.6.2), of the
// letters that proxies know how to write, and no header that means something else.
func isHeaderName(text string) bool {
	word := strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
	taken := []string{"Authorization", "Host", "Cookie", "Content-Type", "Content-Length", "Destination", "If", "Depth", "X-Forwarded-For"}
	return text != "" && word == "" && !slices.Contains(taken, http.CanonicalHeaderKey(text))
}

// checkSecret refuses a file with passwords in it that anybody on the machine
// can read. Its group may: that is how a server reads what root has written.
func checkSecret(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.Mode().Type() == 0 && info.Mode().Perm()&0o007 != 0 {
		return fmt.Errorf("%s has passwords in it, and others on this machine may open it; chmod o-rwx %s", name, name)
	}
	return nil
}

// checkSecrets is for a configuration file that has been read.
func (f *configFile) checkSecrets(c *Config) {
	for i, u := range c.Users {
		if u.Password == "" {
			continue
		}
		key := fmt.Sprintf("users[%d].password", i)
		if err := checkSecret(f.name); err != nil {
			f.errs = append(f.errs, &ConfigError{f.origins[key].where, key, err.Error()})
		}
		return
	}
}

// theConfiguration is where users are who are in no file of their own.
const theConfiguration = "the configuration"

// loadUsers returns the accounts of c, which has passed check. It reads the files
// of users, and returns every mistake in them, joined. weak is what to say of
// passwords that are stored in a way that is not up to date.
func loadUsers(c Config) (users *auth.Users, weak []string, err error) {
	var list []auth.User
	var errs []error
	origin := make(map[string]string)
	for i, u := range c.Users {
		some, err := u.load()
		errs = append(errs, err)
		for _, user := range some {
			from, key := theConfiguration, fmt.Sprintf("users[%d].name", i)
			if u.HTPasswd != "" {
				from, key = fmt.Sprintf("%s:%d", u.HTPasswd, user.Line), ""
			}
			switch first := origin[user.Name]; {
			case first == theConfiguration && first == from:
				continue // Config.check has refused both
			case first != "":
				errs = append(errs, &ConfigError{from, key, fmt.Sprintf("user %s is in %s as well; remove one", user.Name, first)})
				continue
			}
			origin[user.Name] = from
			list = append(list, user)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	users, err = auth.NewUsers(list)
	return users, weakOf(list), err
}

// weakOf says whose passwords are stored in a way that is not up to date: a line for
// each way, as there may be thousands in a file.
func weakOf(list []auth.User) (lines []string) {
	const most = 3 // names in a line
	names, first := make(map[string][]string), []string{}
	for _, user := range list {
		why := user.Password.Weak()
		if why == "" {
			continue
		}
		if names[why] == nil {
			first = append(first, why)
		}
		names[why] = append(names[why], user.Name)
	}
	for _, why := range first {
		who := "users " + strings.Join(names[why][:min(most, len(names[why]))], ", ")
		if more := len(names[why]) - most; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, who+": "+why+"; make new ones with overdav hash-password")
	}
	return lines
}

// load returns the user, or those in the file.
func (u *UserConfig) load() ([]auth.User, error) {
	var groups []string
	for _, group := range u.Groups {
		name, _ := auth.FoldName(group) // check has refused what is no name
		groups = append(groups, name)
	}
	if u.HTPasswd == "" {
		user := auth.User{Groups: groups, Disabled: u.Disabled}
		user.Name, _ = auth.FoldName(u.Name) // the same
		var err error
		if u.Password != "" {
			user.Password, err = auth.ParseHash(u.Password)
		}
		return []auth.User{user}, err
	}
	list, err := readHTPasswd(u.HTPasswd)
	for i := range list {
		list[i].Groups = groups
	}
	return list, err
}

// readHTPasswd reads a file of users. Each mistake has the file and the line.
func readHTPasswd(name string) ([]auth.User, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hintError{err, "htpasswd names a file that htpasswd -cB makes"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	if err := checkSecret(name); err != nil {
		return nil, &ConfigError{name, "", err.Error()}
	}
	list, err := auth.ReadHTPasswd(f)
	if err == nil {
		return list, nil
	}
	var errs []error
	for _, mistake := range split(err) {
		where := name
		var line *auth.LineError
		if errors.As(mistake, &line) {
			where, mistake = fmt.Sprintf("%s:%d", name, line.Line), line.Err
		}
		errs = append(errs, &ConfigError{where, "", mistake.Error()})
	}
	return nil, errors.Join(errs...)
}

// openTokens opens the tokens of c; nil if it has none.
func openTokens(c Config) (*auth.Tokens, error) {
	if c.Auth.Tokens == "" {
		return nil, nil
	}
	tokens, err := auth.OpenTokens(c.Auth.Tokens)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hintError{err, "make the directory " + filepath.Dir(c.Auth.Tokens) + ", and let overdav's user write to it"}
	}
	return tokens, err
}

// checkUserFiles reads the files that say who may come in, for config check.
func checkUserFiles(_ env, c Config, o origins) error {
	var errs []error
	var readable []UserConfig
	for i, u := range c.Users {
		if err := u.tryOpen(); err != nil {
			errs = append(errs, o.errorf(fmt.Sprintf("users[%d].htpasswd", i), "%v; name a file that htpasswd -cB makes, and that overdav may read", err))
			continue
		}
		readable = append(readable, u)
	}
	c.Users = readable
	_, _, err := loadUsers(c)
	for _, mistake := range split(err) {
		var in *ConfigError
		switch {
		case !errors.As(mistake, &in): // it is in the configuration, and Config.check reports it
		case in.Where == theConfiguration:
			errs = append(errs, o.errorf(in.Key, "%s", in.Problem))
		default:
			errs = append(errs, mistake)
		}
	}
	if _, err := openTokens(c); err != nil {
		errs = append(errs, o.errorf("auth.tokens", "%s", advice(err)))
	}
	return errors.Join(errs...)
}

// tryOpen looks whether the file of users, if u is one, can be read.
func (u *UserConfig) tryOpen() error {
	if u.HTPasswd == "" {
		return nil
	}
	f, err := os.Open(u.HTPasswd)
	if err != nil {
		return err
	}
	return f.Close()
}
