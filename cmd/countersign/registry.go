package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/registry"
)

// check tells an embedded registry's settings from those of one that requests are passed on to.
func (r registryAt) check() error {
	if r.URL == "" {
		if r.Host != "" || r.CA != "" || r.AuthFile != "" || len(r.Realms) > 0 || r.Notifications != "" {
			return errors.New("registry: host, ca, authFile, realms and notifications are about a registry with a url, and there is none")
		}
		return nil
	}
	if r.Embedded != "" {
		return errors.New("registry.embedded and registry.url (or -registry) are two registries: leave one out")
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return errors.New("registry.url does not read as a URL") // not the error: it has the URL, which may have a password
	}
	if err := registry.CheckURL(u); err != nil {
		return fmt.Errorf("registry.url: %w", err)
	}
	for _, realm := range append([]string{r.Host}, r.Realms...) {
		if named, err := url.Parse("//" + realm); err != nil || named.Host != realm || named.User != nil {
			return fmt.Errorf("registry: %q is no host[:port]", realm)
		}
	}
	return nil
}

// A neighbour is the registry that a server stands beside, or brings, and who may pull and push
// there: nil is everybody.
type neighbour struct {
	registry.Registry
	access        access.Access
	notifications *server.Notifications // nil: none are taken
}

// watchers hear what happens in a registry.
type watchers struct {
	pushed, tagged registry.Watcher
	deleted        registry.DeleteWatcher
}

func (h *house) openRegistry(s settings, metrics prometheus.Registerer) (neighbour, error) {
	if s.Registry.URL != "" {
		return h.openRemote(s.Registry, metrics, h.watchers())
	}
	return neighbour{Registry: h.embedded}, nil
}

// openEmbedded opens the registry that stays: it tells whatever house stands there.
func (g *ground) openEmbedded(ctx context.Context, s settings) error {
	if s.Registry.URL != "" {
		return nil
	}
	w := watchers{
		pushed:  func(ctx context.Context, p registry.Push) error { return g.current.Load().watchers().pushed(ctx, p) },
		tagged:  func(ctx context.Context, p registry.Push) error { return g.current.Load().watchers().tagged(ctx, p) },
		deleted: func(ctx context.Context, d registry.Delete) error { return g.current.Load().watchers().deleted(ctx, d) },
	}
	embedded, err := registry.NewEmbedded(ctx, registry.EmbeddedConfig{
		Directory: s.Registry.Embedded,
		Pushed:    w.pushed, Tagged: w.tagged, Deleted: w.deleted,
		Refusal: server.Refusal,
		Log:     g.log,
	})
	if err != nil {
		return err // and g.embedded stays nil
	}
	g.embedded = embedded
	return nil
}

// openRemote asks the registry nothing yet: it may start later, and be away at times.
func (h *house) openRemote(at registryAt, metrics prometheus.Registerer, w watchers) (neighbour, error) {
	u, err := url.Parse(at.URL)
	if err != nil {
		return neighbour{}, err
	}
	trust, err := authorities(at.CA)
	if err != nil {
		return neighbour{}, fmt.Errorf("registry.ca: %w", err)
	}
	transport := registry.Transport(trust)
	c := registry.RemoteConfig{
		URL: u, Host: at.Host, Realms: at.Realms,
		Pushed: w.pushed, Tagged: w.tagged, Deleted: w.deleted,
		Refusal: server.Refusal, Transport: transport, Log: h.log,
	}
	if at.AuthFile != "" {
		c.Authorization = func() (string, error) { return readAuthFile(at.AuthFile, u.Host, at.Host) }
		if _, err := c.Authorization(); err != nil {
			return neighbour{}, err
		}
	}
	remote, err := registry.NewRemote(c)
	if err != nil {
		return neighbour{}, err
	}
	who, err := access.NewRegistry(access.RegistryConfig{
		URL: u, Host: at.Host, Realms: at.Realms, Transport: transport, Clock: time.Now, Metrics: metrics,
	})
	if err != nil {
		return neighbour{}, err
	}
	n, err := notifications(at.Notifications, w)
	return neighbour{remote, who, n}, err
}

// minSecret is of the secret of notifications, in bytes: nobody counts who guesses.
const minSecret = 16

func notifications(file string, w watchers) (*server.Notifications, error) {
	if file == "" {
		return nil, nil
	}
	n := &server.Notifications{Pushed: w.pushed, Tagged: w.tagged, Deleted: w.deleted, Secret: func() (string, error) {
		secret, err := readSecret(file)
		if err == nil && len(secret) < minSecret {
			err = fmt.Errorf("%s has a secret of %d bytes, at least %d are wanted\nhint: openssl rand -hex 32", file, len(secret), minSecret)
		}
		if err != nil {
			return "", fmt.Errorf("registry.notifications: %w", err)
		}
		return secret, nil
	}}
	_, err := n.Secret()
	return n, err
}

// authorities returns the system's, and those of a file.
func authorities(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// readAuthFile reads the file each time: a password that was changed counts at once.
func readAuthFile(file string, hosts ...string) (string, error) {
	content, err := readSecret(file)
	if err != nil {
		return "", fmt.Errorf("registry.authFile: %w", err)
	}
	authorization, err := registry.AuthFile([]byte(content), hosts...)
	if err != nil {
		return "", fmt.Errorf("registry.authFile: %s: %w", file, err)
	}
	return authorization, nil
}

// maxSecret bounds a file of a secret, in bytes.
const maxSecret = 64 << 10

// readSecret returns what a file has, without the line's end. It refuses one that others may read.
func readSecret(file string) (string, error) {
	content, err := readFile(file, checkPrivate)
	if err != nil {
		return "", err
	}
	if len(content) > maxSecret {
		return "", fmt.Errorf("%s has more than %d bytes", file, maxSecret)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}
