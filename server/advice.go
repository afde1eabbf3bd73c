package server

import (
	"fmt"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
)

// advise is one line on the first thing to do about a verdict; nothing where there is none.
func advise(v api.Verdict, named reference.Named) string {
	if v.Accepted {
		if list := v.Manifests[0]; list.List && !list.Accepted {
			return "nodes accept it; a copy of the whole list (copy --all) would not, since the list itself is not accepted: push the list again"
		}
		return ""
	}
	m := firstRejected(v)
	what := m.Digest.String()
	if m.Platform != "" {
		what = m.Platform + ", " + what
	}
	for _, r := range m.Requirements {
		if r.Accepted {
			continue
		}
		switch {
		case r.Type == "reject" && len(m.Signatures) > 0 && signedElsewhere(m, named) != "":
			return signedElsewhere(m, named)
		case r.Type == "reject":
			return fmt.Sprintf("%s of the policy rejects everything: give %s a scope with a signedBy requirement", m.Scope, named.Name())
		case r.Type != "signedBy":
			return r.Reason
		case len(m.Signatures) == 0:
			return fmt.Sprintf("%s has no signature: push it to the server again, or sign it", what)
		}
		return signedAs(m, r, named, what)
	}
	return ""
}

func firstRejected(v api.Verdict) api.ManifestVerdict {
	for _, m := range v.Manifests {
		if !m.Accepted && !m.List && m.Platform != attestation {
			return m
		}
	}
	return v.Manifests[0]
}

// signedAs compares what the signatures say with what is asked for.
func signedAs(m api.ManifestVerdict, r api.RequirementVerdict, named reference.Named, what string) string {
	switch {
	case len(r.Signatures) == 0: // none was looked at
		return r.Reason
	case r.Expired:
		return fmt.Sprintf("a signature or its key is expired: extend the key, or sign %s again", what)
	case r.Unknown:
		return fmt.Sprintf("none of the keys that signed %s is one the policy names: %s", what, m.Signatures[0].Fingerprint)
	}
	if advice := signedElsewhere(m, named); advice != "" {
		return advice
	}
	for _, s := range m.Signatures {
		claimed, err := reference.ParseNormalizedNamed(s.Reference)
		if err == nil && claimed.Name() == named.Name() && claimed.String() != named.String() {
			return fmt.Sprintf("it is signed as %s, and asked for as %s: push or sign it under that tag", s.Reference, named)
		}
	}
	return "signature-1: " + r.Signatures[0]
}

// signedElsewhere is for who pulls by localhost what is signed for 127.0.0.1, and the like.
func signedElsewhere(m api.ManifestVerdict, named reference.Named) string {
	for _, s := range m.Signatures {
		claimed, err := reference.ParseNormalizedNamed(s.Reference)
		if err == nil && reference.Path(claimed) == reference.Path(named) && reference.Domain(claimed) != reference.Domain(named) {
			return fmt.Sprintf("it is signed as %s: pull it under that name, or have the server sign as %s (-host)", s.Reference, reference.Domain(named))
		}
	}
	return ""
}
