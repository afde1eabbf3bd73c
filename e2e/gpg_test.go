package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// makePeople makes a GNUPGHOME with a key for each of people.
func makePeople(home string) error {
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	for _, name := range people {
		c := gpgCommand(home, "--pinentry-mode", "loopback", "--passphrase", "",
			"--quick-gen-key", name+" <"+name+"@example.test>", "rsa2048", "sign", "never")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", c.Args, err, out)
		}
	}
	return nil
}

// stopAgent ends what gpg started for a home, before the home is removed.
func stopAgent(home string) { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() }

func gpgCommand(home string, args ...string) *exec.Cmd {
	return exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--no-tty", "--quiet"}, args...)...)
}

// gpg runs gpg with the private keys of people.
func gpg(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	need(t, "gpg")
	c := gpgCommand(built.people, args...)
	c.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, &stderr)
	}
	return out
}

var fingerprintLine = regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`)

// fingerprint is that of the first primary key of an armored or binary keyring.
func fingerprint(t testing.TB, keyring []byte) string {
	t.Helper()
	found := fingerprintLine.FindSubmatch(gpg(t, keyring, "--with-colons", "--show-keys"))
	if found == nil {
		t.Fatalf("no key in %.60q", keyring)
	}
	return string(found[1])
}

// publicKey is the armored key of one of people.
func publicKey(t testing.TB, person string) []byte {
	t.Helper()
	need(t, "gpg")
	return built.keys[person]
}

// fingerprintOf is what --sign-by takes: an address could mean several keys.
func fingerprintOf(t testing.TB, person string) string {
	t.Helper()
	need(t, "gpg")
	return built.fingerprints[person]
}

// exportPeople returns the armored public keys of people, and their fingerprints.
func exportPeople(home string) (keys map[string][]byte, fingerprints map[string]string, err error) {
	keys, fingerprints = map[string][]byte{}, map[string]string{}
	for _, name := range people {
		key, err := gpgCommand(home, "--armor", "--export", name+"@example.test").Output()
		if err != nil {
			return nil, nil, err
		}
		list, err := gpgCommand(home, "--with-colons", "--list-keys", name+"@example.test").Output()
		if err != nil {
			return nil, nil, err
		}
		keys[name], fingerprints[name] = key, string(fingerprintLine.FindSubmatch(list)[1])
	}
	return keys, fingerprints, nil
}

// sign makes a signature as skopeo does: gpg around a claim.
func sign(t testing.TB, person, reference, digest string) []byte {
	t.Helper()
	return gpg(t, claim(reference, digest), "--local-user", person+"@example.test", "--sign")
}

// claim is the payload of a signature (protocol.md 5.1). No two are the same: RSA signatures of
// the same bytes in the same second would be.
func claim(reference, digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},`+
		`"type":"atomic container signature"},"optional":{"creator":"e2e","nonce":%q}}`, reference, digest, rand.Text())
}

// trust puts the public keys of people where uploaders' keys go.
func trust(t testing.TB, data string, persons ...string) {
	t.Helper()
	for _, person := range persons {
		write(t, filepath.Join(data, "trusted", person+".asc"), string(publicKey(t, person)))
	}
}

// serverKey is the armored public key of a server that runs or ran.
func (s *server) serverKey() string { return filepath.Join(s.data, "keys", "server.asc") }

// signed says who signs an image as what: "server 127.0.0.1:5000/ns/app:v1", in the order in
// which they are served. gpg verifies each, with the server's key and those of people, and each
// claim must be for this very digest.
func (s *server) signed(t testing.TB, repository, digest string) []string {
	t.Helper()
	served := s.signatures(t, repository, digest)
	contents := make([][]byte, len(served))
	for i, e := range served {
		contents[i] = e.Content
	}
	return s.open(t, digest, contents...)
}

// open verifies signatures and says who signed what, as signed does.
func (s *server) open(t testing.TB, digest string, contents ...[]byte) []string {
	t.Helper()
	need(t, "gpg")
	if len(contents) == 0 {
		return nil
	}
	home, err := os.MkdirTemp("/tmp", "e2e-gpg-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	defer stopAgent(home)
	serverKey := []byte(read(t, s.serverKey()))
	names, ring := map[string]string{fingerprint(t, serverKey): "server"}, serverKey
	for _, person := range people {
		names[fingerprintOf(t, person)] = person
		ring = append(append(ring, '\n'), publicKey(t, person)...)
	}
	c := gpgCommand(home, "--import")
	c.Stdin = bytes.NewReader(ring)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	var lines []string
	for _, content := range contents {
		signer, reference := unseal(t, home, content, digest)
		if names[signer] == "" {
			t.Errorf("a signature of %s by an unknown key %s", reference, signer)
		}
		lines = append(lines, names[signer]+" "+reference)
	}
	return lines
}

// validLine ends with the fingerprint of the primary key.
var validLine = regexp.MustCompile(`(?m)^\[GNUPG:\] VALIDSIG .* ([0-9A-F]{40})$`)

// unseal verifies one signature with the keys in home, and returns whose it is and of what.
func unseal(t testing.TB, home string, content []byte, digest string) (signer, reference string) {
	t.Helper()
	c := gpgCommand(home, "--trust-model", "always", "--status-fd", "2", "--decrypt")
	var status bytes.Buffer
	c.Stdin, c.Stderr = bytes.NewReader(content), &status
	payload, err := c.Output()
	valid := validLine.FindStringSubmatch(status.String())
	if err != nil || valid == nil {
		t.Fatalf("gpg does not verify what is served for %s: %v\n%s", digest, err, &status)
	}
	var claim struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			}
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
	}
	if err := json.Unmarshal(payload, &claim); err != nil {
		t.Fatalf("the payload is no claim: %v: %s", err, payload)
	}
	if claim.Critical.Image.Digest != digest {
		t.Errorf("a claim for %s is served for %s", claim.Critical.Image.Digest, digest)
	}
	return valid[1], strings.TrimSpace(claim.Critical.Identity.Reference)
}
