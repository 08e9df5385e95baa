package davfs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/net/webdav"

	"overdav/overlay"
)

// The dead properties of a resource are one extended attribute of it, so that
// a PROPPATCH is one call: all of it happens or nothing (RFC 4918, section
// 9.2). Clients name properties, never attributes.
//
// The value is deadPropMagic and then, of each property, four strings:
// namespace, local name, language (xml:lang) and the XML inside the element. A
// string is its length in decimal digits, a colon, and its bytes.
const (
	deadPropAttr  = "user.overdav.props"
	deadPropMagic = "overdav1\n"
)

// Limits of the dead properties of one resource.
const (
	maxDeadProps     = 100
	maxDeadPropValue = 64 << 10
	maxDeadPropTotal = 1 << 20 // of the attribute; Linux itself takes 64 KiB of one (xattr(7))
)

// errTooManyProps is the refusal of more than maxDeadProps, of a value beyond
// maxDeadPropValue, or of more than maxDeadPropTotal in all.
var errTooManyProps = fmt.Errorf("dead properties beyond the limit: %w", syscall.ENOSPC)

// errCorruptProps is a value that nobody who knows the format has written.
var errCorruptProps = errors.New("corrupt " + deadPropAttr)

// readDeadProps returns the dead properties of the resource whose attributes
// get reads, in the order they were set. What cannot have attributes has none.
func readDeadProps(get func(attr string) ([]byte, error)) ([]webdav.Property, error) {
	value, err := get(deadPropAttr)
	switch {
	case err == nil:
		return decodeDeadProps(value)
	case hasNoAttribute(err):
		return nil, nil
	}
	return nil, err
}

// xattrsOf reads the attributes of name.
func xattrsOf(tree *overlay.FS, name string) func(attr string) ([]byte, error) {
	return func(attr string) ([]byte, error) { return tree.Getxattr(name, attr) }
}

// hasNoAttribute says that err means the attribute is not there, because it
// was never set or because the object can have none. Symlinks, FIFOs and
// devices answer EPERM to attributes in "user." (xattr(7)).
func hasNoAttribute(err error) bool {
	return errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPERM)
}

// patchDeadProps sets and removes dead properties of name, in order, all or
// none.
//
// Preconditions: name is locked.
func patchDeadProps(tree *overlay.FS, name string, patches []webdav.Proppatch) error {
	props, err := readDeadProps(xattrsOf(tree, name))
	if err != nil && !errors.Is(err, errCorruptProps) {
		return err
	}
	had := len(props)
	changed := false
	for _, patch := range patches {
		for _, p := range patch.Props {
			same := func(q webdav.Property) bool { return q.XMLName == p.XMLName }
			i := slices.IndexFunc(props, same)
			switch {
			case patch.Remove && i >= 0:
				props = slices.Delete(props, i, i+1)
			case patch.Remove:
				continue // to remove what is not there is no error (RFC 4918, section 14.23)
			case i >= 0:
				props[i] = p
			default:
				props = append(props, p)
			}
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if len(props) == 0 && had > 0 {
		return tree.Removexattr(name, deadPropAttr)
	}
	value, err := encodeDeadProps(props)
	if err != nil {
		return err
	}
	return tree.Setxattr(name, deadPropAttr, value)
}

func encodeDeadProps(props []webdav.Property) ([]byte, error) {
	if len(props) > maxDeadProps {
		return nil, errTooManyProps
	}
	b := []byte(deadPropMagic)
	for _, p := range props {
		if len(p.InnerXML) > maxDeadPropValue {
			return nil, errTooManyProps
		}
		for _, s := range []string{p.XMLName.Space, p.XMLName.Local, p.Lang, string(p.InnerXML)} {
			b = strconv.AppendInt(b, int64(len(s)), 10)
			b = append(b, ':')
			b = append(b, s...)
		}
	}
	if len(b) > maxDeadPropTotal {
		return nil, errTooManyProps
	}
	return b, nil
}

func decodeDeadProps(value []byte) ([]webdav.Property, error) {
	rest, ok := strings.CutPrefix(string(value), deadPropMagic)
	if !ok {
		return nil, errCorruptProps
	}
	var props []webdav.Property
	for rest != "" {
		var field [4]string
		for i := range field {
			digits, after, ok := strings.Cut(rest, ":")
			n, err := strconv.ParseUint(digits, 10, 31)
			if !ok || err != nil || n > uint64(len(after)) {
				return nil, errCorruptProps
			}
			field[i], rest = after[:n], after[n:]
		}
		props = append(props, webdav.Property{
			XMLName:  xml.Name{Space: field[0], Local: field[1]},
			Lang:     field[2],
			InnerXML: []byte(field[3]),
		})
	}
	return props, nil
}

// canHaveProps says whether an object of this type can have attributes.
func canHaveProps(mode fs.FileMode) bool { return mode.IsRegular() || mode.IsDir() }
