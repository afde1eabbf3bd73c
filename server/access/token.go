package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	tokenPrefix = "cst_" // by which people and scanners know a token that leaked
	minToken    = 22     // characters that 128 bits take in base64
	maxTokens   = 1000
)

// NewToken makes a token of 256 random bits, and the line that the tokens file takes for it. Only
// the line is kept; the token is told to its user once. A zero expires is never.
func NewToken(name string, expires time.Time) (token, line string, err error) {
	if !nameGrammar.MatchString(name) {
		return "", "", fmt.Errorf("%q is no name for a token\nhint: letters, digits and ._- in it", name)
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", "", err
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	line = fmt.Sprintf("%s sha256:%x", name, sha256.Sum256([]byte(token)))
	if !expires.IsZero() {
		line += " " + expires.UTC().Format(time.RFC3339)
	}
	return token, line, nil
}

// A tokenLine is one token. Several may have one name, while one takes over from another.
type tokenLine struct {
	name    string
	hash    [sha256.Size]byte
	expires time.Time // zero is never
}

type tokens []tokenLine

func parseTokens(contents [][]byte) (tokens, error) {
	var all tokens
	seen := map[[sha256.Size]byte]bool{}
	err := eachLine(contents[0], func(line string) error {
		t, err := parseToken(strings.Fields(line))
		if err != nil {
			return err
		}
		if seen[t.hash] {
			return errors.New("the token is there twice")
		}
		seen[t.hash] = true
		if all = append(all, t); len(all) > maxTokens {
			return fmt.Errorf("it has more than %d tokens", maxTokens)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func parseToken(fields []string) (t tokenLine, err error) {
	if len(fields) < 2 || len(fields) > 3 || !nameGrammar.MatchString(fields[0]) {
		return t, errors.New("it is not NAME sha256:HEX [expiry]")
	}
	t.name = fields[0]
	digits, ok := strings.CutPrefix(fields[1], "sha256:")
	hash, err := hex.DecodeString(digits)
	if !ok || err != nil || copy(t.hash[:], hash) != len(t.hash) || len(hash) != len(t.hash) {
		return t, fmt.Errorf("%s is not followed by sha256: and 64 hex digits\nhint: printf %%s TOKEN | sha256sum", t.name)
	}
	if len(fields) == 3 {
		if t.expires, err = time.Parse(time.RFC3339, fields[2]); err != nil {
			return t, fmt.Errorf("the expiry of %s is no RFC 3339 time\nhint: 2027-01-31T00:00:00Z", t.name)
		}
	}
	return t, nil
}

// find looks at every token, whatever it finds, so that its time says nothing.
func (all tokens) find(secret string) (found tokenLine, ok bool) {
	if len(secret) < minToken {
		return found, false
	}
	hash := sha256.Sum256([]byte(secret))
	for _, t := range all {
		if subtle.ConstantTimeCompare(hash[:], t.hash[:]) == 1 {
			found, ok = t, true
		}
	}
	return found, ok
}

// IsToken reports whether an Authorization has a static token of ours, as Bearer or as a password.
func IsToken(authorization string) bool {
	l, err := parseAuthorization(authorization)
	return err == nil && strings.HasPrefix(l.secret, tokenPrefix)
}
