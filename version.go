package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
)

// version prints what the Go tool has noted in the program.
func version(e env, args []string) error {
	flags := newFlagSet("version", e.stdout)
	if err := flags.parse(args, func(string) {}); err != nil {
		return err
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program was built without module support and knows nothing of itself")
	}
	setting := make(map[string]string)
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	fmt.Fprintf(e.stdout, "overdav %s\n", buildVersion())
	if rev := setting["vcs.revision"]; rev != "" {
		if setting["vcs.modified"] == "true" {
			rev += ", changed since"
		}
		fmt.Fprintf(e.stdout, "commit  %s\n", rev)
	}
	fmt.Fprintf(e.stdout, "built   %s %s/%s\n", info.GoVersion, setting["GOOS"], setting["GOARCH"])
	return nil
}

// buildVersion is the version of the program as the Go tool has noted it.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return cmp.Or(info.Main.Version, "(devel)")
}
