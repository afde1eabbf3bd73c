package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
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

// errDamaged is what an image's value that does not decode wraps, and a content that is another's.
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
// out.
func (f imageFile) set(tx *bbolt.Tx, image api.Image) (s store.Set, damages []damage) {
	s.Version = f.Version
	contents, key := tx.Bucket(bucketContents), imageKey(image)
	for _, file := range f.Signatures {
		content := bytes.Clone(contents.Get(contentKey(key, file.Name)))
		if api.Name(image.Digest, content) != file.Name {
			err := fmt.Errorf("%w: its content, %d bytes, is not that of its name", errDamaged, len(content))
			damages = append(damages, damage{image, file.Name, err})
			continue
		}
		file.Signature.Content = content
		s.Signatures = append(s.Signatures, file.Signature)
	}
	for _, file := range f.Withdrawn {
		s.Withdrawn = append(s.Withdrawn, file.Withdrawal)
	}
	return s, damages
}

// replace makes f what after says. What was there before keeps its serial; what did not read was
// not, so that serials always grow along the list.
func (f imageFile) replace(before, after store.Set) imageFile {
	type key struct{ kind, name, id, scope, key string }
	ofSignature := func(s store.Signature) key { return key{kind: "signature", name: s.Name} }
	ofWithdrawal := func(w store.Withdrawal) key { return key{"withdrawal", w.Name, w.ID, w.Scope, w.Key} }
	serials := make(map[key]uint64, len(f.Signatures)+len(f.Withdrawn))
	for _, s := range f.Signatures {
		if slices.ContainsFunc(before.Signatures, func(b store.Signature) bool { return b.Name == s.Name }) {
			serials[ofSignature(s.Signature)] = s.Serial
		}
	}
	for _, w := range f.Withdrawn {
		serials[ofWithdrawal(w.Withdrawal)] = w.Serial
	}
	changed := imageFile{Version: after.Version, Serial: f.Serial}
	serial := func(k key) uint64 {
		if old, ok := serials[k]; ok {
			return old
		}
		changed.Serial++
		return changed.Serial
	}
	for _, s := range after.Signatures {
		changed.Signatures = append(changed.Signatures, signatureFile{serial(ofSignature(s)), s})
	}
	for _, w := range after.Withdrawn {
		changed.Withdrawn = append(changed.Withdrawn, withdrawalFile{serial(ofWithdrawal(w)), w})
	}
	return changed
}

// write stores what changed: the value, contents that came, and not those that went. One that did
// not read has gone, too: it can be brought again. What is known of the image is forgotten.
func (f imageFile) write(tx *bbolt.Tx, known *memory, image api.Image, before, after store.Set) error {
	key, contents := imageKey(image), tx.Bucket(bucketContents)
	known.forget(tx, key)
	value, err := json.Marshal(f.replace(before, after))
	if err != nil {
		return err
	}
	wanted := make(map[string]bool, len(after.Signatures))
	for _, s := range after.Signatures {
		wanted[s.Name] = true
	}
	for _, have := range f.Signatures {
		if !wanted[have.Name] {
			if err := contents.Delete(contentKey(key, have.Name)); err != nil {
				return err
			}
		}
	}
	for _, s := range after.Signatures {
		at := contentKey(key, s.Name)
		if bytes.Equal(contents.Get(at), s.Content) {
			continue
		}
		if err := contents.Put(at, s.Content); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketImages).Put(key, value)
}
