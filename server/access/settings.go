package access

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Settings are our own configuration: the `access:` of the settings file. The zero value admits
// nobody.
//
// Patterns: `*` is one or more characters but those that separate the parts of what it is
// matched with, `**` is one or more characters of any kind. A pattern covers the whole.
type Settings struct {
	// Anonymous is what callers without credentials may do: "none" (also "") but what a grant
	// gives to `anonymous`, or "pull", everything there is. Whoever logs in may do this too.
	Anonymous string `yaml:"anonymous"`
	// Htpasswd is a file of `name:hash` lines, bcrypt only (`htpasswd -B`): user:NAME.
	Htpasswd string `yaml:"htpasswd"`
	// Tokens is a file of `NAME sha256:HEX [expiry]` lines: token:NAME. See [NewToken].
	Tokens string `yaml:"tokens"`
	// OIDC lists who may issue identities to workloads: oidc:NAME:SUBJECT.
	OIDC []Issuer `yaml:"oidc"`
	// MTLS names clients by certificates that tls.clientCA vouches for: cert:NAME. The first that
	// matches names the client. Nobody is named by a certificate that none matches.
	MTLS []Certificate `yaml:"mtls"`
	// Grants say who may do what where. What none gives is refused.
	Grants []Grant `yaml:"grants"`
	// Writes bound what one caller may write: signatures, manifests, and all that changes something
	// through /api. Blobs are not counted.
	Writes Rate `yaml:"writes"`
}

// An Issuer issues tokens (JWT), which are sent as Bearer or as the password of any user.
type Issuer struct {
	Name   string `yaml:"name"`   // in subjects
	Issuer string `yaml:"issuer"` // https URL, exactly as in the `iss` of its tokens; discovery is below it
	// Audience must be among a token's `aud`. It should name this server and nothing else, or
	// whoever receives such a token for another purpose could use it here.
	Audience string `yaml:"audience"`
	// Algorithms of its signatures; RS256 and ES256 where none is listed. Never one that needs
	// a shared secret.
	Algorithms []string `yaml:"algorithms"`
	// CA is a PEM file of the authorities that vouch for its server, in place of the system's.
	CA string `yaml:"ca"`
	// Identities say whose tokens are taken, and give them names: the first whose claims all match.
	// A token that none matches is refused. Many issuers are everybody's, and give out tokens for
	// any audience, so there must be one.
	Identities []Identity `yaml:"identities"`
	// Session is for how long a token goes on being taken that was used here before it expired, so
	// that a long push ends with the token that it began with. 0 is not at all; at most a day.
	Session time.Duration `yaml:"session"`
}

// An Identity is a name for tokens that make these claims.
type Identity struct {
	Subject string `yaml:"subject"` // "": the token's own `sub`
	// Claims are patterns by claim, `/` and `:` separate. They match strings, numbers and
	// booleans as JSON writes them, and a list if any element matches.
	Claims map[string]string `yaml:"claims"`
}

// A Certificate is a name for clients whose certificate has all that is listed.
type Certificate struct {
	Name         string `yaml:"name"`
	CommonName   string `yaml:"commonName"`   // pattern; nothing separates
	Organization string `yaml:"organization"` // any of the subject's; nothing separates
	DNS          string `yaml:"dns"`          // any name of the certificate; `.` separates
	URI          string `yaml:"uri"`          // as SPIFFE ids; `/` and `:` separate
	Email        string `yaml:"email"`        // `@` separates
}

// A Grant lets some do something somewhere.
type Grant struct {
	// Who are patterns of subjects, `/` and `:` separate: `user:alice`, `token:*`,
	// `oidc:github:repo:acme/*:ref:refs/heads/main`, `cert:nodes`; `**` is whoever logged in;
	// `anonymous` is everybody, and may only be given pull.
	Who []string `yaml:"who"`
	// Repositories are patterns `<host>/<repository>`, `/` separates: `registry.example.com/prod/**`.
	// What belongs to no single repository takes `<host>/**` or `**`.
	Repositories []string `yaml:"repositories"`
	// Actions lists each: none implies another. Clients that push also pull.
	Actions []Action `yaml:"actions"`
}

// Bounds of a configuration.
const (
	maxGrants  = 1000
	maxPattern = 512
	maxIssuers = 16
	maxSession = 24 * time.Hour
)

var nameGrammar = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z`)

// check says everything that is wrong with what can be judged without reading a file.
func (s Settings) check() error {
	var errs []error
	say := func(format string, a ...any) { errs = append(errs, fmt.Errorf("access: "+format, a...)) }
	if !slices.Contains([]string{"", "none", string(Pull)}, s.Anonymous) {
		say("anonymous is %q\nhint: none or pull", s.Anonymous)
	}
	if len(s.OIDC) > maxIssuers || len(s.MTLS) > maxGrants || len(s.Grants) > maxGrants {
		say("at most %d issuers, %d certificates and %[2]d grants", maxIssuers, maxGrants)
	}
	if err := s.Writes.check(); err != nil {
		say("writes: %w", err)
	}
	names := map[string]bool{}
	for i, issuer := range s.OIDC {
		if err := issuer.check(); err != nil {
			say("oidc[%d]: %w", i, err)
		}
		for _, unique := range []string{"name " + issuer.Name, "issuer " + issuer.Issuer} {
			if names[unique] {
				say("oidc[%d]: another issuer has the %s", i, unique)
			}
			names[unique] = true
		}
	}
	for i, c := range s.MTLS {
		if !nameGrammar.MatchString(c.Name) {
			say("mtls[%d]: %q is no name\nhint: letters, digits and ._- in it", i, c.Name)
		}
	}
	return errors.Join(errs...)
}

func (i Issuer) check() error {
	if !nameGrammar.MatchString(i.Name) {
		return fmt.Errorf("%q is no name\nhint: letters, digits and ._- in it", i.Name)
	}
	u, err := url.Parse(i.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("issuer %q is no https URL", i.Issuer)
	}
	if i.Session < 0 || i.Session > maxSession {
		return fmt.Errorf("session %v is not from 0 to %v", i.Session, maxSession)
	}
	if i.Audience == "" {
		return errors.New("no audience\nhint: name what its tokens must be made out to, such as this server's URL")
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(asymmetric(), jose.SignatureAlgorithm(a)) {
			return fmt.Errorf("algorithm %q\nhint: one of %v", a, asymmetric())
		}
	}
	if len(i.Identities) == 0 {
		return errors.New("no identities, and anybody's tokens would be taken\nhint: identities: [{claims: {repository_owner: acme}}]")
	}
	for n, identity := range i.Identities {
		if identity.Subject != "" && !subjectGrammar.MatchString(identity.Subject) {
			return fmt.Errorf("identities[%d]: %q is no subject\nhint: printable ASCII", n, identity.Subject)
		}
		if len(identity.Claims) == 0 {
			return fmt.Errorf("identities[%d] matches every token\nhint: list claims", n)
		}
	}
	return nil
}

// asymmetric lists the algorithms whose signatures a public key verifies. With any other, who can
// verify can also sign.
func asymmetric() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// kinds are the first words of subjects, and whether these settings give any such.
func (s Settings) kinds() map[string]bool {
	kinds := map[string]bool{"user": s.Htpasswd != "", "token": s.Tokens != ""}
	for _, i := range s.OIDC {
		kinds["oidc:"+i.Name] = true
	}
	for _, c := range s.MTLS {
		kinds["cert:"+c.Name] = true
	}
	return kinds
}

// checkWho refuses a pattern that could match nobody, which is a mistake in writing.
func (s Settings) checkWho(who string) error {
	if who == "**" || who == Anonymous {
		return nil
	}
	kind, rest, _ := strings.Cut(who, ":")
	name, subject, ok := strings.Cut(rest, ":")
	kinds := s.kinds()
	switch kind {
	case "user", "token":
		if !kinds[kind] {
			return fmt.Errorf("who %q, and no file of such\nhint: set access.htpasswd or access.tokens", who)
		}
		ok = rest != ""
	case "oidc":
		if !strings.Contains(name, "*") && !kinds["oidc:"+name] {
			return fmt.Errorf("who %q, and no issuer of that name", who)
		}
		ok = ok && subject != "" || strings.HasSuffix(rest, "**")
	case "cert":
		if !strings.Contains(rest, "*") && !kinds["cert:"+rest] {
			return fmt.Errorf("who %q, and no certificate of that name", who)
		}
		ok = rest != ""
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("who %q names nobody\nhint: user:NAME, token:NAME, oidc:ISSUER:SUBJECT, cert:NAME, anonymous, or ** for whoever logged in", who)
	}
	return nil
}
