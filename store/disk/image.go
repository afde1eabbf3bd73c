package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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
	At     uint64 `json:"at"` // of its content
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

func contentKey(at uint64) []byte { return binary.BigEndian.AppendUint64(nil, at) }

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
	contents := tx.Bucket(bucketContents)
	for _, file := range f.Signatures {
		content := bytes.Clone(contents.Get(contentKey(file.At)))
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

// replace makes f what after says. What was there before keeps its serial and its content. Serials always
// grow along the list: what did not read was not there, and what was dropped and added again gets a new
// one, behind the others. A content that is new is at 0.
func (f imageFile) replace(before, after store.Set) imageFile {
	type key struct{ name, id, scope, key string }
	ofWithdrawal := func(w store.Withdrawal) key { return key{w.Name, w.ID, w.Scope, w.Key} }
	signatures, withdrawn := make(map[string]signatureFile, len(f.Signatures)), make(map[key]uint64, len(f.Withdrawn))
	readable := make(map[string]bool, len(before.Signatures))
	for _, s := range before.Signatures {
		readable[s.Name] = true
	}
	for _, s := range f.Signatures {
		if readable[s.Name] {
			signatures[s.Name] = s
		}
	}
	for _, w := range f.Withdrawn {
		withdrawn[ofWithdrawal(w.Withdrawal)] = w.Serial
	}
	changed := imageFile{Version: after.Version, Serial: f.Serial}
	last := uint64(0)
	serial := func(old uint64) uint64 {
		if old <= last {
			changed.Serial++
			old = changed.Serial
		}
		last = old
		return old
	}
	for _, s := range after.Signatures {
		old := signatures[s.Name]
		changed.Signatures = append(changed.Signatures, signatureFile{serial(old.Serial), old.At, s})
	}
	last = 0
	for _, w := range after.Withdrawn {
		changed.Withdrawn = append(changed.Withdrawn, withdrawalFile{serial(withdrawn[ofWithdrawal(w)]), w})
	}
	return changed
}

// write stores what changed: contents that came, and not those that went, and the value. One that did
// not read has gone, too: it can be brought again. What is known of the image is forgotten.
func (f imageFile) write(tx *bbolt.Tx, known *memory, image api.Image, before, after store.Set) error {
	key, contents, changed := imageKey(image), appended(tx, bucketContents), f.replace(before, after)
	known.forget(tx, key)
	wanted := make(map[uint64]bool, len(changed.Signatures))
	for n := range changed.Signatures {
		s := &changed.Signatures[n]
		if s.At != 0 {
			wanted[s.At] = true
			continue
		}
		var err error
		if s.At, err = contents.NextSequence(); err != nil {
			return err
		}
		if err := contents.Put(contentKey(s.At), s.Content); err != nil {
			return err
		}
	}
	for _, old := range f.Signatures {
		at := contentKey(old.At)
		if wanted[old.At] || api.Name(image.Digest, contents.Get(at)) != old.Name {
			continue // what is not its own may be another's
		}
		if err := contents.Delete(at); err != nil {
			return err
		}
	}
	value, err := json.Marshal(changed)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketImages).Put(key, value)
}

// appended is a bucket whose keys only grow: its pages are filled to the end.
func appended(tx *bbolt.Tx, name []byte) *bbolt.Bucket {
	b := tx.Bucket(name)
	b.FillPercent = 1
	return b
}
