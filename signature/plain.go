package signature

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"

	"github.com/opencontainers/go-digest"
)

// Claims says whether the message claims what c does and nothing else, however that is written. The message
// is as untrusted as before.
func (m *Message) Claims(c Claim) bool {
	var got, want any
	return json.Unmarshal(m.signed, &got) == nil && json.Unmarshal(c.Payload(), &want) == nil && reflect.DeepEqual(got, want)
}

// HasPlainClaim says whether the message claims, beside reference and digest, a creator and a
// timestamp in whole seconds and nothing else: what reads releases of OpenShift refuses every other
// (protocol.md 1.7). The message is as untrusted as before.
func (m *Message) HasPlainClaim() bool {
	var claim struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
		} `json:"critical"`
		Optional struct {
			Creator   *string `json:"creator"`
			Timestamp *int64  `json:"timestamp"`
		} `json:"optional"`
	}
	d := json.NewDecoder(bytes.NewReader(m.signed))
	d.DisallowUnknownFields()
	if d.Decode(&claim) != nil {
		return false
	}
	if _, err := d.Token(); err != io.EOF {
		return false
	}
	return claim.Optional.Creator != nil && *claim.Optional.Creator != "" && claim.Optional.Timestamp != nil
}
