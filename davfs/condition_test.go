package davfs

import (
	"net/http"
	"testing"
	"time"
)

// RFC 9110, section 13.
func TestCheckConditions(t *testing.T) {
	modified := time.Date(2024, 3, 1, 12, 0, 0, 700_000_000, time.UTC)
	const (
		same    = "Fri, 01 Mar 2024 12:00:00 GMT"
		earlier = "Fri, 01 Mar 2024 11:59:59 GMT"
		later   = "Fri, 01 Mar 2024 12:00:01 GMT"
	)
	mapped := representation{exists: true, etag: `"a"`, modified: modified}
	collection := representation{exists: true}
	unmapped := representation{}

	for _, tt := range []struct {
		method  string
		current representation
		fields  []string // name, value, name, value...
		want    verdict
	}{
		{"PUT", mapped, nil, proceed},
		{"PUT", unmapped, nil, proceed},

		// 13.1.1: If-Match
		{"PUT", mapped, []string{"If-Match", `"a"`}, proceed},
		{"PUT", mapped, []string{"If-Match", `"b", "a"`}, proceed},
		{"PUT", mapped, []string{"If-Match", `"b"`, "If-Match", `"a"`}, proceed},
		{"PUT", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"PUT", mapped, []string{"If-Match", `W/"a"`}, preconditionFailed},
		{"PUT", representation{exists: true, etag: `W/"a"`}, []string{"If-Match", `W/"a"`}, preconditionFailed},
		{"PUT", mapped, []string{"If-Match", `*`}, proceed},
		{"PUT", mapped, []string{"If-Match", ``}, preconditionFailed},
		{"PUT", mapped, []string{"If-Match", `a`}, preconditionFailed},
		{"PUT", mapped, []string{"If-Match", `"a" junk`}, preconditionFailed},
		{"PUT", mapped, []string{"If-Match", `"a", *`}, preconditionFailed},
		{"PUT", unmapped, []string{"If-Match", `*`}, preconditionFailed},
		{"PUT", unmapped, []string{"If-Match", `"a"`}, preconditionFailed},
		{"PUT", collection, []string{"If-Match", `""`}, preconditionFailed},
		{"HEAD", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"DELETE", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"MKCOL", unmapped, []string{"If-Match", `*`}, preconditionFailed},
		{"MOVE", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"COPY", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"LOCK", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"PROPPATCH", mapped, []string{"If-Match", `"b"`}, preconditionFailed},
		{"PATCH", mapped, []string{"If-Match", `"b"`}, preconditionFailed},

		// 13.1.2: If-None-Match
		{"PUT", mapped, []string{"If-None-Match", `*`}, preconditionFailed},
		{"PUT", unmapped, []string{"If-None-Match", `*`}, proceed},
		{"LOCK", mapped, []string{"If-None-Match", `*`}, preconditionFailed},
		{"MKCOL", mapped, []string{"If-None-Match", `*`}, preconditionFailed},
		{"PUT", mapped, []string{"If-None-Match", `"a"`}, preconditionFailed},
		{"PUT", mapped, []string{"If-None-Match", `"b"`}, proceed},
		{"PUT", mapped, []string{"If-None-Match", `b`}, preconditionFailed},
		{"GET", mapped, []string{"If-None-Match", `"a"`}, notModified},
		{"HEAD", mapped, []string{"If-None-Match", `"b", W/"a"`}, notModified},
		{"GET", mapped, []string{"If-None-Match", `"b"`}, proceed},
		{"GET", mapped, []string{"If-None-Match", `*`}, notModified},
		{"GET", mapped, []string{"If-None-Match", `b`}, proceed},
		{"GET", unmapped, []string{"If-None-Match", `*`}, proceed},

		// 13.1.3: If-Modified-Since, more careful than asked
		{"GET", mapped, []string{"If-Modified-Since", same}, notModified},
		{"GET", mapped, []string{"If-Modified-Since", later}, proceed},
		{"GET", mapped, []string{"If-Modified-Since", earlier}, proceed},
		{"GET", mapped, []string{"If-Modified-Since", "yesterday"}, proceed},
		{"GET", mapped, []string{"If-Modified-Since", same, "Cache-Control", "no-cache"}, proceed},
		{"PUT", mapped, []string{"If-Modified-Since", same}, proceed},
		{"GET", collection, []string{"If-Modified-Since", same}, proceed},
		{"GET", mapped, []string{"If-Modified-Since", same, "If-None-Match", `"b"`}, proceed},
		{"GET", mapped, []string{"If-Modified-Since", later, "If-None-Match", `"a"`}, notModified},

		// 13.1.4: If-Unmodified-Since
		{"PUT", mapped, []string{"If-Unmodified-Since", same}, proceed},
		{"PUT", mapped, []string{"If-Unmodified-Since", later}, proceed},
		{"PUT", mapped, []string{"If-Unmodified-Since", earlier}, preconditionFailed},
		{"GET", mapped, []string{"If-Unmodified-Since", earlier}, preconditionFailed},
		{"PUT", mapped, []string{"If-Unmodified-Since", "yesterday"}, proceed},
		{"PUT", unmapped, []string{"If-Unmodified-Since", earlier}, proceed},
		{"PUT", mapped, []string{"If-Unmodified-Since", earlier, "If-Match", `"a"`}, proceed},

		// 13.2.1: methods without a representation
		{"OPTIONS", mapped, []string{"If-Match", `"b"`}, proceed},
		{"PROPFIND", mapped, []string{"If-None-Match", `"a"`}, proceed},
		{"UNLOCK", mapped, []string{"If-Match", `"b"`}, proceed},
	} {
		h := http.Header{}
		for i := 0; i < len(tt.fields); i += 2 {
			h.Add(tt.fields[i], tt.fields[i+1])
		}
		now := modified.Add(time.Minute)
		if got := checkConditions(tt.method, h, now, tt.current); got != tt.want {
			t.Errorf("%s of %+v with %q = %v, want %v", tt.method, tt.current, tt.fields, got, tt.want)
		}
	}
}

func TestNotModifiedOnlyAfterItsSecond(t *testing.T) {
	modified := time.Date(2024, 3, 1, 12, 0, 0, 100_000_000, time.UTC)
	h := header("If-Modified-Since", modified.Format(http.TimeFormat))
	current := representation{exists: true, modified: modified}
	for _, tt := range []struct {
		after time.Duration
		want  verdict
	}{
		{-time.Hour, proceed},
		{0, proceed},
		{800 * time.Millisecond, proceed},
		{time.Second, proceed},
		{1900 * time.Millisecond, notModified},
	} {
		if got := checkConditions("GET", h, modified.Add(tt.after), current); got != tt.want {
			t.Errorf("%v after the write: %v, want %v", tt.after, got, tt.want)
		}
	}
}
