package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// A reloader looks at a new configuration and returns what puts it in force.
// Nothing is in force until all reloaders have agreed. Of what is in c, only
// the keys whose fields are tagged reload:"yes" can differ from what the
// program was started with.
type reloader func(c Config) (apply func(), err error)

// reloads reads the configuration again on SIGHUP.
type reloads struct {
	read func() (Config, error) // with the flags and variables of the start
	log  zerolog.Logger

	// mu serializes reloads.
	mu sync.Mutex
	// +checklocks:mu
	running Config
	// +checklocks:mu
	reloaders []reloader
}

func newReloads(running Config, read func() (Config, error), log zerolog.Logger) *reloads {
	return &reloads{running: running, read: read, log: log}
}

// add has f asked at every reload from now on.
func (rl *reloads) add(f reloader) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.reloaders = append(rl.reloaders, f)
}

// start reloads on each SIGHUP until stop is called, which waits for a reload
// that runs.
func (rl *reloads) start() (stop func()) {
	hup := make(chan os.Signal, 1) // one that waits stands for all that came meanwhile
	signal.Notify(hup, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range hup {
			tellManager(rl.log, reloadingState())
			rl.reload()
			tellManager(rl.log, daemon.SdNotifyReady)
		}
	}()
	return func() {
		signal.Stop(hup) // and the channel gets no more
		close(hup)
		<-ended
	}
}

// reload puts the configuration in force as it is now, all of it that can
// change, or leaves everything as it was and says why.
func (rl *reloads) reload() {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	next, fixed, applies, err := rl.prepareLocked()
	if err != nil {
		for _, mistake := range split(err) {
			rl.log.Error().Err(mistake).Msg("configuration not reloaded")
		}
		rl.log.Warn().Msg("the old settings stay in force")
		return
	}
	for _, apply := range applies {
		apply()
	}
	rl.running = next
	for _, key := range fixed {
		rl.log.Warn().Str(keyKey, key).Msg("setting has changed but needs a restart")
	}
	rl.log.Info().Msg("configuration reloaded")
}

// prepareLocked reads the configuration and asks every reloader. fixed are the
// keys that have changed but cannot while the program runs.
func (rl *reloads) prepareLocked() (next Config, fixed []string, applies []func(), err error) {
	read, err := rl.read()
	if err != nil {
		return Config{}, nil, nil, err
	}
	next, fixed = mergeConfig(rl.running, read)
	// What was read is sound, and so is what runs; what comes of the two need
	// not be: without users, on an address that is still the old one.
	if err := next.check(origins{}); err != nil {
		return Config{}, nil, nil, fmt.Errorf("together with what only a restart can change (%s): %w", strings.Join(fixed, ", "), err)
	}
	var errs []error
	for _, f := range rl.reloaders {
		apply, err := f(next)
		errs = append(errs, err)
		if apply != nil {
			applies = append(applies, apply)
		}
	}
	return next, fixed, applies, errors.Join(errs...)
}

// mergeConfig returns running with everything of next that can change while the
// program runs, and the keys of the rest that differs.
func mergeConfig(running, next Config) (merged Config, fixed []string) {
	running.Shares = slices.Clone(running.Shares)
	merge(reflect.ValueOf(&running).Elem(), reflect.ValueOf(next), "", &fixed)
	return running, fixed
}

func merge(running, next reflect.Value, prefix string, fixed *[]string) {
	for i := range running.NumField() {
		field := running.Type().Field(i)
		r, n, key := running.Field(i), next.Field(i), prefix+field.Tag.Get("yaml")
		switch {
		case reflect.DeepEqual(r.Interface(), n.Interface()):
		case field.Tag.Get("reload") == "yes":
			r.Set(n)
		case field.Type == reflect.TypeFor[[]ShareConfig]():
			mergeShares(r.Interface().([]ShareConfig), n.Interface().([]ShareConfig), key, fixed)
		case field.Type.Kind() == reflect.Struct:
			merge(r, n, key+".", fixed)
		default:
			*fixed = append(*fixed, key)
		}
	}
}

// mergeShares merges shares that stand at the same path.
func mergeShares(running, next []ShareConfig, key string, fixed *[]string) {
	for i := range running {
		j := slices.IndexFunc(next, func(s ShareConfig) bool { return samePath(s.Path, running[i].Path) })
		if j < 0 {
			*fixed = append(*fixed, fmt.Sprintf("%s[%d]", key, i))
			continue
		}
		next[j].Path = running[i].Path // however it is escaped
		merge(reflect.ValueOf(&running[i]).Elem(), reflect.ValueOf(next[j]), fmt.Sprintf("%s[%d].", key, i), fixed)
	}
	if len(next) > len(running) {
		*fixed = append(*fixed, key)
	}
}
