package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// importPatience is how long a server may be away, as when it is started anew, before an import gives up.
const importPatience = time.Minute

// persist asks again while the server is away or says that it is: what it is asked for must be the
// same however often it happens.
func (c *client) persist(ctx context.Context, patience time.Duration, method, path string, request, result any) error {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.do(ctx, method, path, request, result)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-within.Done():
			again.Stop()
			return err
		}
	}
}

// passing says whether an error may be gone in a moment.
func passing(err error) bool {
	if refused, ok := errors.AsType[refusedError](err); ok {
		return refused.status == http.StatusServiceUnavailable || refused.status == http.StatusTooManyRequests
	}
	return errors.As(err, new(*url.Error)) || errors.Is(err, io.ErrUnexpectedEOF)
}
