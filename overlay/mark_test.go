package overlay

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestParseRedirect(t *testing.T) {
	for _, test := range []struct {
		value string
		want  string
		errno syscall.Errno
	}{
		{"real", "real", 0},
		{"/real", "/real", 0},
		{"/real/sub", "/real/sub", 0},
		{"...", "...", 0},
		{"\xff\n ", "\xff\n ", 0},
		{"/" + strings.Repeat("x", 401), "/" + strings.Repeat("x", 401), 0},
		{"real\x00/sub", "real", 0}, // ends at the first NUL
		{"", "", syscall.EINVAL},
		{"\x00", "", syscall.EINVAL},
		{"/", "", syscall.EINVAL},
		{"//real", "", syscall.EINVAL},
		{"/real/", "", syscall.EINVAL},
		{"/real//sub", "", syscall.EINVAL},
		{"real/sub", "", syscall.EINVAL},
		{".", "", syscall.EACCES},
		{"..", "", syscall.EACCES},
		{"/..", "", syscall.EACCES},
		{"/../lower/real", "", syscall.EACCES},
		{"/real/./sub", "", syscall.EACCES},
	} {
		got, err := parseRedirect([]byte(test.value))
		if got != test.want || (err != nil) != (test.errno != 0) {
			t.Errorf("parseRedirect(%q) = %q, %v, want %q", test.value, got, err, test.want)
		}
		if test.errno != 0 && !(errors.Is(err, test.errno) && errors.Is(err, ErrCorruptMark)) {
			t.Errorf("parseRedirect(%q): %v, want ErrCorruptMark and %v", test.value, err, test.errno)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	uuid := [16]byte{1, 2, 3, 15: 16}
	whole := encodeOrigin(uuid, 1, []byte("handle"))
	edit := func(at int, to byte) []byte {
		value := bytes.Clone(whole)
		value[at] = to
		return value
	}
	for _, test := range []struct {
		name  string
		value []byte
		want  [16]byte
		bad   bool
	}{
		{"as it is written", whole, uuid, false},
		{"empty", nil, [16]byte{}, false},
		{"of a later version", edit(0, 1), [16]byte{}, false},
		{"of another magic", edit(1, 0xfa), [16]byte{}, true},
		{"of another length", edit(2, 20), [16]byte{}, true},
		{"cut short", whole[:len(whole)-1], [16]byte{}, true},
		{"cut in the header", whole[:originHeader-1], [16]byte{}, true},
		{"too long", append(bytes.Clone(whole), 0), [16]byte{}, true},
	} {
		got, err := parseOrigin(test.value)
		if got != test.want || (err != nil) != test.bad {
			t.Errorf("%s: got %x, %v, want %x", test.name, got, err, test.want)
		}
		if test.bad && !errors.Is(err, ErrCorruptMark) {
			t.Errorf("%s: %v, want ErrCorruptMark", test.name, err)
		}
	}
}

func TestProtection(t *testing.T) {
	for _, test := range []struct {
		value string
		want  protection
		again string
	}{
		{"", protection{}, ""},
		{"i", protection{immutable: true}, "i"},
		{"a", protection{appendOnly: true}, "a"},
		{"ai", protection{true, true}, "ai"},
		{"ia", protection{true, true}, "ai"},
		{"xiz", protection{immutable: true}, "i"},
	} {
		got := parseProtection([]byte(test.value))
		if again := string(formatProtection(got)); got != test.want || again != test.again {
			t.Errorf("%q: got %+v, written %q, want %+v, %q", test.value, got, again, test.want, test.again)
		}
	}
}

// TestEscapes are those of overlayfs.rst, "Nesting".
func TestEscapes(t *testing.T) {
	m := newMarks(trustedPrefix)
	long := "trusted.overlay." + strings.Repeat("x", 240)
	for _, test := range []struct {
		stored, shown string // "" is private
	}{
		{"user.color", "user.color"},
		{"trusted.overlayx", "trusted.overlayx"},
		{"user.overlay.opaque", "user.overlay.opaque"},
		{"trusted.overlay.opaque", ""},
		{"trusted.overlay.", ""},
		{"trusted.overlay.overlay.opaque", "trusted.overlay.opaque"},
		{"trusted.overlay.overlay.overlay.opaque", "trusted.overlay.overlay.opaque"},
	} {
		shown, ok := m.shown(test.stored)
		if ok != (test.shown != "") || ok && shown != test.shown {
			t.Errorf("shown(%q) = %q, %v, want %q", test.stored, shown, ok, test.shown)
		}
		if m.private(test.stored) == ok {
			t.Errorf("private(%q) = %v", test.stored, !ok)
		}
		if !ok {
			continue
		}
		if stored, err := m.stored(test.shown); stored != test.stored || err != nil {
			t.Errorf("stored(%q) = %q, %v, want %q", test.shown, stored, err, test.stored)
		}
	}
	if stored, err := m.stored(long); err != syscall.EOPNOTSUPP {
		t.Errorf("stored of %d bytes = %q, %v, want EOPNOTSUPP", len(long), stored, err)
	}
}

// FuzzParseRedirect: what is accepted is one name, or a path of names, that
// stays beneath where it is looked up.
func FuzzParseRedirect(f *testing.F) {
	for _, seed := range []string{"real", "/real/sub", "", "/", "..", "a/b", "/a//b", "a\x00b", "/./a", "/a/.."} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := parseRedirect(value)
		if err != nil {
			if !errors.Is(err, ErrCorruptMark) || r != "" {
				t.Errorf("%q: %q, %v", value, r, err)
			}
			return
		}
		if !bytes.HasPrefix(value, []byte(r)) || strings.Contains(r, "\x00") {
			t.Errorf("%q became %q", value, r)
		}
		components := []string{r}
		if path, ok := strings.CutPrefix(r, "/"); ok {
			components = strings.Split(path, "/")
		}
		for _, c := range components {
			if c == "" || c == "." || c == ".." || strings.Contains(c, "/") {
				t.Errorf("%q has the component %q", r, c)
			}
		}
	})
}

// FuzzParseOrigin: what is accepted is written back as it was.
func FuzzParseOrigin(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeOrigin([16]byte{7}, 1, []byte("handle")))
	f.Add([]byte("\x00\xfb\x15"))
	f.Fuzz(func(t *testing.T, value []byte) {
		uuid, err := parseOrigin(value)
		if err != nil || len(value) == 0 || value[0] != originVersion {
			return
		}
		again := encodeOrigin(uuid, int32(value[4]), value[originHeader:])
		again[3] = value[3] // the flags are the writer's
		if !bytes.Equal(again, value) {
			t.Errorf("%x became %x", value, again)
		}
	})
}
