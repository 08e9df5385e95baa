package overlaytest

import "testing"

func TestAsHTTPLeavesWhatAClientSees(t *testing.T) {
	for _, test := range []struct {
		text, want string
		ok         bool
	}{
		{"d/ 0700 3:4 @5 [user.k=v]\nd/a 0600 = one\n", "d/\nd/a = one\n", true},
		{"l -> a\n", "", false},
		{"p fifo\n", "", false},
		{"bad !EINVAL\n", "", false},
	} {
		got, ok := AsHTTP(test.text)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("AsHTTP(%q) = %q, %v, want %q, %v", test.text, got, ok, test.want, test.ok)
		}
	}
}
