package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/opencontainers/go-digest"
)

// An imageFile is an image's value. Serials number what the image ever had, so that a listing
// knows where it was although places move.
type imageFile struct {
	Version    uint64           `json:"version"`
	Serial     uint64           `json:"serial"` // the last one given
	Signatures []signatureFile  `json:"signatures,omitempty"`
	Withdrawn  []withdrawalFile `json:"withdrawn,omitempty"`
}

type signatureFile struct {
	Serial uint64 `json:"serial"`
	store.Signature
}

type withdrawalFile struct {
	Serial uint64 `json:"serial"`
	store.Withdrawal
}

func imageKey(i api.Image) []byte {
	return []byte(i.Host + "\x00" + i.Repository + "\x00" + string(i.Digest))
}

func parseImageKey(key []byte) api.Image {
	host, rest, _ := strings.Cut(string(key), "\x00")
	repository, d, _ := strings.Cut(rest, "\x00")
	return api.Image{Host: host, Repository: repository, Digest: digest.Digest(d)}
}

func contentKey(image []byte, name string) []byte {
	return slices.Concat(image, []byte{0}, []byte(name))
}

// errDamaged is what an image's value that does not decode wraps.
var errDamaged = errors.New("what is stored does not read")

func readImage(tx *bbolt.Tx, key []byte) (f imageFile, err error) {
	value := tx.Bucket(bucketImages).Get(key)
	if value == nil {
		return f, nil
	}
	if err := json.Unmarshal(value, &f); err != nil {
		return imageFile{}, fmt.Errorf("%w: %v", errDamaged, err)
	}
	return f, nil
}

// set returns what the image has, with contents. A content that is not what its name says is left
// out, and the caller told.
func (f imageFile) set(tx *bbolt.Tx, image api.Image, damaged func(api.Image, string, error)) store.Set {
	s := store.Set{Version: f.Version}
	contents, key := tx.Bucket(bucketContents), imageKey(image)
	for _, file := range f.Signatures {
		content := bytes.Clone(contents.Get(contentKey(key, file.Name)))
		if api.Name(image.Digest, content) != file.Name {
			damaged(image, file.Name, fmt.Errorf("%w: %d bytes of content are not those of that name", errDamaged, len(content)))
			continue
		}
		file.Signature.Content = content
		s.Signatures = append(s.Signatures, file.Signature)
	}
	for _, file := range f.Withdrawn {
		s.Withdrawn = append(s.Withdrawn, file.Withdrawal)
	}
	return s
}

// replace makes f what next says; what was there already keeps its serial.
func (f imageFile) replace(next store.Set) imageFile {
	serials := make(map[string]uint64, len(f.Signatures)+len(f.Withdrawn))
	for _, s := range f.Signatures {
		serials["signature "+s.Name] = s.Serial
	}
	for _, w := range f.Withdrawn {
		serials["withdrawal "+w.ID] = w.Serial
	}
	changed := imageFile{Version: next.Version, Serial: f.Serial}
	serial := func(key string) uint64 {
		if old, ok := serials[key]; ok {
			return old
		}
		changed.Serial++
		return changed.Serial
	}
	for _, s := range next.Signatures {
		changed.Signatures = append(changed.Signatures, signatureFile{serial("signature " + s.Name), s})
	}
	for _, w := range next.Withdrawn {
		changed.Withdrawn = append(changed.Withdrawn, withdrawalFile{serial("withdrawal " + w.ID), w})
	}
	return changed
}

// write stores what changed: the value, contents that came, and not those that went. One that did
// not read has gone, too: it can be brought again.
func (f imageFile) write(tx *bbolt.Tx, image api.Image, next store.Set) error {
	key, contents := imageKey(image), tx.Bucket(bucketContents)
	for _, have := range f.Signatures {
		if !slices.ContainsFunc(next.Signatures, func(s store.Signature) bool { return s.Name == have.Name }) {
			if err := contents.Delete(contentKey(key, have.Name)); err != nil {
				return err
			}
		}
	}
	for _, s := range next.Signatures {
		at := contentKey(key, s.Name)
		if bytes.Equal(contents.Get(at), s.Content) {
			continue
		}
		if err := contents.Put(at, s.Content); err != nil {
			return err
		}
	}
	value, err := json.Marshal(f.replace(next))
	if err != nil {
		return err
	}
	return tx.Bucket(bucketImages).Put(key, value)
}
