package server_test

import (
	"strings"
	"testing"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
)

// What a verdict leads to: the first thing to do, in one line, and nothing where all is well.
func TestAdvise(t *testing.T) {
	t.Parallel()
	signedBy := func(r api.RequirementVerdict) []api.RequirementVerdict {
		r.Type = "signedBy"
		return []api.RequirementVerdict{r}
	}
	seen := func(references ...string) (all []api.SignatureSeen) {
		for _, reference := range references {
			all = append(all, api.SignatureSeen{Fingerprint: "F1", Reference: reference})
		}
		return all
	}
	only := func(m api.ManifestVerdict) api.Verdict {
		m.Digest = digest
		return api.Verdict{Accepted: m.Accepted, Manifests: []api.ManifestVerdict{m}}
	}
	const asked = "localhost:5000/ns/app:v1"
	for name, test := range map[string]struct {
		verdict api.Verdict
		says    string // nothing: no advice
	}{
		"accepted":                         {only(api.ManifestVerdict{Accepted: true}), ""},
		"not signed":                       {only(api.ManifestVerdict{Requirements: signedBy(api.RequirementVerdict{Reason: "it wants a signature"})}), digest + " has no signature: push it to the server again, or sign it"},
		"another host":                     {only(api.ManifestVerdict{Signatures: seen("127.0.0.1:5000/ns/app:v1"), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"it is signed for"}})}), "it is signed as 127.0.0.1:5000/ns/app:v1: pull it under that name, or have the server sign as localhost:5000"},
		"another host, which has no scope": {only(api.ManifestVerdict{Signatures: seen("127.0.0.1:5000/ns/app:v1"), Requirements: []api.RequirementVerdict{{Type: "reject"}}}), "it is signed as 127.0.0.1:5000/ns/app:v1: pull it under that name"},
		"another tag":                      {only(api.ManifestVerdict{Signatures: seen("localhost:5000/ns/app:v2"), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"it is signed for"}})}), "it is signed as localhost:5000/ns/app:v2, and asked for as " + asked + ": push or sign it under that tag"},
		"another repository":               {only(api.ManifestVerdict{Signatures: seen("localhost:5000/ns/other:v1"), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"it is signed for other"}})}), "signature-1: it is signed for other"},
		"expired":                          {only(api.ManifestVerdict{Signatures: seen(asked), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"x"}, Expired: true})}), "a signature or its key is expired: extend the key, or sign " + digest + " again"},
		"revoked":                          {only(api.ManifestVerdict{Signatures: seen(asked), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"key F1: it is revoked; sign with another"}})}), "signature-1: key F1: it is revoked; sign with another"},
		"unknown key":                      {only(api.ManifestVerdict{Signatures: seen(asked), Requirements: signedBy(api.RequirementVerdict{Signatures: []string{"x"}, Unknown: true})}), "none of the keys that signed " + digest + " is one the policy names: F1"},
		"a keyType that nobody has":        {only(api.ManifestVerdict{Signatures: seen(asked), Requirements: signedBy(api.RequirementVerdict{Reason: "no client implements keyType"})}), "no client implements keyType"},
		"sigstore":                         {only(api.ManifestVerdict{Requirements: []api.RequirementVerdict{{Type: "sigstoreSigned", Reason: "it wants a sigstore signature"}}}), "it wants a sigstore signature"},
		"rejected":                         {only(api.ManifestVerdict{Scope: "default", Requirements: []api.RequirementVerdict{{Type: "reject"}}}), "default of the policy rejects everything: give localhost:5000/ns/app a scope with a signedBy requirement"},
		"the second requirement":           {only(api.ManifestVerdict{Signatures: seen(asked), Requirements: []api.RequirementVerdict{{Type: "signedBy", Accepted: true}, {Type: "signedBy", Signatures: []string{"x"}, Unknown: true}}}), "none of the keys that signed"},
		"an architecture": {api.Verdict{Manifests: []api.ManifestVerdict{
			{Digest: "sha256:a", List: true, Accepted: true}, {Digest: "sha256:b", Platform: "linux/amd64", Accepted: true},
			{Digest: "sha256:c", Platform: "unknown/unknown"}, {Digest: "sha256:d", Platform: "linux/arm64", Requirements: signedBy(api.RequirementVerdict{})},
		}}, "linux/arm64, sha256:d has no signature"},
		"the list alone": {api.Verdict{Accepted: true, Manifests: []api.ManifestVerdict{
			{Digest: "sha256:a", List: true}, {Digest: "sha256:b", Platform: "linux/amd64", Accepted: true},
		}}, "nodes accept it; a copy of the whole list (copy --all) would not"},
	} {
		named, err := reference.ParseNormalizedNamed(asked)
		if err != nil {
			t.Fatal(err)
		}
		got := server.Advise(test.verdict, named)
		if (got == "") != (test.says == "") || !strings.Contains(got, test.says) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want %q in one line", name, got, test.says)
		}
	}
}
