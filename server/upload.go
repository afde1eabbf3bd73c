package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// An uploaded is what became of an admitted signature.
type uploaded struct {
	index int  // from 1
	was   bool // it was there already
}

func (u uploaded) outcome() string {
	if u.was {
		return "known"
	}
	return "admitted"
}

// upload takes one signature through the door, and stores it together with what is to be signed
// because of it; then that is signed. at is the index it must get, 0 for the next.
func (s *Server) upload(r *http.Request, image api.Image, content signature.Untrusted, at int) (uploaded, error) {
	ctx := asCaller(r)
	d := s.admit(ctx, admission.Upload{Image: image, Content: content, Caller: caller(r), Origin: "upload"}, at)
	if len(d.change.Add) == 0 {
		eventOf(r).signer = claimedSigner(content)
		return uploaded{}, d.err
	}
	eventOf(r).signer = d.change.Add[0].Fingerprint
	if d.awaited {
		ctx = context.WithoutCancel(ctx) // of who leaves now it is stored, and then it is looked at again
		s.storeAwaited(ctx, &d)
	}
	if errors.Is(d.err, store.ErrIndex) {
		// Is it the same signature at another index: curl's retry, or a second copy of it? Nothing to add.
		before, err := s.current(ctx, image)
		if err != nil {
			return uploaded{}, err
		}
		if indexOf(before, d.change.Add[0].Identity) > 0 {
			d.after, d.change.Then, d.err = before, nil, nil
		}
	}
	if d.err != nil {
		return uploaded{}, d.err
	}
	if err := s.c.Signing.Uploaded(ctx, d.change); err != nil {
		return uploaded{}, err
	}
	s.admitting.leave()
	return found(d.after, d.change.Add[0]), nil
}

// found is what became of a signature, by what the image has now: one that came with this upload was
// added when it was admitted, to the microsecond that every store keeps.
func found(after store.Set, s store.Signature) uploaded {
	index := indexOf(after, s.Identity)
	if index == 0 {
		return uploaded{}
	}
	since := after.Signatures[index-1].Added.Sub(s.Added)
	return uploaded{index: index, was: since.Abs() >= time.Microsecond}
}

// claimedSigner is who a signature says made it, where that does not have to be true: for the records
// of what was refused. Empty: it does not say, or is none.
func claimedSigner(content signature.Untrusted) string {
	message, err := signature.Parse(content)
	if err != nil {
		return ""
	}
	return message.Issuer()
}

// A decision is what an upload came to.
type decision struct {
	change  store.Change // that adds it; without one to add it was not admitted
	awaited bool         // by a signing rule: nothing is stored yet
	after   store.Set    // that was stored
	err     error
}

// admit verifies in the background, on half of the processors at most: reads, which whole nodes wait for,
// come first. What decides is the policy that was in force when the upload had come, or a later one. What is
// admitted is stored from there, and who waits hears of both at once; but not where a rule waits for it, whose
// questions to the store would keep the thread.
func (s *Server) admit(ctx context.Context, u admission.Upload, at int) decision {
	u.Came = time.Now()
	var change store.Change // until it is decided
	decided, through := make(chan struct{}), make(chan decision, 2)
	err := s.admitting.start(ctx, func() {
		admitted, err := s.c.Door.Admit(u)
		if err != nil {
			through <- decision{err: err}
			return
		}
		change = admitted.Change(at)
		if s.c.Signing.Awaits(change) {
			through <- decision{change: change, awaited: true}
			return
		}
		s.c.Store.Start(ctx, change, func(after store.Set, err error) {
			through <- decision{change: change, after: after, err: err}
		})
	}, func(panicked error) {
		if panicked != nil {
			through <- decision{err: panicked}
		}
		close(decided)
	})
	if err != nil {
		return decision{err: err}
	}
	select {
	case d := <-through:
		return d
	case <-ctx.Done():
	}
	<-decided // what was refused is recorded for who hung up, too
	select {
	case d := <-through:
		return d
	default:
		return decision{change: change, err: fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())}
	}
}

// storeAwaited stores what was admitted, and what is to be signed because of it.
func (s *Server) storeAwaited(ctx context.Context, d *decision) {
	if d.err = s.c.Signing.Uploading(ctx, &d.change, s.current); d.err == nil {
		d.after, d.err = s.c.Store.Do(ctx, d.change)
	}
}

// foreign reports whether a signature was refused only for who made it or what it names, like
// those that clients copy along with an image from elsewhere.
func foreign(err error) bool {
	return errors.Is(err, signature.ErrUnknownKey) || errors.Is(err, policy.ErrRefused)
}

// drop records that a signature was answered as if it were taken, and why it was not.
func (s *Server) drop(r *http.Request, image api.Image, reason error) error {
	from := caller(r)
	_, err := s.c.Store.Do(r.Context(), store.Change{Image: image, Record: store.Record{
		Time: s.c.Clock(), Action: store.Dropped, Subject: from.Subject, Address: from.Address, Image: image,
		Fingerprint: eventOf(r).signer, Reason: said(reason),
	}})
	return err
}

// indexOf returns the index of a signature, 0 where it is not.
func indexOf(set store.Set, identity string) int {
	return 1 + slices.IndexFunc(set.Signatures, func(s store.Signature) bool { return s.Identity == identity })
}

// refuse answers an upload that came to nothing. Who may not upload at all is not in the audit
// trail: only what somebody tried who may.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, image api.Image, err error) {
	row := refusalOf(err)
	outcome := "refused"
	if row.status >= http.StatusInternalServerError {
		outcome = "failed"
	} else {
		s.recordRefusal(r, image, row.message)
	}
	s.metrics.uploads.WithLabelValues(outcome).Inc()
	writeError(w, r, err)
}
