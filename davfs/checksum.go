package davfs

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/adler32"
	"net/http"
	"slices"
	"strings"

	"overdav/overlay"
)

// sums are the checksums that are kept of a file: the two that ownCloud's
// clients compare.
type sums struct {
	sha1 [sha1.Size]byte
	md5  [md5.Size]byte
}

// property is the text of oc:checksum: all that is known, with blanks between.
func (s sums) property() string {
	return "SHA1:" + hex.EncodeToString(s.sha1[:]) + " MD5:" + hex.EncodeToString(s.md5[:])
}

// A summer computes the checksums of an upload, and holds those that the client
// has sent against them.
type summer struct {
	sha1, md5 hash.Hash
	claims    []claim
}

// A claim is a checksum that the client says the content has.
type claim struct {
	header string
	hash   hash.Hash
	want   []byte
}

// sumHeaders are those that newSummer reads, as http.Header has them.
var sumHeaders = [...]string{"Oc-Checksum", "Content-Md5", "Digest", "Content-Digest"}

// newSummer reads the checksums in the headers of an upload. Without any the
// result is nil: whoever asks for checksums sends them, and others need not wait
// for them. Algorithms we do not know are passed over.
func newSummer(h http.Header) (*summer, error) {
	if !slices.ContainsFunc(sumHeaders[:], func(name string) bool { return len(h[name]) > 0 }) {
		return nil, nil
	}
	s := &summer{sha1: sha1.New(), md5: md5.New()}
	for _, value := range h.Values("OC-Checksum") {
		name, digits, _ := strings.Cut(value, ":")
		if err := s.claim("OC-Checksum", name, digits, hex.DecodeString); err != nil {
			return nil, err
		}
	}
	if value := h.Get("Content-MD5"); value != "" {
		if err := s.claim("Content-MD5", "md5", value, base64.StdEncoding.DecodeString); err != nil {
			return nil, err
		}
	}
	for _, element := range headerElements(h, "Digest") { // RFC 3230
		name, value, _ := strings.Cut(element, "=")
		decode := base64.StdEncoding.DecodeString
		if strings.EqualFold(name, "adler32") {
			decode = hex.DecodeString // as dCache and XRootD write it
		}
		if err := s.claim("Digest", name, value, decode); err != nil {
			return nil, err
		}
	}
	for _, element := range headerElements(h, "Content-Digest") { // RFC 9530
		name, value, _ := strings.Cut(element, "=")
		value, _, _ = strings.Cut(value, ";") // parameters, of which there are none
		if err := s.claim("Content-Digest", name, strings.Trim(value, ": "), base64.StdEncoding.DecodeString); err != nil {
			return nil, err
		}
	}
	if len(s.claims) == 0 {
		return nil, nil
	}
	return s, nil
}

// claim takes in that the content has the checksum value, if we know the
// algorithm: in which form those of others are written is not ours to say.
func (s *summer) claim(header, name, value string, decode func(string) ([]byte, error)) error {
	h := s.algorithm(strings.ToLower(strings.TrimSpace(name)))
	if h == nil {
		return nil
	}
	want, err := decode(strings.TrimSpace(value))
	if err != nil || len(want) != h.Size() {
		return fmt.Errorf("%w: %s: not a sum of %.20q", errBadHeader, header, name)
	}
	s.claims = append(s.claims, claim{header, h, want})
	return nil
}

func (s *summer) algorithm(name string) hash.Hash {
	switch name {
	case "sha1", "sha":
		return s.sha1
	case "md5":
		return s.md5
	case "sha256", "sha-256":
		return sha256.New()
	case "sha-512":
		return sha512.New()
	case "sha3-256":
		return sha3.New256()
	case "adler32":
		return adler32.New()
	}
	return nil
}

// Write adds p to all sums. It never fails.
func (s *summer) Write(p []byte) (int, error) {
	s.sha1.Write(p)
	s.md5.Write(p)
	for _, c := range s.claims {
		if c.hash != s.sha1 && c.hash != s.md5 {
			c.hash.Write(p)
		}
	}
	return len(p), nil
}

// verify refuses content that is not what the client says it is. Nothing has
// been written then.
func (s *summer) verify() error {
	if s == nil {
		return nil
	}
	for _, c := range s.claims {
		if !bytes.Equal(c.hash.Sum(nil), c.want) {
			return refuse(http.StatusBadRequest, "the content does not have the checksum in "+c.header)
		}
	}
	return nil
}

// sums are those of all that was written.
func (s *summer) sums() (out sums) {
	s.sha1.Sum(out.sha1[:0])
	s.md5.Sum(out.md5[:0])
	return out
}

// sumsAttr is the extended attribute in which the checksums of a file are kept:
// its entity tag, without quotes, and the bytes of SHA-1 and MD5. They are true of
// the content with that tag alone, so that no other change needs to know of them. A
// copy has them because it has the attributes and the entity tag of its source.
//
// It is short, because ext4 keeps attributes of up to 60 bytes or so with the
// inode, and for longer ones writes a block, and looks for one with the same
// content first.
const sumsAttr = "user.overdav.sums"

// knownSums returns the checksums of the file whose attributes get reads, if
// they are known.
func knownSums(get func(attr string) ([]byte, error), info *overlay.Info) (s sums, ok bool) {
	value, err := get(sumsAttr)
	if err != nil {
		return sums{}, false // not known, for whatever reason
	}
	return parseSums(value, entityTag(info))
}

// parseSums reads what bytes has written, if etag, quoted, is still that of the
// content.
func parseSums(value []byte, etag string) (s sums, ok bool) {
	kept, ok := bytes.CutPrefix(value, []byte(strings.Trim(etag, `"`)))
	if !ok || len(kept) != len(s.sha1)+len(s.md5) {
		return sums{}, false
	}
	copy(s.md5[:], kept[copy(s.sha1[:], kept):])
	return s, true
}

// bytes is the value of sumsAttr beside an entity tag without quotes.
func (s sums) bytes(etag string) []byte {
	return slices.Concat([]byte(etag), s.sha1[:], s.md5[:])
}

// keepSums has the checksums of an upload kept when it is committed. Where that
// cannot be, the file is only less convenient.
func (u *upload) keepSums() {
	if u.sums == nil {
		return
	}
	u.staged.SetNote(sumsAttr, u.sums.sums().bytes)
}
