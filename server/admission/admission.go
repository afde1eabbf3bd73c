// Package admission is the door, without HTTP: bytes, an image and a caller become a signature
// that may be stored, or a refusal with a sentence that says why and what to do. Uploads,
// imports and the server's own signatures all come through it, so nothing unverified is ever
// stored. It decides and stores nothing: the change it proposes is the caller's to make.
package admission

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// Errors of the door; those of signature and policy pass through it as they are.
var (
	ErrOtherDigest = errors.New("signature is for another manifest")
	ErrReference   = errors.New("signature is for another reference")
	ErrClients     = errors.New("not every client could read this signature")
)

// A Config is what a Door decides by.
type Config struct {
	Hosts   []string                             // what nodes call this registry; an alias of the first is kept under the first
	Policy  func(since time.Time) *policy.Policy // the admission policy in force then or later, zero for now; asked for every upload
	Remedy  string                               // ends the message of a refusal: what would admit the key
	Clients signature.Clients                    // who must be able to read what is admitted
	Clock   func() time.Time
}

// A Door decides which signatures come in.
type Door struct{ c Config }

// New returns a door.
func New(c Config) *Door { return &Door{c} }

// A Caller is who brings a signature. It comes from access, never from what was sent.
type Caller struct {
	Subject string // as access knows them: anonymous, or a name
	Address string // of the connection
}

// An Upload is a signature that somebody brings.
type Upload struct {
	Image   api.Image // of the path it was sent to
	Content signature.Untrusted
	Caller  Caller
	Origin  string    // upload, import
	Came    time.Time // all of it, by time.Now: a policy of then or later decides; zero: one of now
}

// An Admitted is a signature that may be stored, and where.
type Admitted struct {
	Image     api.Image
	Signature store.Signature
	Record    store.Record
}

// Change is what stores it, at this index if it is not 0.
func (a Admitted) Change(at int) store.Change {
	return store.Change{Image: a.Image, Add: []store.Signature{a.Signature}, At: at, Record: a.Record}
}

// Host returns the name an image of this host is kept under: the first of ours for any of ours.
func (d *Door) Host(host string) string {
	if slices.Contains(d.c.Hosts, host) {
		return d.c.Hosts[0]
	}
	return host
}

// Admit decides on an upload. The order is that of cost: what is malformed is refused before
// any cryptography. Its errors wrap signature.ErrMalformed, ErrUnknownKey or ErrUnverified,
// policy.ErrRefused, ErrOtherDigest or ErrClients, and are meant for the person who uploads.
func (d *Door) Admit(u Upload) (Admitted, error) {
	now := d.c.Clock()
	verified, err := d.verify(u, now)
	if err != nil {
		return Admitted{}, err
	}
	s := stored(u.Image, verified, now)
	s.Origin, s.Uploader = u.Origin, u.Caller.Subject
	return d.admitted(u.Image, s, u.Caller, store.Admitted, ""), nil
}

// Stands says why what was admitted once would not be now: its key may be revoked, expired, or trusted
// no more. A clock behind the one that admitted it is no reason. Its errors are those of Admit.
func (d *Door) Stands(image api.Image, s store.Signature) error {
	now := d.c.Clock()
	if s.Added.After(now) {
		now = s.Added
	}
	_, err := d.verify(Upload{Image: image, Content: s.Content, Came: time.Now()}, now)
	return err
}

func (d *Door) verify(u Upload, now time.Time) (signature.Signature, error) {
	message, err := signature.Parse(u.Content)
	if err != nil {
		return signature.Signature{}, err
	}
	policy := d.c.Policy(u.Came)
	verified, err := policy.Verify(message, now)
	if errors.Is(err, signature.ErrUnknownKey) {
		return verified, fmt.Errorf("%w. hint: %s", err, d.c.Remedy)
	}
	if err != nil {
		return verified, err
	}
	return verified, d.judge(u.Image, verified, policy)
}

func (d *Door) judge(image api.Image, s signature.Signature, p *policy.Policy) error {
	if s.Claim.Digest != image.Digest {
		return fmt.Errorf("%w: it claims %s, and was sent for %s", ErrOtherDigest, s.Claim.Digest, image.Digest)
	}
	ref, err := d.judgedAs(image, s)
	if err != nil {
		return err
	}
	if err := p.Admit(ref, s); err != nil {
		return fmt.Errorf("%w. hint: %s", err, d.c.Remedy)
	}
	if err := s.ReadableBy(d.c.Clients); err != nil {
		return fmt.Errorf("%w: %v", ErrClients, err)
	}
	return nil
}

// judgedAs is the reference a signature is judged for: the image's repository under the host
// that is claimed if that is one of ours, with the tag that is claimed, or else the digest.
// The policy then says whether the claim fits it.
func (d *Door) judgedAs(image api.Image, s signature.Signature) (reference.Named, error) {
	claim, err := s.Named()
	if err != nil {
		return nil, fmt.Errorf("%w: docker-reference %q: %v", signature.ErrMalformed, s.Claim.Reference, err)
	}
	digested, isDigest := claim.(reference.Digested)
	if isDigest && digested.Digest() != image.Digest {
		return nil, fmt.Errorf("%w: its docker-reference is %s, and it was sent for %s", ErrOtherDigest, s.Claim.Reference, image.Digest)
	}
	host := image.Host
	if slices.Contains(d.c.Hosts, host) && slices.Contains(d.c.Hosts, reference.Domain(claim)) {
		host = reference.Domain(claim)
	}
	tagged, isTag := claim.(reference.Tagged)
	if isTag && !isDigest && reference.Domain(claim) == host && reference.Path(claim) == image.Repository {
		return claim, nil // it is that already
	}
	name, err := reference.WithName(host + "/" + image.Repository)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", api.ErrName, err)
	}
	if isTag {
		return reference.WithTag(name, tagged.Tag())
	}
	return reference.WithDigest(name, image.Digest)
}

// Own takes what one of the server's signers returned: it must verify with that signer's key
// and claim exactly what it was asked to.
func (d *Door) Own(image api.Image, key *signature.Keyring, asked signature.Claim, content []byte) (store.Signature, error) {
	message, err := signature.Parse(content)
	if err != nil {
		return store.Signature{}, err
	}
	now := d.c.Clock()
	verified, err := key.Verify(message, now)
	if err != nil {
		return store.Signature{}, err
	}
	if verified.Claim.Digest != image.Digest {
		return store.Signature{}, fmt.Errorf("%w: the signer claims %s for %s", ErrOtherDigest, verified.Claim.Digest, image)
	}
	if verified.Claim.Reference != asked.Reference {
		return store.Signature{}, fmt.Errorf("%w: the signer claims %s instead of %s", ErrReference, verified.Claim.Reference, asked.Reference)
	}
	s := stored(image, verified, now)
	s.Own = true
	return s, nil
}

func stored(image api.Image, s signature.Signature, now time.Time) store.Signature {
	return store.Signature{
		Name:        api.Name(image.Digest, s.Content),
		Content:     s.Content,
		Identity:    s.Identity,
		Fingerprint: s.Fingerprint,
		UserID:      s.UserID,
		Reference:   s.Claim.Reference,
		Signed:      s.Created,
		Added:       now,
	}
}

func (d *Door) admitted(image api.Image, s store.Signature, from Caller, action, reason string) Admitted {
	return Admitted{Image: image, Signature: s, Record: store.Record{
		Time: d.c.Clock(), Action: action, Subject: from.Subject, Address: from.Address, Image: image,
		Names: []string{s.Name}, Fingerprint: s.Fingerprint, Reference: s.Reference, Reason: reason,
	}}
}
