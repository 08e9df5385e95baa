// Package auth says who makes a request and what they may do.
//
// Its words: an [Identity] is who makes a request. [Users] are the accounts of
// the configuration, each with a stored password, a [Hash]. [Tokens] are
// passwords that a user makes for a program, with a [Scope] that is less than
// all the user may. [Rules] say who may do what to which names of a share; a
// [View] is what they leave to one Identity.
//
// An [Authenticator] finds the Identity of a request from its Authorization
// header, or from the header of a trusted proxy. Clients send the password with
// every request, and a password takes some hundred milliseconds of a processor to
// verify, therefore:
//
//   - Credentials that were right are remembered ([Authenticator]'s cache), as an
//     HMAC under a key that is made at the start and kept nowhere.
//   - Few passwords are verified at once, few wait for it, and who fails often is
//     slowed down, by address and by name. Whose credentials are remembered meets
//     none of that.
//   - An unknown name takes the time of a known one.
//
// Package auth knows nothing of the files that are served, and of HTTP only the
// headers of a request. It logs nothing; what is wrong is returned, and no error
// has a password, a hash or a token in it.
package auth
