package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A setting is one value of Config that a flag and an environment variable can
// set as well. Flags win over the environment, and that over the file.
type setting struct {
	flag  string
	key   string
	usage string // in the manner of package flag: `ARG` names the argument
}

// settings are in the order in which help shows them. Those of a share set the
// first, but for one: who says that nothing is to be changed means every share.
var settings = []setting{
	{"listen", "listen", "serve on `ADDR`, host:port or unix:PATH (127.0.0.1:8080)"},
	{"lower", "shares[0].lower", "serve `DIR`, which is never changed; repeat it to stack more, topmost first"},
	{"upper", "shares[0].upper", "keep changes in `DIR` (a directory below the user's state directory)"},
	{"work", "shares[0].work", "build changes in `DIR`, on upper's file system (beside upper)"},
	{"read-only", "shares[].read_only", "change nothing, in any share"},
	{"xattr", "shares[0].xattr", "write marks as `CLASS` auto, trusted or user (auto: trusted for root)"},
	{"redirect-dir", "shares[0].redirect_dir", "`on|off` rename a directory of the lower by a mark, or copy it (on)"},
	{"metacopy", "shares[0].metacopy", "`on|off` leave a file's content in the lower until it is written to (off)"},
	{"durability", "shares[0].durability", "what a finished request has on disk: `LEVEL` full, ordered or none (full)"},
	{"no-guard", "shares[0].no_guard", "do not keep the kernel from mounting the upper that is being served"},
	{"anonymous", "anonymous", "serve everybody who can reach the address"},
	{"stop-timeout", "stop_timeout", "on SIGTERM give running requests `TIME` to finish (30s)"},
	{"log-level", "log.level", "write `LEVEL` debug, info, warn or error, and what is worse (info)"},
	{"log-format", "log.format", "write the log as `FORMAT` auto, console or json (auto: console on a terminal)"},
}

// env is the name of the setting's environment variable.
func (s setting) env() string {
	return "OVERDAV_" + strings.ToUpper(strings.ReplaceAll(s.flag, "-", "_"))
}

// keys are the full names in c of what the setting sets: one, or one of each share.
func (s setting) keys(c *Config) (keys []string) {
	before, after, every := strings.Cut(s.key, "[]")
	if !every {
		return []string{s.key}
	}
	for i := range c.Shares {
		keys = append(keys, fmt.Sprintf("%s[%d]%s", before, i, after))
	}
	return keys
}

// valueAt returns the place in c that has the full name key, one of setting.keys.
func valueAt(c *Config, key string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for part := range strings.SplitSeq(key, ".") {
		name, index, listed := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		v, _ = fieldByKey(v, name) // settings are all in Config: TestSettings
		if listed {
			i, _ := strconv.Atoi(index) // keys wrote it
			v = v.Index(i)
		}
	}
	return v
}

// configure makes the configuration of cmd from its arguments, the environment
// and the file they name. What is left of the arguments is DIRs, shorthand for
// --lower. On a mistake it returns all it found, joined.
func configure(cmd string, args []string, getenv func(string) string, help io.Writer) (Config, error) {
	c, _, err := configureFrom(cmd, args, getenv, help)
	return c, err
}

// configureFrom is configure, and says where each value came from; nil when there
// are none, as the command line or the file could not be read.
func configureFrom(cmd string, args []string, getenv func(string) string, help io.Writer) (Config, origins, error) {
	file, given, err := parseSettings(cmd, args, getenv("OVERDAV_CONFIG"), help)
	if err != nil {
		return Config{}, nil, err
	}
	c, o := defaultConfig(), make(origins)
	var errs []error
	if file != "" {
		if errs, err = loadFile(file, &c, o); err != nil {
			return Config{}, nil, err
		}
	}
	for _, s := range settings {
		where, texts := "--"+s.flag, given[s.flag]
		if texts == nil {
			where, texts = s.env(), s.split(getenv(s.env()))
		}
		if texts != nil {
			err := s.set(&c, where, texts)
			for _, set := range s.keys(&c) {
				maps.DeleteFunc(o, func(key string, _ origin) bool { return strings.HasPrefix(key, set+"[") }) // of a list that is replaced
				o[set] = origin{where: where, wrong: err != nil}
			}
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.check(o))
	return c, o, errors.Join(errs...)
}

// configureWhole is configureFrom, and looks for mistakes in all variables of the
// environment.
func configureWhole(e env, cmd string, args []string) (Config, origins, error) {
	c, o, err := configureFrom(cmd, args, e.getenv, e.stdout)
	if errors.Is(err, flag.ErrHelp) {
		return c, o, err
	}
	return c, o, errors.Join(err, checkVariables(e.environ))
}

// checkVariables refuses a variable of environ that can only be a setting's,
// mistyped: who sets OVERDAV_READONLY counts on it. Others that begin like ours may be
// anybody's, as those that Kubernetes makes for a service called overdav.
func checkVariables(environ []string) error {
	known := []string{"OVERDAV_CONFIG"}
	for _, s := range settings {
		known = append(known, s.env())
	}
	var errs []error
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "OVERDAV_") || slices.Contains(known, name) {
			continue
		}
		for _, meant := range known {
			if editDistance(name, meant) == 1 {
				errs = append(errs, &ConfigError{Where: name, Problem: "unknown variable; did you mean " + meant + "?"})
			}
		}
	}
	return errors.Join(errs...)
}

// parseSettings returns the name of the configuration file and, by flag and in
// the order of the command line, what the settings were given.
func parseSettings(cmd string, args []string, file string, help io.Writer) (string, map[string][]string, error) {
	given := make(map[string][]string)
	flags := newFlagSet(cmd+" [DIR...]", help)
	flags.StringVar(&file, "config", file, "read `FILE` first; flags and OVERDAV_* variables win over it")
	for _, s := range settings {
		remember := func(text string) error {
			given[s.flag] = append(given[s.flag], text)
			return nil
		}
		if s.isBool() {
			flags.BoolFunc(s.flag, s.usage, remember)
		} else {
			flags.Func(s.flag, s.usage, remember)
		}
	}
	addLower := func(dir string) { given["lower"] = append(given["lower"], dir) }
	err := flags.parse(args, addLower)
	return file, given, err
}

// configFileOf is the name of the file that configure reads, "" if none.
func configFileOf(cmd string, args []string, getenv func(string) string) string {
	file, _, err := parseSettings(cmd, args, getenv("OVERDAV_CONFIG"), io.Discard)
	if err != nil { // configure has reported it
		return ""
	}
	return file
}

func (s setting) isBool() bool {
	c := defaultConfig()
	return valueAt(&c, s.keys(&c)[0]).Kind() == reflect.Bool
}

// set stores texts, the whole of a list or the last of several values.
func (s setting) set(c *Config, where string, texts []string) error {
	if len(c.Shares) == 0 { // the file says so, which check reports
		c.Shares = []ShareConfig{defaultShare()}
	}
	for _, key := range s.keys(c) {
		v := valueAt(c, key)
		if v.Kind() == reflect.Slice {
			v.Set(reflect.ValueOf(texts))
		} else if err := setScalar(v, texts[len(texts)-1]); err != nil {
			return &ConfigError{Where: where, Problem: err.Error()}
		}
	}
	return nil
}

// split parts the value of an environment variable; a list of directories is
// written like PATH. An empty variable counts as absent.
func (s setting) split(text string) []string {
	switch {
	case text == "":
		return nil
	case s.flag == "lower":
		return filepath.SplitList(text)
	default:
		return []string{text}
	}
}

// flagSet is a flag.FlagSet whose help has two dashes, and which takes flags
// and other arguments in any order.
type flagSet struct {
	*flag.FlagSet
	usage string // what stands behind "overdav"; its first word is the command
	help  io.Writer
}

func newFlagSet(usage string, help io.Writer) *flagSet {
	flags := &flagSet{flag.NewFlagSet("", flag.ContinueOnError), usage, help}
	flags.SetOutput(io.Discard) // parse returns the error, main prints it once
	return flags
}

// parse parses args; rest is called for each that is no flag. After "--"
// nothing is one.
func (flags *flagSet) parse(args []string, rest func(string)) error {
	for {
		err := flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			flags.printHelp()
			return err
		}
		if err != nil {
			cmd, _, _ := strings.Cut(flags.usage, " ")
			return &usageError{err, "overdav " + cmd + " --help lists the flags"}
		}
		left := flags.Args()
		if len(left) == 0 {
			return nil
		}
		if n := len(args) - len(left); n > 0 && args[n-1] == "--" {
			for _, arg := range left {
				rest(arg)
			}
			return nil
		}
		rest(left[0])
		args = left[1:]
	}
}

func (flags *flagSet) printHelp() {
	fmt.Fprintf(flags.help, "usage: overdav %s\n", flags.usage)
	flags.VisitAll(func(f *flag.Flag) {
		arg, text := flag.UnquoteUsage(f)
		fmt.Fprintf(flags.help, "  %-24s %s\n", strings.TrimRight("--"+f.Name+" "+arg, " "), text)
	})
}
