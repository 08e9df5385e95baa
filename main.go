// Overdav serves directory trees as a WebDAV share that can be written to,
// while the trees themselves stay as they are: what clients change goes to an
// upper directory in Linux overlayfs' own format.
//
// This package is the program around the engine: flags, configuration, log,
// listener and signals. Nothing can import it, so nothing else can depend on
// how the program was configured.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
)

// A command is one verb of the command line.
type command struct {
	name, args, short string
	run               func(e env, args []string) error
}

// env is what a command may use of the world around the process.
type env struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // all variables, as NAME=VALUE
}

var commands = []command{
	{"serve", "[DIR...]", "serve directories over WebDAV; what clients change goes elsewhere", serve},
	{"check", "[DIR...]", "read the layers that serve would use and report what is wrong with them", check},
	{"unlock", "--upper DIR | --config FILE", "after a crash, let the kernel mount an upper again", unlock},
	{"reset", "SHARE [--user NAME]", "throw away what was changed in a share, or by one user", reset},
	{"config", "check [DIR...]", "say what is wrong with the configuration that serve would use", configCommand},
	{"hash-password", "", "print what the password on standard input is in the configuration", hashPassword},
	{"token", "create|list|revoke", "make, list and revoke passwords for programs", tokenCommand},
	{"version", "", "print what this program was built from", version},
}

func main() {
	os.Exit(run(env{os.Getenv, os.Stdin, os.Stdout, os.Stderr, os.Environ()}, os.Args[1:]))
}

// run runs one command and returns the exit status: 0, 1 when it failed, 2
// when it was not understood.
func run(e env, args []string) int {
	if len(args) == 0 {
		printUsage(e.stderr)
		return 2
	}
	if args[0] == "help" || isHelp(args[0]) {
		printUsage(e.stdout)
		return 0
	}
	for _, c := range commands {
		if c.name == args[0] {
			return report(e.stderr, c.run(e, args[1:]))
		}
	}
	return report(e.stderr, &usageError{fmt.Errorf("unknown command %q", args[0]), "overdav help lists the commands"})
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func printUsage(w io.Writer) {
	fmt.Fprint(w, "usage: overdav COMMAND\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-13s %-28s %s\n", c.name, c.args, c.short)
	}
	fmt.Fprint(w, "\noverdav COMMAND --help lists a command's flags.\n")
}

// report prints err and returns the exit status that goes with it.
func report(w io.Writer, err error) int {
	var found *foundError
	var config *ConfigError
	var start *startError
	var usage *usageError
	var hint *hintError
	switch {
	case errors.As(err, &start):
		report(w, start.error)
		return 1
	case errors.As(err, &found):
		report(w, found.error)
		return 2
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &config): // a compiler's lines: place first, one for each mistake
		fmt.Fprintln(w, err)
		fmt.Fprintln(w, "overdav: nothing was started")
		return 2
	case len(split(err)) > 1:
		status := 0
		for _, err := range split(err) {
			status = max(status, report(w, err))
		}
		return status
	case errors.As(err, &usage):
		fmt.Fprintf(w, "overdav: %v\noverdav: %s\n", err, usage.hint)
		return 2
	case errors.As(err, &hint):
		fmt.Fprintf(w, "overdav: %v\noverdav: %s\n", err, hint.hint)
		return 1
	default:
		fmt.Fprintf(w, "overdav: %v\n", err)
		return 1
	}
}

// A usageError is a command line that means nothing.
type usageError struct {
	error
	hint string
}

// A foundError is what a command was to find: mistakes in a configuration.
type foundError struct{ error }

// A startError is what is wrong with the files and directories of a configuration
// that was understood: it may be right once a disk is there.
type startError struct{ error }

// A hintError is an error with a guess at what to do about it.
type hintError struct {
	error
	hint string
}

func (e *usageError) Unwrap() error { return e.error }
func (e *hintError) Unwrap() error  { return e.error }
func (e *foundError) Unwrap() error { return e.error }
func (e *startError) Unwrap() error { return e.error }

// split returns the errors that errors.Join put together.
func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || reflect.TypeOf(err) != joinedError { // fmt.Errorf's have one text
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, split(e)...)
	}
	return all
}

var joinedError = reflect.TypeOf(errors.Join(errors.ErrUnsupported))
