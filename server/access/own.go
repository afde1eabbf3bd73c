package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign-dev/countersign/api"
)

// realm is in the challenge. It names nothing that a request could set. Clients answer it with a
// name and a password, and the password may be a token.
const realm = `Basic realm="countersign", charset="UTF-8"`

// lowCost is from which cost on a bcrypt hash that leaked holds out for a while.
const lowCost = 10

// Options are what settings do not say. All are required.
type Options struct {
	Clock func() time.Time
	Log   *slog.Logger
	Hosts []string // the server's own names; grants may use any of them, scopes have the first
}

// An Own decides by Settings.
type Own struct {
	options      Options
	limits       *limits
	passwords    *passwords // nil where there are none, as what follows
	tokens       *followed[tokens]
	issuers      []*issuer
	certificates []certificate
	grants       []grant
}

var _ Access = (*Own)(nil)

// Open reads settings and the files they name, which it follows from then on: what was removed
// from a file ends with the next request. It does not call any issuer yet.
func Open(s Settings, options Options) (*Own, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	o := &Own{options: options, limits: newLimits(options.Clock)}
	if err := o.openFiles(s); err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	for _, given := range s.OIDC {
		parsed, err := newIssuer(given, options.Clock)
		if err != nil {
			return nil, fmt.Errorf("access: oidc %s: %w", given.Name, err)
		}
		o.issuers = append(o.issuers, parsed)
	}
	for _, given := range s.MTLS {
		parsed, err := parseCertificate(given)
		if err != nil {
			return nil, fmt.Errorf("access: mtls: %w", err)
		}
		o.certificates = append(o.certificates, parsed)
	}
	var err error
	o.grants, err = parseGrants(s, options.Hosts)
	return o, err
}

func (o *Own) openFiles(s Settings) error {
	if s.Htpasswd != "" {
		f := &followed[*users]{
			name: "htpasswd", sources: []source{{s.Htpasswd, true}}, parse: o.parseUsers, clock: o.options.Clock, log: o.options.Log,
		}
		if err := f.open(); err != nil {
			return err
		}
		o.passwords = newPasswords(f, o.limits)
	}
	if s.Tokens != "" {
		o.tokens = &followed[tokens]{
			name: "tokens", sources: []source{{s.Tokens, true}}, parse: parseTokens, clock: o.options.Clock, log: o.options.Log,
		}
		return o.tokens.open()
	}
	return nil
}

func (o *Own) parseUsers(contents [][]byte) (*users, error) {
	u, err := parseUsers(contents)
	if err == nil && len(u.hashes) > 0 && u.cheapest() < lowCost {
		o.options.Log.Warn("the htpasswd file has hashes that are cheap to guess at; htpasswd -B -C 12 makes better ones",
			"cost", u.cheapest(), "default", bcrypt.DefaultCost)
	}
	return u, err
}

// Files are those that are followed.
func (o *Own) Files() (all []File) {
	if o.passwords != nil {
		all = append(all, o.passwords.file.file())
	}
	if o.tokens != nil {
		all = append(all, o.tokens.file())
	}
	return all
}

// GoOn has issuers of which the settings are the same as before go on with what is known of them: their
// keys, so that they may be away, and the tokens whose sessions last. It is called before anybody is let in.
func (o *Own) GoOn(before *Own) {
	for _, i := range o.issuers {
		for _, b := range before.issuers {
			if i.same(b) {
				i.keys, i.sessions = b.keys, b.sessions
			}
		}
	}
}

// Decide is of Access. The ping is answered with a challenge wherever anybody can log in with a
// password or a token: clients decide by it whether to send theirs later (protocol.md 3.3).
func (o *Own) Decide(ctx context.Context, c Credentials, a Action, s Scope) (string, error) {
	subject, err := o.identify(ctx, c)
	if bad, ok := errors.AsType[badLogin](err); ok {
		// No more of these are logged than the limits let through.
		o.options.Log.Warn("login refused", "address", Bucket(c.Address), "reason", string(bad))
		return "", challenge(string(bad))
	}
	if err != nil {
		return "", err
	}
	if o.may(subject, a, s) {
		return subject, nil
	}
	if subject == Anonymous {
		return "", challenge("log in to " + string(a))
	}
	where := s.Host + "/" + s.Repository
	if s.Repository == "" {
		where = "everything on " + s.Host
	}
	return subject, fmt.Errorf("%w: %s may not %s %s", ErrForbidden, subject, a, where)
}

func challenge(reason string) *Challenge { return &Challenge{Header: []string{realm}, Reason: reason} }

// may says whether the subject may do that there.
func (o *Own) may(subject string, a Action, s Scope) bool {
	switch {
	case s.Repository != "" && !isRepository(s.Repository):
		return false
	case a == Pull && s.Repository == "":
		return subject != Anonymous || o.open()
	}
	return slices.ContainsFunc(o.grants, func(g grant) bool { return g.gives(subject, a, s) })
}

// isRepository keeps names that mean another path to somebody else, as a/../b, out of patterns.
func isRepository(name string) bool { return api.CheckRepository(name) == nil }

// open says whether the ping lets anonymous callers in: there are some, and nobody can log in.
func (o *Own) open() bool {
	logins := o.passwords != nil || o.tokens != nil || len(o.issuers) > 0
	return !logins && slices.ContainsFunc(o.grants, func(g grant) bool { return g.anonymous })
}

// A badLogin is what is wrong with credentials, for whoever sent them. It never has a part of
// them in it.
type badLogin string

func (b badLogin) Error() string { return string(b) }

const (
	errLogin   badLogin = "wrong credentials"
	errExpired badLogin = "the token has expired"
)

// identify says who the credentials are of. What the header says goes before the certificate: who
// sends a name and a password wants to be that. Its errors are a badLogin, a *Wait, or wrap
// ErrUnavailable.
func (o *Own) identify(ctx context.Context, c Credentials) (string, error) {
	l, err := parseAuthorization(c.Authorization)
	switch {
	case err != nil:
		return "", o.failed(c.Address, badLogin(err.Error()))
	case l == login{} && c.Certificate == nil:
		return Anonymous, nil
	case l == login{}:
		subject, err := byCertificate(o.certificates, c.Certificate, o.options.Clock())
		return subject, o.failed(c.Address, err)
	case looksLikeJWT(l.secret) && len(o.issuers) > 0:
		subject, err := o.byIssuer(ctx, l.secret)
		return subject, o.failed(c.Address, err)
	}
	subject, err := o.byToken(l.secret)
	if err == errLogin && l.user != "" && o.passwords != nil {
		return o.byPassword(ctx, l, c.Address)
	}
	return subject, o.failed(c.Address, err)
}

// failed counts bad credentials that cost no bcrypt. Each is looked at, so good ones pass however
// many bad ones came before, but told apart from the rest only while the address has failures left.
func (o *Own) failed(address string, err error) error {
	if !errors.As(err, new(badLogin)) {
		return err
	}
	if wait := o.limits.allow(address, ""); wait != nil {
		return wait
	}
	o.limits.failed(address, "")
	return err
}

func (o *Own) byIssuer(ctx context.Context, token string) (string, error) {
	claims, err := claimed(token)
	if err != nil {
		return "", err
	}
	for _, i := range o.issuers {
		if i.Issuer.Issuer == claims.Issuer {
			return i.verify(ctx, token)
		}
	}
	return "", badLogin("the token is from no issuer that is known here")
}

// Issued reports whether an Authorization has a token that is for this server alone, as Bearer or as a
// password: a static one, or one that an issuer known here made out to our audience. Whether it is
// good is another question. Names with passwords are nobody's alone: a registry beside which this
// server stands may know them, too.
func (o *Own) Issued(authorization string) bool {
	if IsToken(authorization) {
		return true
	}
	l, err := parseAuthorization(authorization)
	if err != nil || !looksLikeJWT(l.secret) {
		return false
	}
	claims, err := claimed(l.secret)
	return err == nil && slices.ContainsFunc(o.issuers, func(i *issuer) bool {
		return i.Issuer.Issuer == claims.Issuer && claims.Audience.Contains(i.Audience)
	})
}

func (o *Own) byToken(secret string) (string, error) {
	if o.tokens == nil {
		return "", errLogin
	}
	t, ok := o.tokens.get().find(secret)
	switch {
	case !ok:
		return "", errLogin
	case !t.expires.IsZero() && !o.options.Clock().Before(t.expires):
		return "", errExpired
	}
	return "token:" + t.name, nil
}

func (o *Own) byPassword(ctx context.Context, l login, address string) (string, error) {
	ok, err := o.passwords.verify(ctx, l, address)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errLogin
	}
	return "user:" + l.user, nil
}
