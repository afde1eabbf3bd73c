package signer_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// needGPG skips where gpg is missing; CI has it.
func needGPG(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED: gpg is not installed: e2e/install")
	}
}

// gpgHome is a home with this key, whose agent ends with the test.
func gpgHome(t *testing.T, key string, import1 ...string) string {
	t.Helper()
	needGPG(t)
	home := filepath.Dir(place(t))
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c := exec.Command("gpgconf", "--homedir", home, "--kill", "all")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	args := append([]string{"--batch", "--quiet", "--homedir", home}, import1...)
	c := exec.Command("gpg", append(args, "--import", filepath.Join("..", "testdata", "signer", key+".asc"))...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return home
}

// What gpg signs is what its key's file would.
func TestGPG(t *testing.T) {
	t.Parallel()
	key := held(t, "subkeys").Key() // gpg alone would take the newest subkey
	home := gpgHome(t, "subkeys")
	if err := os.WriteFile(filepath.Join(home, "gpg.conf"), []byte("armor\ndigest-algo SHA1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := signer.NewGPG(home, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	o := &observer{}
	content, err := signer.Contain(g, signer.Bounds{Patience: long}, time.Now, o.observe).Sign(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	message, err := signature.Parse(content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.Verify(message, time.Now())
	if err != nil || got.Claim != claim || got.Subkey {
		t.Errorf("signed %+v, subkey %v, %v; want %+v with the primary key", got.Claim, got.Subkey, err, claim)
	}
	if bytes.Contains(content, []byte("BEGIN")) {
		t.Error("gpg.conf of the home counts")
	}
}

// A key that gpg lacks, or whose passphrase the agent lacks, is an error that says so.
func TestGPGLacks(t *testing.T) {
	t.Parallel()
	home := gpgHome(t, "plain")
	g, err := signer.NewGPG(home, held(t, "ends").Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Check(t.Context()); err == nil {
		t.Error("Check of a key that gpg lacks says it is there")
	}
	o := &observer{}
	if _, err := signer.Contain(g, signer.Bounds{Patience: long}, clock, o.observe).Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), home) {
		t.Errorf("%v, want ErrSigner that names the home", err)
	}

	protected := gpgHome(t, "protected", "--pinentry-mode", "loopback", "--passphrase", "correct horse")
	private, err := os.ReadFile(filepath.Join("..", "testdata", "signer", "protected.asc"))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := signature.NewFileSigner(private, []byte("correct horse"), clock)
	if err != nil {
		t.Fatal(err)
	}
	if c := exec.Command("gpgconf", "--homedir", protected, "--kill", "gpg-agent"); c.Run() != nil {
		t.Fatal("the agent is not killed")
	}
	locked, err := signer.NewGPG(protected, opened.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Contain(locked, signer.Bounds{Patience: long}, clock, o.observe).Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "signing failed") {
		t.Errorf("without its passphrase: %v, want ErrSigner and what gpg says", err)
	}
}

// A gpg that hangs or floods is killed.
func TestGPGMisbehaves(t *testing.T) {
	home := gpgHome(t, "plain")
	for name, test := range map[string]struct {
		script  string
		outcome signer.Outcome
	}{
		"hangs":            {"sleep 999 9>$0.child & wait", signer.Late},
		"leaves a child":   {"sleep 999 9>$0.child & exit 1", signer.Failed},
		"floods":           {"cat /dev/zero", signer.Failed},
		"floods errors":    {"cat /dev/zero >&2", signer.Failed},
		"says nothing":     {"exit 0", signer.Rejected},
		"signs what it is": {"cat", signer.Rejected},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "gpg"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			// A child holds this open for as long as it lives.
			if err := syscall.Mkfifo(filepath.Join(dir, "gpg.child"), 0o600); err != nil {
				t.Fatal(err)
			}
			child, err := os.OpenFile(filepath.Join(dir, "gpg.child"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer child.Close()
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			g, err := signer.NewGPG(home, held(t, "plain").Key())
			if err != nil {
				t.Fatal(err)
			}
			patience, o := long, &observer{}
			if test.outcome == signer.Late {
				patience = 100 * time.Millisecond
			}
			if _, err := signer.Contain(g, signer.Bounds{Patience: patience}, clock, o.observe).Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) {
				t.Errorf("%v, want ErrSigner", err)
			}
			if len(o.outcomes) != 1 || o.outcomes[0] != test.outcome {
				t.Errorf("outcomes %v, want %s", o.outcomes, test.outcome)
			}
			if err := child.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := child.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%v, want EOF: what gpg has started still runs", err)
			}
		})
	}
}

// Where others may change the agent's settings, they may have anything signed.
func TestGPGHome(t *testing.T) {
	t.Parallel()
	needGPG(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.NewGPG(dir, held(t, "plain").Key()); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a home of mode 0770: %v, want an error with a hint", err)
	}
}
