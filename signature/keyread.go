package signature

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// maxKeyring bounds a file of keys, in bytes: ten thousand keys have about five million.
const maxKeyring = 32 << 20

// ReadKeyring reads public keys, binary or in any number of armored blocks with text between. What
// is damaged, has a private key or no public one in it is an error: the part that does not read may
// be a revocation. Keys that are whole and cannot be used are left out, or never verify: see Skipped.
func ReadKeyring(data []byte) (*Keyring, error) {
	if len(data) > maxKeyring {
		return nil, fmt.Errorf("a keyring of %d bytes, more than %d", len(data), maxKeyring)
	}
	r := &ringReader{index: map[string]int{}}
	var err error
	if blocks := armorLines(data); blocks > 0 && !startsBinary(data) {
		err = r.armored(data, blocks)
	} else {
		err = r.binary("", bytes.Clone(data))
	}
	if err != nil {
		return nil, err
	}
	ring := newKeyring(r.keys(), r.skipped)
	if len(ring.keys) == 0 {
		return nil, fmt.Errorf("no usable public key in it; %s (%s)", exported, cmp.Or(strings.Join(ring.skipped, "; "), "there is no key in it"))
	}
	return ring, nil
}

// exported is where a good keyring comes from.
const exported = "export one with gpg --export"

var (
	armorBegin = []byte("-----BEGIN PGP ")
	errPrivate = errors.New("there is a private key in it; what is wanted is its public part, from gpg --export")
)

// armorLines counts the lines that begin a block.
func armorLines(data []byte) (n int) {
	for line := range bytes.Lines(data) {
		if bytes.HasPrefix(bytes.TrimSpace(line), armorBegin) {
			n++
		}
	}
	return n
}

// startsBinary tells a key from text, whatever its user ids say.
func startsBinary(data []byte) bool {
	p, _, err := nextPacket(data)
	return err == nil && (p.tag == tagPublicKey || p.tag == tagPrivateKey)
}

// A ringReader takes files apart into keys.
type ringReader struct {
	found   []foundKey
	index   map[string]int // into found, by the packet of the primary key
	skipped []string
}

// A foundKey is the packets of a key, and those of its copies, as they came.
type foundKey struct {
	where   string
	packets []packet
}

func (r *ringReader) skip(format string, args ...any) {
	r.skipped = append(r.skipped, fmt.Sprintf(format, args...))
}

func (r *ringReader) armored(data []byte, blocks int) error {
	in := bufio.NewReader(bytes.NewReader(data))
	for n := range blocks {
		where := fmt.Sprintf("armored block %d", n+1)
		block, err := armor.Decode(in)
		if err != nil {
			return fmt.Errorf("%s does not read: %v; %s", where, err, exported)
		}
		body, err := io.ReadAll(block.Body)
		switch {
		case block.Type == openpgp.PrivateKeyType:
			return errPrivate
		case err != nil:
			return fmt.Errorf("%s is damaged: %v; %s", where, err, exported)
		case block.Type != openpgp.PublicKeyType:
			r.skip("%s is a %q, not a public key", where, block.Type)
			continue
		}
		if err := r.binary(where+", ", body); err != nil {
			return err
		}
	}
	return nil
}

// binary finds the keys of a block. It reads none of them: what is wrong in one does not touch
// the others.
func (r *ringReader) binary(where string, data []byte) error {
	current := -1
	for n := 0; len(data) > 0; {
		p, rest, err := nextPacket(data)
		if err != nil && n == 0 {
			return fmt.Errorf("%sno usable public key in it: it is not OpenPGP; %s", where, exported)
		}
		if err != nil {
			return fmt.Errorf("%swhat follows the beginning of key %d does not read; %s", where, n, exported)
		}
		data = rest
		switch p.tag {
		case tagPrivateKey, tagPrivateSubkey:
			return errPrivate
		case tagPublicKey:
			n++
			current = r.at(fmt.Sprintf("%skey %d", where, n), p)
		}
		if current >= 0 {
			r.found[current].packets = append(r.found[current].packets, p)
		}
	}
	return nil
}

// at returns where the packets of a primary key's copies gather.
func (r *ringReader) at(where string, primary packet) int {
	i, ok := r.index[string(primary.body)]
	if !ok {
		i = len(r.found)
		r.index[string(primary.body)] = i
		r.found = append(r.found, foundKey{where: where})
	}
	return i
}

func (r *ringReader) keys() []*ringKey {
	var keys []*ringKey
	for _, f := range r.found {
		k, err := newRingKey(mergePackets(f.packets))
		if err != nil {
			r.skip("%s%s: %v", f.where, f.name(), err)
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

// name is a key's first user id, for messages.
func (f foundKey) name() string {
	for _, p := range f.packets {
		if p.tag == tagUserID {
			return fmt.Sprintf(" (%s)", printable(string(p.body)))
		}
	}
	return ""
}
