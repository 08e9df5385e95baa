package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"overdav/overlay"
)

// fileChecks look at the files and directories that a configuration names,
// without changing anything, as serve does when it starts. They return every
// mistake, joined. What o says is wrong they leave out, so that a configuration
// that has not passed Config.check can be looked at as well.
var fileChecks = []func(e env, c Config, o origins) error{
	checkTLS,
	checkAudit,
	checkUserFiles,
	checkDirectories,
}

// configCommand is "overdav config check": it reads what serve would, and
// serves nothing.
func configCommand(e env, args []string) error {
	if len(args) > 0 && args[0] == "check" {
		args = args[1:]
	} else if !slices.ContainsFunc(args, isHelp) {
		return &usageError{errors.New("config wants to know what to do"), "overdav config check --config FILE"}
	}
	c, o, err := configureWhole(e, "config", args)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err := errors.Join(err, checkFiles(e, c, o, err)); err != nil {
		return &foundError{err}
	}
	fmt.Fprintln(e.stdout, "the configuration has no mistakes")
	for _, v := range overlapsOf(layersOf(e, c)) {
		fmt.Fprintln(e.stdout, "but", v)
	}
	return nil
}

// layersOf are those of every share; nil where they cannot be.
func layersOf(e env, c Config) []*layers {
	home := stateHome(e.getenv, os.Geteuid())
	all := make([]*layers, len(c.Shares))
	for i, s := range c.Shares {
		if l, err := newLayers(s, home); err == nil { // else checkDirectories tells
			all[i] = l
		}
	}
	return all
}

// checkFiles makes all fileChecks. told is what the operator is told anyway.
func checkFiles(e env, c Config, o origins, told error) error {
	if o == nil { // the file could not be read
		return nil
	}
	o.spoil(told)
	var errs []error
	for _, check := range fileChecks {
		errs = append(errs, check(e, c, o))
	}
	return errors.Join(errs...)
}

// everyMistake is err, which kept serve from starting, and every mistake in the
// configuration, each with its place. Where config check finds some in the files,
// err is one of them.
func everyMistake(e env, c Config, o origins, err error) error {
	if in := new(*ConfigError); errors.As(err, in) {
		return errors.Join(err, checkFiles(e, c, o, err))
	}
	if found := checkFiles(e, c, o, nil); found != nil {
		return &startError{found}
	}
	return err
}

// advice is err with its hint, on one line.
func advice(err error) string {
	var hint *hintError
	if errors.As(err, &hint) {
		return err.Error() + "; " + hint.hint
	}
	return err.Error()
}

// checkDirectories looks for the directories of every share. It opens no upper,
// which may be in use.
func checkDirectories(e env, c Config, o origins) error {
	home := stateHome(e.getenv, os.Geteuid())
	all := make([]*layers, len(c.Shares))
	var errs []error
	for i, s := range c.Shares {
		key := fmt.Sprintf("shares[%d]", i)
		err := s.checkDirectories(key, o)
		if err == nil {
			all[i], err = s.checkLayers(key, home, o)
		}
		errs = append(errs, err)
		for _, other := range all[:i] {
			if all[i] == nil || other == nil {
				continue
			}
			if err := all[i].checkApart(other); err != nil {
				errs = append(errs, o.errorf(key+".upper", "%s", advice(err)))
			}
		}
	}
	return errors.Join(errs...)
}

// checkDirectories looks for what the share names and serve does not make.
func (s *ShareConfig) checkDirectories(key string, o origins) error {
	var errs []error
	look := func(key, dir string, changes bool) {
		if dir == "" {
			return
		}
		dir, err := realDir(dir)
		if err == nil && changes {
			err = mayChange(dir)
		}
		if err != nil {
			errs = append(errs, o.errorf(key, "%s", advice(err)))
		}
	}
	for i, dir := range s.Lower {
		look(fmt.Sprintf("%s.lower[%d]", key, i), dir, false)
	}
	if before, _, perUser := strings.Cut(s.Upper, userPart); perUser {
		look(key+".upper", filepath.Clean(before), !s.ReadOnly)
		return errors.Join(errs...)
	}
	look(key+".upper", s.Upper, !s.ReadOnly)
	if !s.ReadOnly {
		look(key+".work", s.Work, true)
	}
	return errors.Join(errs...)
}

// checkLayers looks whether the directories of the share, which are there, can
// be stacked. It returns them; nil if they cannot, or if a name is missing.
func (s *ShareConfig) checkLayers(key, home string, o origins) (*layers, error) {
	if len(s.Lower) == 0 || slices.Contains(s.Lower, "") {
		return nil, nil // Config.check has said so
	}
	l, err := newLayers(*s, home)
	if err != nil {
		return nil, o.errorf(key+".upper", "%s", advice(err))
	}
	view := *l
	if l.perUser() || l.makeUpper { // made when it is first used
		view.Upper, view.Work = "", ""
	} else if l.makeWork {
		view.Work = ""
	}
	if err := overlay.CheckLayers(view.engineOptions()); err != nil {
		return nil, o.errorf(key, "%v", err)
	}
	return l, nil
}
