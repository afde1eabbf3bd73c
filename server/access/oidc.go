package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// leeway is by how much the clocks of issuers may be off.
const leeway = 30 * time.Second

var subjectGrammar = regexp.MustCompile(`\A[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?\z`)

// An issuer is an Issuer that was read.
type issuer struct {
	Issuer
	algorithms  []jose.SignatureAlgorithm
	identities  []identity
	authorities []byte // what CA has
	keys        *keys
	sessions    *lru[[sha256.Size]byte, struct{}] // tokens that were used before they expired
	clock       func() time.Time
}

type identity struct {
	subject string
	claims  map[string]pattern
}

func newIssuer(s Issuer, clock func() time.Time) (*issuer, error) {
	i := &issuer{Issuer: s, clock: clock, algorithms: []jose.SignatureAlgorithm{jose.RS256, jose.ES256}}
	i.sessions = newLRU[[sha256.Size]byte, struct{}](maxVerified)
	if len(s.Algorithms) > 0 {
		i.algorithms = nil
	}
	for _, a := range s.Algorithms {
		i.algorithms = append(i.algorithms, jose.SignatureAlgorithm(a))
	}
	for _, given := range s.Identities {
		parsed := identity{given.Subject, map[string]pattern{}}
		for claim, text := range given.Claims {
			p, err := parsePattern(text, "/:")
			if err != nil {
				return nil, fmt.Errorf("claim %s: %w", claim, err)
			}
			parsed.claims[claim] = p
		}
		i.identities = append(i.identities, parsed)
	}
	var roots *x509.CertPool // nil is the system's
	if s.CA != "" {
		var err error
		if i.authorities, err = readFile(s.CA, false); err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(i.authorities) {
			return nil, fmt.Errorf("%s has no certificate in it", s.CA)
		}
	}
	i.keys = newKeys(s.Issuer, roots, clock)
	return i, nil
}

// same says whether two say the same of an issuer, and have the same authorities vouch for it.
func (i *issuer) same(other *issuer) bool {
	return reflect.DeepEqual(i.Issuer, other.Issuer) && bytes.Equal(i.authorities, other.authorities)
}

// looksLikeJWT tells tokens of issuers from static ones and passwords: three parts, of which the
// first is a JSON object in base64.
func looksLikeJWT(secret string) bool {
	return strings.HasPrefix(secret, "ey") && strings.Count(secret, ".") == 2
}

// claimed is what a token says of itself: who it is from, and for. Nothing is verified yet.
func claimed(token string) (c jwt.Claims, err error) {
	t, err := jwt.ParseSigned(token, asymmetric())
	if err == nil {
		err = t.UnsafeClaimsWithoutVerification(&c)
	}
	if err != nil {
		return c, badLogin(fmt.Sprintf("the token does not read, or is not signed by one of %v", asymmetric()))
	}
	return c, nil
}

// verify returns the subject of a token: oidc:NAME:SUBJECT. Its errors are a badLogin, or wrap
// ErrUnavailable.
func (i *issuer) verify(ctx context.Context, token string) (string, error) {
	t, err := jwt.ParseSigned(token, i.algorithms)
	if err != nil || len(t.Headers) != 1 {
		return "", badLogin(fmt.Sprintf("the token does not read, or is not signed by one of %v", i.algorithms))
	}
	found, err := i.keys.find(ctx, t.Headers[0].KeyID)
	if err != nil {
		return "", err
	}
	for _, key := range found {
		if key.Algorithm != "" && key.Algorithm != t.Headers[0].Algorithm {
			continue
		}
		var standard jwt.Claims
		var claims map[string]json.RawMessage
		if err := t.Claims(key.Key, &standard, &claims); err == nil {
			return i.subject(sha256.Sum256([]byte(token)), standard, claims)
		}
	}
	return "", badLogin("the token is not signed by a key of " + i.Issuer.Issuer)
}

// subject judges the claims of a token whose signature was verified.
func (i *issuer) subject(token [sha256.Size]byte, standard jwt.Claims, claims map[string]json.RawMessage) (string, error) {
	now := i.clock()
	if standard.Expiry == nil {
		return "", badLogin("the token never expires, which is not accepted")
	}
	err := standard.ValidateWithLeeway(jwt.Expected{Issuer: i.Issuer.Issuer, AnyAudience: jwt.Audience{i.Audience}, Time: now}, leeway)
	switch {
	case errors.Is(err, jwt.ErrInvalidAudience):
		return "", badLogin(fmt.Sprintf("the token is for another audience than %q", i.Audience))
	case errors.Is(err, jwt.ErrExpired): // all else of it is well
		if _, used := i.sessions.get(token); !used || !now.Before(standard.Expiry.Time().Add(i.Session)) {
			return "", errExpired
		}
	case err != nil:
		return "", badLogin("the token is not valid: " + strings.TrimPrefix(err.Error(), "go-jose/go-jose/jwt: "))
	case i.Session > 0:
		i.sessions.put(token, struct{}{})
	}
	subject := i.identify(standard.Subject, claims)
	if !subjectGrammar.MatchString(subject) {
		return "", badLogin("the token is valid, but its claims match no identity of " + i.Name)
	}
	return "oidc:" + i.Name + ":" + subject, nil
}

// identify returns the name of the identity that matches, "" for none.
func (i *issuer) identify(own string, claims map[string]json.RawMessage) string {
	for _, identity := range i.identities {
		if identity.match(claims) {
			return cmp.Or(identity.subject, own)
		}
	}
	return ""
}

func (i identity) match(claims map[string]json.RawMessage) bool {
	for claim, p := range i.claims {
		matched := false
		for _, value := range texts(claims[claim]) {
			matched = matched || p.match(value)
		}
		if !matched {
			return false
		}
	}
	return true
}

// texts are the values of a claim that patterns can match: those that are neither null nor an
// object.
func texts(claim json.RawMessage) []string {
	if claim = bytes.TrimSpace(claim); len(claim) == 0 {
		return nil
	}
	switch claim[0] {
	case '"':
		var s string
		if json.Unmarshal(claim, &s) != nil {
			return nil
		}
		return []string{s}
	case '[':
		var list []json.RawMessage
		if json.Unmarshal(claim, &list) != nil {
			return nil
		}
		var all []string
		for _, element := range list {
			if len(element) > 0 && element[0] != '[' {
				all = append(all, texts(element)...)
			}
		}
		return all
	case '{', 'n':
		return nil
	}
	return []string{string(claim)}
}
