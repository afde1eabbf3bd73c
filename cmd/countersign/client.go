package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// maxAnswer bounds what a server may answer, in bytes.
const maxAnswer = 64 << 20

// A client asks a server.
type client struct{ server string }

// clientFlags adds what every client command takes.
func clientFlags(flags *flag.FlagSet) *client {
	c := &client{}
	flags.StringVar(&c.server, "server", "http://127.0.0.1:5000", "`URL` of the server")
	return c
}

// post sends a request as JSON and decodes the answer into result. What the server refuses is
// its own sentence.
func (c *client) post(ctx context.Context, path string, request, result any) error {
	base, err := url.Parse(c.server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return usageError{fmt.Errorf("-server %q is no URL; http://127.0.0.1:5000 is one", c.server)}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.server, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := (&http.Client{Timeout: time.Minute}).Do(r)
	if err != nil {
		return fmt.Errorf("%w\nhint: does the server run there? -server names another", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest {
		return refusal(answer.Status, content)
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
