package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// maxAnswer bounds what a server may answer, in bytes.
const maxAnswer = 64 << 20

// A client asks a server.
type client struct {
	server string
	http   http.Client
	login  login
	once   sync.Once // the flags have been read
	err    error
}

// clientFlags adds what every client command takes.
func clientFlags(flags *flag.FlagSet) *client {
	c := &client{}
	c.login.flags(flags)
	flags.StringVar(&c.server, "server", "http://127.0.0.1:5000", "`URL` of the server")
	return c
}

// open makes what asks, once. It follows no redirect: credentials go to the server that is named.
func (c *client) open() error {
	c.once.Do(func() {
		config, err := c.login.tls()
		c.http = http.Client{
			Timeout:       time.Minute,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: config,
				ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			},
		}
		c.err = err
	})
	return c.err
}

// do sends a request as JSON, if it is not nil, and decodes the answer into result, if that is not.
func (c *client) do(ctx context.Context, method, path string, request, result any) error {
	var body []byte
	header := http.Header{}
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
	}
	content, _, err := c.ask(ctx, method, path, header, body)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(content, result); err != nil {
		return fmt.Errorf("%s answered something else than was asked for: %w", c.server, err)
	}
	return nil
}

// ask sends a request and returns the body and header of the answer. What the server refuses is
// its own sentence, in a refusedError.
func (c *client) ask(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, http.Header, error) {
	base, err := url.Parse(c.server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, nil, usageError{fmt.Errorf("-server %q is no URL; http://127.0.0.1:5000 is one", c.server)}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.server, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header = header
	if err := errors.Join(c.open(), c.login.authorize(r)); err != nil {
		return nil, nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, nil, fmt.Errorf("%w\nhint: does the server run there? -server names another", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, nil, err
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		return nil, nil, refusal(answer, content)
	}
	return content, answer.Header, nil
}

// A refusedError is what the server said instead.
type refusedError struct {
	status  int
	message string
}

func (e refusedError) Error() string { return e.message }

func refusal(answer *http.Response, content []byte) error {
	var body api.Errors
	if json.Unmarshal(content, &body) != nil || len(body.Errors) == 0 || body.Errors[0].Message == "" {
		return refusedError{answer.StatusCode, "the server answered " + answer.Status}
	}
	return refusedError{answer.StatusCode, body.Errors[0].Message}
}
