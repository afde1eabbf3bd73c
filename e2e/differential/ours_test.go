package differential

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// evaluate is what policy says of a question, and why it refuses.
func evaluate(q question) error {
	p, named, err := prepare(q)
	if err != nil {
		return err
	}
	var signatures []signature.Untrusted
	for _, s := range q.signatures {
		signatures = append(signatures, s)
	}
	i := policy.Image{Transport: q.transport, Reference: named, Digest: digest.FromBytes(imageManifest())}
	if d := p.Evaluate(i, signatures, time.Now()); !d.Accepted {
		return fmt.Errorf("%s: %+v", d.Scope, d.Requirements)
	}
	return nil
}

// admit is the way of an upload: it returns who reads the signature, if it may come in.
func admit(q question) (signature.Clients, error) {
	p, named, err := prepare(q)
	if err != nil {
		return "", err
	}
	m, err := signature.Parse(q.signatures[0])
	if err != nil {
		return "", err
	}
	s, err := p.Verify(m, time.Now())
	if err != nil {
		return "", err
	}
	if want := digest.FromBytes(imageManifest()); s.Claim.Digest != want {
		return "", fmt.Errorf("it is for another manifest, %s", s.Claim.Digest) // who asks Admit sees to that
	}
	if err := p.Admit(reference.TagNameOnly(named), s); err != nil {
		return "", err
	}
	if s.ReadableBy(signature.AllClients) == nil {
		return signature.AllClients, nil
	}
	return signature.RecentClients, s.ReadableBy(signature.RecentClients)
}

func prepare(q question) (*policy.Policy, reference.Named, error) {
	p, err := parsed(q.policy)
	if err != nil {
		return nil, nil, err
	}
	named, err := reference.ParseNormalizedNamed(q.reference)
	return p, named, err
}

// policies are those that were read, by their text: few questions come with one of their own.
var policies sync.Map

func parsed(text string) (*policy.Policy, error) {
	if p, ok := policies.Load(text); ok {
		return p.(*policy.Policy), nil
	}
	p, err := policy.Parse([]byte(text))
	if err == nil {
		p, err = p.Load(os.ReadFile)
	}
	if err == nil {
		policies.Store(text, p)
	}
	return p, err
}
