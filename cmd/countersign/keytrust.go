package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

const trustText = `Let whoever has these keys upload signatures. FILE has public keys, from gpg --export. With -scope they may
for those images: the admission policy is written, and made where there is none. Without, they may
for everything on the server's hosts: FILE is copied into its trusted directory. A server that runs sees
either at the next upload.`

// A trusting says whose uploads are let in, and where that is written.
type trusting struct{ data, config, policy, scope string }

// trustKey is "countersign keys trust". FILE may stand in front of the flags, as people write it.
func trustKey(_ context.Context, t terminal, args []string) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append(slices.Clone(args[1:]), args[0])
	}
	flags := newFlags("keys trust", trustText)
	flags.arguments = "FILE"
	var w trusting
	flags.StringVar(&w.data, "data", "", "the server's `directory` (default: that of -config, or countersign-data)")
	flags.StringVar(&w.config, "config", "", "the server's settings `FILE`, which says where its admission policy is")
	flags.StringVar(&w.policy, "policy", "", "the admission policy `FILE` (default: that of -config, or admission.json in -data)")
	flags.StringVar(&w.scope, "scope", "", "for which images: `host`, host/namespace, host/namespace/name, or that with :tag")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	content, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	ring, err := signature.ReadKeyring(content)
	if err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	for _, why := range ring.Skipped() {
		fmt.Fprintf(t.stderr, "warning: %s\n", why)
	}
	if err := ring.ReadableBy(signature.AllClients); err != nil {
		fmt.Fprintf(t.stderr, "warning: %v\n", err)
	}
	trusted, err := w.place()
	if err != nil {
		return err
	}
	if w.scope == "" {
		return w.copy(t, ring, trusted)
	}
	return w.write(t, ring, trusted)
}

// place finds the policy file and the trusted directory of the server.
func (w *trusting) place() (trusted string, err error) {
	s := defaults()
	if w.config != "" {
		if err := s.load(w.config); err != nil {
			return "", err
		}
	}
	if w.data != "" {
		s.Data = w.data
	}
	configured := s.Admission.Policy
	s.place()
	switch {
	case w.policy == "" && configured != "":
		w.policy = configured
	case w.policy != "" && w.scope == "":
		return "", usageError{errors.New("-scope is missing: a policy says for which images")}
	case w.policy == "" && w.scope != "":
		w.policy = filepath.Join(s.Data, "admission.json")
	}
	if w.scope == "" && configured != "" {
		return "", usageError{fmt.Errorf("-scope is missing: uploads are let in by %s, which says for which images", configured)}
	}
	return s.Admission.Trusted, nil
}

// copy puts the keys, a file each, into the trusted directory.
func (w *trusting) copy(t terminal, ring *signature.Keyring, directory string) error {
	paths, err := keepKeys(ring, directory)
	if err != nil {
		return err
	}
	for i, k := range ring.Keys() {
		fmt.Fprintf(t.stdout, "Key %s (%s, %s) may upload for everything: %s\n", k.Fingerprint, k.UserID, k.Algorithm, paths[i])
	}
	return nil
}

// keepKeys writes each key into a file of its own. A copy that is there is merged: what is known of
// a revocation is not forgotten.
func keepKeys(ring *signature.Keyring, directory string) (paths []string, err error) {
	for _, k := range ring.Keys() {
		one := ring.Only(k.Fingerprint)
		path := filepath.Join(directory, k.Fingerprint+".asc")
		if content, err := os.ReadFile(path); err == nil {
			before, err := signature.ReadKeyring(content)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			one = signature.Join(before, one)
		}
		if err := (keyFile{}).place(path, one.Armored(), 0o644, rename); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// A policyFile is containers-policy.json(5) as far as it is written here: requirements stay as
// somebody wrote them.
type policyFile struct {
	Default    []json.RawMessage                       `json:"default"`
	Transports map[string]map[string][]json.RawMessage `json:"transports,omitempty"`
}

// write adds the keys to a scope of the policy. One scope alone counts for an image: a new one begins
// with what counted before, so that to trust somebody shuts nobody out.
func (w *trusting) write(t terminal, ring *signature.Keyring, trusted string) error {
	if scopes, err := signer.ParseScope(w.scope); err != nil || len(scopes) != 1 {
		return usageError{cmp.Or(err, errors.New("-scope is one scope; run it once for each"))}
	}
	p, made, err := w.read()
	if err != nil {
		return err
	}
	inherited, err := p.open(w.scope)
	if err != nil {
		return fmt.Errorf("%s: %w", w.policy, err)
	}
	directory, err := filepath.Abs(filepath.Join(filepath.Dir(w.policy), "admission-keys"))
	if err != nil {
		return err
	}
	paths, err := keepKeys(ring, directory)
	if err != nil {
		return err
	}
	scopes := p.Transports["docker"]
	for _, path := range paths {
		requirement, err := json.Marshal(map[string]string{"type": "signedBy", "keyType": "GPGKeys", "keyPath": path})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(scopes[w.scope], func(r json.RawMessage) bool { return names(r, path) }) {
			scopes[w.scope] = append(scopes[w.scope], requirement)
		}
	}
	if err := w.keep(p); err != nil {
		return err
	}
	for _, k := range ring.Keys() {
		fmt.Fprintf(t.stdout, "Key %s (%s, %s) may upload for %s, says %s.\n", k.Fingerprint, k.UserID, k.Algorithm, w.scope, w.policy)
	}
	if inherited != "" {
		fmt.Fprintf(t.stdout, "So may those of %s, which counted for it until now.\n", inherited)
	}
	if made {
		fmt.Fprintf(t.stdout, "The policy is new, and admits nobody else. To use it, set admission.policy: %s\nand start the server again; %s no longer counts then.\n", w.policy, trusted)
	}
	return nil
}

// read reads the policy, or begins one that admits nobody.
func (w *trusting) read() (p policyFile, made bool, err error) {
	content, err := os.ReadFile(w.policy)
	if errors.Is(err, fs.ErrNotExist) {
		return policyFile{Default: []json.RawMessage{json.RawMessage(`{"type":"reject"}`)}}, true, nil
	}
	if err != nil {
		return p, false, err
	}
	if _, err := policy.Parse(content); err != nil {
		return p, false, fmt.Errorf("%s: %w\nhint: nothing was written; mend it first", w.policy, err)
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return p, false, fmt.Errorf("%s: %w", w.policy, err)
	}
	return p, false, nil
}

// keep writes the policy, if the server will read it.
func (w *trusting) keep(p policyFile) error {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	parsed, err := policy.Parse(content)
	if err == nil {
		_, err = parsed.Load(os.ReadFile)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\nhint: nothing was written; mend it first", w.policy, err)
	}
	return keyFile{}.place(w.policy, append(content, '\n'), 0o644, succeed)
}

// names reports whether a requirement admits by this key file.
func names(requirement json.RawMessage, path string) bool {
	var r struct {
		Type, KeyPath  string
		SignedIdentity json.RawMessage
	}
	return json.Unmarshal(requirement, &r) == nil && r.Type == "signedBy" && r.KeyPath == path && r.SignedIdentity == nil
}

// open makes a scope one that further requirements may be added to, and says from where it has those it
// begins with.
func (p *policyFile) open(scope string) (inherited string, err error) {
	if p.Transports == nil {
		p.Transports = map[string]map[string][]json.RawMessage{}
	}
	if p.Transports["docker"] == nil {
		p.Transports["docker"] = map[string][]json.RawMessage{}
	}
	scopes := p.Transports["docker"]
	if _, ok := scopes[scope]; !ok {
		scopes[scope], inherited = p.inherit(scope)
	}
	if slices.ContainsFunc(scopes[scope], isType("reject")) {
		return "", fmt.Errorf("scope %q has a reject, which counts against every signature; nothing was written\nhint: take it out there, or trust for a more precise scope", scope)
	}
	return inherited, nil
}

// inherit returns the signedBy requirements of the scope, or the default, that counted for another so
// far. Where there is a reject beside them they let nobody in.
func (p *policyFile) inherit(scope string) (requirements []json.RawMessage, from string) {
	there, from := p.Default, "the default"
	for _, wider := range widerScopes(scope) {
		if requirements, ok := p.Transports["docker"][wider]; ok {
			there, from = requirements, fmt.Sprintf("scope %q", wider)
			break
		}
	}
	for _, r := range there {
		if isType("signedBy")(r) {
			requirements = append(requirements, r)
		}
	}
	if len(requirements) == 0 || slices.ContainsFunc(there, isType("reject")) {
		return nil, ""
	}
	return requirements, from
}

// isType tells requirements of a type.
func isType(name string) func(json.RawMessage) bool {
	return func(r json.RawMessage) bool {
		var kind struct{ Type string }
		return json.Unmarshal(r, &kind) == nil && kind.Type == name
	}
}

// widerScopes are those that count for what a scope names while it has none of its own, nearest
// first (containers-policy.json(5)).
func widerScopes(scope string) (wider []string) {
	host, path, _ := strings.Cut(scope, "/")
	if i := strings.LastIndexAny(path, ":"); i >= 0 {
		path = path[:i]
		wider = append(wider, host+"/"+path)
	}
	for path != "" {
		i := strings.LastIndex(path, "/")
		path = path[:max(i, 0)]
		wider = append(wider, strings.TrimSuffix(host+"/"+path, "/"))
	}
	name, _, _ := strings.Cut(host, ":")
	for {
		_, domain, ok := strings.Cut(name, ".")
		if !ok {
			return append(wider, "")
		}
		name = domain
		wider = append(wider, "*."+domain)
	}
}
