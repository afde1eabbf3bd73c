package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// importPatience is how long a server may be away, as when it is started anew, before an import gives up.
const importPatience = time.Minute

// A patience is how long a server may be away. It tells once that it is, and once that it is back.
type patience struct {
	most time.Duration
	tell func(what string)

	mu          sync.Mutex
	begun, away bool // the server has answered; it does not now
}

// left is how long to wait for the next answer: a server that never gave one may not be there at all.
func (p *patience) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		return min(p.most, importPatience)
	}
	return p.most
}

// outlasts says whether to ask again after an error. A certificate that does not verify may be renewed,
// but at the first answer it is another server's, or the wrong -ca.
func (p *patience) outlasts(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !passing(err) || !p.begun && errors.As(err, new(*tls.CertificateVerificationError)) {
		return false
	}
	if !p.away {
		p.tell(fmt.Sprintf("%v\nwaiting for the server", err))
	}
	p.away = true
	return true
}

func (p *patience) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		p.tell("the server is back")
	}
	p.begun, p.away = true, false
}

// persist asks again while the server is away or says that it is: what it is asked for must be the
// same however often it happens.
func (c *client) persist(ctx context.Context, p *patience, method, path string, request, result any) error {
	within, cancel := context.WithTimeout(ctx, p.left())
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.do(ctx, method, path, request, result)
		if err == nil {
			p.answered()
			return nil
		}
		if ctx.Err() != nil || !p.outlasts(err) {
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

// passing says whether an error may be gone in a moment. What stands before a server that is away says
// so with a status of its own.
func passing(err error) bool {
	if refused, ok := errors.AsType[refusedError](err); ok {
		switch refused.status {
		case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	return errors.As(err, new(*url.Error)) || errors.Is(err, io.ErrUnexpectedEOF)
}
