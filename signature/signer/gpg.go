package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A GPG asks gpg, and so gpg-agent, to sign. The private key is the agent's.
type GPG struct {
	program, home string
	key           *signature.Keyring
}

// NewGPG returns the signer of a key in a home of gpg, which nobody else may write to. gpg need not
// have the key yet. Its settings there (gpg.conf) count for nothing.
func NewGPG(home string, key *signature.Keyring) (*GPG, error) {
	if err := one(key); err != nil {
		return nil, err
	}
	program, err := exec.LookPath("gpg")
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: install gnupg, or sign through a socket", err)
	}
	info, err := os.Stat(home)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is no directory that only its owner may write to\nhint: chmod 700 %[1]s", home)
	}
	return &GPG{program, home, key}, nil
}

// Key is the public key that the signer is configured with.
func (g *GPG) Key() *signature.Keyring { return g.key }

// Sign runs gpg once. What it writes is bounded, and it is killed when ctx ends. It never asks
// anybody for a passphrase: the agent has it, or gpg fails.
func (g *GPG) Sign(ctx context.Context, claim signature.Claim) ([]byte, error) {
	return g.run(ctx, claim.Payload(),
		"--local-user", fingerprint(g.key)+"!", // the primary key, not a subkey of it
		"--digest-algo", "SHA512", "--compress-algo", "none", "--sign")
}

// Check says whether gpg has the private key.
func (g *GPG) Check(ctx context.Context) error {
	_, err := g.run(ctx, nil, "--with-colons", "--list-secret-keys", fingerprint(g.key))
	return err
}

func (g *GPG) run(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, g.program, append([]string{
		"--no-options", "--batch", "--no-tty", "--quiet", "--homedir", g.home, "--pinentry-mode", "error",
	}, args...)...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	c.WaitDelay = time.Second // an agent that gpg has started may hold on to what gpg wrote to
	// What gpg starts dies with it, but for an agent, which makes a session of its own.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	out, said := &bounded{most: signature.MaxSize}, &bounded{most: maxProblem}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(input), out, said
	err := c.Run()
	if errors.Is(err, exec.ErrWaitDelay) || c.ProcessState != nil && !c.ProcessState.Success() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // where nothing is left, that is an error
	}
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // gpg itself has ended well
	}
	if err != nil {
		return nil, fmt.Errorf("gpg with %s: %w: %.500q", g.home, err, strings.TrimSpace(said.kept.String()))
	}
	return out.kept.Bytes(), nil
}

// A bounded keeps what is written, up to most bytes; more is an error. Its buffer is not embedded:
// the buffer's ReadFrom would know no bound.
type bounded struct {
	kept bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > b.most {
		return 0, fmt.Errorf("it wrote more than %d bytes", b.most)
	}
	return b.kept.Write(p)
}
