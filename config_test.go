package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// getenv returns a lookup in pairs of name and value, and nothing else.
func getenv(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The example is what people copy: it must be accepted, show every key, and
// show as values what overdav does without it.
func TestExampleShowsEveryKeyAndItsDefault(t *testing.T) {
	const name = "config.yaml"
	c := Config{} // not the defaults: what the file leaves out stays zero
	o := make(origins)
	if mistakes, err := loadFile(name, &c, o); err != nil || mistakes != nil {
		t.Fatal(mistakes, err)
	}
	if err := c.check(o); err != nil {
		t.Error(err)
	}
	want := defaultConfig()
	got := c
	got.Shares = slices.Clone(c.Shares)
	got.Shares[0].Lower = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("config.yaml says\n%+v, the defaults are\n%+v", got, want)
	}

	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(reflect.TypeFor[Config]()) {
		if !bytes.Contains(text, []byte(key+":")) {
			t.Errorf("config.yaml does not show %s", key)
		}
	}
}

func keys(typ reflect.Type) []string {
	switch typ.Kind() {
	case reflect.Slice:
		return keys(typ.Elem())
	case reflect.Struct:
		var all []string
		for i := range typ.NumField() {
			all = append(all, typ.Field(i).Tag.Get("yaml"))
			all = append(all, keys(typ.Field(i).Type)...)
		}
		return all
	}
	return nil
}

func TestConfigMistakesAreReportedTogetherWithPlaceAndRemedy(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string // "FILE" stands for the name of the file
	}{
		{
			name: "unknown keys", file: "lissen: x\nfrobnicate: 1\nlower: [/srv]\nshares: [{lower: [/srv], uper: /u}]\n",
			want: []string{
				"FILE:1:1: lissen: unknown key; did you mean listen?",
				"FILE:2:1: frobnicate: unknown key; remove it",
				"FILE:3:1: lower: unknown key; it belongs to a share, below shares:",
				"FILE:4:26: shares[0].uper: unknown key; did you mean upper?",
			},
		},
		{
			name: "bad values",
			file: "listen: 8080\nstop_timeout: soon\nanonymous: maybe\nlog: { level: loud, format: }\nshares:\n  - path: films\n    lower: /srv\n    work: /w\n    xattr: both\n    durability: [full]\n",
			want: []string{
				`FILE:2:15: stop_timeout: "soon" is not a time; write it as in 30s or 2m`,
				`FILE:3:12: anonymous: "maybe" is neither true nor false`,
				"FILE:4:28: log.format: has no value; give one or remove the key",
				"FILE:7:12: shares[0].lower: want a list, as in [/srv/release-2, /srv/release-1]",
				"FILE:10:17: shares[0].durability: want a plain value on one line",
				`FILE:4:8: log.level: "loud" is not one of debug, info, warn, error`,
				`FILE:9:5: shares[0].xattr: "both" is not one of auto, trusted, user`,
				`FILE:1:1: listen: "8080" is not an address; write host:port, as in 127.0.0.1:8080, or unix:PATH`,
				`FILE:6:5: shares[0].path: "films" is not the path of an address; write it as in / or /films`,
				"FILE:8:5: shares[0].work: a work directory without upper has no use; add upper or remove work",
			},
		},
		{
			name: "bad values for the protocol",
			file: "public_url: files.example.org\ntrusted_proxies: [127.0.0.1, 10.0.0.1/8, localhost]\nshares:\n  - path: /.overdav/x\n    lower: [/srv]\n    symlinks: follow\n    names: any\n    junk: burn\n    propfind_infinity: -1\n    locks: { timeout: 1ms, per_user: many, total: 0, totl: 1 }\n",
			want: []string{
				`FILE:10:38: shares[0].locks.per_user: "many" is not a number; write it as in 1000`,
				"FILE:10:54: shares[0].locks.totl: unknown key; did you mean total?",
				`FILE:6:5: shares[0].symlinks: "follow" is not one of within, hide`,
				`FILE:7:5: shares[0].names: "any" is not one of utf8, bytes, portable`,
				`FILE:8:5: shares[0].junk: "burn" is not one of store, drop, refuse`,
				`FILE:1:1: public_url: "files.example.org" is not the address of a server; write it as in https://files.example.org/dav`,
				`FILE:2:30: trusted_proxies[1]: "10.0.0.1/8" has bits behind its length; write 10.0.0.0/8, or 10.0.0.1 for the one address`,
				`FILE:2:42: trusted_proxies[2]: "localhost" is not an address or a range; write it as in 127.0.0.1 or 192.0.2.0/24`,
				"FILE:4:5: shares[0].path: what begins with /.overdav is overdav's own; choose another",
				"FILE:9:5: shares[0].propfind_infinity: -1 is no number of resources; 0 refuses such requests",
				"FILE:10:14: shares[0].locks.timeout: 1ms is not between 1s and 8760h0m0s; the default is 1h",
				"FILE:10:44: shares[0].locks.total: 0 would let nobody lock anything; the default is 10000",
			},
		},
		{
			name: "metacopy where it cannot be",
			file: "shares:\n  - lower: [/srv]\n    metacopy: on\n    xattr: user\n  - path: /b\n    lower: [/srv/b]\n    metacopy: on\n    redirect_dir: off\n",
			want: []string{
				"FILE:3:5: shares[0].metacopy: the kernel reads no metacopy whose marks are in user.*; set xattr to trusted, which needs root, or metacopy to off",
				"FILE:7:5: shares[1].metacopy: a renamed file finds its content by a redirect; set redirect_dir to on, or metacopy to off",
			},
		},
		{
			name: "a key twice", file: "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\nshares: [{lower: [/srv]}]\n",
			want: []string{"FILE:2:1: listen: is there twice; remove one"},
		},
		{
			name: "shares in each other's way", file: "shares:\n  - {lower: [/a], upper: /u, work: /w}\n  - {lower: [/b], path: /b, upper: /u/, work: /w}\n  - {lower: [/c], path: /%62}\n  - {lower: [/c], path: /c}\n",
			want: []string{
				"FILE:3:29: shares[1].upper: shares[0] has the same; each share keeps its changes in an upper of its own",
				"FILE:3:41: shares[1].work: shares[0] has the same; each share needs a work directory of its own",
				"FILE:4:19: shares[2].path: shares[1] is at /b already; choose another",
				"FILE:5:5: shares[3].upper: shares[2] has the same lowers and would keep its changes in the same place; name an upper for one of them",
			},
		},
		{
			name: "nothing at all", file: "# listen\n",
			want: []string{"overdav: shares[0].lower: nothing to serve; name a directory: overdav serve DIR"},
		},
		{
			name: "no share", file: "shares: []\n",
			want: []string{"FILE:1:1: shares: there is none; name a directory: overdav serve DIR"},
		},
		{
			name: "CORS for everybody with passwords", file: "cors: {origins: ['*'], credentials: true}\nshares: [{lower: [/srv]}]\n",
			want: []string{"FILE:1:24: cors.credentials: every site on the web could act for your users; name the origins, or leave credentials out"},
		},
		{
			name: "CORS for what is no origin", file: "cors: {origins: ['https://app.example.org/'], max_age: -1s}\nshares: [{lower: [/srv]}]\n",
			want: []string{
				`FILE:1:18: cors.origins[0]: "https://app.example.org/" is not the origin of a page; write it as in https://app.example.org, without a path, or "*"`,
				"FILE:1:47: cors.max_age: -1s is no time; 0 has browsers ask each time",
			},
		},
		{
			name: "half of TLS", file: "tls: {cert: a.pem}\nshares: [{lower: [/srv]}]\n",
			want: []string{"FILE:1:7: tls.cert: a certificate without its key proves nothing; add tls.key"},
		},
		{
			name: "more of TLS", file: "tls: {client_ca: a.pem, hsts: -1s}\nshares: [{lower: [/srv]}]\n",
			want: []string{
				"FILE:1:7: tls.client_ca: clients show certificates over TLS only; add tls.cert and tls.key",
				"FILE:1:25: tls.hsts: -1s is no time; 0 leaves the header out",
			},
		},
		{
			name: "modes of a socket", file: "listen: unix:/s\nsocket_mode: 0888\nshares: [{lower: [/srv]}]\n",
			want: []string{`FILE:2:1: socket_mode: "0888" are no modes; write them as in 0660`},
		},
		{
			name: "modes of no socket", file: "socket_mode: 0660\nshares: [{lower: [/srv]}]\n",
			want: []string{"FILE:1:1: socket_mode: only a unix: socket has modes; remove it, or listen on unix:PATH"},
		},
		{
			name: "open to everybody", file: "listen: 0.0.0.0:8080\nshares: [{lower: [/srv]}]\n",
			want: []string{`FILE:1:1: listen: "0.0.0.0:8080" can be reached from other machines, and nobody there would have to say who they are; listen on 127.0.0.1, name users, or allow it with --anonymous`},
		},
		{
			name: "not YAML", file: "listen: [1\n",
			want: []string{"FILE:1:9: sequence end token ']' not found"},
		},
		{
			name: "made under Windows", file: "\ufefflisten: 8080\r\nshares: [{lower: [/srv]}]\r\n",
			want: []string{`FILE:1:1: listen: "8080" is not an address; write host:port, as in 127.0.0.1:8080, or unix:PATH`},
		},
		{
			name: "a brace that is not meant", file: "shares:\n  - upper: {user}/x\n",
			want: []string{"FILE:2:18: value is not allowed in this context; a name that begins with {user}, or has it between braces or brackets, has to be in quotes"},
		},
		{
			name: "no lists", file: "shares: 3\nusers: {name: x}\ntrusted_proxies: 127.0.0.1\n",
			want: []string{
				"FILE:1:9: shares: want a list, each item of it behind a hyphen",
				"FILE:2:8: users: want a list, each item of it behind a hyphen",
				"FILE:3:18: trusted_proxies: want a list, as in [127.0.0.1, 192.0.2.0/24]",
			},
		},
		{
			name: "what is written once for all", file: "listen: &l 127.0.0.1:1\nshares:\n  - &s {lower: [/srv]}\n  - *s\n  - {<<: *s, path: /b, lower: [/b]}\n  - {path: /c, lower: [/c], upper: *l}\n",
			want: []string{
				"FILE:1:9: listen: anchors and aliases (& and *) are not read; write the value out, in quotes if it begins with one of them",
				"FILE:3:5: shares[0]: anchors and aliases (& and *) are not read; write the value out, in quotes if it begins with one of them",
				"FILE:4:5: shares[1]: anchors and aliases (& and *) are not read; write the value out, in quotes if it begins with one of them",
				"FILE:5:6: shares[2]: merging (<<) is not read; write the keys out",
				"FILE:6:36: shares[3].upper: anchors and aliases (& and *) are not read; write the value out, in quotes if it begins with one of them",
			},
		},
		{
			name: "not a mapping", file: "- listen\n",
			want: []string{"FILE:1:1: want keys and values, as in listen: 127.0.0.1:8080"},
		},
		{
			name: "two documents", file: "shares: [{lower: [/srv]}]\n---\nlisten: 127.0.0.1:1\n",
			want: []string{"FILE:3:7: a second document; the configuration is one"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name := writeConfig(t, test.file)
			_, err := configure("serve", []string{"--config", name}, getenv(), io.Discard)
			if err == nil {
				t.Fatal("got no error")
			}
			got := strings.ReplaceAll(err.Error(), name, "FILE")
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestFlagsWinOverEnvironmentWinsOverFile(t *testing.T) {
	name := writeConfig(t, "listen: 127.0.0.1:1\nstop_timeout: 1s\nlog: {level: warn}\nshares: [{lower: [a, /b], upper: u, durability: none}]\n")
	dir := filepath.Dir(name)
	vars := getenv("OVERDAV_CONFIG", name, "OVERDAV_LISTEN", "127.0.0.1:2", "OVERDAV_STOP_TIMEOUT", "2s", "OVERDAV_READ_ONLY", "true")
	c, err := configure("serve", []string{"--listen", "127.0.0.1:3", "--durability=ordered", "--no-guard"}, vars, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Listen = "127.0.0.1:3"
	want.StopTimeout = 2 * time.Second
	want.Log.Level = "warn"
	s := &want.Shares[0]
	s.Lower, s.Upper, s.Durability, s.ReadOnly, s.NoGuard = []string{dir + "/a", "/b"}, dir+"/u", "ordered", true, true
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestASocketInTheFileBeginsAtTheFile(t *testing.T) {
	name := writeConfig(t, "listen: unix:run/sock\n")
	for _, test := range []struct{ arg, want string }{
		{"--lower=/srv", "unix:" + filepath.Dir(name) + "/run/sock"},
		{"--listen=unix:run/sock", "unix:run/sock"},
	} {
		c, err := configure("serve", []string{"--config", name, "/srv", test.arg}, getenv(), io.Discard)
		if err != nil || c.Listen != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.arg, c.Listen, err, test.want)
		}
	}
}

func TestLowerIsReplacedByEachSourceNotAppendedTo(t *testing.T) {
	name := writeConfig(t, "shares: [{lower: [/file]}]\n")
	tests := []struct {
		name string
		args []string
		env  string
		want []string
	}{
		{"file alone", nil, "", []string{"/file"}},
		{"environment, written like PATH", nil, "/e1:/e2", []string{"/e1", "/e2"}},
		{"flags and DIRs in their order", []string{"/one", "--lower", "/two", "--anonymous", "/three"}, "/e1", []string{"/one", "/two", "/three"}},
		{"after -- nothing is a flag", []string{"--", "--lower"}, "", []string{"--lower"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"--config", name}, test.args...)
			c, err := configure("serve", args, getenv("OVERDAV_LOWER", test.env), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Shares[0].Lower; !slices.Equal(got, test.want) {
				t.Errorf("lower is %q, want %q", got, test.want)
			}
		})
	}
}

// A message about a value names whoever set it: the file, the variable, or the
// flag.
func TestMistakesNameTheirSource(t *testing.T) {
	_, err := configure("serve", []string{"--xattr", "x", "--anonymous=perhaps", "/srv"}, getenv("OVERDAV_DURABILITY", "d"), io.Discard)
	want := `--anonymous: "perhaps" is neither true nor false
--xattr: "x" is not one of auto, trusted, user
OVERDAV_DURABILITY: "d" is not one of full, ordered, none`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestListenIsLoopbackUnlessAnonymous(t *testing.T) {
	tests := []struct {
		listen string
		open   bool // to other machines
	}{
		{"127.0.0.1:0", false},
		{"127.8.9.10:80", false},
		{"[::1]:80", false},
		{"localhost:80", false},
		{"unix:/run/overdav.sock", false},
		{":8080", true},
		{"0.0.0.0:80", true},
		{"[::]:80", true},
		{"192.0.2.1:80", true},
	}
	for _, test := range tests {
		t.Run(test.listen, func(t *testing.T) {
			c := Config{Listen: test.listen}
			if err := c.checkListen(); (err != nil) != test.open {
				t.Errorf("without anonymous: got error %v, want one: %t", err, test.open)
			}
			c.Anonymous = true
			if err := c.checkListen(); err != nil {
				t.Errorf("with anonymous: %v", err)
			}
		})
	}
}

// fileOnly are the keys that have no flag: what one tries out is said on the
// command line, how a site is set up in its file.
var fileOnly = []string{
	"users", "name", "password", "groups", "disabled", "htpasswd", "access", "paths", "allow",
	"auth", "user_header", "admins", "tokens", "cache", "allow_plaintext_auth",
	"log", "shares", "path", "public_url", "trusted_proxies",
	"cors", "origins", "credentials", "max_age", "landlock", "socket_mode", "tls", "cert", "key", "client_ca", "hsts", "http_listen", "acme", "hosts", "email", "directory_url",
	"symlinks", "names", "junk", "idle", "max_open", "quota", "ttl", "propfind_infinity", "locks", "timeout", "per_user", "total",
	"audit", "metrics", "limits", "header_bytes", "header_timeout", "idle_timeout", "stall_timeout", "connections", "connections_per_address",
	"operations", "operation_wait", "upload", "free_space", "free_inodes", "zips_per_user", "zip", "zip_entries",
}

// Every setting must lead to a field, and every field must have a setting or be
// meant for the file alone.
func TestSettings(t *testing.T) {
	c := defaultConfig()
	reached := make(map[string]bool)
	for _, s := range settings {
		for _, key := range s.keys(&c) {
			if !valueAt(&c, key).CanSet() {
				t.Errorf("--%s: no field has the key %s", s.flag, key)
			}
		}
		reached[s.key[strings.LastIndex(s.key, ".")+1:]] = true
	}
	for _, key := range keys(reflect.TypeFor[Config]()) {
		if only := slices.Contains(fileOnly, key); only == reached[key] {
			t.Errorf("%s is set by a flag: %t, by the file alone: %t", key, reached[key], only)
		}
	}
}

// Who starts the server with --read-only wants nothing to be changed, in any share.
func TestReadOnlyIsForEveryShare(t *testing.T) {
	const text = "shares:\n  - { path: /a, lower: [/l] }\n  - { path: /b, lower: [/n], read_only: true }\n  - { path: /c, lower: [/m] }\n"
	file := writeConfig(t, text)
	for _, test := range []struct {
		name, variable string
		args           []string
		want           []bool
	}{
		{"the file", "", nil, []bool{false, true, false}},
		{"a flag", "", []string{"--read-only"}, []bool{true, true, true}},
		{"a variable", "true", nil, []bool{true, true, true}},
		{"a flag over a variable", "true", []string{"--read-only=false"}, []bool{false, false, false}},
	} {
		c, err := configure("serve", append(test.args, "--config", file), getenv("OVERDAV_READ_ONLY", test.variable), io.Discard)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []bool
		for _, s := range c.Shares {
			got = append(got, s.ReadOnly)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: read-only are %v, want %v", test.name, got, test.want)
		}
	}
}

func TestShareOptionsTellTheEngineEverything(t *testing.T) {
	share := ShareConfig{Lower: []string{"/l"}, Upper: "/u", Work: "/w", Xattr: "user", RedirectDir: "off", Metacopy: "on", Durability: "ordered", ReadOnly: true, NoGuard: true, Quota: 1}
	got := reflect.ValueOf(share.engineOptions())
	for i := range got.NumField() {
		switch name := got.Type().Field(i).Name; name {
		case "Events", "Hook", "Made": // not the operator's
		default:
			if got.Field(i).IsZero() {
				t.Errorf("Options.%s is zero though the share says otherwise", name)
			}
		}
	}
}

func TestShareOptionsTellTheProtocolEverything(t *testing.T) {
	share := ShareConfig{
		Path: "/films/", ReadOnly: true, Symlinks: "hide", Names: "bytes", Junk: "drop", PropfindInfinity: 7,
		Durability: "none", Locks: LockConfig{Timeout: time.Minute, PerUser: 1, Total: 2},
	}
	portable := share
	portable.Names = "portable"
	if share.davOptions().PortableNames || portable.davOptions().ByteNames || !portable.davOptions().PortableNames {
		t.Error("names: bytes and portable are mixed up")
	}
	o := share.davOptions()
	o.PortableNames = true
	if o.Prefix != "/films" {
		t.Errorf("the prefix is %q", o.Prefix)
	}
	for _, options := range []any{o, share.lockOptions()} {
		got := reflect.ValueOf(options)
		for i := range got.NumField() {
			switch name := got.Type().Field(i).Name; name {
			case "Site", "Others", "Locks", "User", "Access", "Challenge", "Unlocks", "Listing", "State", "Layer", "CopiedUp", "Log", "MaxUpload", "Reserve", "Archives": // newHandler's
			default:
				if got.Field(i).IsZero() {
					t.Errorf("%T.%s is zero though the share says otherwise", options, name)
				}
			}
		}
	}
	if share.Durability = "full"; share.lockOptions().NoSync {
		t.Error("locks are not synced though changes are")
	}
}

func TestByteSizes(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0B", "10GiB": "10GiB", "1.5 MiB": "1536KiB", "1kB": "1000B", "3MB": "3000000B", "2TiB": "2TiB", "7B": "7B", "1024GiB": "1TiB",
		"": "", "10": "", "GiB": "", "-1GiB": "", "1e99TiB": "", "NaNB": "", "10 gigabytes": "", "8388608TiB": "", "InfB": "",
	} {
		var b ByteSize
		err := b.UnmarshalText([]byte(text))
		if want == "" && err == nil || want != "" && b.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, b, err, want)
		}
	}
}

func TestPublicURL(t *testing.T) {
	for text, good := range map[string]bool{
		"https://files.example.org": true, "http://files.example.org:8443/": true, "https://[2001:db8::1]/a/b%20c/": true,
		"ftp://files.example.org": false, "https://": false, "https://:80/": false, "https://u@files.example.org/": false,
		"https://files.example.org/?": false, "https://files.example.org/#": false, "https://files.example.org/a//b": false,
		"https://files.example.org/a/../b": false, "https://files.example.org/%ff": false, "/dav": false, "https:dav": false,
	} {
		c := Config{PublicURL: text}
		if u, err := c.publicURL(); (err == nil) != good || good && u == nil {
			t.Errorf("%s: got %v, %v", text, u, err)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1": "127.0.0.1/32", "::1": "::1/128", "::ffff:192.0.2.1": "192.0.2.1/32", "192.0.2.0/24": "192.0.2.0/24",
		"2001:db8::/32": "2001:db8::/32", "0.0.0.0/0": "0.0.0.0/0",
		"192.0.2.1/24": "", "192.0.2.0/33": "", "": "", "fe80::1%eth0": "", "proxy": "", "127.0.0.1:80": "",
	} {
		got, err := parseProxy(text)
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzConfigFile(f *testing.F) {
	example, err := os.ReadFile("config.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("shares: [{lower: [a, *b], <<: {upper: !!binary x}}]"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := defaultConfig()
		file := &configFile{name: "f", origins: make(origins)}
		file.parse(data, &c)
		_ = c.check(file.origins) // must come back, whatever it says
	})
}
