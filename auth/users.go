package auth

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// A User is an account.
type User struct {
	Name     string // as FoldName makes it
	Password Hash   // zero: nobody comes in by a password
	Groups   []string
	Disabled bool // nobody comes in by any means
	Line     int  // of the htpasswd file that they are in; 0: of none
}

// Users are the accounts that there are.
type Users struct {
	byName map[string]*User

	// decoys are the users with a password, in the order of their names.
	decoys []*User
}

// NewUsers returns the accounts of list. Errors: a name twice, or none.
func NewUsers(list []User) (*Users, error) {
	u := &Users{byName: make(map[string]*User, len(list))}
	for i := range list {
		user := list[i]
		name, ok := FoldName(user.Name)
		if !ok {
			return nil, fmt.Errorf("%q cannot be a user's name", user.Name)
		}
		if u.byName[name] != nil {
			return nil, fmt.Errorf("there are two users called %s", name)
		}
		user.Name = name
		u.byName[name] = &user
		if !user.Password.isZero() {
			u.decoys = append(u.decoys, &user)
		}
	}
	slices.SortFunc(u.decoys, func(a, b *User) int { return strings.Compare(a.Name, b.Name) })
	return u, nil
}

// Lookup returns the user called name, and false if there is none who may come
// in.
func (u *Users) Lookup(name string) (*User, bool) {
	user, ok := u.byName[name]
	return user, ok && !user.Disabled
}

// Len is the number of accounts.
func (u *Users) Len() int { return len(u.byName) }

// hashOf returns what a password for name is to be verified against, and whether
// the answer counts. For who does not exist, may not come in or has no password
// it is the hash of somebody else, so that it takes as long as for a user: always
// of the same one, as costs can differ from user to user.
func (u *Users) hashOf(name string) (h Hash, counts bool) {
	if user, ok := u.Lookup(name); ok && !user.Password.isZero() {
		return user.Password, true
	}
	if len(u.decoys) == 0 {
		return Hash{}, false // there is nobody whom time could tell
	}
	sum := sha256.Sum256([]byte(name))
	return u.decoys[binary.BigEndian.Uint64(sum[:])%uint64(len(u.decoys))].Password, false
}
