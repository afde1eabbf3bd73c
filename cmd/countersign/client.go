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
