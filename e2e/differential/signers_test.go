package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	old "golang.org/x/crypto/openpgp"

	"github.com/countersign-dev/countersign/signature"
	signers "github.com/countersign-dev/countersign/signature/signer"
)

// TestSigners has every signer sign with every algorithm it knows. Stock gpg, both builds of the
// library and skopeo accept what comes out, with the key as export writes it: binary, and in one
// armored block. With another key they refuse it.
func TestSigners(t *testing.T) {
	t.Parallel()
	stranger := newGPG(t)
	stranger.key(t, "stranger", "rsa2048", "never")
	for _, algorithm := range signature.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			private, public, err := signature.Spec{UserID: "release", Algorithm: algorithm}.Generate(time.Now().Add(-time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			file, err := signature.NewFileSigner(private, nil, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			home := newGPG(t)
			home.run(t, atSigning, private, "--import")
			agent, err := signers.NewGPG(home.dir, file.Key())
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range map[string]signature.Signer{"file": file, "socket": socket(t, file), "gpg": agent} {
				t.Run(name, func(t *testing.T) { judged(t, string(algorithm), s, public, stranger.export(t, "stranger")) })
			}
		})
	}
	for algorithm, keyType := range map[string]string{"rsa3072": "rsa:3072", "rsa4096": "rsa:4096"} {
		t.Run("pkcs11 "+algorithm, func(t *testing.T) {
			t.Parallel()
			s, public := token(t, keyType)
			judged(t, algorithm, s, public, stranger.export(t, "stranger"))
		})
	}
}

// readers are the columns of the table of algorithms in doc/operating.md, in their order.
var readers = []string{"gpgme, to 5.36", "gpgme, from 5.37", "without gpgme, to 5.40", "without gpgme, 5.42"}

// documented says who reads an algorithm, as the table has it.
func documented(t *testing.T, algorithm string) map[string]bool {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "doc", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	if head := "| `-algorithm` | " + strings.Join(readers, " | ") + " |"; !strings.Contains(string(page), head) {
		t.Fatalf("doc/operating.md has no table %s", head)
	}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| `"+algorithm+"`") {
			continue
		}
		reads, cells := map[string]bool{}, strings.Split(line, "|")[2:]
		for i, reader := range readers {
			if cell := strings.TrimSpace(cells[i]); cell == "yes" || cell == "no" {
				reads[reader] = cell == "yes"
			} else {
				t.Fatalf("doc/operating.md says %q of %s by %s, want yes or no", cell, algorithm, reader)
			}
		}
		return reads
	}
	t.Fatalf("doc/operating.md does not say who reads %s", algorithm)
	return nil
}

// judged shows one signature to all clients.
func judged(t *testing.T, algorithm string, s signature.Signer, public, stranger []byte) {
	t.Helper()
	contained := signers.Contain(s, signers.Bounds{Patience: time.Minute}, time.Now, func(signers.Outcome, time.Duration) {})
	blob, err := contained.Sign(t.Context(), signature.Claim{
		Reference: app + ":v1", Digest: digest.FromBytes(imageManifest()), Creator: "countersign", Timestamp: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]func(question) error{"gpgme, from 5.37": func(q question) error { return askLibrary(t.Context(), q) }, "countersign": evaluate}
	if library == openpgp { // once is enough
		if _, err := exec.LookPath("skopeo"); err != nil {
			lack(t, "skopeo is not installed; run e2e/install as root, or: apt-get install skopeo")
		}
		clients = map[string]func(question) error{
			"gpgme, to 5.36":         func(q question) error { return askSkopeo(t, q) }, // 1.9.3 has 5.23
			"without gpgme, to 5.40": older,
			"without gpgme, 5.42":    func(q question) error { return askLibrary(t.Context(), q) },
			"countersign":            evaluate,
		}
	}
	reads := documented(t, algorithm)
	reads["countersign"] = true
	for form, keys := range map[string][]byte{"binary": s.Key().Binary(), "armored": s.Key().Armored(), "as made": public} {
		for client, ask := range clients {
			if err := ask(askedWith(keys, blob)); (err == nil) != reads[client] {
				t.Errorf("%s, with the key %s: %v, and doc/operating.md says that it reads %s: %v", client, form, err, algorithm, reads[client])
			}
		}
	}
	for client, ask := range clients {
		if ask(askedWith(stranger, blob)) == nil {
			t.Errorf("%s accepts it by another key", client)
		}
	}
	home := newGPG(t)
	home.run(t, atSigning, public, "--import")
	c := exec.CommandContext(t.Context(), "gpg", "--homedir", home.dir, "--batch", "--no-tty", "--status-fd", "1", "--decrypt")
	c.Stdin = bytes.NewReader(blob)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "VALIDSIG "+s.Key().Keys()[0].Fingerprint) {
		t.Errorf("gpg: %v\n%s", err, out)
	}
}

// older is a client up to containers/image 5.40 that was built without gpgme: that had this library.
func older(q question) error {
	var policy struct {
		Transports struct {
			Docker map[string][]struct{ KeyData []byte }
		}
	}
	if err := json.Unmarshal([]byte(q.policy), &policy); err != nil {
		return err
	}
	keys := policy.Transports.Docker["registry.example.com"][0].KeyData
	read := old.ReadKeyRing
	if bytes.HasPrefix(keys, []byte("-----")) {
		read = old.ReadArmoredKeyRing
	}
	ring, err := read(bytes.NewReader(keys))
	if err != nil {
		return err
	}
	details, err := old.ReadMessage(bytes.NewReader(q.signatures[0]), ring, nil, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, details.UnverifiedBody)
	if details.SignedBy == nil {
		err = errors.Join(err, errors.New("it is by an unknown key"))
	}
	return errors.Join(err, details.SignatureError)
}

// askedWith asks whether a node that trusts these keys runs the image of all questions.
func askedWith(keys, blob []byte) question { return form{keys: keys, blob: blob}.question() }

// short is a directory with a short path, for a socket.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "signers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// socket puts a signer behind one.
func socket(t *testing.T, s signature.Signer) *signers.Socket {
	t.Helper()
	path, log := filepath.Join(short(t), "s"), slog.New(slog.DiscardHandler)
	l, err := signers.Listen(signers.Place{Path: path, Group: -1}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- signers.NewServer(s, func(string) error { return nil }, log).Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	asks, err := signers.NewSocket(path, s.Key())
	if err != nil {
		t.Fatal(err)
	}
	return asks
}

// token runs the PKCS#11 signer with a key that SoftHSM has made.
func token(t *testing.T, keyType string) (s signature.Signer, public []byte) {
	t.Helper()
	dir := short(t)
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	const library = "/usr/lib/softhsm/libsofthsm2.so"
	for _, program := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, err := exec.LookPath(program); err != nil {
			lack(t, program+" is not installed; run e2e/install as root, or: apt-get install softhsm2 opensc")
		}
	}
	for name, content := range map[string]string{"conf": "directories.tokendir = " + dir + "/tokens\nobjectstore.backend = file\n", "pin": "123456\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(program string, args ...string) *exec.Cmd {
		c := exec.Command(program, args...)
		c.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(dir, "conf"))
		return c
	}
	signs := filepath.Join(dir, "countersign-signer-pkcs11")
	build := command("go", "build", "-buildvcs=false", "-o", signs, ".")
	build.Dir = filepath.Join("..", "..", "cmd", "countersign-signer-pkcs11")
	build.Env = append(build.Env, "CGO_ENABLED=1")
	at := []string{"-module", library, "-token", "test", "-pin-file", filepath.Join(dir, "pin"), "-key", "release", "-public", filepath.Join(dir, "release.asc")}
	for _, c := range []*exec.Cmd{
		build,
		command("softhsm2-util", "--init-token", "--free", "--label", "test", "--pin", "123456", "--so-pin", "12345678"),
		command("pkcs11-tool", "--module", library, "--login", "--pin", "123456", "--keypairgen", "--key-type", keyType, "--label", "release", "--usage-sign"),
		command(signs, append(at, "-certify", "release")...),
	} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c.Args, err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "release.asc"))
	if err != nil {
		t.Fatal(err)
	}
	serve := command(signs, append(at, "-socket", filepath.Join(dir, "s"))...)
	said, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, said)
		if err := serve.Wait(); err != nil {
			t.Errorf("%v: %v", serve.Args, err)
		}
	})
	if _, err := said.Read(make([]byte, 4096)); err != nil { // its first line says that it listens
		t.Fatal(err)
	}
	key, err := signature.ReadKeyring(public)
	if err != nil {
		t.Fatal(err)
	}
	s, err = signers.NewSocket(filepath.Join(dir, "s"), key)
	if err != nil {
		t.Fatal(err)
	}
	return s, public
}
