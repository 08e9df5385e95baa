package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	tests := []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string // what each must contain; "" is nothing at all
	}{
		{"no command", nil, 2, "", "usage: overdav COMMAND"},
		{"help", []string{"help"}, 0, "unlock", ""},
		{"unknown command", []string{"surf"}, 2, "", "overdav: unknown command \"surf\"\noverdav: overdav help lists the commands\n"},
		{"version", []string{"version"}, 0, "built   go1.", ""},
		{"help of a command", []string{"serve", "--help"}, 0, "--lower DIR", ""},
		{"unknown flag", []string{"serve", "--colour"}, 2, "", "overdav: flag provided but not defined: -colour\noverdav: overdav serve --help lists the flags\n"},
		{"nothing to serve", []string{"serve"}, 2, "", "overdav: shares[0].lower: nothing to serve; name a directory: overdav serve DIR\n"},
		{"missing config", []string{"serve", "--config", "/nonexistent.yaml"}, 1, "", "overdav: open /nonexistent.yaml: no such file or directory\noverdav: --config names"},
		{"missing directory", []string{"serve", "/nonexistent"}, 1, "", "--lower: there is no directory /nonexistent; name one that exists\noverdav: nothing was started\n"},
		{"unlock without upper", []string{"unlock"}, 2, "", "overdav: unlock wants to know the upper\n"},
		{"unlock of a word", []string{"unlock", "--upper", "/nonexistent", "now"}, 2, "", "overdav: unlock wants"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := run(env{getenv: getenv(), stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}, test.args)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			check := func(stream, got, want string) {
				if want == "" && got != "" || !strings.Contains(got, want) {
					t.Errorf("%s is %q, want %q in it", stream, got, want)
				}
			}
			check("stdout", stdout.String(), test.stdout)
			check("stderr", stderr.String(), test.stderr)
		})
	}
}

// Whoever looks for a flag reads docs/operations.md.
func TestOperationsPageNamesEveryFlagAndCommand(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if !bytes.Contains(page, []byte("`--"+s.flag)) {
			t.Errorf("docs/operations.md does not tell of --%s", s.flag)
		}
	}
	for _, key := range fileOnly {
		if !bytes.Contains(page, []byte(key)) {
			t.Errorf("docs/operations.md does not tell of %s", key)
		}
	}
	for _, c := range commands {
		if !bytes.Contains(page, []byte("`overdav "+c.name)) {
			t.Errorf("docs/operations.md does not tell of overdav %s", c.name)
		}
	}
}
