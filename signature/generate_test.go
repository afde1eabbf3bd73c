package signature_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A generatedKey is what Generate returns.
type generatedKey struct {
	private, public []byte
	err             error
}

const generatedName = "Example server (made without access control) <server@example.test>"

// generated makes one key for all tests.
var generated = sync.OnceValue(func() (k generatedKey) {
	k.private, k.public, k.err = signature.Generate(generatedName, 3072, signerNow.Add(300*time.Millisecond))
	return k
})

func generatedPair(t testing.TB) (private, public []byte) {
	t.Helper()
	k := generated()
	if k.err != nil {
		t.Fatal(k.err)
	}
	return k.private, k.public
}

func readRing(t testing.TB, public []byte) *signature.Keyring {
	t.Helper()
	ring, err := signature.ReadKeyring(public)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// A generated key signs at the very second it was made.
func TestGenerate(t *testing.T) {
	t.Parallel()
	private, public := generatedPair(t)
	signer := newSigner(t, private, at(signerNow))
	want := signature.Key{Fingerprint: fingerprintOf(t, signer.Key()), UserID: generatedName, Algorithm: "RSA 3072", Created: signerNow}
	got := readRing(t, public).Keys()
	if len(got) != 1 || got[0].Fingerprint != want.Fingerprint || got[0].UserID != want.UserID || got[0].Algorithm != want.Algorithm || !got[0].Created.Equal(want.Created) {
		t.Errorf("public part is %+v, want %+v", got, want)
	}
	claim := claimOf("registry.example.com/app:1")
	message, err := signer.Sign(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if s := verified(t, readRing(t, public), message, signerNow); s.Claim != claim || s.UserID != generatedName {
		t.Errorf("by %q, %+v; want %q, %+v", s.UserID, s.Claim, generatedName, claim)
	}
	// No expiry: it is good for as long as OpenPGP has years.
	verified(t, readRing(t, public), message, signerNow.AddDate(70, 0, 0))
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{-1, 0, 1024, 2048, 3071} {
		if _, _, err := signature.Generate("countersign", bits, signerNow); err == nil || !strings.Contains(err.Error(), "3072") {
			t.Errorf("%d bits: error %v, want one that says 3072", bits, err)
		}
	}
}

// A user id is shown by many programs, so it is one line that shows as it is.
func TestRenameRefusesUserID(t *testing.T) {
	t.Parallel()
	private := privateKey(t, "plain")
	for name, id := range map[string]string{
		"empty": "", "blank": " \t ", "two lines": "a\nuid: b", "NUL": "a\x00b", "escape": "a\x1b[2Jb", "DEL": "a\x7fb",
		"C1 control": "a\u009b2Jb", "right to left": "a\u202eb", "zero width": "a\u200bb", "not UTF-8": "a\xffb",
		"long": strings.Repeat("a", 1025),
	} {
		if _, _, err := signature.Rename(private, id, signerNow); err == nil || !strings.Contains(err.Error(), "user id") {
			t.Errorf("%s: error %v, want one about the user id", name, err)
		}
	}
	for _, id := range []string{"countersign", "Jürgen Müller <j@example.test>", "署名 (サーバー)", strings.Repeat("a", 1024)} {
		if _, _, err := signature.Rename(private, id, signerNow); err != nil {
			t.Errorf("%.40q: %v", id, err)
		}
	}
}

// A renamed key is the same key with another name: what it signed before stays good, and what it
// signs now is good for those who know it by its old name.
func TestRename(t *testing.T) {
	t.Parallel()
	private, public := generatedPair(t)
	old := newSigner(t, private, at(signerNow))
	before, err := old.Sign(t.Context(), claimOf("a.example/b:before"))
	if err != nil {
		t.Fatal(err)
	}
	later := signerNow.AddDate(0, 6, 0)
	const name = "Example release <release@example.test>"
	renamed, renamedPublic, err := signature.Rename(private, name, later)
	if err != nil {
		t.Fatal(err)
	}
	signer := newSigner(t, renamed, at(later))
	after, err := signer.Sign(t.Context(), claimOf("a.example/b:after"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fingerprintOf(t, signer.Key()), fingerprintOf(t, old.Key()); got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
	for _, file := range [][]byte{renamed, renamedPublic, dearmored(t, renamed), dearmored(t, renamedPublic)} {
		if bytes.Contains(file, []byte("without access control")) {
			t.Errorf("the old user id is still there")
		}
	}
	ring := readRing(t, renamedPublic)
	if got, want := ring.Keys()[0], old.Key().Keys()[0]; got.UserID != name || !got.Created.Equal(want.Created) || !bytes.Equal(ring.Binary(), signer.Key().Binary()) {
		t.Errorf("public part is %+v, want %q of %v, as the signer has it", got, name, want.Created)
	}
	if s := verified(t, ring, before, later); s.Claim.Reference != "a.example/b:before" || s.UserID != name {
		t.Errorf("old signature is by %q for %s", s.UserID, s.Claim.Reference)
	}
	if s := verified(t, readRing(t, public), after, later); s.Claim.Reference != "a.example/b:after" {
		t.Errorf("new signature is for %s", s.Claim.Reference)
	}
}

// Rename makes no key good that is not, and takes no end from one that has one.
func TestRenameKeepsLimits(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"revoked": "revoked", "expired": "expired", "short": "RSA 2048", "protected": "passphrase", "stub": "primary key is not in the file",
	} {
		if _, _, err := signature.Rename(privateKey(t, name), "countersign", signerNow); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, want)
		}
	}
	// Subkeys stay: what they have signed stays good too.
	_, public, err := signature.Rename(privateKey(t, "subkeys"), "countersign", signerNow)
	if err != nil {
		t.Fatal(err)
	}
	if got, old := len(readRing(t, public).Binary()), len(newSigner(t, privateKey(t, "subkeys"), at(signerNow)).Key().Binary()); got < old-200 {
		t.Errorf("public part of %d bytes, before of %d: a subkey is missing", got, old)
	}
	renamed, _, err := signature.Rename(privateKey(t, "ends"), "countersign", signerNow)
	if err != nil {
		t.Fatal(err)
	}
	newSigner(t, renamed, at(signerNow))
	if err := newSigner(t, renamed, at(signerNow)).Key().MaySign(signerNow.AddDate(30, 0, 0)); !errors.Is(err, signature.ErrSigner) {
		t.Error("a key that ends has no end after Rename")
	}
}

// A signerGPG is a GNUPGHOME of one test.
type signerGPG struct{ home string }

// needSignerGPG gives a home with this key in it; without gpg it skips, where CI=true it fails.
func needSignerGPG(t *testing.T, key []byte) signerGPG {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("gpg is missing: apt-get install gnupg")
		}
		t.Skip("SKIPPED, gpg is missing: apt-get install gnupg")
	}
	home, err := os.MkdirTemp("/tmp", "signer-gpg-") // t.TempDir is too long for the agent's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	g := signerGPG{home}
	g.run(t, key, "--import")
	return g
}

// run returns what gpg writes and its status lines.
func (g signerGPG) run(t *testing.T, stdin []byte, args ...string) (out []byte, status string) {
	t.Helper()
	statusFile := filepath.Join(g.home, "status")
	c := exec.Command("gpg", append([]string{"--homedir", g.home, "--batch", "--no-tty", "--quiet", "--trust-model", "always",
		"--faked-system-time", "20260901T120000", "--pinentry-mode", "loopback", "--passphrase", "", "--status-file", statusFile}, args...)...)
	c.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	lines, _ := os.ReadFile(statusFile)
	if err != nil {
		t.Fatalf("gpg %v: %v\n%s%s", args, err, &stderr, lines)
	}
	return stdout.Bytes(), string(lines)
}

var uidLine = regexp.MustCompile(`(?m)^uid:(?:[^:]*:){8}([^:]*):`)

// userIDs are those that gpg shows of the keys in its home.
func (g signerGPG) userIDs(t *testing.T) (ids []string) {
	t.Helper()
	list, _ := g.run(t, nil, "--with-colons", "--list-keys")
	for _, found := range uidLine.FindAllSubmatch(list, -1) {
		ids = append(ids, string(found[1]))
	}
	return ids
}

// good says whether gpg finds one good signature of this key around the claim.
func (g signerGPG) good(t *testing.T, message []byte, fingerprint string, claim signature.Claim) {
	t.Helper()
	payload, status := g.run(t, message, "--decrypt")
	if !bytes.Equal(payload, claim.Payload()) {
		t.Errorf("gpg reads %s, want %s", payload, claim.Payload())
	}
	if strings.Count(status, "] GOODSIG ") != 1 || !strings.Contains(status, "] VALIDSIG "+fingerprint+" ") {
		t.Errorf("gpg finds not one GOODSIG and VALIDSIG %s:\n%s", fingerprint, status)
	}
}

// gpg imports what Generate and Rename make, with nothing but one primary key and one name in it.
func TestGenerateForGPG(t *testing.T) {
	t.Parallel()
	private, public := generatedPair(t)
	claim := claimOf("registry.example.com/app:1")
	old := newSigner(t, private, at(signerNow))
	before, err := old.Sign(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := fingerprintOf(t, old.Key())
	g := needSignerGPG(t, public)
	g.good(t, before, fingerprint, claim)
	list, _ := g.run(t, nil, "--with-colons", "--list-keys")
	if bytes.Contains(list, []byte("\nsub:")) || !regexp.MustCompile(`(?m)^pub:[^:]*:3072:1:[^:]*:[0-9]+:::[^:]*:::scSC:`).Match(list) {
		t.Errorf("want an RSA 3072 primary key alone, that signs and certifies and never expires:\n%s", list)
	}
	renamed, renamedPublic, err := signature.Rename(private, "countersign", signerNow.AddDate(0, 6, 0))
	if err != nil {
		t.Fatal(err)
	}
	g = needSignerGPG(t, renamedPublic)
	g.good(t, before, fingerprint, claim)
	if got := g.userIDs(t); !slices.Equal(got, []string{"countersign"}) {
		t.Errorf("user ids of the renamed key %q, want countersign alone", got)
	}
	// gpg signs with the private part as we do.
	g = needSignerGPG(t, renamed)
	signed, _ := g.run(t, claim.Payload(), "--sign")
	if s := verified(t, readRing(t, renamedPublic), signed, signerNow.AddDate(0, 6, 1)); s.Claim != claim || s.UserID != "countersign" {
		t.Errorf("gpg's signature is by %q, %+v; want countersign, %+v", s.UserID, s.Claim, claim)
	}
}

// gpg finds good what is signed with keys that gpg made.
func TestFileSignerForGPG(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ key, passphrase string }{{"plain", ""}, {"protected", "correct horse"}, {"subkeys", ""}, {"sha1", ""}} {
		t.Run(test.key, func(t *testing.T) {
			t.Parallel()
			signer, err := signature.NewFileSigner(privateKey(t, test.key), []byte(test.passphrase), at(signerNow))
			if err != nil {
				t.Fatal(err)
			}
			claim := claimOf("registry.example.com/app:1")
			message, err := signer.Sign(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			needSignerGPG(t, signer.Key().Armored()).good(t, message, fingerprintOf(t, signer.Key()), claim)
		})
	}
}
