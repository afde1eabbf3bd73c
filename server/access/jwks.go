package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

// How an issuer's keys are kept, and bounds of what it answers.
const (
	keysFresh   = time.Hour        // then they are fetched again, while those there are used
	keysStale   = 24 * time.Hour   // then they are not used any more
	keysAtMost  = 10 * time.Second // between fetches, whatever key ids callers come up with
	keysTimeout = 5 * time.Second  // for both requests
	maxDocument = 256 << 10
	maxKeys     = 64
	minRSA      = 2048
	maxRSA      = 8192
)

// keys are an issuer's, by its discovery document (OpenID Connect Discovery 1.0, 4). They are
// fetched when first asked for: an issuer that is down keeps no server from starting.
type keys struct {
	issuer string
	client *http.Client
	clock  func() time.Time
	flight singleflight.Group

	mu      sync.Mutex
	set     []jose.JSONWebKey
	fetched time.Time // when set was
	tried   time.Time
	err     error // of the last try
}

func newKeys(issuer string, roots *x509.CertPool, clock func() time.Time) *keys {
	client := &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    keysTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        time.Minute,
			MaxIdleConns:           2,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) > 2 {
				return errors.New("redirect to plain HTTP, or too many")
			}
			return nil
		},
	}
	return &keys{issuer: issuer, client: client, clock: clock}
}

// find returns the keys of this id, all of them for "". Its error wraps ErrUnavailable.
func (k *keys) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	found, age := k.look(id)
	if len(found) > 0 && age < keysStale {
		if age > keysFresh {
			k.refresh(ctx) // not waited for
		}
		return found, nil
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case r := <-k.refresh(ctx):
		if r.Err != nil {
			return nil, fmt.Errorf("%w: the keys of %s cannot be fetched: %w", ErrUnavailable, k.issuer, r.Err)
		}
	}
	if found, age = k.look(id); age >= keysStale {
		return nil, fmt.Errorf("%w: the keys of %s are too old", ErrUnavailable, k.issuer)
	}
	return found, nil
}

func (k *keys) look(id string) (found []jose.JSONWebKey, age time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.set {
		if id == "" || key.KeyID == id {
			found = append(found, key)
		}
	}
	return found, k.clock().Sub(k.fetched)
}

// refresh fetches the keys, unless that was tried just now. All who ask meanwhile share one
// fetch, which goes on when the first of them went away.
func (k *keys) refresh(ctx context.Context) <-chan singleflight.Result {
	ctx = context.WithoutCancel(ctx)
	return k.flight.DoChan("", func() (any, error) {
		k.mu.Lock()
		now := k.clock()
		if !k.tried.IsZero() && now.Sub(k.tried) < keysAtMost {
			defer k.mu.Unlock()
			return nil, k.err
		}
		k.mu.Unlock()

		ctx, cancel := context.WithTimeout(ctx, keysTimeout)
		defer cancel()
		set, err := k.fetch(ctx)

		k.mu.Lock()
		defer k.mu.Unlock()
		k.tried = k.clock() // a slow issuer is not asked again as soon as it answered
		if k.err = err; err == nil {
			k.set, k.fetched = set, now
		}
		return nil, err
	})
}

func (k *keys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer != k.issuer {
		return nil, fmt.Errorf("it says that it is %q", discovery.Issuer)
	}
	if !strings.HasPrefix(discovery.Keys, "https://") {
		return nil, fmt.Errorf("its keys are at %q, which is not https", discovery.Keys)
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, discovery.Keys, &document); err != nil {
		return nil, err
	}
	return parseKeys(document.Keys)
}

func (k *keys) get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := k.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(body) > maxDocument {
		return fmt.Errorf("%s answers more than %d bytes", url, maxDocument)
	}
	return json.Unmarshal(body, into)
}

// parseKeys keeps the keys that may sign tokens. Those of kinds it does not know it leaves out.
func parseKeys(documents []json.RawMessage) ([]jose.JSONWebKey, error) {
	if len(documents) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, at most %d are kept", len(documents), maxKeys)
	}
	var set []jose.JSONWebKey
	for _, document := range documents {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(document); err == nil && mayVerify(key) {
			set = append(set, key)
		}
	}
	if len(set) == 0 {
		return nil, errors.New("it has no keys that could verify a token")
	}
	return set, nil
}

// mayVerify takes public keys only. A shared secret in a public document is nobody's.
func mayVerify(key jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" || !key.Valid() {
		return false
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSA && public.N.BitLen() <= maxRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}
