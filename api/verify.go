package api

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
)

// VerifyPath answers what a node policy says of an image, and why.
const VerifyPath = "/api/v1/verify"

// MaxVerifyBody bounds a VerifyRequest, in bytes: a policy with some hundred keys.
const MaxVerifyBody = 1 << 20

// A VerifyRequest asks about an image as a node names it. The policy is that of a profile, the
// server's only one if none is named, or the caller's own, which may carry keys as keyData only.
type VerifyRequest struct {
	Reference string          `json:"reference"`
	Profile   string          `json:"profile,omitempty"`
	Policy    json.RawMessage `json:"policy,omitempty"`
}

// A Verdict is the answer. An image is accepted if its manifest is; of a list, if every instance
// is that a node could choose. The list itself is asked for only by copies of all of it.
type Verdict struct {
	Reference string            `json:"reference"` // in full
	Profile   string            `json:"profile,omitempty"`
	Accepted  bool              `json:"accepted"`
	Manifests []ManifestVerdict `json:"manifests"`
	Advice    string            `json:"advice,omitempty"` // one line: what to do
}

// A ManifestVerdict is what the policy says of one manifest: the image's, the list's, or an instance's.
type ManifestVerdict struct {
	Digest       digest.Digest        `json:"digest"`
	Platform     string               `json:"platform,omitempty"` // os/architecture[/variant] of an instance
	List         bool                 `json:"list,omitempty"`
	Accepted     bool                 `json:"accepted"`
	Scope        string               `json:"scope"` // of the policy
	Requirements []RequirementVerdict `json:"requirements"`
	Signatures   []SignatureSeen      `json:"signatures"`
}

// A RequirementVerdict is what one requirement says, and of each signature, in their order, why it
// counts or does not.
type RequirementVerdict struct {
	Type       string   `json:"type"`
	Place      string   `json:"place"`
	Accepted   bool     `json:"accepted"`
	Reason     string   `json:"reason"`
	Signatures []string `json:"signatures,omitempty"`
	Expired    bool     `json:"expired,omitempty"` // a signature, or the key of one, is past its end
	Unknown    bool     `json:"unknown,omitempty"` // there are signatures, all by keys that it does not name
}

// A SignatureSeen is one that the server has of the manifest.
type SignatureSeen struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	UserID      string    `json:"userID,omitempty"`
	Reference   string    `json:"reference"`
	Signed      time.Time `json:"signed"`
	Own         bool      `json:"own,omitempty"` // made by the server
}
