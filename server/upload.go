package server

import (
	"cmp"
	"context"
	"errors"
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
	admitted, err := s.admit(ctx, admission.Upload{Image: image, Content: content, Caller: caller(r), Origin: "upload"})
	if err != nil {
		eventOf(r).signer = claimedSigner(content)
		return uploaded{}, err
	}
	eventOf(r).signer = admitted.Signature.Fingerprint
	change := admitted.Change(at)
	if err := s.c.Signing.Uploading(ctx, &change, s.current); err != nil {
		return uploaded{}, err
	}
	after, err := s.c.Store.Do(ctx, change)
	if errors.Is(err, store.ErrIndex) {
		// Is it the same signature at another index: curl's retry, or a second copy of it? Nothing to add.
		before, readErr := s.current(ctx, image)
		if readErr != nil {
			return uploaded{}, readErr
		}
		if indexOf(before, admitted.Signature.Identity) > 0 {
			after, change.Then, err = before, nil, nil
		}
	}
	if err != nil {
		return uploaded{}, err
	}
	if err := s.c.Signing.Uploaded(ctx, change); err != nil {
		return uploaded{}, err
	}
	s.admitting.leave()
	return found(after, admitted.Signature), nil
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

// admit verifies in the background, on half of the processors at most: reads, which whole nodes wait for,
// come first. What decides is the policy that was in force when the upload had come, or a later one.
func (s *Server) admit(ctx context.Context, u admission.Upload) (admitted admission.Admitted, err error) {
	u.Came = time.Now()
	var refused error
	err = s.admitting.do(ctx, func() { admitted, refused = s.c.Door.Admit(u) })
	return admitted, cmp.Or(err, refused)
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
