package integration_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"overdav/overlay/overlaytest"
)

// refused runs overdav with args and expects it not to start, and each of
// words in what it says. Nothing below dir may be written.
func refused(t *testing.T, dir string, args []string, words ...string) {
	t.Helper()
	before, err := overlaytest.TakeSnapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(openDir(t), append([]string{"serve"}, args...)...)
	out, err := runFor(giveUp, cmd)
	if err == nil || cmd.ProcessState.ExitCode() <= 0 || cmd.ProcessState.ExitCode() > 2 {
		t.Errorf("exit status %v, want 1 or 2", cmd.ProcessState)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("said %q, want %q in it", out, word)
		}
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("panicked: %s", out)
	}
	if err := before.Unchanged(dir); err != nil {
		t.Errorf("a refusal changed something: %v", err)
	}
	if state := filepath.Join(cmd.Dir, "state"); exists(state) {
		t.Errorf("a refusal made %s", state)
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func TestRefusalsSayWhatToDoAndWriteNothing(t *testing.T) {
	tests := []struct{ name, args, words string }{
		{"no directory at all", "", "overdav serve DIR"},
		{"missing lower", "$DIR/none", "$DIR/none|name one that exists"},
		{"lower is a file", "$LOWER/a", "$LOWER/a is not a directory"},
		{"missing upper", "$LOWER --upper $DIR/none --work $WORK", "$DIR/none"},
		{"missing upper and work not named", "$LOWER --upper $DIR/none", "$DIR/none"},
		{"missing work", "$LOWER --upper $UPPER --work $DIR/none", "$DIR/none"},
		{"upper inside lower", "$DIR --upper $UPPER --work $WORK", "$UPPER is inside $DIR|--upper"},
		{"work inside lower", "$LOWER $DIR/other --upper $UPPER --work $DIR/other/work", "$DIR/other/work is inside $DIR/other|--work"},
		{"lower inside upper", "$UPPER/in --upper $UPPER --work $WORK", "$UPPER"},
		{"lower is upper", "$UPPER --upper $UPPER --work $WORK", "$UPPER"},
		{"lower twice", "$LOWER $LOWER --upper $UPPER --work $WORK", "$LOWER"},
		{"lower twice and upper not named", "$LOWER $LOWER", "$LOWER"},
		{"work is upper", "$LOWER --upper $UPPER --work $UPPER", "$UPPER"},
		{"work inside upper", "$LOWER --upper $UPPER --work $UPPER/in", "$UPPER"},
		{"work without upper", "$LOWER --work $WORK", "add upper or remove work"},
		{"every address", "$LOWER --upper $UPPER --work $WORK --listen :0", "--listen|127.0.0.1|--anonymous"},
		{"no address", "$LOWER --upper $UPPER --work $WORK --listen 8080", "--listen|host:port"},
		{"an address in use", "$LOWER --listen $BUSY", "$BUSY|--listen"},
		{"a file as socket", "$LOWER --listen unix:$LOWER/a", "$LOWER/a|--listen"},
		{"missing configuration", "--config $DIR/none.yaml", "$DIR/none.yaml|--config"},
		{"bad configuration", "--config $CONF/bad.yaml", "$CONF/bad.yaml:1:1: lissen: unknown key; did you mean listen?|$CONF/bad.yaml:2:27: shares[0].lower: "},
		{"unknown flag", "$LOWER --readonly", "-readonly|--help"},
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := openDir(t)
			l := overlaytest.NewLayers(t, dir, demo)
			overlaytest.Build(t, l.Upper, "in/\n")
			overlaytest.Build(t, dir+"/other", "work/\n")
			conf := t.TempDir()
			if err := os.WriteFile(conf+"/bad.yaml", []byte("lissen: x\nshares: [{path: /, lower: /srv}]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			fill := func(s string) string {
				return os.Expand(s, func(name string) string {
					return map[string]string{"DIR": dir, "LOWER": l.Lowers[0], "UPPER": l.Upper, "WORK": l.Work, "CONF": conf, "BUSY": busy.Addr().String()}[name]
				})
			}
			args := append([]string{"--listen", "127.0.0.1:0"}, strings.Fields(fill(test.args))...)
			refused(t, dir, args, strings.Split(fill(test.words), "|")...)
		})
	}
}

func TestAnUpperInUseIsRefused(t *testing.T) {
	t.Run("by another overdav", func(t *testing.T) {
		l, args := newShare(t)
		s := serve(t, args...)
		refused(t, filepath.Dir(l.Upper), append(args, "--listen", "127.0.0.1:0"), l.Upper)
		s.must(201, "PUT", "still", "works")
		s.stop()
	})
	t.Run("by another overdav with another work", func(t *testing.T) {
		l, args := newShare(t)
		s := serve(t, args...)
		overlaytest.Build(t, l.Work+"2", "")
		refused(t, filepath.Dir(l.Upper), append(args, "--listen", "127.0.0.1:0", "--work", l.Work+"2"), l.Upper)
		s.stop()
	})
	t.Run("by the kernel", func(t *testing.T) {
		overlaytest.NeedRoot(t)
		l, args := newShare(t)
		_, unmount := overlaytest.KernelMount(t, l)
		refused(t, l.Upper, append(args, "--listen", "127.0.0.1:0"), l.Upper, "unmount")
		unmount()
		serve(t, args...).stop()
	})
}
