package davfs

import (
	"errors"
	"math"
	"net/http"
	"testing"
	"time"
)

// header makes a request header with one field of the given values.
func header(name string, values ...string) http.Header {
	h := http.Header{}
	for _, v := range values {
		h.Add(name, v)
	}
	return h
}

// RFC 4918, section 10.2.
func TestParseDepth(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   depth
		noRoot bool
		bad    bool
	}{
		{nil, depthInfinity, false, false},
		{[]string{"0"}, depthZero, false, false},
		{[]string{" 1 "}, depthOne, false, false},
		{[]string{"infinity"}, depthInfinity, false, false},
		{[]string{"Infinity"}, depthInfinity, false, false},
		{[]string{"1,noroot"}, depthOne, true, false},
		{[]string{"infinity, NoRoot"}, depthInfinity, true, false},
		{[]string{"0", "0"}, depthZero, false, false},
		{[]string{"0", "infinity"}, depthInfinity, false, true},
		{[]string{"2"}, depthInfinity, false, true},
		{[]string{"-1"}, depthInfinity, false, true},
		{[]string{"1,root"}, depthInfinity, false, true},
		{[]string{"1,"}, depthInfinity, false, true},
		{[]string{"infinite"}, depthInfinity, false, true},
	} {
		got, noRoot, err := parseDepth(header("Depth", tt.values...), depthInfinity)
		if got != tt.want || noRoot != tt.noRoot || errors.Is(err, errBadHeader) != tt.bad {
			t.Errorf("parseDepth(%q) = %v, %v, %v; want %v, %v, bad=%v", tt.values, got, noRoot, err, tt.want, tt.noRoot, tt.bad)
		}
	}
}

// RFC 4918, section 10.7.
func TestParseTimeout(t *testing.T) {
	const limit = time.Hour
	for _, tt := range []struct {
		values []string
		want   time.Duration
		ok     bool
	}{
		{nil, 0, false},
		{[]string{""}, 0, false},
		{[]string{"Infinite"}, limit, true},
		{[]string{"infinite"}, limit, true},
		{[]string{"Second-1800"}, 30 * time.Minute, true},
		{[]string{"SECOND-1"}, time.Second, true},
		{[]string{"Second-3600"}, limit, true},
		{[]string{"Second-3601"}, limit, true},
		{[]string{"Second-4294967295"}, limit, true},
		{[]string{"Second-99999999999999999999999999"}, limit, true},
		{[]string{"Infinite, Second-4100000000"}, limit, true},
		{[]string{"Second-60, Infinite"}, time.Minute, true},
		{[]string{"Extend-7, Second-60"}, time.Minute, true},
		{[]string{"Second-0"}, 0, false},
		{[]string{"Second-0, Second-9"}, 9 * time.Second, true},
		{[]string{"Second--9"}, 0, false},
		{[]string{"Second-9s"}, 0, false},
		{[]string{"Second-"}, 0, false},
		{[]string{"x", "Second-9"}, 9 * time.Second, true},
		{[]string{",,,,,,,,,,,,,,,,,,,,Second-9"}, 0, false},
	} {
		got, ok := parseTimeout(header("Timeout", tt.values...), limit)
		if got != tt.want || ok != tt.ok {
			t.Errorf("parseTimeout(%q) = %v, %v; want %v, %v", tt.values, got, ok, tt.want, tt.ok)
		}
	}
}

// RFC 4918, section 10.6.
func TestParseOverwrite(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   bool
		bad    bool
	}{
		{nil, true, false},
		{[]string{"T"}, true, false},
		{[]string{"t"}, true, false},
		{[]string{"F"}, false, false},
		{[]string{"f"}, false, false},
		{[]string{"F", "F"}, false, false},
		{[]string{"T", "F"}, false, true},
		{[]string{"true"}, false, true},
	} {
		got, err := parseOverwrite(header("Overwrite", tt.values...))
		if got != tt.want || errors.Is(err, errBadHeader) != tt.bad {
			t.Errorf("parseOverwrite(%q) = %v, %v; want %v, bad=%v", tt.values, got, err, tt.want, tt.bad)
		}
	}
}

// RFC 4918, section 10.5.
func TestParseLockToken(t *testing.T) {
	long := string(make([]byte, maxTokenLength+1))
	for _, tt := range []struct {
		value string
		want  string
		err   error
	}{
		{"<urn:uuid:a515cfa4-5da4-22e1-f5b5-00a0451e6bf7>", "urn:uuid:a515cfa4-5da4-22e1-f5b5-00a0451e6bf7", nil},
		{"urn:uuid:a515", "urn:uuid:a515", nil},
		{" <opaquelocktoken:x> ", "opaquelocktoken:x", nil},
		{"", "", errBadHeader},
		{"<>", "", errBadHeader},
		{"<urn:x", "", errBadHeader},
		{"urn:x>", "", errBadHeader},
		{"<<urn:x>>", "", errBadHeader},
		{"<urn:x> <urn:y>", "", errBadHeader},
		{"<urn:x\x00>", "", errBadHeader},
		{"<urn:\xff>", "", errBadHeader},
		{long, "", errHeaderTooLarge},
	} {
		got, err := parseLockToken(header("Lock-Token", tt.value))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("parseLockToken(%q) = %q, %v; want %q, %v", tt.value, got, err, tt.want, tt.err)
		}
	}
	if _, err := parseLockToken(http.Header{}); !errors.Is(err, errBadHeader) {
		t.Errorf("parseLockToken without the header: err = %v, want %v", err, errBadHeader)
	}
}

// RFC 9110, section 14.4.
func TestParseContentRange(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  contentRange
		bad   bool
	}{
		{"bytes 0-0/1", contentRange{0, 0, 1}, false},
		{"bytes 100-199/1000", contentRange{100, 199, 1000}, false},
		{"Bytes 100-199/*", contentRange{100, 199, -1}, false},
		{"bytes  5-6/7", contentRange{5, 6, 7}, false},
		{"bytes */1000", contentRange{}, true},
		{"bytes 5-4/10", contentRange{}, true},
		{"bytes 5-10/10", contentRange{}, true},
		{"bytes=0-1/2", contentRange{}, true},
		{"bytes 0-1", contentRange{}, true},
		{"bytes -1/2", contentRange{}, true},
		{"bytes 0-/2", contentRange{}, true},
		{"bytes +0-1/2", contentRange{}, true},
		{"lines 0-1/2", contentRange{}, true},
		{"bytes 0-9223372036854775807/*", contentRange{}, true},
		{"bytes 0-99999999999999999999/*", contentRange{}, true},
		{"", contentRange{}, true},
	} {
		got, ok, err := parseContentRange(header("Content-Range", tt.value))
		if got != tt.want || !ok || errors.Is(err, errBadHeader) != tt.bad {
			t.Errorf("parseContentRange(%q) = %v, %v, %v; want %v, bad=%v", tt.value, got, ok, err, tt.want, tt.bad)
		}
	}
	if _, ok, err := parseContentRange(http.Header{}); ok || err != nil {
		t.Errorf("parseContentRange without the header = %v, %v; want false, nil", ok, err)
	}
	if got := (contentRange{10, 19, -1}).length(); got != 10 {
		t.Errorf("length of 10-19 = %d, want 10", got)
	}
}

func TestParseUpdateRange(t *testing.T) {
	for _, tt := range []struct {
		value          string
		offset, length int64 // in a file of 10 bytes
		err            error
	}{
		{"append", 10, -1, nil},
		{"Append", 10, -1, nil},
		{"bytes=3-5", 3, 3, nil},
		{"bytes=3-", 3, -1, nil},
		{"bytes=-4", 6, -1, nil},
		{"bytes=8-20", 8, 13, nil},
		{"bytes=10-", 10, -1, nil},
		{"bytes=11-", 0, 0, errRangeNotSatisfiable},
		{"bytes=-11", 0, 0, errRangeNotSatisfiable},
		{"bytes=99999999999999999999-", 0, 0, errRangeNotSatisfiable},
		{"bytes=5-3", 0, 0, errBadHeader},
		{"bytes=-", 0, 0, errBadHeader},
		{"bytes=", 0, 0, errBadHeader},
		{"bytes 3-5", 0, 0, errBadHeader},
		{"bytes=0-9223372036854775807", 0, 0, errBadHeader},
		{"bytes=a-b", 0, 0, errBadHeader},
		{"", 0, 0, errBadHeader},
	} {
		u, err := parseUpdateRange(header("X-Update-Range", tt.value))
		var offset, length int64
		if err == nil {
			offset, length, err = u.resolve(10)
		}
		if offset != tt.offset || length != tt.length || !errors.Is(err, tt.err) {
			t.Errorf("X-Update-Range %q = %d, %d, %v; want %d, %d, %v", tt.value, offset, length, err, tt.offset, tt.length, tt.err)
		}
	}
}

func TestParseOCMtime(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  time.Time
		bad   bool
	}{
		{"1577934245", time.Unix(1577934245, 0), false},
		{"1577934245.5", time.Unix(1577934245, 500_000_000), false},
		{"1577934245.1234567899", time.Unix(1577934245, 123_456_789), false},
		{"0.5", time.Unix(0, 500_000_000), false},
		{"0", time.Time{}, true},
		{"0.0", time.Time{}, true},
		{"-5", time.Time{}, true},
		{"+5", time.Time{}, true},
		{"5.", time.Time{}, true},
		{"5.-1", time.Time{}, true},
		{".5", time.Time{}, true},
		{"1e9", time.Time{}, true},
		{"253402300800", time.Time{}, true},
		{"99999999999999999999", time.Time{}, true},
		{"Thu, 02 Jan 2020 03:04:05 GMT", time.Time{}, true},
		{"", time.Time{}, true},
	} {
		got, ok, err := parseOCMtime(header("X-OC-Mtime", tt.value))
		if !got.Equal(tt.want) || !ok || errors.Is(err, errBadHeader) != tt.bad {
			t.Errorf("parseOCMtime(%q) = %v, %v, %v; want %v, bad=%v", tt.value, got, ok, err, tt.want, tt.bad)
		}
	}
	if _, ok, err := parseOCMtime(http.Header{}); ok || err != nil {
		t.Errorf("parseOCMtime without the header = %v, %v; want false, nil", ok, err)
	}
}

// A token is accepted exactly when it can be written into an answer and an If
// header again.
func FuzzLockToken(f *testing.F) {
	f.Add("<urn:uuid:a515cfa4-5da4-22e1-f5b5-00a0451e6bf7>")
	f.Add("opaquelocktoken:x")
	f.Add("<<>>")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := parseLockToken(header("Lock-Token", s))
		if err != nil {
			return
		}
		again, err := parseLockToken(header("Lock-Token", "<"+token+">"))
		if again != token || err != nil {
			t.Errorf("%q gave %q, which gives %q, %v", s, token, again, err)
		}
		if h, err := parseIf(header("If", "(<"+token+">)")); err != nil || h.tokens()[0] != token {
			t.Errorf("token %q is not one in an If header: %v", token, err)
		}
	})
}

// A granted timeout is at least a second and at most the limit.
func FuzzTimeout(f *testing.F) {
	f.Add("Infinite, Second-4100000000")
	f.Add("Second-0")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseTimeout(header("Timeout", s), time.Hour)
		if ok && (got < time.Second || got > time.Hour) || !ok && got != 0 {
			t.Errorf("parseTimeout(%q) = %v, %v", s, got, ok)
		}
	})
}

// What is accepted names at least one byte, and bytes that exist.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-1/2", int64(5))
	f.Add("bytes 0-9223372036854775806/*", int64(math.MaxInt64))
	f.Add("bytes=-4", int64(3))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if r, ok, err := parseContentRange(header("Content-Range", s)); ok && err == nil {
			if r.first < 0 || r.length() < 1 || r.size >= 0 && r.last >= r.size {
				t.Errorf("Content-Range %q = %+v", s, r)
			}
		}
		u, err := parseUpdateRange(header("X-Update-Range", s))
		if err != nil || size < 0 {
			return
		}
		if offset, length, err := u.resolve(size); err == nil && (offset < 0 || offset > size || length == 0 || length < -1) {
			t.Errorf("X-Update-Range %q in %d bytes = %d, %d", s, size, offset, length)
		}
	})
}
