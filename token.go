package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"overdav/auth"
)

// tokenUsage is what the command line of "overdav token" looks like.
const tokenUsage = "token create|list|revoke [ID] --config FILE"

// tokenCommand is "overdav token": it makes, lists and revokes the tokens in the
// file that the configuration names, for anybody. A running server notices.
func tokenCommand(e env, args []string) error {
	verbs := map[string]func(env, []string) error{"create": tokenCreate, "list": tokenList, "revoke": tokenRevoke}
	if len(args) > 0 {
		if verb, ok := verbs[args[0]]; ok {
			return verb(e, args[1:])
		}
		if isHelp(args[0]) {
			newFlagSet(tokenUsage, e.stdout).printHelp()
			return flag.ErrHelp
		}
	}
	return &usageError{errors.New("token wants to know what to do"), "overdav " + tokenUsage}
}

// tokenFlags are those of every verb.
type tokenFlags struct {
	*flagSet
	config, user *string
}

func newTokenFlags(e env, usage, userText string) tokenFlags {
	flags := newFlagSet(usage, e.stdout)
	return tokenFlags{
		flags,
		flags.String("config", e.getenv("OVERDAV_CONFIG"), "the configuration `FILE` that serve has"),
		flags.String("user", "", userText),
	}
}

// parseAlone parses args, which are all flags.
func (f tokenFlags) parseAlone(args []string) error {
	stray := false
	if err := f.parse(args, func(string) { stray = true }); err != nil {
		return err
	}
	if stray {
		return &usageError{errors.New("everything here is said by flags"), "overdav " + f.usage}
	}
	return nil
}

// open opens the file of tokens.
func (f tokenFlags) open() (*auth.Tokens, Config, error) {
	if *f.config == "" {
		return nil, Config{}, &usageError{errors.New("token wants to know the configuration"), "overdav " + f.usage}
	}
	c := defaultConfig()
	mistakes, err := loadFile(*f.config, &c, make(origins))
	if err = errors.Join(append(mistakes, err)...); err != nil {
		return nil, Config{}, err
	}
	tokens, err := openTokens(c)
	if err == nil && tokens == nil {
		err = &hintError{fmt.Errorf("%s names no file of tokens", *f.config), "auth: { tokens: FILE } does"}
	}
	return tokens, c, err
}

func tokenCreate(e env, args []string) error {
	flags := newTokenFlags(e, "token create --config FILE --user NAME --label TEXT", "whose token it is: `NAME`")
	label := flags.String("label", "", "`TEXT` that says what it is for")
	var scope auth.Scope
	flags.Func("share", "the token is for the share at `PATH`; repeat it for more (all)", func(path string) error {
		scope.Shares = append(scope.Shares, path)
		return nil
	})
	flags.StringVar(&scope.Path, "path", "", "the token is for `PATH` in the share and what is beneath (all)")
	flags.BoolVar(&scope.Write, "write", false, "the token lets write what its user may write; else it only reads")
	expires := flags.String("expires", "", "the token is good until `TIME`, as in 720h or 2027-12-31 (until it is revoked)")
	if err := flags.parseAlone(args); err != nil {
		return err
	}
	until, err := parseExpiry(*expires, time.Now())
	if err != nil {
		return &usageError{err, "overdav token create --help lists the flags"}
	}
	tokens, c, err := flags.open()
	if err != nil {
		return err
	}
	if err := c.canonicalScope(&scope); err != nil {
		return err
	}
	if err := c.checkUser(*flags.user); err != nil {
		return err
	}
	secret, made, err := tokens.Create(auth.Token{User: *flags.user, Label: *label, Scope: scope, Expires: until})
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, secret)
	fmt.Fprintf(e.stderr, "overdav: this is the token %s of %s, and it is not shown again\n", made.ID, made.User)
	return nil
}

// checkUser refuses somebody whom nobody knows: a token would let them in all the
// less. Whom a proxy vouches for is not known here.
func (c *Config) checkUser(name string) error {
	folded, ok := auth.FoldName(name)
	if !ok || c.Auth.UserHeader != "" {
		return nil // making the token says what is wrong with a name
	}
	users, _, err := loadUsers(*c)
	if err != nil {
		return err
	}
	if _, ok := users.Lookup(folded); !ok {
		return &hintError{fmt.Errorf("no user called %s may come in", folded), "--user names one of the configuration, or of a file of htpasswd that it names"}
	}
	return nil
}

// canonicalScope spells the shares of scope as c does, and refuses those that
// there are not.
func (c *Config) canonicalScope(scope *auth.Scope) error {
	for i, path := range scope.Shares {
		j := slices.IndexFunc(c.Shares, func(s ShareConfig) bool { return samePath(path, s.Path) })
		if j < 0 {
			return fmt.Errorf("there is no share at %q", path)
		}
		scope.Shares[i] = c.Shares[j].Path
	}
	return nil
}

// parseExpiry reads how long a token is good: a time from now, or a day, to its
// end.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time; write it as in 720h or 2027-12-31", text)
}

func tokenList(e env, args []string) error {
	flags := newTokenFlags(e, "token list --config FILE [--user NAME]", "only those of `NAME` (all)")
	if err := flags.parseAlone(args); err != nil {
		return err
	}
	tokens, _, err := flags.open()
	if err != nil {
		return err
	}
	list, err := tokens.List(strings.ToLower(*flags.user))
	if err != nil {
		return err
	}
	printTokens(e.stdout, list, time.Now())
	return nil
}

func printTokens(w io.Writer, list []auth.Token, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "there are no tokens")
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tUSER\tMADE\tEXPIRES\tFOR\tLABEL")
	for _, t := range list {
		expires := "never"
		if t.Expired(now) {
			expires = "expired"
		} else if !t.Expires.IsZero() {
			expires = t.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%q\n", t.ID, t.User, t.Created.Format(time.DateOnly), expires, scopeText(t.Scope), t.Label)
	}
	_ = table.Flush() // as with every line to the terminal
}

// scopeText is a scope for people.
func scopeText(s auth.Scope) string {
	what := "read"
	if s.Write {
		what = "write"
	}
	if len(s.Shares) > 0 {
		what += " " + strings.Join(s.Shares, " ")
	}
	if s.Path != "" {
		what += " below " + s.Path
	}
	return what
}

func tokenRevoke(e env, args []string) error {
	flags := newTokenFlags(e, "token revoke ID --config FILE", "only if it is one of `NAME`")
	var ids []string
	if err := flags.parse(args, func(id string) { ids = append(ids, id) }); err != nil {
		return err
	}
	if len(ids) != 1 {
		return &usageError{errors.New("token revoke wants to know the ID"), "overdav token list shows it"}
	}
	tokens, _, err := flags.open()
	if err != nil {
		return err
	}
	if err := tokens.Revoke(strings.ToLower(*flags.user), ids[0]); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "revoked %s\n", ids[0])
	return nil
}
