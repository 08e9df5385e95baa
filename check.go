package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"overdav/overlay"
)

// check reads the layers of every share as serve would stack them, changes
// nothing, and prints what the engine finds wrong, a line each.
func check(e env, args []string) error {
	c, err := configure("check", args, e.getenv, e.stdout)
	if err != nil {
		return err
	}
	all, err := newShares(c, stateHome(e.getenv, os.Geteuid()), newLog(c.Log, e.stderr))
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range all {
		errs = append(errs, s.named(checkShare(e.stdout, s.layers)))
	}
	return errors.Join(errs...)
}

// checkShare looks through every upper of a share.
func checkShare(w io.Writer, l *layers) error {
	if !l.perUser() {
		return checkLayers(w, l)
	}
	users, err := l.users()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "share %s: uppers of %d users\n", l.Path, len(users))
	var errs []error
	for _, user := range users {
		own, err := l.of(user)
		if err == nil {
			err = checkLayers(w, own)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("user %s: %w", user, err))
		}
	}
	return errors.Join(errs...)
}

// checkLayers looks through one upper and its lowers.
func checkLayers(w io.Writer, l *layers) error {
	if _, err := os.Stat(l.Upper); l.makeUpper && err != nil {
		l.Upper, l.Work = "", "" // nobody has served these layers yet
	}
	l.ReadOnly = true
	fsys, err := overlay.Open(l.engineOptions())
	if err != nil {
		return err
	}
	defer fsys.Close() // nothing was written
	layers := fsys.Layers()
	problems := 0
	err = fsys.Check(func(p overlay.Problem) {
		problems++
		fmt.Fprintf(w, "%s: %s\n", filepath.Join(layerPath(layers, p.Layer), p.Path), p.What)
	})
	if err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%d problems", problems)
	}
	fmt.Fprintf(w, "share %s: checked %d layers, found no problems\n", l.Path, len(layers))
	return nil
}

func layerPath(layers []overlay.Layer, index int) string {
	for _, l := range layers {
		if l.Index == index {
			return l.Path
		}
	}
	return fmt.Sprintf("layer %d", index)
}

// unlock clears away what keeps the kernel from mounting an upper whose
// server died: one, or with --config those of all shares.
func unlock(e env, args []string) error {
	if namesConfig(args) || len(args) == 0 && e.getenv("OVERDAV_CONFIG") != "" {
		return unlockShares(e, args)
	}
	flags := newFlagSet("unlock --upper DIR [--work DIR] | --config FILE", e.stdout)
	upper := flags.String("upper", "", "the upper `DIR` that was being served")
	work := flags.String("work", "", "its work `DIR` (beside upper)")
	stray := ""
	if err := flags.parse(args, func(arg string) { stray = arg }); err != nil {
		return err
	}
	if stray != "" || *upper == "" {
		return &usageError{errors.New("unlock wants to know the upper"), "overdav unlock --upper DIR [--work DIR], or for all shares overdav unlock --config FILE"}
	}
	if *work == "" {
		*work = workBeside(*upper)
	}
	return unlockUpper(e.stdout, *upper, *work)
}

func unlockUpper(w io.Writer, upper, work string) error {
	if err := overlay.Unlock(upper, work); err != nil {
		return err
	}
	fmt.Fprintf(w, "unlocked %s; the kernel can mount it\n", upper)
	return nil
}

// namesConfig says whether args name a configuration file.
func namesConfig(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return name == "--config" || name == "-config"
	})
}

// unlockShares unlocks every upper of every share, those of users included. One
// that cannot be unlocked keeps none of the others from it.
func unlockShares(e env, args []string) error {
	c, err := configure("unlock", args, e.getenv, e.stdout)
	if err != nil {
		return err
	}
	all, err := newShares(c, stateHome(e.getenv, os.Geteuid()), newLog(c.Log, e.stderr))
	errs := []error{err}
	for _, s := range all {
		errs = append(errs, s.named(unlockShare(e.stdout, s.layers)))
	}
	return errors.Join(errs...)
}

// unlockShare unlocks every upper of a share.
func unlockShare(w io.Writer, l *layers) error {
	switch {
	case l.Upper == "":
		return nil // nothing is ever changed
	case !l.perUser():
		return unlockLayers(w, l)
	}
	users, err := l.users()
	errs := []error{err}
	for _, user := range users {
		own, err := l.of(user)
		if err == nil {
			err = unlockLayers(w, own)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("user %s: %w", user, err))
		}
	}
	return errors.Join(errs...)
}

// unlockLayers unlocks one upper, if overdav ever had it.
func unlockLayers(w io.Writer, l *layers) error {
	if _, err := os.Stat(filepath.Join(l.Work, "overdav")); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(w, "%s was never served\n", l.Upper)
		return nil
	}
	return unlockUpper(w, l.Upper, l.Work)
}
