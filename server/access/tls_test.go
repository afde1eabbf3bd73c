package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server/access"
)

// An authority vouches for certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "authority"},
	}
	var a authority
	a.certificate, a.key = issue(t, template, template, nil)
	return a
}

func issue(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// pair returns a certificate for localhost, of clients and servers, and its key, in PEM.
func (a authority) pair(t *testing.T, serial int64) (certificate, key string) {
	t.Helper()
	c, k := issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, Subject: pkix.Name{Organization: []string{"nodes"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.certificate, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", c.Raw), encode("PRIVATE KEY", der)
}

func (a authority) pem() string { return encode("CERTIFICATE", a.certificate.Raw) }

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// serve answers over TLS as the settings say, with the server's serial number and who it takes
// the client for.
func serve(t *testing.T, s access.TLS) (dial func(clients ...tls.Certificate) (*http.Response, error), file access.File, trust *x509.CertPool) {
	t.Helper()
	config, file, err := s.Listen(time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: tls.NewListener(listener, config), Config: &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.VerifiedChains) > 0 {
				w.Header().Set("Client", r.TLS.VerifiedChains[0][0].SerialNumber.String())
			}
		}),
	}}
	server.Start()
	t.Cleanup(server.Close)
	trust = x509.NewCertPool()
	return func(clients ...tls.Certificate) (*http.Response, error) {
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: trust, ServerName: "localhost", Certificates: clients},
			ForceAttemptHTTP2: true, DisableKeepAlives: true,
		}}
		response, err := client.Get("https://" + listener.Addr().String())
		if err == nil {
			response.Body.Close()
		}
		return response, err
	}, file, trust
}

// A renewed certificate is used from the next connection on; one that does not fit its key yet is
// not, and nobody notices but the log and a metric.
func TestTLSIsFollowed(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	certificate, key := a.pair(t, 11)
	s := access.TLS{Certificate: write(t, certificate), Key: write(t, key)}
	dial, file, trust := serve(t, s)
	trust.AddCert(a.certificate)
	wantSerial := func(serial int64) {
		t.Helper()
		response, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if got := response.TLS.PeerCertificates[0].SerialNumber.Int64(); got != serial || response.Proto != "HTTP/2.0" {
			t.Errorf("certificate %d over %s, want %d over HTTP/2.0", got, response.Proto, serial)
		}
	}
	wantSerial(11)
	certificate, key = a.pair(t, 12)
	rewrite(t, s.Certificate, certificate)
	wantSerial(11)
	if err := file.Err(); err == nil || !strings.Contains(err.Error(), "does not match") {
		t.Errorf("while only the certificate is new: %v", err)
	}
	rewrite(t, s.Key, key)
	wantSerial(12)
	if err := file.Err(); err != nil {
		t.Errorf("both are new: %v", err)
	}
	if err := os.Chmod(s.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	wantSerial(12)
	if err := file.Err(); err == nil || !strings.Contains(err.Error(), "chmod o-r") {
		t.Errorf("a key that everybody may read: %v", err)
	}
	if _, _, err := s.Listen(time.Now, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it starts with a key that everybody may read")
	}
}

// Only certificates of the named authorities are anybody's; those of others end the connection.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	servers, clients, others := newAuthority(t), newAuthority(t), newAuthority(t)
	certificate, key := servers.pair(t, 1)
	s := access.TLS{Certificate: write(t, certificate), Key: write(t, key), ClientCA: write(t, clients.pem())}
	dial, _, trust := serve(t, s)
	trust.AddCert(servers.certificate)
	present := func(a authority, serial int64) tls.Certificate {
		certificate, key := a.pair(t, serial)
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	if response, err := dial(); err != nil || response.Header.Get("Client") != "" {
		t.Errorf("without a certificate: %v, %v", response, err)
	}
	if response, err := dial(present(clients, 7)); err != nil || response.Header.Get("Client") != "7" {
		t.Errorf("with one: %v, %v", response, err)
	}
	// A client that is told the authorities sends none of another's; one that sends it anyway is cut.
	stubborn := present(others, 8)
	if response, err := dial(stubborn); err == nil && response.Header.Get("Client") != "" {
		t.Errorf("with another's: %v", response)
	}
	rewrite(t, s.ClientCA, others.pem())
	if response, err := dial(stubborn); err != nil || response.Header.Get("Client") != "8" {
		t.Errorf("once its authority is trusted: %v, %v", response, err)
	}
}

func TestTLSSettings(t *testing.T) {
	t.Parallel()
	for says, s := range map[string]access.TLS{
		"certificate and key come together": {Certificate: "x"},
		"clientCA without":                  {ClientCA: "x"},
	} {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", s, err, says)
		}
	}
	certificate, key := newAuthority(t).pair(t, 1)
	for says, s := range map[string]access.TLS{
		"failed to find any PEM data": {Certificate: write(t, "x"), Key: write(t, key)},
		"has no certificate in it":    {Certificate: write(t, certificate), Key: write(t, key), ClientCA: write(t, "x")},
		"no such file":                {Certificate: write(t, certificate), Key: "/nowhere"},
	} {
		if _, _, err := s.Listen(time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", s, err, says)
		}
	}
}
