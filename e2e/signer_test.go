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

// keeper is the user who has the key; the server is nobody's.
const keeper = 65533

// A keeping is "countersign signer" run by a user of its own.
type keeping struct {
	dir, socket, public string
	command             *exec.Cmd
	log                 *output
	gone                context.Context
}

// keep makes a key that only the keeper can read, and serves it to nobody.
func keep(t testing.TB, args ...string) *keeping {
	t.Helper()
	needRoot(t, "to be two users")
	k := &keeping{dir: room(t, keeper)}
	k.socket, k.public = filepath.Join(k.dir, "s"), filepath.Join(k.dir, "release.asc")
	k.as(t, "keys", "generate", "-user-id", "Release <release@example.test>", "release.key")
	k.start(t, args...)
	return k
}

// as runs the binary as the keeper.
func (k *keeping) as(t testing.TB, args ...string) {
	t.Helper()
	c := command(t.Context(), args...)
	as(k.dir, keeper)(c)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

var serving = regexp.MustCompile(`"msg":"signing"`)

func (k *keeping) start(t testing.TB, args ...string) {
	t.Helper()
	k.log = newOutput()
	k.command = command(context.Background(), append([]string{"signer", "-key", "release.key", "-socket", k.socket, "-user", "nobody"}, args...)...)
	as(k.dir, keeper)(k.command)
	k.command.Stderr = k.log
	if err := k.command.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	k.gone = gone
	c := k.command
	go func() {
		defer ended()
		_ = c.Wait() // how it ended is judged by what it signed
	}()
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGCONT)
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone.Done():
		case <-time.After(patience):
			_ = c.Process.Kill()
			t.Error("the signer did not end")
		}
	})
	if _, err := k.log.await(gone, serving); err != nil {
		t.Fatalf("the signer does not listen: %v\n%s", err, k.log)
	}
}

// startAs starts a server of a user; the first part of its settings says with which keys it signs.
func startAs(t testing.TB, user uint32, settings string, flags ...string) *server {
	t.Helper()
	dir := room(t, int(user))
	path := filepath.Join(dir, "countersign.yaml")
	write(t, path, settings)
	s := launch(t, filepath.Join(dir, "data"), as(dir, user), append([]string{"-config", path}, flags...)...)
	s.locate(t)
	return s
}

// TestSigner has a server sign with a key that is another user's: it is nowhere in the server's
// memory. Whatever becomes of the signer, what is served stays, and pushes are told.
func TestSigner(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg")
	k := keep(t, "-scope", "127.0.0.1")
	k.command.Process.Signal(syscall.SIGTERM) // its scope was a mistake: it has no port
	<-k.gone.Done()
	k.start(t)
	s := startAs(t, nobody, fmt.Sprintf("signing: {keys: {release: {socket: %s, public: %s, timeout: 2s}}}\n", k.socket, k.public))
	i, reference := newImage("signer"), s.address+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	pulls := func() {
		t.Helper()
		works(t)(newNode(t).require(t, s.address, k.public).pull(t, reference))
	}
	pulls()
	if said := k.log.String(); !strings.Contains(said, reference) || !strings.Contains(said, i.digest()) || !strings.Contains(said, fmt.Sprintf(`"user":%d`, nobody)) {
		t.Errorf("the signer's log does not say what it signed for whom:\n%s", said)
	}
	number := exponent(t, filepath.Join(k.dir, "release.key"))
	if inMemory(t, s.command.Process.Pid, number) {
		t.Error("the private exponent is in the server's memory")
	}
	if !inMemory(t, k.command.Process.Pid, number) {
		t.Error("the search does not find the exponent in the signer's memory")
	}

	// It hangs, dies, and comes back.
	push := func(tag string) (string, error) {
		return newNode(t).copyTo(t, newImage("signer "+tag).layout(t, tag), s.address+"/ns/app:"+tag)
	}
	if err := k.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fails(t, "503")(push("hangs"))
	pulls()
	if err := k.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-k.gone.Done()
	fails(t, "503")(push("dead"))
	pulls()
	s.ready(t, 200)
	s.tells(t, "did not answer within 2s", k.socket)
	k.start(t)
	works(t)(push("back"))
	metrics := ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body
	for _, sample := range []string{
		`countersign_signer_requests_total{key="release",outcome="signed"} `, `countersign_signer_requests_total{key="release",outcome="late"} `,
		`countersign_signer_requests_total{key="release",outcome="failed"} `,
	} {
		if !strings.Contains(metrics, sample) || strings.Contains(metrics, sample+"0\n") {
			t.Errorf("metrics: no %s of one or more", sample)
		}
	}

	// Its key is revoked where the signer has it. Neither is started again; the server asks the signer
	// nothing any more, so that it is told to look.
	k.as(t, "keys", "revoke", "-reason", "compromised", "release.key")
	fails(t, "503")(push("revoked"))
	if err := k.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, log := range []*output{s.stderr, k.log} {
		if _, err := log.await(s.gone, regexp.MustCompile(`a key was read again, and signs nothing.*it is revoked`)); err != nil {
			t.Errorf("the log does not say that the key is revoked: %v\n%s", err, tail(log.String(), 3000))
		}
	}
	published := read(t, filepath.Join(s.data, "keys", "release.asc"))
	if shown := string(gpg(t, []byte(published), "--with-colons", "--show-keys")); !strings.Contains(shown, "pub:r:") {
		t.Errorf("what is published is not revoked:\n%s", shown)
	}
}

// TestSignerLies gives the server another key's signer: nothing of what it makes is stored.
func TestSignerLies(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg")
	k := keep(t)
	runs(t, "keys", "generate", filepath.Join(k.dir, "other.key"))
	s := startAs(t, nobody, fmt.Sprintf("signing: {keys: {release: {socket: %s, public: %s}}}\n", k.socket, filepath.Join(k.dir, "other.asc")))
	i := newImage("lies")
	fails(t, "503")(newNode(t).copyTo(t, i.layout(t, "v1"), s.address+"/ns/app:v1"))
	if got := s.signatures(t, "ns/app", i.digest()); len(got) != 0 {
		t.Errorf("%d signatures, want none", len(got))
	}
	if _, err := s.stderr.await(s.gone, regexp.MustCompile(`a key signs nothing while its signer is away.*is wanted`)); err != nil {
		t.Errorf("the log does not say that the signer has another key: %v", err)
	}
}

// TestAlgorithms signs with every algorithm and every kind of signer here; skopeo with gpgme pulls.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg")
	for _, algorithm := range []string{"rsa3072", "rsa4096", "p256", "p384", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Dir(config(t, ""))
			private, public := filepath.Join(dir, "release.key"), filepath.Join(dir, "release.asc")
			runs(t, "keys", "generate", "-algorithm", algorithm, private)
			home := gpgHome(t, private)
			settings := ""
			if !strings.HasPrefix(algorithm, "rsa") {
				file := config(t, fmt.Sprintf("signing: {keys: {release: {file: %s}}}\n", private))
				if out := refusal(t, "serve", "-data", dir+"/data", "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0", "-config", file); !strings.Contains(out, "admission.clients: recent") {
					t.Errorf("a key that shuts out clients: %s, want a hint", out)
				}
				settings = "admission: {clients: recent}\n"
			}
			for name, at := range map[string]string{"file": "file: " + private, "gpg": "gpg: " + home + ", public: " + public} {
				s := start(t, "-config", config(t, settings+"signing: {keys: {release: {"+at+"}}}\n"))
				reference := s.address + "/ns/app:" + name
				works(t)(newNode(t).copyTo(t, newImage(algorithm+name).layout(t, name), reference))
				works(t)(newNode(t).require(t, s.address, public).pull(t, reference))
				if algorithm == "rsa3072" && os.Getuid() == 0 && inMemory(t, s.command.Process.Pid, exponent(t, private)) != (name == "file") {
					t.Errorf("with the key of %s, the private exponent is in the server's memory: %v", name, name != "file")
				}
				s.stop(t)
			}
		})
	}
}

// gpgHome is a home of gpg with this private key, whose agent ends with the test.
func gpgHome(t testing.TB, private string) string {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "gpg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopAgent(home)
		_ = os.RemoveAll(home)
	})
	if out, err := gpgCommand(home, "--import", private).CombinedOutput(); err != nil {
		t.Fatalf("gpg --import %s: %v\n%s", private, err, out)
	}
	return home
}
