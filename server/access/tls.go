package access

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A TLS is what a listener proves itself with, and whom it takes client certificates from: the
// `tls:` of the settings file. The zero value is no TLS.
type TLS struct {
	Certificate string `yaml:"certificate"` // PEM file, the server's first, then its chain
	Key         string `yaml:"key"`         // PEM file
	// ClientCA is a PEM file of the authorities that vouch for client certificates; without it
	// none is asked for. A client without one is let in, as anonymous or by its login.
	ClientCA string `yaml:"clientCA"`
}

// Check says what is contradictory.
func (s TLS) Check() error {
	switch {
	case (s.Certificate == "") != (s.Key == ""):
		return errors.New("tls: certificate and key come together\nhint: set both, or neither")
	case s.ClientCA != "" && s.Certificate == "":
		return errors.New("tls: clientCA without certificate and key\nhint: client certificates need TLS")
	}
	return nil
}

// protocols are what clients choose from, by their preference.
func protocols() []string { return []string{"h2", "http/1.1"} }

// Listen returns the configuration of a listener. It follows the files: a renewed certificate is
// used from the next connection on; while they do not fit each other, as in the middle of a
// renewal, those before are.
func (s TLS) Listen(clock func() time.Time, log *slog.Logger) (*tls.Config, File, error) {
	f := &followed[*tls.Config]{
		name: "tls", sources: []source{{s.Certificate, false}, {s.Key, true}}, parse: s.parse, clock: clock, log: log,
	}
	if s.ClientCA != "" {
		f.sources = append(f.sources, source{s.ClientCA, false})
	}
	if err := f.open(); err != nil {
		return nil, File{}, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols(),
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.get(), nil },
	}, f.file(), nil
}

// parse makes a whole new configuration, session ticket keys included: what the files no longer
// vouch for cannot resume a connection either.
func (s TLS) parse(contents [][]byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, fmt.Errorf("with %s: %w", s.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols(), Certificates: []tls.Certificate{pair}}
	if len(contents) < 3 {
		return config, nil
	}
	config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(contents[2]) {
		return nil, fmt.Errorf("%s has no certificate in it", s.ClientCA)
	}
	return config, nil
}
