package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// bench measures the program beside other servers and writes what came out
// into docs/performance.md, between the two lines that mark it. davbench and
// the scripts that start the servers are in a folder of their own.
//
//  1. The program and davbench are built.
//  2. davbench measures one server after the other: those of peers that are
//     installed, each over a kernel overlay, then the program and the floors.
//  3. Its report takes the place of the last one.
func bench(folder, size, workloads string) error {
	dir, err := os.MkdirTemp("", "overdav-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)                      // what a failed run left there is mounted nowhere: davbench sees to that
	if err := os.Chmod(dir, 0o755); err != nil { // the servers have users of their own
		return err
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return err
	}
	davbench, overdav := filepath.Join(dir, "davbench"), filepath.Join(dir, "overdav")
	if err := run(filepath.Join(folder, "davbench"), "go", "build", "-o", davbench, "."); err != nil {
		return fmt.Errorf("%w; DAVBENCH names the folder that has davbench and peers", err)
	}
	if err := run(".", "go", "build", "-trimpath", "-o", overdav, "."); err != nil {
		return err
	}
	args := []string{"suite", "-work", filepath.Join(dir, "work"), "-out", filepath.Join(dir, "out"), "-size", size, "-workloads", workloads, "-quiet", "2s"}
	script := func(name string) string { return filepath.Join(folder, "peers", name+".sh") }
	for _, p := range peers {
		if _, err := exec.LookPath(p.program); err != nil {
			fmt.Printf("bench: %s is not installed and is not measured\n", p.program)
			continue
		}
		args = append(args, "-peer", p.name+"="+script(p.name))
	}
	args = append(args,
		"-peer", "overdav="+script("overdav")+",bin="+overdav+",mode=layers",
		"-peer", "floor="+script("floor")+",bin="+davbench+",mode=layers")
	if err := run(".", davbench, args...); err != nil {
		return err
	}
	results, err := filepath.Glob(filepath.Join(dir, "out", "*.json"))
	if err != nil {
		return err
	}
	report, err := exec.Command(davbench, append([]string{"report", "-ref", "floor"}, results...)...).Output()
	if err != nil {
		return err
	}
	return writeReport("docs/performance.md", append([]byte(measured(size)), report...))
}

// A peer is a server to measure beside the program.
type peer struct{ name, program string }

// peers are those that people would pick instead.
var peers = []peer{{"nginx", "nginx"}, {"apache", "apache2"}, {"lighttpd", "lighttpd"}, {"rclone", "rclone"}}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

// measured says when, on what and of which versions the figures are.
func measured(size string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s, size %s, on %d processors (%s), Linux %s, %s.\n",
		time.Now().Format(time.DateOnly), size, runtime.NumCPU(), processor(), kernel(), runtime.Version())
	fmt.Fprintf(&b, "overdav %s", firstLine("git", "describe", "--always", "--dirty"))
	for _, v := range [][]string{{"nginx", "-v"}, {"apache2", "-v"}, {"lighttpd", "-v"}, {"rclone", "version"}} {
		if line := firstLine(v[0], v[1:]...); line != "" {
			fmt.Fprintf(&b, "; %s", line)
		}
	}
	b.WriteString(".\n\n")
	return b.String()
}

// firstLine is the first line that a program writes, "" when it cannot be run.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// kernel is the version of the kernel, without what its builder calls it.
func kernel() string {
	version, _, _ := strings.Cut(firstLine("uname", "-r"), "-")
	return version
}

// processor is the model of the first one.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, rest, _ := strings.Cut(string(info), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(line, "\t :")
}

// What stands between these lines of docs/performance.md is the last report.
const (
	reportBegins = "<!-- make bench writes from here -->\n"
	reportEnds   = "<!-- to here -->\n"
)

func writeReport(page string, report []byte) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(reportBegins))
	_, after, ok2 := bytes.Cut(rest, []byte(reportEnds))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines that say where the report belongs", page)
	}
	text = bytes.Join([][]byte{before, []byte(reportBegins), bytes.TrimSpace(report), []byte("\n\n" + reportEnds), after}, nil)
	return os.WriteFile(page, text, 0o644)
}
