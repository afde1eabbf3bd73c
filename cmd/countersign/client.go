package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// maxAnswer bounds what a server may answer, in bytes.
const maxAnswer = 64 << 20

// A client asks a server.
type client struct {
	t          terminal
	server, ca string
	login      credentials
}

// clientFlags adds what every client command takes.
func clientFlags(t terminal, flags *flagSet) *client {
	c := &client{t: t}
	flags.StringVar(&c.server, "server", "http://127.0.0.1:5000", "`URL` of the server")
	flags.StringVar(&c.ca, "ca", "", "PEM `file` of the authorities that vouch for the server, in place of the system's")
	c.login.flags(flags)
	return c
}

// http returns a client that sends credentials nowhere else: it follows no redirect.
func (c *client) http() (*http.Client, error) {
	h := &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c.ca == "" {
		return h, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", c.ca)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12}
	h.Transport = transport
	return h, nil
}

// do sends a request as JSON, if it is not nil, and decodes the answer into result, if that is not.
// What the server refuses is its own sentence.
func (c *client) do(ctx context.Context, method, path string, request, result any) error {
	base, err := url.Parse(c.server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return usageError{fmt.Errorf("-server %q is no URL; http://127.0.0.1:5000 is one", c.server)}
	}
	var body bytes.Buffer
	if request != nil {
		if err := json.NewEncoder(&body).Encode(request); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.server, "/")+path, &body)
	if err != nil {
		return err
	}
	if request != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if err := c.login.authorize(c.t, r); err != nil {
		return err
	}
	h, err := c.http()
	if err != nil {
		return err
	}
	answer, err := h.Do(r)
	if err != nil {
		return fmt.Errorf("%w\nhint: does the server run there? -server names another", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		return refusal(answer.Status, content)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(content, result); err != nil {
		return fmt.Errorf("%s answered something else than was asked for: %w", c.server, err)
	}
	return nil
}

func refusal(status string, content []byte) error {
	var body api.Errors
	if json.Unmarshal(content, &body) != nil || len(body.Errors) == 0 || body.Errors[0].Message == "" {
		return fmt.Errorf("the server answered %s", status)
	}
	return fmt.Errorf("%s", body.Errors[0].Message)
}
