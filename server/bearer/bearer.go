// Package bearer is the token flow of registries: a registry that wants a Bearer token says where
// to get one, and takes it in place of a user name and password (protocol.md 3.3 and 8).
//
// A registry that could name any place would be sent everybody's passwords there: credentials go
// to the registry's own host, and to those that the settings name.
package bearer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Why no token came. Any other error of an exchange is that whoever makes tokens is away.
var (
	ErrRealm   = errors.New("credentials do not go to where the registry wants tokens from")
	ErrRefused = errors.New("no token for these credentials")
)

// Bounds of what is read.
const (
	maxToken = 1 << 20 // of an answer with a token, as clients have it
	maxError = 64 << 10
)

// A Challenge is what a registry wants a token of.
type Challenge struct {
	Realm   *url.URL
	Service string
}

// A Client asks one registry. All fields but Transport and Registry may be empty.
type Client struct {
	Transport http.RoundTripper // for the registry and for realms; it follows no redirects
	Registry  *url.URL
	Host      string   // what the registry is asked for in place of Registry's host
	Realms    []string // host[:port] of others that credentials may go to
}

// An Answer is a registry's. If it is 401 and Problem is set, that is why no token was exchanged
// for the credentials: ErrRealm or ErrRefused.
type Answer struct {
	*http.Response
	Exchanged bool // the credentials were good for a token, with which it answered
	Problem   error
}

// Do asks with this Authorization; "" is none. Where the registry wants a Bearer token and the
// authorization is Basic, as curl sends it, it exchanges one for the other for this scope, and asks
// again. The request has no body. Its header becomes Do's.
func (c *Client) Do(r *http.Request, authorization, scope string) (Answer, error) {
	r.URL.Scheme, r.URL.Host, r.Host = c.Registry.Scheme, c.Registry.Host, c.Host
	r.Header.Del("Authorization")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	answer, err := c.Transport.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || !isBasic(authorization) {
		return Answer{Response: answer}, err
	}
	challenge, ok := Parse(answer.Header.Values("Www-Authenticate"))
	if !ok {
		return Answer{Response: answer}, nil
	}
	token, err := c.exchange(r.Context(), challenge, authorization, scope)
	if errors.Is(err, ErrRealm) || errors.Is(err, ErrRefused) {
		return Answer{Response: answer, Problem: err}, nil
	}
	Discard(answer)
	if err != nil {
		return Answer{}, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err = c.Transport.RoundTrip(r)
	return Answer{Response: answer, Exchanged: true}, err
}

// Discard ends an answer whose body nobody wants, so that its connection can be used again.
func Discard(answer *http.Response) {
	_, _ = io.CopyN(io.Discard, answer.Body, maxError) // what is longer costs the connection
	_ = answer.Body.Close()
}

func isBasic(authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Basic")
}

// exchange gets a token for a scope, as "repository:a/b:pull".
func (c *Client) exchange(ctx context.Context, from Challenge, authorization, scope string) (string, error) {
	if !c.trusts(from.Realm) {
		return "", fmt.Errorf("%w: %q. hint: registry.realms of the server's settings", ErrRealm, from.Realm.Host)
	}
	u := *from.Realm
	query := u.Query()
	if from.Service != "" {
		query.Set("service", from.Service)
	}
	query.Set("scope", scope)
	u.RawQuery = query.Encode()
	request := (&http.Request{Method: http.MethodGet, URL: &u, Header: http.Header{"Authorization": {authorization}}}).WithContext(ctx)
	answer, err := c.Transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer Discard(answer)
	switch {
	case answer.StatusCode == http.StatusOK:
	case answer.StatusCode >= 400 && answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusRequestTimeout:
		return "", fmt.Errorf("%w: %s answered %d", ErrRefused, u.Host, answer.StatusCode)
	default:
		return "", fmt.Errorf("%s answered %d for a token", u.Host, answer.StatusCode)
	}
	var body struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxToken)).Decode(&body); err != nil {
		return "", fmt.Errorf("%s sent no token: %w", u.Host, err)
	}
	token := body.Token
	if token == "" {
		token = body.AccessToken
	}
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("%s sent no token", u.Host)
	}
	return token, nil
}

// trusts reports whether credentials may go to a realm: to the registry's own host or one that is
// named, and in the clear only where they came to the registry so.
func (c *Client) trusts(realm *url.URL) bool {
	if realm.Scheme != "https" && (realm.Scheme != "http" || c.Registry.Scheme != "http") {
		return false
	}
	own := &url.URL{Scheme: c.Registry.Scheme, Host: c.Host}
	to := authority(realm)
	return to == authority(c.Registry) || c.Host != "" && to == authority(own) ||
		slices.ContainsFunc(c.Realms, func(host string) bool { return to == authority(&url.URL{Scheme: realm.Scheme, Host: host}) })
}

// authority is host:port, in lower case and with the port that a scheme stands for.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}
