package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// What the extension's JSON must say for clients to use an entry (protocol.md 3.2).
const (
	SchemaVersion = 2
	TypeAtomic    = "atomic"
)

// ErrBody is what a PUT's body that is not a signature entry wraps.
var ErrBody = errors.New("not a signature entry")

// A Signature is an entry of the signature extension, both ways. Content travels as padded
// standard base64.
type Signature struct {
	SchemaVersion int    `json:"schemaVersion"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	Content       []byte `json:"content"`
}

// A SignatureList is what a GET of the extension answers.
type SignatureList struct {
	Signatures []Signature `json:"signatures"` // never null
}

// Append appends json.Marshal's bytes to list, without its work for what servers have: names that need no
// escapes.
func (l SignatureList) Append(list []byte) ([]byte, error) {
	const begin, name, content, end = `{"signatures":[`, `{"schemaVersion":2,"name":"`, `","type":"atomic","content":"`, `"}`
	size := len(begin) + len("]}")
	for _, s := range l.Signatures {
		if s.SchemaVersion != SchemaVersion || s.Type != TypeAtomic || s.Content == nil || !plainText(s.Name) {
			return l.appendAny(list)
		}
		size += len(name) + len(s.Name) + len(content) + base64.StdEncoding.EncodedLen(len(s.Content)) + len(end) + len(",")
	}
	if l.Signatures == nil {
		return l.appendAny(list)
	}
	list = append(slices.Grow(list, size), begin...)
	for i, s := range l.Signatures {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(append(append(list, name...), s.Name...), content...)
		list = append(base64.StdEncoding.AppendEncode(list, s.Content), end...)
	}
	return append(list, "]}"...), nil
}

func (l SignatureList) appendAny(list []byte) ([]byte, error) {
	text, err := json.Marshal(l)
	return append(list, text...), err
}

// NewSignature returns the entry that serves content as a signature of the manifest.
func NewSignature(manifest digest.Digest, content []byte) Signature {
	return Signature{SchemaVersion, Name(manifest, content), TypeAtomic, content}
}

// Name returns <digest>@<first 32 hex of sha256(content)>, the name a signature is served
// under. What a client called it is not kept: the same bytes have the same name everywhere.
func Name(manifest digest.Digest, content []byte) string {
	sum := sha256.Sum256(content)
	return string(manifest) + "@" + hex.EncodeToString(sum[:16])
}

// DecodeSignature reads the body of a PUT for this image, strictly: one JSON object with the
// four members and nothing behind it, for the digest of the path. Its errors wrap ErrBody.
// The content is untrusted still.
func DecodeSignature(image Image, body []byte) (Signature, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	var s Signature
	if err := d.Decode(&s); err != nil {
		return Signature{}, fmt.Errorf("%w: %v", ErrBody, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Signature{}, fmt.Errorf("%w: something follows the JSON object", ErrBody)
	}
	if s.SchemaVersion != SchemaVersion {
		return Signature{}, fmt.Errorf("%w: schemaVersion is %d; clients read only %d", ErrBody, s.SchemaVersion, SchemaVersion)
	}
	if s.Type != TypeAtomic {
		return Signature{}, fmt.Errorf("%w: type is %q; clients read only %q", ErrBody, s.Type, TypeAtomic)
	}
	manifest, suffix, ok := strings.Cut(s.Name, "@")
	if raw, err := hex.DecodeString(suffix); !ok || err != nil || len(raw) != 16 || suffix != strings.ToLower(suffix) {
		return Signature{}, fmt.Errorf("%w: name is %q; <digest>@<32 hex> is wanted", ErrBody, s.Name)
	}
	if manifest != string(image.Digest) {
		return Signature{}, fmt.Errorf("%w: name is for %s, the path for %s", ErrBody, manifest, image.Digest)
	}
	if len(s.Content) == 0 {
		return Signature{}, fmt.Errorf("%w: content is empty", ErrBody)
	}
	return s, nil
}
