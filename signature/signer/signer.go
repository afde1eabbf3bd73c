// Package signer has the signers whose private key is not in this process, and what serves a key to
// such a process: a protocol over a unix socket (doc/signer.md), and gpg. Contain bounds any signer,
// and believes nothing that it returns.
package signer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// An Outcome is what became of one request to a signer.
type Outcome string

const (
	Signed   Outcome = "signed"
	Failed   Outcome = "failed"   // it said no, or could not be reached
	Late     Outcome = "late"     // it said nothing in time
	Rejected Outcome = "rejected" // what it returned is not what was asked for
)

// Outcomes returns all there are.
func Outcomes() []Outcome { return []Outcome{Signed, Failed, Late, Rejected} }

// Bounds are of what a signer is asked.
type Bounds struct {
	Patience time.Duration // for one answer
	// Room is for as many requests as there are at a time; signers may share it. nil: any number.
	Room chan struct{}
}

// A Contained is a signer that nobody depends on: it is asked for a bounded time, only while its
// key is good, and what it returns is verified. One that did not answer in time is asked by one caller
// at a time until it does; the others are told at once, so that nobody waits in a row behind it.
type Contained struct {
	signature.Signer
	bounds  Bounds
	clock   func() time.Time
	observe func(Outcome, time.Duration)
	late    atomic.Bool // the last time
	probe   chan struct{}
}

// Contain bounds each request to a signer. observe is told what became of each that the caller has not
// given up.
func Contain(s signature.Signer, b Bounds, clock func() time.Time, observe func(Outcome, time.Duration)) *Contained {
	return &Contained{Signer: s, bounds: b, clock: clock, observe: observe, probe: make(chan struct{}, 1)}
}

// Sign returns a signature that verifies with the key and claims exactly what was asked for. Its
// errors wrap signature.ErrSigner, or the context's own when the caller has given up.
func (c *Contained) Sign(ctx context.Context, claim signature.Claim) ([]byte, error) {
	if err := c.Key().MaySign(c.clock()); err != nil {
		c.observe(Failed, 0)
		return nil, err
	}
	probing := c.late.Load()
	if probing {
		select {
		case c.probe <- struct{}{}:
			defer func() { <-c.probe }()
		default:
			return nil, c.known()
		}
	}
	if c.bounds.Room != nil {
		select {
		case c.bounds.Room <- struct{}{}:
			defer func() { <-c.bounds.Room }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !probing && c.late.Load() { // since others who had room have found out
		return nil, c.known()
	}
	return c.ask(ctx, claim)
}

// known is of a signer of which others have found out already that it does not answer.
func (c *Contained) known() error {
	c.observe(Late, 0)
	return c.wrong("its signer did not answer the last time within %v, and is being asked again", c.bounds.Patience)
}

func (c *Contained) ask(ctx context.Context, claim signature.Claim) ([]byte, error) {
	within, cancel := context.WithTimeout(ctx, c.bounds.Patience)
	defer cancel()
	began := time.Now()
	content, err := c.Signer.Sign(within, claim)
	took := time.Since(began)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && within.Err() != nil:
		c.late.Store(true)
		c.observe(Late, took)
		return nil, c.wrong("its signer did not answer within %v", c.bounds.Patience)
	}
	c.late.Store(false)
	switch {
	case errors.Is(err, signature.ErrSigner):
		c.observe(Failed, took)
		return nil, err
	case err != nil:
		c.observe(Failed, took)
		return nil, c.wrong("%v", err)
	}
	if err := c.judge(content, claim); err != nil {
		c.observe(Rejected, took)
		return nil, c.wrong("what its signer returned is not used: %v", err)
	}
	c.observe(Signed, took)
	return content, nil
}

func (c *Contained) wrong(format string, args ...any) error {
	return fmt.Errorf("%w: key %s: %s", signature.ErrSigner, fingerprint(c.Key()), fmt.Sprintf(format, args...))
}

// judge believes nothing: the signature must be by this key, of this claim, and for as long as the key.
func (c *Contained) judge(content []byte, asked signature.Claim) error {
	message, err := signature.Parse(content)
	if err != nil {
		return err
	}
	got, err := c.Key().Verify(message, c.clock())
	if err != nil {
		return err
	}
	switch {
	case got.Claim.Digest != asked.Digest || got.Claim.Reference != asked.Reference:
		return fmt.Errorf("it claims that %s is %.200q, and %s as %q was asked for", got.Claim.Digest, got.Claim.Reference, asked.Digest, asked.Reference)
	case !message.Claims(asked):
		return errors.New("it claims another creator or time than was asked for, or something beside")
	case got.Subkey:
		return errors.New("it is by a subkey, which clients before containers/image 5.37 reject")
	case !got.Expires.IsZero():
		return fmt.Errorf("it ends by itself, at %s, and nobody would be warned", got.Expires.Format(time.RFC3339))
	}
	return nil
}

// fingerprint is of the one key of a signer.
func fingerprint(key *signature.Keyring) string {
	if keys := key.Keys(); len(keys) > 0 {
		return keys[0].Fingerprint
	}
	return ""
}
