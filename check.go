package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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
// server died.
func unlock(e env, args []string) error {
	flags := newFlagSet("unlock --upper DIR [--work DIR]", e.stdout)
	upper := flags.String("upper", "", "the upper `DIR` that was being served")
	work := flags.String("work", "", "its work `DIR` (beside upper)")
	stray := ""
	if err := flags.parse(args, func(arg string) { stray = arg }); err != nil {
		return err
	}
	if stray != "" || *upper == "" {
		return &usageError{errors.New("unlock wants to know the upper"), "overdav unlock --upper DIR [--work DIR]"}
	}
	if *work == "" {
		*work = workBeside(*upper)
	}
	if err := overlay.Unlock(*upper, *work); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "unlocked %s; the kernel can mount it\n", *upper)
	return nil
}
