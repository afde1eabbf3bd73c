package lint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// A keyring is one source of a requirement's keys, read once.
type keyring struct {
	at    position // where it is named first
	name  string
	keys  *signature.Keyring // nil if nothing in it can be used
	spent map[string]error   // keys that are expired or revoked, by fingerprint
}

// keysOf looks at the keys of a requirement, and whether one is left that signatures can be by.
func (l *linter) keysOf(f file, r policy.Requirement) {
	var rings []*keyring
	for _, k := range r.Files {
		rings = append(rings, l.keyFile(f, k))
	}
	if r.Type == "signedBy" && r.Files == nil {
		var written struct {
			KeyData []byte `json:"keyData"`
		}
		if json.Unmarshal(r.Written, &written) == nil && r.Keys != nil {
			at := position{f.path, r.Line, 0, r.Place + ".keyData"}
			rings = append(rings, l.keyring(&keyring{at: at, name: "keyData"}, written.KeyData))
		}
	}
	all, spent := 0, 0
	for _, k := range rings {
		if k.keys == nil {
			return // said already
		}
		all, spent = all+k.keys.Len(), spent+len(k.spent)
	}
	if all > 0 && spent == all {
		l.find(keysSpent, position{f.path, r.Line, 0, r.Place}, "all its keys are expired or revoked")
	}
}

// keyFile reads a key file, and looks at who else can read or write it.
func (l *linter) keyFile(f file, k policy.KeyFile) *keyring {
	path := l.onThisMachine(f, k.Path)
	if known := l.keys[path]; known != nil {
		return known
	}
	at := position{f.path, k.Line, 0, k.Place}
	ring := &keyring{at: at, name: k.Path}
	l.keys[path] = ring
	where := quoted(k.Path)
	if path != k.Path {
		where += " (looked up as " + path + ")"
	}
	if !filepath.IsAbs(k.Path) {
		l.find(keyRelative, at, "%s is no absolute path", quoted(k.Path))
	}
	content, err := readFile(path, maxKeys)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.find(keyMissing, at, "%s does not exist", where)
		return ring
	case err != nil:
		l.find(keyUnreadable, at, "%s does not read: %v", where, reason(err))
		return ring
	}
	l.report.Files = append(l.report.Files, path)
	if info, err := os.Stat(path); err == nil {
		switch mode := info.Mode().Perm(); {
		case mode&0o022 != 0:
			l.find(keyMode, at, "others than its owner may write %s: mode %04o", where, mode)
		case mode&0o004 == 0:
			l.find(keyMode, at, "not everybody may read %s: mode %04o", where, mode)
		}
	}
	return l.keyring(ring, content)
}

// reason is an error of the file system without the path, which stands in front of it.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// onThisMachine is where a path of the node is here: below the directory that was given, if the
// node has that as Prefix and the file is there, or else below Root.
func (l *linter) onThisMachine(f file, path string) string {
	prefix := cmp.Or(l.Prefix, "/etc/containers")
	if below, ok := strings.CutPrefix(path, prefix+"/"); ok && f.directory != "" {
		here := filepath.Join(f.directory, filepath.FromSlash(below))
		if _, err := os.Stat(here); err == nil || l.Prefix != "" {
			return here
		}
	}
	if l.Root != "" && filepath.IsAbs(path) {
		return filepath.Join(l.Root, path)
	}
	return path
}

// keyring looks at keys.
func (l *linter) keyring(k *keyring, content []byte) *keyring {
	ring, err := signature.ReadKeyring(content)
	if err != nil {
		l.find(keyInvalid, k.at, "%s: %v", quoted(k.name), err)
		return k
	}
	k.keys = ring
	if n := armoredBlocks(content); n > 1 {
		id := keyBlocks
		if strings.HasPrefix(k.name, "/etc/pki/rpm-gpg/") {
			id = keyShipped
		}
		l.find(id, k.at, "%s has %d armored blocks behind each other", quoted(k.name), n)
	}
	if k.spent, err = ring.Spent(l.Now); err != nil {
		l.find(keyInvalid, k.at, "%s: %v", quoted(k.name), err)
	}
	for _, skipped := range ring.Skipped() {
		revoked := slices.ContainsFunc(slices.Collect(maps.Keys(k.spent)), func(key string) bool { return strings.Contains(skipped, key) })
		if !revoked { // which is said of each
			l.find(keyWeak, k.at, "%s: %s", quoted(k.name), skipped)
		}
	}
	for _, key := range ring.Keys() {
		l.key(k, key)
	}
	return k
}

func (l *linter) key(k *keyring, key signature.Key) {
	name := fmt.Sprintf("key %s (%s) in %s", key.Fingerprint, key.UserID, quoted(k.name))
	if why := k.spent[key.Fingerprint]; why != nil {
		l.find(keySpent, k.at, "%s is %v", name, why)
		return
	}
	if !key.Expires.IsZero() && key.Expires.Before(l.Now.Add(soon)) {
		l.find(keyExpiring, k.at, "%s expires on %s", name, key.Expires.UTC().Format("2006-01-02"))
	}
	if strings.HasPrefix(key.Algorithm, "EdDSA") && (l.Client == Client{} || l.Client.Before(sinceEdDSA)) {
		l.find(keyAlgorithm, k.at, "%s is %s", name, key.Algorithm)
	}
}

// armoredBlocks counts the public keys in a text; binary keyrings have none.
func armoredBlocks(content []byte) (n int) {
	if len(content) > 0 && content[0]&0x80 != 0 {
		return 0
	}
	for line := range bytes.Lines(content) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("-----BEGIN PGP PUBLIC KEY BLOCK")) {
			n++
		}
	}
	return n
}

// fingerprints are those of all keys that a scope's requirements name.
func (l *linter) fingerprints(f file, s policy.Scope) (all []string) {
	for _, r := range s.Requirements {
		rings := []*signature.Keyring{r.Keys}
		for _, k := range r.Files {
			if known := l.keys[l.onThisMachine(f, k.Path)]; known != nil {
				rings = append(rings, known.keys)
			}
		}
		for _, ring := range rings {
			if ring != nil {
				all = slices.AppendSeq(all, ring.Fingerprints())
			}
		}
	}
	return all
}
