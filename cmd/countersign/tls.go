package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// tlsFiles are what a listener proves itself with, and whom it takes client certificates from.
type tlsFiles struct {
	Certificate string `yaml:"certificate"` // PEM, with the chain
	Key         string `yaml:"key"`
	ClientCA    string `yaml:"clientCA"` // PEM; empty: no client certificates
}

func (f tlsFiles) check() error {
	switch {
	case (f.Certificate == "") != (f.Key == ""):
		return errors.New("tls: certificate and key come together")
	case f.ClientCA != "" && f.Certificate == "":
		return errors.New("tls: clientCA without certificate and key")
	}
	return nil
}

// A certificate follows its files: a renewed one is used from the next connection on. While the
// files do not fit each other, as in the middle of a renewal, the one before is.
type certificate struct {
	files tlsFiles
	log   *slog.Logger

	mu     sync.Mutex
	stamp  string
	config *tls.Config
}

// listen returns the configuration of a listener, nil where there is no TLS.
func (f tlsFiles) listen(log *slog.Logger) (*tls.Config, error) {
	if f.Certificate == "" {
		return nil, nil
	}
	c := &certificate{files: f, log: log}
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current() },
	}, nil
}

func (c *certificate) current() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamp := c.files.stamp()
	if stamp == c.stamp {
		return c.config, nil
	}
	config, err := c.files.load()
	if err != nil && c.config == nil {
		return nil, err
	}
	if err != nil {
		c.log.Error("the TLS files do not read; those read before stay in use", "error", err)
	} else {
		c.config = config
	}
	c.stamp = stamp
	return c.config, nil
}

func (f tlsFiles) stamp() (stamp string) {
	for _, path := range []string{f.Certificate, f.Key, f.ClientCA} {
		if info, err := os.Stat(path); err == nil {
			stamp += fmt.Sprintf("%d %d\n", info.Size(), info.ModTime().UnixNano())
		}
	}
	return stamp
}

func (f tlsFiles) load() (*tls.Config, error) {
	chain, err := os.ReadFile(f.Certificate)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	key, err := readPrivate(f.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("tls: %s and %s: %w", f.Certificate, f.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	if f.ClientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: %s has no certificate", f.ClientCA)
	}
	return config, nil
}
