package auth

import (
	"fmt"
	"slices"
	"strings"
)

// A Right is a set of what may be done with a name.
type Right uint8

// The rights. What each method needs is for the protocol to say.
const (
	RightRead      Right = 1 << iota // the content of a file
	RightList                        // that it is there, its properties, its members
	RightCreate                      // make it where nothing is
	RightOverwrite                   // change its content
	RightDelete                      // remove it, or move it away
	RightProps                       // change its properties; lock it
)

// RightsAll are all of them. RightsRead is what "read" stands for.
const (
	RightsAll  = RightRead | RightList | RightCreate | RightOverwrite | RightDelete | RightProps
	RightsRead = RightRead | RightList
)

// rightWords are the rights in the order of their bits.
var rightWords = []string{"read", "list", "create", "overwrite", "delete", "properties"}

// ParseRights reads what a rule allows: one of read (which is read and list),
// write (everything) and none, or a list of read, list, create, overwrite,
// delete and properties.
func ParseRights(words []string) (Right, error) {
	if len(words) == 1 {
		switch words[0] {
		case "read":
			return RightsRead, nil
		case "write":
			return RightsAll, nil
		case "none":
			return 0, nil
		}
	}
	var r Right
	for _, word := range words {
		i := slices.Index(rightWords, word)
		if i < 0 {
			return 0, fmt.Errorf("%q is not one of read, write, none, or a list of %s", word, strings.Join(rightWords, ", "))
		}
		r |= 1 << i
	}
	if len(words) == 0 {
		return 0, fmt.Errorf("allows nothing; write none if that is meant, else read, write, or a list of %s", strings.Join(rightWords, ", "))
	}
	return r, nil
}

func (r Right) String() string {
	var words []string
	for i, word := range rightWords {
		if r&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}
