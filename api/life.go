package api

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Paths of what concerns a signature's life.
const (
	SignaturesPath  = "/api/v1/signatures"
	WithdrawalsPath = "/api/v1/withdrawals"
	AuditPath       = "/api/v1/audit"
)

// States of what a listing of signatures has.
const (
	StateServed    = "served" // to nodes
	StateWithdrawn = "withdrawn"
)

// A SignatureEntry is one line of a listing of signatures. Of what was withdrawn there is no more
// than the name or the key, and the withdrawal; the image's own has neither.
type SignatureEntry struct {
	Image
	State       string    `json:"state"`
	Index       int       `json:"index,omitempty"` // on the lookaside, from 1
	Name        string    `json:"name,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	UserID      string    `json:"userID,omitempty"`
	Reference   string    `json:"reference,omitempty"` // the claimed one
	Own         bool      `json:"own,omitempty"`       // made by the server
	Origin      string    `json:"origin,omitempty"`    // what brought it: upload, push, request, import
	Uploader    string    `json:"uploader,omitempty"`
	Signed      time.Time `json:"signed,omitzero"`
	Added       time.Time `json:"added,omitzero"`

	Withdrawal *WithdrawalEntry `json:"withdrawal,omitempty"`
}

// A SignaturePage is what a listing answers. Next goes on behind it; it is empty at the end. A page
// may have no entry and still a Next.
type SignaturePage struct {
	Signatures []SignatureEntry `json:"signatures"`
	Next       string           `json:"next,omitempty"`
}

// Scopes of a withdrawal: one signature, all by one key for this image, or the whole image.
const (
	ScopeSignature = "signature"
	ScopeKey       = "key"
	ScopeImage     = "image"
)

// A WithdrawRequest stops something for good. An empty host is the server's own.
type WithdrawRequest struct {
	Host       string `json:"host,omitempty"`
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Scope      string `json:"scope"`
	Name       string `json:"name,omitempty"` // of the signature
	Key        string `json:"key,omitempty"`  // fingerprint
	Reason     string `json:"reason"`
}

// A WithdrawalEntry is what was stopped, by whom and why.
type WithdrawalEntry struct {
	Image
	ID      string    `json:"id"`
	Scope   string    `json:"scope"`
	Name    string    `json:"name,omitempty"`
	Key     string    `json:"key,omitempty"`
	Reason  string    `json:"reason"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
}

// A WithdrawalPage is as a SignaturePage.
type WithdrawalPage struct {
	Withdrawals []WithdrawalEntry `json:"withdrawals"`
	Next        string            `json:"next,omitempty"`
}

// An AuditRecord is one line of the audit trail.
type AuditRecord struct {
	Time        time.Time `json:"time"`
	Action      string    `json:"action"` // admitted, refused, signed, withdrawn, lifted, imported, dropped
	Subject     string    `json:"subject"`
	Address     string    `json:"address,omitempty"`
	Image       Image     `json:"image"`
	Names       []string  `json:"names,omitempty"` // of the signatures concerned; of what was lifted, the withdrawals' IDs
	Fingerprint string    `json:"fingerprint,omitempty"`
	Reference   string    `json:"reference,omitempty"`
	Reason      string    `json:"reason,omitempty"`
}

// An AuditPage is as a SignaturePage, but that Next is never empty: more may be recorded later.
type AuditPage struct {
	Records []AuditRecord `json:"records"`
	Next    string        `json:"next"`
}

// WithdrawalID returns an ID that tells the image it is for, so that who lifts it need not.
func WithdrawalID(i Image, random string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(i.Host + "\x00" + i.Repository + "\x00" + i.Digest.Encoded() + "\x00" + random))
}

// ParseWithdrawalID returns the image of an ID. Its errors wrap ErrPath.
func ParseWithdrawalID(id string) (Image, error) {
	raw, err := base64.RawURLEncoding.DecodeString(id)
	parts := strings.Split(string(raw), "\x00")
	if err != nil || len(parts) != 4 || len(id) > 1024 {
		return Image{}, fmt.Errorf("%w: %.100q is no withdrawal's id", ErrPath, id)
	}
	i, err := NewImage(parts[0], parts[1], string(digest.NewDigestFromEncoded(digest.SHA256, parts[2])))
	if err != nil {
		return Image{}, fmt.Errorf("%w: %v", ErrPath, err)
	}
	return i, nil
}
