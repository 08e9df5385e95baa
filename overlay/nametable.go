package overlay

import (
	"bytes"
	"hash/maphash"
)

// A nameTable holds names, each once, in the order in which they came: some
// twenty bytes for each beyond its own. Its zero value is empty.
type nameTable struct {
	bytes []byte
	refs  []nameRef

	// slots are the index of each name in refs plus one, at a place that its hash
	// gives; 0 is free.
	// INVARIANT: the length is a power of two, and at least a quarter is free.
	slots []uint32
	seed  maphash.Seed
}

// A nameRef says where the bytes of a name are.
type nameRef struct {
	start  uint32
	length uint8
	dtype  uint8  // of upper's names, a DT constant
	source uint16 // of the sources of a directory, that which the name is from
}

func (n *nameTable) name(i int) []byte {
	r := n.refs[i]
	return n.bytes[r.start : r.start+uint32(r.length)]
}

// add takes a name in, unless it is there.
func (n *nameTable) add(name []byte, source int) (index int, added bool) {
	if 4*len(n.refs) >= 3*len(n.slots) {
		n.grow()
	}
	slot := n.slot(name)
	if i := n.slots[slot]; i != 0 {
		return int(i) - 1, false
	}
	n.refs = append(n.refs, nameRef{start: uint32(len(n.bytes)), length: uint8(len(name)), source: uint16(source)})
	n.bytes = append(n.bytes, name...)
	n.slots[slot] = uint32(len(n.refs))
	return len(n.refs) - 1, true
}

// find returns the index of a name; -1 when it is not there.
func (n *nameTable) find(name []byte) int {
	if len(n.slots) == 0 {
		return -1
	}
	return int(n.slots[n.slot(name)]) - 1
}

// slot is where the name is, or belongs.
func (n *nameTable) slot(name []byte) int {
	mask := len(n.slots) - 1
	for at := int(maphash.Bytes(n.seed, name)) & mask; ; at = (at + 1) & mask {
		if i := n.slots[at]; i == 0 || bytes.Equal(n.name(int(i)-1), name) {
			return at
		}
	}
}

func (n *nameTable) grow() {
	if n.slots == nil {
		n.seed = maphash.MakeSeed()
	}
	n.slots = make([]uint32, max(64, 2*len(n.slots)))
	for i := range n.refs {
		n.slots[n.slot(n.name(i))] = uint32(i) + 1
	}
}

// size is what the table takes, in bytes.
func (n *nameTable) size() int { return cap(n.bytes) + 8*cap(n.refs) + 4*cap(n.slots) }
