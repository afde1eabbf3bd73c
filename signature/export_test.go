package signature

// SmallerFirst orders the primes of a key.
var SmallerFirst = smallerFirst
