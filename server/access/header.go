package access

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a caller sends.
const (
	maxHeader = 32 << 10 // base64 of a user name and the longest token
	maxToken  = 16 << 10
	maxUser   = 255
)

var errHeader = errors.New("the Authorization header does not read. hint: Basic or Bearer credentials")

// A login is what an Authorization header holds.
type login struct {
	user   string // of Basic; "" with a Bearer token
	secret string // password or token
}

// parseAuthorization returns the zero login where there are no credentials: clients that were
// asked for some and have none send Basic with neither name nor password (protocol.md 3.3).
func parseAuthorization(header string) (login, error) {
	if header == "" {
		return login{}, nil
	}
	scheme, value, ok := strings.Cut(header, " ")
	value = strings.Trim(value, " ")
	if !ok || len(header) > maxHeader {
		return login{}, errHeader
	}
	var l login
	switch strings.ToLower(scheme) {
	case "bearer":
		l.secret = value
		if value == "" {
			return login{}, errHeader
		}
	case "basic":
		decoded, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil {
			return login{}, errHeader
		}
		if l.user, l.secret, ok = strings.Cut(string(decoded), ":"); !ok {
			return login{}, errHeader
		}
	default:
		return login{}, errHeader
	}
	if len(l.secret) > maxToken || !nameable(l.user) || l.user != "" && l.secret == "" {
		return login{}, errHeader
	}
	return l, nil
}

// nameable says whether a user name can be in a log line, and in a subject.
func nameable(user string) bool {
	return len(user) <= maxUser && utf8.ValidString(user) && strings.IndexFunc(user, func(r rune) bool {
		return !unicode.IsPrint(r)
	}) < 0
}
