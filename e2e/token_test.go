package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// softHSM is where Debian has the library of the tokens.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// TestToken has a server sign with a key that SoftHSM has made and nobody can read, by the build that is
// for that: skopeo and podman pull. Without its signer pushes are told, and what there is is served.
func TestToken(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "podman", "skopeo", "softhsm2-util", "pkcs11-tool")
	dir, err := os.MkdirTemp("/tmp", "token-") // short: the path of a socket ends at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	write(t, filepath.Join(dir, "conf"), "directories.tokendir = "+dir+"/tokens\nobjectstore.backend = file\n")
	writeSecret(t, filepath.Join(dir, "pin"), "123456\n")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	program, public, socket := filepath.Join(dir, "signer"), filepath.Join(dir, "release.asc"), filepath.Join(dir, "s")
	at := []string{"-module", softHSM, "-token", "test", "-pin-file", filepath.Join(dir, "pin"), "-key", "release", "-public", public}
	withToken := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(name, args...)
		c.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(dir, "conf"), "CGO_ENABLED=1")
		return c
	}
	build := withToken("go", "build", raceFlag, "-buildvcs=false", "-o", program, ".") // as all else
	build.Dir = "../cmd/countersign-signer-pkcs11"
	for _, c := range []*exec.Cmd{
		build,
		withToken("softhsm2-util", "--init-token", "--free", "--label", "test", "--pin", "123456", "--so-pin", "12345678"),
		withToken("pkcs11-tool", "--module", softHSM, "--login", "--pin", "123456", "--keypairgen", "--key-type", "rsa:3072", "--label", "release", "--usage-sign"),
		withToken(program, append(at, "-certify", "Token release <release@example.test>")...),
	} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c.Args, err, out)
		}
	}
	serve := withToken(program, append(at, "-socket", socket)...)
	log := newOutput()
	serve.Stderr = log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		_ = serve.Wait() // it is told to end below
	}()
	end := func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone.Done():
		case <-time.After(patience):
			_ = serve.Process.Kill()
			t.Errorf("the signer did not end:\n%s", log)
		}
	}
	t.Cleanup(end)
	if _, err := log.await(gone, serving); err != nil {
		t.Fatalf("the signer does not listen: %v\n%s", err, log)
	}

	s := start(t, "-config", config(t, fmt.Sprintf("signing: {keys: {release: {socket: %s, public: %s}}}\n", socket, public)))
	i, reference := newImage("token"), s.address+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	n := newNode(t).require(t, s.address, public)
	works(t)(n.pull(t, reference))
	works(t)(n.podman(t, "pull", "--quiet", "--tls-verify=false", reference))
	if said := log.String(); !strings.Contains(said, reference) || !strings.Contains(said, i.digest()) {
		t.Errorf("the signer's log does not say what it signed:\n%s", said)
	}
	end()
	fails(t, "503")(newNode(t).copyTo(t, newImage("token away").layout(t, "v2"), s.address+"/ns/app:v2"))
	works(t)(n.pull(t, reference))
	if _, err := s.stderr.await(s.gone, regexp.MustCompile(`there is no signer at `+socket)); err != nil {
		t.Errorf("the log does not say that the signer is away: %v", err)
	}
}
