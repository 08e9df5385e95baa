package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"overdav/auth"
)

// hashPassword prints what a password is in the configuration. It reads the
// password from standard input and from nowhere else: arguments and variables
// can be seen by others on the machine.
func hashPassword(e env, args []string) error {
	flags := newFlagSet("hash-password [--argon2id] < FILE", e.stdout)
	argon := flags.Bool("argon2id", false, "make an argon2id hash, which takes memory to guess (bcrypt)")
	stray := false
	if err := flags.parse(args, func(string) { stray = true }); err != nil {
		return err
	}
	if stray { // it may be a password: it is not repeated
		return &usageError{errors.New("hash-password takes no arguments"), "it reads the password from standard input: others can see arguments"}
	}
	password, err := readPassword(e)
	if err != nil {
		return err
	}
	hash := auth.HashBcrypt
	if *argon {
		hash = auth.HashArgon2id
	}
	text, err := hash(password)
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, text)
	return nil
}

// readPassword reads one line, without showing it on a terminal, where it asks
// twice.
func readPassword(e env) (string, error) {
	f, ok := e.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return readLine(e.stdin)
	}
	var typed [2][]byte
	for i, prompt := range []string{"password: ", "again: "} {
		fmt.Fprint(e.stderr, prompt)
		var err error
		typed[i], err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(e.stderr)
		if err != nil {
			return "", err
		}
	}
	if !bytes.Equal(typed[0], typed[1]) {
		return "", errors.New("the two are not the same")
	}
	return string(typed[0]), nil
}

// readLine reads the only line of r.
func readLine(r io.Reader) (string, error) {
	const longest = 4096 // any password is shorter
	in := bufio.NewReader(io.LimitReader(r, longest))
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if _, err := in.Peek(1); err == nil {
		return "", errors.New("more than one line; a password is one")
	}
	return strings.TrimRight(line, "\r\n"), nil
}
