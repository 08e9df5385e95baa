package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// configFile reads one file into a Config. It walks the syntax tree itself
// instead of letting the YAML package decode, because that one stops at the
// first mistake and an operator wants to see them all.
type configFile struct {
	name    string
	origins origins
	errs    []error
}

// loadFile reads the file over what c holds. It returns every mistake in it, or
// the error that kept it from being read. Relative directories in the file
// begin at the file's own directory.
func loadFile(name string, c *Config, o origins) (mistakes []error, err error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hintError{err, "--config names a file like config.yaml of the source; without it overdav needs none"}
	}
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	f := &configFile{name: name, origins: o}
	f.parse(data, c)
	c.absolute(dir)
	f.checkSecrets(c)
	return f.errs, nil
}

func (f *configFile) parse(data []byte, c *Config) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // which editors of Windows begin a file with
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.origins[""] = origin{wrong: true} // and therefore everything in it
		f.syntaxError(err, data)
		return
	}
	for i, doc := range file.Docs {
		switch {
		case doc.Body == nil: // nothing but comments
		case i > 0:
			f.errorf(doc.Body.GetToken(), "", "a second document; the configuration is one")
		default:
			f.decode(doc.Body.GetToken(), doc.Body, reflect.ValueOf(c).Elem(), "")
		}
	}
}

func (f *configFile) syntaxError(err error, data []byte) {
	if e := yaml.Error(nil); errors.As(err, &e) && e.GetToken() != nil {
		hint, lines := "", bytes.Split(data, []byte("\n"))
		if i := e.GetToken().Position.Line - 1; i >= 0 && i < len(lines) && bytes.Contains(lines[i], []byte(userPart)) {
			hint = "; a name that begins with {user}, or has it between braces or brackets, has to be in quotes"
		}
		f.errorf(e.GetToken(), "", "%s%s", e.GetMessage(), hint)
		return
	}
	f.errs = append(f.errs, fmt.Errorf("%s: %w", f.name, err))
}

// errorf notes a mistake in key, at tk. The whole file is key "".
func (f *configFile) errorf(tk *token.Token, key, format string, args ...any) {
	f.origins[key] = origin{wrong: true}
	f.errs = append(f.errs, &ConfigError{f.where(tk), key, fmt.Sprintf(format, args...)})
}

func (f *configFile) where(tk *token.Token) string {
	if tk == nil || tk.Position == nil {
		return f.name
	}
	return fmt.Sprintf("%s:%d:%d", f.name, tk.Position.Line, tk.Position.Column)
}

// decode stores node in v, which key names and which is said to be at tk.
func (f *configFile) decode(tk *token.Token, node ast.Node, v reflect.Value, key string) {
	f.origins[key] = origin{where: f.where(tk), key: key}
	switch node.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		f.errorf(node.GetToken(), key, "anchors and aliases (& and *) are not read; write the value out, in quotes if it begins with one of them")
		return
	}
	switch {
	case v.Addr().Type().Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		f.scalar(node, v, key)
	case v.Kind() == reflect.Struct:
		f.mapping(node, v, key)
	case v.Kind() == reflect.Map:
		f.named(node, v, key)
	case v.Kind() == reflect.Slice:
		f.sequence(node, v, key)
	default:
		f.scalar(node, v, key)
	}
}

func (f *configFile) mapping(node ast.Node, v reflect.Value, key string) {
	var values []*ast.MappingValueNode
	switch node := node.(type) {
	case *ast.MappingNode:
		values = node.Values
	case *ast.MappingValueNode: // a mapping of one key, in older versions of the parser
		values = []*ast.MappingValueNode{node}
	default:
		f.errorf(node.GetToken(), key, "want keys and values, as in %s", "listen: 127.0.0.1:8080")
		return
	}
	seen := make(map[string]bool)
	for _, kv := range values {
		tk := kv.Key.GetToken()
		name := tk.Value
		full := strings.TrimPrefix(key+"."+name, ".")
		field, ok := fieldByKey(v, name)
		switch {
		case name == "<<":
			f.errorf(tk, key, "merging (<<) is not read; write the keys out")
		case !ok:
			if before, _, cut := strings.Cut(full, "$"); cut { // a part of a hash is not repeated
				f.errorf(tk, before+"$...", "unknown key; between braces a comma ends a value: put a value that has commas in quotes")
				break
			}
			f.errorf(tk, full, "%s", unknownKey(full, v))
		case seen[name]:
			f.errorf(tk, full, "is there twice; remove one")
		default:
			f.decode(tk, kv.Value, field, full)
		}
		seen[name] = true
	}
}

// named reads a mapping whose keys are the operator's choice.
func (f *configFile) named(node ast.Node, v reflect.Value, key string) {
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		f.errorf(node.GetToken(), key, "want names and values, as in { name: value }")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, kv := range mapping.Values {
		tk := kv.Key.GetToken()
		name, full := reflect.ValueOf(tk.Value), key+"."+tk.Value
		if v.MapIndex(name).IsValid() {
			f.errorf(tk, full, "is there twice; remove one")
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		f.decode(tk, kv.Value, e, full)
		v.SetMapIndex(name, e)
	}
}

func (f *configFile) sequence(node ast.Node, v reflect.Value, key string) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok && v.Type() == reflect.TypeFor[Words]() {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.scalar(node, v.Index(0), key)
		return
	}
	if !ok && v.Type().Elem().Kind() == reflect.Struct {
		f.errorf(node.GetToken(), key, "want a list, each item of it behind a hyphen")
		return
	}
	if !ok {
		f.errorf(node.GetToken(), key, "want a list, as in %s", listExample(key))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, len(seq.Values)))
	for i, item := range seq.Values {
		e := reflect.New(v.Type().Elem()).Elem()
		if e.Type() == reflect.TypeFor[ShareConfig]() {
			e.Set(reflect.ValueOf(defaultShare()))
		}
		f.decode(item.GetToken(), item, e, fmt.Sprintf("%s[%d]", key, i))
		v.Set(reflect.Append(v, e))
	}
}

// listExample is how the list at key may look.
func listExample(key string) string {
	switch key[strings.LastIndex(key, ".")+1:] {
	case "lower":
		return "[/srv/release-2, /srv/release-1]"
	case "trusted_proxies":
		return "[127.0.0.1, 192.0.2.0/24]"
	case "origins":
		return "[https://app.example.org]"
	default:
		return "[one, another]"
	}
}

func (f *configFile) scalar(node ast.Node, v reflect.Value, key string) {
	text := ""
	switch node := node.(type) {
	case *ast.StringNode:
		text = node.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = node.GetToken().Value
	case *ast.NullNode:
		f.errorf(node.GetToken(), key, "has no value; give one or remove the key")
		return
	default: // block scalars, anchors, tags: nothing here is so long or so clever
		f.errorf(node.GetToken(), key, "want a plain value on one line")
		return
	}
	if err := setScalar(v, text); err != nil {
		f.errorf(node.GetToken(), key, "%v", err)
	}
}

// Words is a list that may be written as one word when it has no more.
type Words []string

// A ByteSize is a number of bytes. It is written with a unit, as in 10GiB.
type ByteSize int64

var byteUnits = []struct {
	name string
	size ByteSize
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1}, // B last: all end in it
}

// UnmarshalText reads a number with a unit, or "0".
func (b *ByteSize) UnmarshalText(text []byte) error {
	for _, unit := range byteUnits {
		digits, ok := strings.CutSuffix(string(text), unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(n >= 0) || n*float64(unit.size) >= math.MaxInt64 {
			break
		}
		*b = ByteSize(n * float64(unit.size))
		return nil
	}
	if string(text) == "0" {
		*b = 0
		return nil
	}
	return fmt.Errorf("%q is not a size; write it as in 500MiB or 10GiB", text)
}

// String is the size in its largest unit that leaves no fraction.
func (b ByteSize) String() string {
	for _, unit := range slices.Backward(byteUnits[:4]) {
		if b >= unit.size && b%unit.size == 0 {
			return fmt.Sprintf("%d%s", b/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// setScalar stores text, from a file, a flag or the environment, in v.
func setScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Interface().(type) {
	case string:
		v.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a number; write it as in 1000", text)
		}
		v.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a time; write it as in 30s or 2m", text)
		}
		v.SetInt(int64(d))
	default:
		return fmt.Errorf("overdav cannot read a %s here; this is a mistake of overdav", v.Type())
	}
	return nil
}

func fieldByKey(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// unknownKey says what to do about key, which none of v's fields has.
func unknownKey(key string, v reflect.Value) string {
	name := key[strings.LastIndex(key, ".")+1:]
	best, bestDistance := "", 3
	for i := range v.NumField() {
		known := v.Type().Field(i).Tag.Get("yaml")
		if d := editDistance(name, known); d < bestDistance {
			best, bestDistance = known, d
		}
	}
	if best != "" {
		return "unknown key; did you mean " + best + "?"
	}
	if _, ok := fieldByKey(reflect.ValueOf(ShareConfig{}), name); ok {
		return "unknown key; it belongs to a share, below shares:"
	}
	return "unknown key; remove it"
}

// editDistance counts the bytes to insert, delete or replace to make b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
