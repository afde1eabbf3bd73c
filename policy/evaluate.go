package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// An Image is what a node asks for. A reference with neither tag nor digest means :latest, as on
// a command line.
type Image struct {
	Transport string          // docker or atomic; for all others only the default counts
	Reference reference.Named // as the node has it: tag, digest or both
	Digest    digest.Digest   // of the manifest whose signatures count: of one platform's, where the reference is a list's
}

// A Decision is what a policy says of an image, and why: it is accepted if all requirements of
// its scope are met.
type Decision struct {
	Accepted     bool
	Scope        string // as jq spells its place: default, transports.docker["registry.example.com"]
	Requirements []Judgement
}

// A Judgement is what one requirement says.
type Judgement struct {
	Type       string
	Place      string // as jq spells it
	Accepted   bool
	Reason     string
	Signatures []string // of signedBy, in their order: why each is accepted or is not
	Expired    bool     // of signedBy: a signature, or the key of one, is past its end
	Unknown    bool     // of signedBy: there are signatures, all by keys that it does not name
}

// Evaluate says whether a node with this policy accepts an image that has these signatures,
// judging as clients do (protocol.md 6). It is never laxer: sigstoreSigned, which is about other
// signatures than these, is not met, and what signature.Parse refuses does not count.
func (p *Policy) Evaluate(image Image, signatures []signature.Untrusted, now time.Time) Decision {
	if image.Reference == nil {
		return Decision{Requirements: []Judgement{{Reason: "the image has no docker reference"}}}
	}
	if _, err := signature.ParseReference(image.Reference.String()); err != nil {
		return Decision{Requirements: []Judgement{{Reason: fmt.Sprintf("no node can ask for %s: %v", quote(image.Reference.String()), err)}}}
	}
	image.Reference = reference.TagNameOnly(image.Reference)
	scope := p.scope(image.Transport, image.Reference)
	e := newEvaluation(image, signatures, now)
	d := Decision{Accepted: len(scope.requirements) > 0, Scope: scope.at.String()}
	for _, r := range scope.requirements {
		j := e.judge(r)
		d.Accepted = d.Accepted && j.Accepted
		d.Requirements = append(d.Requirements, j)
	}
	return d
}

// An evaluation verifies every signature once with every keyring. It does not verify with the
// policy's union: what a requirement's own copy of a key says is what a node goes by.
type evaluation struct {
	image    Image
	now      time.Time
	brought  []message
	known    []*signature.Signature // by place: verified with some keyring, if any has the key
	verified map[*signature.Keyring][]verified
}

// A message is one that was brought, or why it is none.
type message struct {
	*signature.Message
	err error
}

type verified struct {
	signature.Signature
	says claimed
	err  error
}

func newEvaluation(image Image, signatures []signature.Untrusted, now time.Time) evaluation {
	return evaluation{
		image: image, now: now, brought: read(signatures),
		known: make([]*signature.Signature, len(signatures)), verified: map[*signature.Keyring][]verified{},
	}
}

func read(signatures []signature.Untrusted) []message {
	messages := make([]message, len(signatures))
	for i, s := range signatures {
		messages[i].Message, messages[i].err = signature.Parse(s)
	}
	return messages
}

func (e evaluation) judge(r requirement) Judgement {
	j := Judgement{Type: r.kind, Place: r.at.String()}
	switch r.kind {
	case acceptAnything:
		j.Accepted, j.Reason = true, "it accepts anything, signed or not"
	case reject:
		j.Reason = "it rejects everything"
	case signedBaseLayer:
		j.Reason = "no client implements it; it rejects everything"
	case sigstoreSigned:
		j.Reason = "it wants a sigstore signature, which cannot be told from here; it counts as rejected"
	case signedBy:
		e.signedBy(r, &j)
	}
	return j
}

func (e evaluation) signedBy(r requirement, j *Judgement) {
	switch {
	case r.keyType != gpgKeys:
		j.Reason = fmt.Sprintf("no client implements keyType %s; it rejects everything", r.keyType)
		return
	case r.ring == nil:
		j.Reason = "its key files were not read"
		return
	case len(e.brought) == 0:
		j.Reason = "it wants a signature, and the image has none"
		return
	}
	j.Unknown = true
	for i, s := range e.with(r.ring) {
		err := e.accepts(r, s)
		j.Unknown = j.Unknown && errors.Is(err, signature.ErrUnknownKey)
		if err != nil {
			j.Signatures = append(j.Signatures, err.Error())
			j.Expired = j.Expired || errors.Is(err, signature.ErrExpired)
			continue
		}
		j.Signatures = append(j.Signatures, fmt.Sprintf("accepted: by %s %s, for %s", s.Fingerprint, quote(s.UserID), quote(s.Claim.Reference)))
		if !j.Accepted {
			j.Accepted, j.Reason = true, fmt.Sprintf("signature %d meets it", i+1)
		}
	}
	switch {
	case j.Accepted:
	case len(j.Signatures) == 1:
		j.Reason = "the one signature does not meet it: " + j.Signatures[0]
	default:
		j.Reason = fmt.Sprintf("none of the %d signatures meets it", len(j.Signatures))
	}
}

// with verifies what was brought with the keys of a requirement.
func (e evaluation) with(ring *signature.Keyring) []verified {
	if done, ok := e.verified[ring]; ok {
		return done
	}
	all := make([]verified, len(e.brought))
	for i, m := range e.brought {
		if all[i].err = m.err; m.err != nil {
			continue
		}
		// The key is the same in all rings that have it: only what a ring says of it may differ.
		if known := e.known[i]; known != nil && ring.Made(*known) {
			all[i].Signature, all[i].err = *known, ring.Stands(*known, e.now)
		} else if all[i].Signature, all[i].err = ring.Verify(m.Message, e.now); all[i].err == nil {
			e.known[i] = &all[i].Signature
		}
		all[i].says = claimedIn(all[i].Signature)
	}
	e.verified[ring] = all
	return all
}

// accepts says why a signature does not meet a requirement.
func (e evaluation) accepts(r requirement, s verified) error {
	if s.err != nil {
		return s.err
	}
	if s.Claim.Digest != e.image.Digest {
		return fmt.Errorf("it is for another manifest, %s", s.Claim.Digest)
	}
	return r.identity.accepts(e.image.Reference, s.says)
}
