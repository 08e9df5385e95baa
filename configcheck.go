package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
)

// fileChecks look into the files that a configuration names, without changing
// anything, as serve does when it starts. They return every mistake, joined.
var fileChecks = []func(e env, c Config) error{
	checkTLS,
	checkDirectories,
	checkUserFiles,
}

// configCommand is "overdav config check": it reads what serve would, and
// serves nothing.
func configCommand(e env, args []string) error {
	if len(args) > 0 && args[0] == "check" {
		args = args[1:]
	} else if !slices.ContainsFunc(args, isHelp) {
		return &usageError{errors.New("config wants to know what to do"), "overdav config check --config FILE"}
	}
	c, err := configure("config", args, e.getenv, e.stdout)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err != nil {
		return &foundError{err}
	}
	var errs []error
	for _, check := range fileChecks {
		errs = append(errs, check(e, c))
	}
	if err := errors.Join(errs...); err != nil {
		return &foundError{err}
	}
	fmt.Fprintln(e.stdout, "the configuration has no mistakes")
	return nil
}

// checkDirectories finds the directories of every share.
func checkDirectories(e env, c Config) error {
	_, err := newShares(c, stateHome(e.getenv, os.Geteuid()), newLog(c.Log, e.stderr))
	return err
}
