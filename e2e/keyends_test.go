package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRevoke ends the server's key while it runs: it serves what there is, signs nothing from then on,
// and says so, as it does when it is started again. Stock gpg sees the revocation.
func TestRevoke(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	s := start(t)
	i := newImage("revoke")
	s.push(t, i, "ns/app", "v1")
	signed := "server " + s.address + "/ns/app:v1"
	s.wantSigned(t, "ns/app", i.digest(), signed)
	private := filepath.Join(s.data, "keys", "server.key")
	fingerprint := inspectKey(t, s.serverKey()).fingerprint
	out := runs(t, "keys", "revoke", "-reason", "compromised", private)
	for _, words := range []string{fingerprint, "resign -from " + fingerprint, "node-config", "withdraw -key", "Destroy"} {
		if !strings.Contains(out, words) {
			t.Errorf("keys revoke does not say %q:\n%s", words, out)
		}
	}
	for _, path := range []string{private, s.serverKey()} {
		if shown := string(gpg(t, []byte(read(t, path)), "--with-colons", "--show-keys")); !strings.Contains(shown, "pub:r:") && !strings.Contains(shown, "sec:r:") {
			t.Errorf("gpg does not show %s as revoked:\n%s", path, shown)
		}
	}
	if out := refusal(t, "signer", "-key", private, "-socket", filepath.Join(s.data, "s")); !strings.Contains(out, "revoked") {
		t.Errorf("a signer starts with a revoked key: %s", out)
	}
	fails(t, "503")(newNode(t).copyTo(t, newImage("revoked while it runs").layout(t, "v3"), s.address+"/ns/app:v3"))
	s.tells(t, "a key was read again, and signs nothing", "it is revoked")
	s.explains(t, 1, []string{s.address + "/ns/app:v1"}) // nodes with the revoked public part
	eventually(t, "the metric of the revoked key", func() bool {
		return strings.Contains(ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body, `countersign_key_usable{fingerprint="`+fingerprint+`",use="own"} 0`)
	})
	s.stop(t)
	again := s.again(t)
	again.tells(t, "a key signs nothing", "it is revoked")
	if got := again.signatures(t, "ns/app", i.digest()); len(got) != 1 {
		t.Errorf("%d signatures are served, want the one that was made before", len(got))
	}
	fails(t, "503")(newNode(t).copyTo(t, newImage("revoked").layout(t, "v2"), s.address+"/ns/app:v2"))
	out = again.cli(t, 0, "keys")
	if !strings.Contains(out, fingerprint+"  revoked") {
		t.Errorf("keys does not say that it is revoked:\n%s", out)
	}
}

// TestRevokeAsc ends private keys whose files have the name that public parts have, as it was given or
// came later.
func TestRevokeAsc(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	for _, made := range []string{"release.asc", "release.key"} {
		dir := t.TempDir()
		private, public := filepath.Join(dir, "release.asc"), filepath.Join(dir, "release.pub.asc")
		runs(t, "keys", "generate", filepath.Join(dir, made))
		if err := os.Rename(filepath.Join(dir, made), private); err != nil {
			t.Fatal(err)
		}
		shows(t, runs(t, "keys", "revoke", "-reason", "retired", private), public)
		for path, want := range map[string]string{private: "sec:r:", public: "pub:r:"} {
			if shown := string(gpg(t, []byte(read(t, path)), "--with-colons", "--show-keys")); !strings.Contains(shown, want) {
				t.Errorf("made as %s: gpg shows %s without %q:\n%s", made, path, want, shown)
			}
		}
	}
}

// TestPrivateKeyStays has a private key where the server publishes its public part: it is refused, and
// stays what it is.
func TestPrivateKeyStays(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	private := filepath.Join(data, "keys", "release.asc")
	runs(t, "keys", "generate", private)
	before := read(t, private)
	shows(t, refusal(t, "serve", "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0",
		"-config", config(t, "signing: {keys: {release: {file: "+private+"}}}\n")), "signing.keys.release.file is "+private, "release.key")
	if read(t, private) != before {
		t.Errorf("the private key was written over:\n%s", read(t, private))
	}
}

// TestExpires lets the server's key end while it runs, by stock gpg: what was signed stays there, nothing
// is signed any more, nodes refuse, and all who look are told. Extended it is as it was.
func TestExpires(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	dir := t.TempDir()
	private, public := filepath.Join(dir, "release.key"), filepath.Join(dir, "release.asc")
	runs(t, "keys", "generate", private)
	home, fingerprint := gpgHome(t, private), inspectKey(t, public).fingerprint
	expire := func(when string) {
		t.Helper()
		if out, err := gpgCommand(home, "--quick-set-expire", fingerprint, when).CombinedOutput(); err != nil {
			t.Fatalf("gpg: %v\n%s", err, out)
		}
		exported, err := gpgCommand(home, "--armor", "--export-secret-keys", fingerprint).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(private+".new", exported, 0o600), os.Rename(private+".new", private)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, "-config", config(t, "signing: {keys: {release: {file: "+private+"}}}\n"))
	i := newImage("expires")
	reference := s.address + "/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	pull := func() (string, error) {
		return newNode(t).require(t, s.address, filepath.Join(s.data, "keys", "release.asc")).pull(t, reference)
	}
	works(t)(pull())
	expire("seconds=2")
	usable := func(want string) func() bool {
		return func() bool { // asking makes it look at the file
			return strings.Contains(ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body, `countersign_key_usable{fingerprint="`+fingerprint+`",use="own"} `+want+"\n")
		}
	}
	eventually(t, "the metric says that the key has ended", usable("0"))
	if out := s.cli(t, 0, "keys"); !strings.Contains(out, fingerprint+"  expired") {
		t.Errorf("keys does not say that it is expired:\n%s", out)
	}
	fails(t, "503")(newNode(t).copyTo(t, newImage("behind").layout(t, "v2"), s.address+"/ns/app:v2"))
	fails(t, "Source image rejected")(pull())
	if got := s.signatures(t, "ns/app", i.digest()); len(got) != 1 {
		t.Errorf("%d signatures are served, want that from before", len(got))
	}
	for _, words := range []string{"a key is about to expire", "a key verifies nothing any more", "it is expired; extend it with gpg --quick-set-expire"} {
		if _, err := s.stderr.await(s.gone, regexp.MustCompile(words)); err != nil {
			t.Errorf("the log does not say %q: %v", words, err)
		}
	}
	// It is no reason not to start.
	s.stop(t)
	s = s.again(t, "-config", config(t, "signing: {keys: {release: {file: "+private+"}}}\n"))
	if got := s.signatures(t, "ns/app", i.digest()); len(got) != 1 {
		t.Errorf("%d signatures are served, want that from before", len(got))
	}
	if out := runs(t, "keys", "export", "-data", s.data, "-o", filepath.Join(dir, "out")); !strings.Contains(out, "expires on") {
		t.Errorf("what is exported does not say when it ends: %s", out)
	}
	expire("1y")
	eventually(t, "the key is good again", usable("1"))
	works(t)(newNode(t).copyTo(t, newImage("extended").layout(t, "v3"), s.address+"/ns/app:v3"))
	works(t)(pull())
}

// TestRevokedByRoot has root end, and rename, keys of the server's user, as people do at night: the
// files stay that user's, or the server could not read them and would go on with what it read before.
func TestRevokedByRoot(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	needRoot(t, "to be two users")
	dir := room(t, nobody)
	private, link := filepath.Join(dir, "release.key"), filepath.Join(dir, "link.key")
	c := command(t.Context(), "keys", "generate", "release.key")
	as(dir, nobody)(c)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink("release.key", link); err != nil {
		t.Fatal(err)
	}
	s := startAs(t, nobody, "signing: {keys: {release: {file: "+private+"}}}\n")
	works(t)(newNode(t).copyTo(t, newImage("before").layout(t, "v1"), s.address+"/ns/app:v1"))
	runs(t, "keys", "revoke", "-reason", "compromised", link)
	fails(t, "503")(newNode(t).copyTo(t, newImage("behind").layout(t, "v2"), s.address+"/ns/app:v2"))
	if log := s.tells(t, "a key was read again, and signs nothing"); strings.Contains(log, "a key does not read") {
		t.Errorf("the server could not read its key:\n%s", tail(log, 3000))
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v, %v", info, err)
	}
	wantPrivate(t, private, nobody)

	other := startAs(t, nobody, "")
	other.stop(t)
	runs(t, "keys", "adopt", "-data", other.data)
	wantPrivate(t, filepath.Join(other.data, "keys", "server.key"), nobody)

	// Who cannot leave a file to its owner changes nothing.
	write(t, filepath.Join(dir, "root.key"), read(t, private))
	if err := errors.Join(os.Chmod(filepath.Join(dir, "root.key"), 0o640), os.Chown(filepath.Join(dir, "root.key"), 0, nobody)); err != nil {
		t.Fatal(err)
	}
	c = command(t.Context(), "keys", "revoke", "-reason", "retired", "root.key")
	as(dir, nobody)(c)
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "run this as root") {
		t.Errorf("root's key, revoked by another: %v\n%s", err, out)
	}
}

func wantPrivate(t *testing.T, path string, user int) {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || userOf(t, path) != user {
		t.Errorf("%s: %v, %v, of user %d; want mode 0600 and user %d", path, info.Mode(), err, userOf(t, path), user)
	}
}
