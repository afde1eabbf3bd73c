package differential

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// Times at which gpg believes to be. All that is made is good for ever unless a case says otherwise.
const (
	atKeys     = "20200101T000000"
	atSigning  = "20210101T000000"
	farFuture  = "21000101T000000"
	beforeKeys = "20190101T000000"
	keysExpire = "2021-06-01"
)

// A gpgHome is a home of gpg, with keys in it.
type gpgHome struct{ dir string }

// newGPG makes a home in a short path: the agent has a socket there, and those end at 108 bytes.
func newGPG(t *testing.T) gpgHome {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		lack(t, "gpg is not installed; run e2e/install as root, or: apt-get install gnupg")
	}
	dir, err := os.MkdirTemp("/tmp", "gpg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		os.RemoveAll(dir)
	})
	return gpgHome{dir}
}

// run runs gpg at a time.
func (g gpgHome) run(t *testing.T, at string, stdin []byte, args ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), "gpg", append([]string{"--homedir", g.dir, "--batch", "--no-tty", "--quiet", "--yes", "--trust-model", "always",
		"--faked-system-time", at + "!", "--pinentry-mode", "loopback", "--passphrase", "", "--ignore-time-conflict", "--allow-weak-digest-algos"}, args...)...)
	c.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, &stderr)
	}
	return out
}

// key makes a primary key: rsa2048, ed25519 ... that may sign.
func (g gpgHome) key(t *testing.T, name, algorithm, expires string, args ...string) {
	t.Helper()
	g.run(t, atKeys, nil, append(args, "--quick-gen-key", name, algorithm, "sign", expires)...)
}

func (g gpgHome) export(t *testing.T, names ...string) []byte {
	t.Helper()
	args := []string{"--export"}
	for _, name := range names {
		args = append(args, "="+name)
	}
	return g.run(t, atSigning, nil, args...)
}

var fingerprints = regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`)

// fingerprint is that of a key's n-th part; 0 is the primary one.
func (g gpgHome) fingerprint(t *testing.T, name string, n int) string {
	t.Helper()
	found := fingerprints.FindAllSubmatch(g.run(t, atSigning, nil, "--with-colons", "--list-keys", "="+name), -1)
	if len(found) <= n {
		t.Fatalf("key %s has no part %d", name, n)
	}
	return string(found[n][1])
}

// revoke imports the revocation that gpg --gen-revoke would ask for: 1 is compromised, 2 superseded.
func (g gpgHome) revoke(t *testing.T, name, reason string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "gpg", "--homedir", g.dir, "--no-tty", "--quiet", "--faked-system-time", atSigning+"!",
		"--pinentry-mode", "loopback", "--passphrase", "", "--command-fd", "0", "--status-fd", "2", "--output", filepath.Join(g.dir, "revoked"), "--yes", "--gen-revoke", "="+name)
	c.Stdin = bytes.NewReader([]byte("y\n" + reason + "\n\ny\n"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	g.run(t, atSigning, nil, "--import", filepath.Join(g.dir, "revoked"))
}

// keyFile is a file of keys.
func keyFile(t *testing.T, keys []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.gpg")
	if err := os.WriteFile(path, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
