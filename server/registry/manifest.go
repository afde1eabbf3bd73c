package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types of manifests.
const (
	ociImage    = "application/vnd.oci.image.manifest.v1+json"
	ociList     = "application/vnd.oci.image.index.v1+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// MaxInstances bounds the entries of a list: each of them costs a signature of its own.
const MaxInstances = 64

// A Manifest is an image's, or a list's.
type Manifest struct {
	Digest    digest.Digest // sha256 of Content
	MediaType string        // without parameters
	Content   []byte
}

// Instances returns what a list contains, in its order and each digest once, attestations
// included; an image has none. Clients look for signatures of the instance they choose and not
// of the list (protocol.md 1.2). It goes one level deep: a list in a list is an entry.
//
// Its errors wrap ErrInvalid: more than MaxInstances entries, a digest that is not sha256, or
// content that some client could read as another kind of manifest than its media type says.
func (m Manifest) Instances() ([]digest.Digest, error) {
	entries, err := m.entries()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if len(entries) > MaxInstances {
		return nil, fmt.Errorf("%w: a list of %d entries, at most %d can be signed", ErrInvalid, len(entries), MaxInstances)
	}
	var instances []digest.Digest
	for i, entry := range entries {
		d, err := entryDigest(entry)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d of the list: %v", ErrInvalid, i+1, err)
		}
		if !slices.Contains(instances, d) {
			instances = append(instances, d)
		}
	}
	return instances, nil
}

// entries returns a list's entries undecoded, and none for an image. What tells one kind of
// manifest from another must not be ambiguous: the media type is not part of what is hashed
// and signed, so the same bytes could be shown as an image to one and as a list to another.
// Its errors never quote the content.
func (m Manifest) entries() ([]json.RawMessage, error) {
	required, forbidden, err := parts(m.MediaType)
	if err != nil {
		return nil, err
	}
	object, err := members(m.Content, "schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "history")
	if err != nil {
		return nil, err
	}
	if string(object["schemaVersion"]) != "2" {
		return nil, errors.New("schemaVersion is not 2")
	}
	for _, name := range required {
		if object[name] == nil {
			return nil, fmt.Errorf("%s without %q", m.MediaType, name)
		}
	}
	for _, name := range forbidden {
		if object[name] != nil {
			return nil, fmt.Errorf("%s with %q", m.MediaType, name)
		}
	}
	if own := object["mediaType"]; own != nil && !isString(own, m.MediaType) {
		return nil, fmt.Errorf("mediaType is not the %s that it comes as", m.MediaType)
	}
	if object["manifests"] == nil {
		return nil, nil
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(object["manifests"], &entries); err != nil || entries == nil {
		return nil, errors.New("manifests is not an array")
	}
	return entries, nil
}

// IsManifest reports whether content of this media type is an image or a list that can be signed.
func IsManifest(mediaType string) bool {
	_, _, err := parts(mediaType)
	return err == nil
}

// parts returns which members make content what its media type says, and which make it
// something else, too. OCI lets the content leave out its media type, Docker does not.
func parts(mediaType string) (required, forbidden []string, err error) {
	image, list := []string{"manifests", "fsLayers", "history"}, []string{"config", "layers", "fsLayers", "history"}
	switch mediaType {
	case ociImage:
		return []string{"config"}, image, nil
	case ociList:
		return []string{"manifests"}, list, nil
	case dockerImage:
		return []string{"config", "mediaType"}, image, nil
	case dockerList:
		return []string{"manifests", "mediaType"}, list, nil
	}
	return nil, nil, errors.New("media type is none of an image or a list, of OCI or Docker")
}

func entryDigest(entry json.RawMessage) (digest.Digest, error) {
	object, err := members(entry, "digest")
	if err != nil {
		return "", err
	}
	var s string
	if err := json.Unmarshal(object["digest"], &s); err != nil {
		return "", errors.New("no digest")
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", err
	}
	if d.Algorithm() != digest.SHA256 {
		return "", errors.New("signatures are for sha256 digests")
	}
	return d, nil
}

// members returns those members of one JSON object that have one of the names. Where readers
// of JSON differ it refuses: a name that comes twice (which one counts?), and one that is
// written in another case (Go's would take it, others not).
func members(content []byte, names ...string) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	found := map[string]json.RawMessage{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, errors.New("not JSON")
		}
		for _, known := range names {
			if !strings.EqualFold(name.(string), known) {
				continue
			}
			if _, twice := found[known]; twice || name != known {
				return nil, fmt.Errorf("%q twice, or in another case", known)
			}
			found[known] = value
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return found, nil
}

func isString(value json.RawMessage, want string) bool {
	var s *string
	return json.Unmarshal(value, &s) == nil && s != nil && *s == want
}
