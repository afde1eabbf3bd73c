package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// patience bounds every wait.
const patience = time.Minute

// libraries are where distributions put SoftHSM.
var libraries = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so"}

// A token is one of SoftHSM with an RSA key pair called release, and the program that signs with it.
type token struct {
	dir, library, program string
	environment           []string
	serving               *os.Process
}

const pin = "123456"

func newToken(t *testing.T, keyType string) *token {
	t.Helper()
	for _, program := range []string{"softhsm2-util", "pkcs11-tool", "gpg"} {
		if _, err := exec.LookPath(program); err != nil {
			lack(t, program+" is not installed; run e2e/install as root, or: apt-get install softhsm2 opensc gnupg")
		}
	}
	dir, err := os.MkdirTemp("/tmp", "token-") // short: a socket's path ends at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k := &token{dir: dir, program: filepath.Join(dir, "signer")}
	for _, k.library = range libraries {
		if _, err := os.Stat(k.library); err == nil {
			break
		}
	}
	write(t, filepath.Join(dir, "softhsm2.conf"), "directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\n", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "pin"), pin+"\n", 0o600)
	k.environment = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(dir, "softhsm2.conf"))
	k.run(t, "softhsm2-util", "--init-token", "--free", "--label", "countersign", "--pin", pin, "--so-pin", "12345678")
	k.run(t, "pkcs11-tool", "--module", k.library, "--login", "--pin", pin, "--keypairgen", "--key-type", keyType, "--label", "release", "--usage-sign")
	k.run(t, "go", "build", "-race", "-buildvcs=false", "-o", k.program, ".")
	return k
}

// lack ends a test for which this machine lacks something; CI lacks nothing.
func lack(t *testing.T, sentence string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip("SKIPPED: " + sentence)
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func (k *token) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Env = k.environment
	return c
}

func (k *token) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := k.command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func (k *token) args(more ...string) []string {
	return append([]string{
		"-module", k.library, "-token", "countersign", "-pin-file", filepath.Join(k.dir, "pin"), "-key", "release", "-public", filepath.Join(k.dir, "release.asc"),
	}, more...)
}

// refusal runs the program, which must fail.
func (k *token) refusal(t *testing.T, args ...string) string {
	t.Helper()
	out, err := k.command(k.program, args...).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("%q: %v, want exit code 1\n%s", args, err, out)
	}
	return string(out)
}

// A lines collects what a process writes.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve runs the signer and waits until it listens.
func (k *token) serve(t *testing.T, args ...string) *lines {
	t.Helper()
	log := &lines{}
	c := k.command(k.program, args...)
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	k.serving = c.Process
	gone, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		_ = c.Wait() // its exit code is judged below
	}()
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone.Done():
		case <-time.After(patience):
			_ = c.Process.Kill()
		}
		if code := c.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the signer ended with %d:\n%s", code, log)
		}
	})
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(patience); !strings.Contains(log.String(), `"msg":"signing"`); {
		select {
		case <-ticker.C:
		case <-gone.Done():
			t.Fatalf("the signer ended:\n%s", log)
		case <-late:
			t.Fatalf("the signer does not listen:\n%s", log)
		}
	}
	return log
}

// TestSoftHSM signs with a key that SoftHSM made and nobody can read; stock gpg verifies.
func TestSoftHSM(t *testing.T) {
	t.Parallel()
	k := newToken(t, "rsa:3072")
	public, socket := filepath.Join(k.dir, "release.asc"), filepath.Join(k.dir, "s")
	if out := k.refusal(t, k.args("-socket", socket)...); !strings.Contains(out, "-certify") {
		t.Errorf("without a public key: %s, want a hint at -certify", out)
	}
	k.run(t, k.program, k.args("-certify", "Token release <release@example.com>")...)
	if out := k.refusal(t, k.args("-certify", "Another")...); !strings.Contains(out, "there already") {
		t.Errorf("certified twice: %s, want a refusal", out)
	}
	content, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signature.ReadKeyring(content)
	if err != nil {
		t.Fatal(err)
	}
	log := k.serve(t, k.args("-socket", socket, "-scope", "registry.example.com/prod")...)
	// It has the PIN in its memory, and outlasts the signal that has it look at its file.
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", k.serving.Pid))
	if err != nil || !regexp.MustCompile(`Max core file size\s+0\s+0\s`).Match(limits) {
		t.Errorf("core dumps are on: %v\n%s", err, limits)
	}
	if err := k.serving.Signal(syscall.SIGHUP); err != nil {
		t.Error(err)
	}
	s, err := signer.NewSocket(socket, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	contained := signer.Contain(s, signer.Bounds{Patience: patience}, time.Now, func(signer.Outcome, time.Duration) {})
	var group sync.WaitGroup
	for n := range 20 { // more than it does at a time
		group.Go(func() {
			claim := signature.Claim{Reference: fmt.Sprintf("registry.example.com/prod/app:%d", n), Digest: digest.FromString("app")}
			message, err := contained.Sign(t.Context(), claim)
			if err != nil {
				t.Error(err)
				return
			}
			if n == 0 {
				k.gpgVerifies(t, public, key.Keys()[0].Fingerprint, message)
			}
		})
	}
	group.Wait()
	if _, err := contained.Sign(t.Context(), signature.Claim{Reference: "registry.example.com/test/app:1", Digest: digest.FromString("app")}); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "outside") {
		t.Errorf("outside of its scope: %v, want a refusal", err)
	}
	if said := log.String(); !strings.Contains(said, "prod/app:19") {
		t.Errorf("the log does not say what was signed:\n%s", said)
	}
}

// gpgVerifies has stock gpg verify a message with the public key.
func (k *token) gpgVerifies(t *testing.T, public, fingerprint string, message []byte) {
	t.Helper()
	home := filepath.Join(k.dir, "gpg")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Error(err)
		return
	}
	write(t, filepath.Join(k.dir, "message"), string(message), 0o600)
	for _, args := range [][]string{{"--import", public}, {"--status-fd", "1", "--verify", filepath.Join(k.dir, "message")}} {
		out, err := k.command("gpg", append([]string{"--batch", "--homedir", home}, args...)...).CombinedOutput()
		if err != nil || args[0] != "--import" && !strings.Contains(string(out), "VALIDSIG "+fingerprint) {
			t.Errorf("gpg %q: %v, want VALIDSIG %s\n%s", args, err, fingerprint, out)
		}
	}
}

// TestRefused says what is wrong with a token, its key or its PIN.
func TestRefused(t *testing.T) {
	t.Parallel()
	k := newToken(t, "rsa:2048")
	pinFile := filepath.Join(k.dir, "pin")
	if out := k.refusal(t, k.args("-certify", "Short")...); !strings.Contains(out, "3072") {
		t.Errorf("a key of 2048 bits: %s, want a sentence with 3072", out)
	}
	if out := k.refusal(t, k.args("-key", "none", "-certify", "None")...); !strings.Contains(out, `"none"`) || !strings.Contains(out, "hint:") {
		t.Errorf("a key that is not there: %s, want its label and a hint", out)
	}
	if out := k.refusal(t, k.args("-module", "/nowhere.so", "-certify", "None")...); !strings.Contains(out, "/nowhere.so") {
		t.Errorf("a library that is not there: %s, want its path", out)
	}
	write(t, pinFile, "654321", 0o600)
	if out := k.refusal(t, k.args("-certify", "Wrong")...); !strings.Contains(out, "CKR_PIN_INCORRECT") {
		t.Errorf("a wrong PIN: %s, want CKR_PIN_INCORRECT", out)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(pinFile, 12345, 0); err != nil {
			t.Fatal(err)
		}
		if out := k.refusal(t, k.args("-certify", "Another's")...); !strings.Contains(out, "12345") {
			t.Errorf("another's PIN: %s, want whose it is", out)
		}
	}
	if err := os.Chmod(pinFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := k.refusal(t, k.args("-certify", "Open")...); !strings.Contains(out, "chmod 600") {
		t.Errorf("a PIN that everybody may read: %s, want a hint", out)
	}
}

// TestWithoutSoftHSM looks what this test does where SoftHSM is missing: CI fails, and others are told.
func TestWithoutSoftHSM(t *testing.T) {
	t.Parallel()
	for ci, want := range map[string]string{"true": "--- FAIL", "": "--- SKIP"} {
		c := exec.Command(os.Args[0], "-test.run", "^TestSoftHSM$", "-test.v")
		c.Env = []string{"PATH=" + t.TempDir(), "CI=" + ci}
		out, err := c.CombinedOutput()
		if (err != nil) != (ci == "true") || !strings.Contains(string(out), want) || !strings.Contains(string(out), "softhsm2-util is not installed") {
			t.Errorf("with CI=%q: %v, want %s and a sentence\n%s", ci, err, want, out)
		}
	}
}
