package auth

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// quick returns a hash that costs next to nothing.
func quick(t testing.TB, password string) Hash {
	t.Helper()
	text, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHash(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHashesThatAreMadeVerify(t *testing.T) {
	for name, make := range map[string]func(string) (string, error){"bcrypt": HashBcrypt, "argon2id": HashArgon2id} {
		text, err := make("pässwörd")
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHash(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Weak() != "" {
			t.Errorf("%s: what is made is called weak: %s", name, h.Weak())
		}
		if !h.verify("pässwörd") || h.verify("passwörd") {
			t.Errorf("%s: verifies the wrong thing", name)
		}
	}
}

func TestPasswordsThatAreNotHashed(t *testing.T) {
	long := strings.Repeat("x", 72)
	for name, test := range map[string]struct {
		password     string
		bcrypt, argo bool // accepted
	}{
		"empty":            {"", false, false},
		"72 bytes":         {long, true, true},
		"73 bytes":         {long + "x", false, true},
		"far too long":     {strings.Repeat("x", maxPassword+1), false, false},
		"a line end":       {"a\nb", false, false},
		"NUL":              {"a\x00b", false, false},
		"no UTF-8":         {"a\xff", false, false},
		"looks like token": {"odt_abc", false, false},
		"a colon":          {"a:b", true, true},
	} {
		if _, err := HashBcrypt(test.password); (err == nil) != test.bcrypt {
			t.Errorf("%s: bcrypt: %v", name, err)
		}
		if _, err := HashArgon2id(test.password); (err == nil) != test.argo {
			t.Errorf("%s: argon2id: %v", name, err)
		}
	}
}

// bcrypt itself takes every password that begins with the same 72 bytes for the
// same.
func TestBcryptDoesNotTakeTheBeginningForTheWhole(t *testing.T) {
	long := strings.Repeat("x", 72)
	h := quick(t, long)
	if !h.verify(long) || h.verify(long+"y") || h.verify(long[:71]) {
		t.Error("a password of more than 72 bytes is cut off")
	}
}

// Made by openssl passwd, perl's crypt, and the reference implementation of argon2.
func TestHashesOfOtherPrograms(t *testing.T) {
	for _, test := range []struct {
		name, text, password string
		weak                 bool
	}{
		{"md5", "$1$saltsalt$le8lFSqqnPaRFOlmAZpvH1", "Hello world!", true},
		{"apr1", "$apr1$saltsalt$6BwcdpRros16.J9J/tHRr/", "Hello world!", true},
		{"sha", "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "myPassword", true},
		{"sha256-crypt", "$5$saltsalt$7nms7uea33j6nUc5B/QNWbGgEhGAZc61YUN0rQzogB0", "Hello world!", false},
		{"sha256-crypt, rounds", "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA", "Hello world!", false},
		{"sha512-crypt", "$6$saltsalt$pn.eNCAqRIao3pxsOGdjVa9wVR7Rb/3WnbxOluoQKVZPzLuyetx3yF6VIZDfQnn/arrFVfrq3BqRb9gLqhI5z0", "Hello world!", false},
		{"bcrypt 2y", "$2y$07$abcdefghijklmnopqrstuuwqzOMPzrtrdntuD3bnFYToVasmX9S7G", "Hello world!", true},
		{"bcrypt 2b", "$2b$05$abcdefghijklmnopqrstuu7nFISH/8YdwlXD3lw69A4iBUf6fvWAW", "Hello world!", true},
		{"argon2id", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password", false},
	} {
		h, err := ParseLegacyHash(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if (h.Weak() != "") != test.weak {
			t.Errorf("%s: weak is %q", test.name, h.Weak())
		}
		if h.verify("wrong") || h.verify("") {
			t.Errorf("%s: a wrong password is right", test.name)
		}
		if !h.verify(test.password) {
			t.Errorf("%s: the right password is wrong", test.name)
		}
	}
}

func TestHashesThatAreRefused(t *testing.T) {
	bcryptAt := func(cost string) string {
		return "$2y$" + cost + "$abcdefghijklmnopqrstuuwqzOMPzrtrdntuD3bnFYToVasmX9S7G"
	}
	const salt, key = "c29tZXNhbHQ", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	argon := func(cost string) string { return "$argon2id$v=19$" + cost + "$" + salt + "$" + key }
	tests := map[string]string{ // and what the message says; "" is none
		bcryptAt("14"):                                       "",
		bcryptAt("04"):                                       "",
		bcryptAt("15"):                                       "cost 15 keeps",
		bcryptAt("31"):                                       "cost 31 keeps",
		bcryptAt("32"):                                       "damaged bcrypt",
		bcryptAt("03"):                                       "damaged bcrypt",
		bcryptAt("1x"):                                       "damaged bcrypt",
		bcryptAt("10") + "x":                                 "damaged bcrypt",
		bcryptAt("10")[:59]:                                  "damaged bcrypt",
		"$2y$":                                               "damaged bcrypt",
		"$2x$" + bcryptAt("10")[4:]:                          "related kind",
		"$2y$10$" + strings.Repeat("!", 53):                  "damaged bcrypt",
		argon("m=19456,t=2,p=1"):                             "",
		argon("m=65536,t=3,p=4"):                             "",
		argon("m=262144,t=4,p=16"):                           "",
		argon("m=262145,t=1,p=1"):                            "too much memory",
		argon("m=262144,t=5,p=1"):                            "keeps a processor busy",
		argon("m=4294967295,t=4294967295,p=1"):               "too much memory",
		argon("m=19456,t=2,p=17"):                            "at most 16",
		argon("m=7,t=2,p=1"):                                 "damaged argon2id",
		argon("m=19456,t=0,p=1"):                             "damaged argon2id",
		argon("m=19456,t=2,p=0"):                             "damaged argon2id",
		argon("m=19456,t=2,p=256"):                           "damaged argon2id",
		argon("t=2,m=19456,p=1"):                             "damaged argon2id",
		argon("m=19456,t=2"):                                 "damaged argon2id",
		argon("m=19456,t=2,p=1,x=1"):                         "damaged argon2id",
		argon("m=19456,t=2,p=1") + "$":                       "damaged argon2id",
		argon("m=19456,t=2,p=1") + "=":                       "damaged argon2id",
		"$argon2id$v=16$m=19456,t=2,p=1$" + salt + "$" + key: "damaged argon2id",
		"$argon2id$v=19$m=19456,t=2,p=1$AAAA$" + key:         "damaged argon2id",
		"$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$AAAA":   "damaged argon2id",
		"$argon2i$v=19$m=19456,t=2,p=1$" + salt + "$" + key:  "related kind",
		"$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/":              "not a bcrypt or argon2id hash",
		"s3cret":                                             "not a bcrypt or argon2id hash",
		"":                                                   "not a bcrypt or argon2id hash",
	}
	for text, want := range tests {
		_, err := ParseHash(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
		if err != nil && len(text) > 20 && strings.Contains(err.Error(), text[20:]) {
			t.Errorf("the message has the hash in it: %v", err)
		}
	}
	for _, text := range []string{
		"s3cret", "", "{PLAIN}s3cret", "rqXexS6ZhobKA", "$6$rounds=1000001$salt$" + strings.Repeat("x", 86),
		"$5$rounds=x$salt$x", "$6$rounds=1000$", "$5$rounds=5000$" + strings.Repeat("x", 43), "$5$rounds=999$salt$" + strings.Repeat("x", 43), "$5$salt$x", "$apr1$nodollar",
	} {
		if _, err := ParseLegacyHash(text); err == nil {
			t.Errorf("%q is accepted in an htpasswd file", text)
		}
	}
}

func TestReadHTPasswd(t *testing.T) {
	users, err := ReadHTPasswd(strings.NewReader("\n# staff\nAlice:" + quick(t, "a").text + "\r\nbob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n carol:!" + quick(t, "c").text + "\ndave:*\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range users {
		word := "open"
		if u.Disabled {
			word = "disabled"
		}
		got = append(got, u.Name+" "+word)
	}
	if got, want := strings.Join(got, ", "), "alice open, bob open, carol disabled, dave disabled"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !users[0].Password.verify("a") || !users[1].Password.verify("myPassword") || users[3].Password.verify("") {
		t.Error("the passwords are wrong")
	}
}

func TestMistakesInHTPasswdHaveTheirLinesAndNoHashes(t *testing.T) {
	_, err := ReadHTPasswd(strings.NewReader("alice\nb o b:x\n\ncarol:verysecret\ndave:$2y$99$secretsecretsecret\nerin:!\nErin:!\nanonymous:!\n:!\n"))
	if err == nil {
		t.Fatal("got no error")
	}
	want := `line 1: want NAME:HASH
line 2: "b o b" cannot be a user's name; a name is 1 to 32 of a-z, 0-9, dot, underscore, hyphen
line 4: no hash that overdav reads; make one with htpasswd -B, or overdav hash-password
line 5: a damaged bcrypt hash
line 7: erin is there already, in line 6; remove one
line 8: "anonymous" cannot be a user's name; a name is 1 to 32 of a-z, 0-9, dot, underscore, hyphen
line 9: "" cannot be a user's name; a name is 1 to 32 of a-z, 0-9, dot, underscore, hyphen`
	if err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	var line *LineError
	if !errors.As(err, &line) || line.Line != 1 {
		t.Errorf("the first mistake is %v", line)
	}
}

func TestFoldName(t *testing.T) {
	for name, want := range map[string]string{
		"alice": "alice", "Alice": "alice", "a.b-c_9": "a.b-c_9", "...": "...", strings.Repeat("a", 32): strings.Repeat("a", 32),
		"": "", ".": "", "..": "", "anonymous": "", "Anonymous": "", strings.Repeat("a", 33): "",
		"a b": "", "a/b": "", "é": "", "a\x00": "", "a\n": "", "*": "", "ſ": "",
	} {
		got, ok := FoldName(name)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: got %q, %t, want %q", name, got, ok, want)
		}
	}
}

func FuzzHash(f *testing.F) {
	f.Add("$2y$05$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x")
	f.Add("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "x")
	f.Add("$6$rounds=1000$salt$"+strings.Repeat("x", 86), "x")
	f.Add("$5$salt$"+strings.Repeat("x", 43), "x")
	f.Add("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", "x")
	f.Add("{SSHA}AAAA", "x")
	f.Fuzz(func(t *testing.T, text, password string) {
		h, err := ParseLegacyHash(text)
		if err != nil {
			if !h.isZero() {
				t.Error("a hash and an error")
			}
			return
		}
		if h.argon != nil && h.argon.memory*h.argon.time > 4096 || h.legacy != nil && len(text) > 110 {
			return // it is only slow
		}
		if len(password) <= maxPassword && h.verify(password) && password == "" {
			t.Error("an empty password is right")
		}
	})
}

func FuzzHTPasswd(f *testing.F) {
	f.Add("alice:$2y$05$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n#\nbob:!\n")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := ReadHTPasswd(strings.NewReader(text))
		if err == nil {
			if _, err := NewUsers(users); err != nil {
				t.Errorf("what is read without a mistake is none: %v", err)
			}
		}
	})
}
