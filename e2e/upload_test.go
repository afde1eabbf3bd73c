package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// keyOf writes the public key of one of people to a file for a node's policy.
func keyOf(t testing.TB, person string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), person+".asc")
	write(t, path, string(publicKey(t, person)))
	return path
}

// trusting starts a server that knows alice and carol, and not bob.
func trusting(t testing.TB, flags ...string) *server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	trust(t, data, "alice", "carol")
	return startIn(t, data, flags...)
}

// TestSignBy pushes with --sign-by: the clients upload through the extension right after the
// manifest (protocol.md 3.5, 9.6).
func TestSignBy(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	only := trusting(t, "-sign-on", "upload")

	t.Run("skopeo", func(t *testing.T) {
		t.Parallel()
		i, reference := newImage("skopeo"), s.address+"/ns/skopeo:v1"
		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
		s.wantSigned(t, "ns/skopeo", i.digest(), "server "+reference, "alice "+reference)
		works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
		works(t)(newNode(t).require(t, s.address, keyOf(t, "alice")).pull(t, reference))
		fails(t, "Source image rejected")(newNode(t).require(t, s.address, keyOf(t, "bob")).pull(t, reference))

		// A second signer adds hers.
		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "carol")))
		s.wantSigned(t, "ns/skopeo", i.digest(), "server "+reference, "alice "+reference, "carol "+reference)
	})
	t.Run("skopeo, countersigned", func(t *testing.T) {
		t.Parallel()
		i, reference := newImage("countersigned"), only.address+"/ns/skopeo:v1"
		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
		only.wantSigned(t, "ns/skopeo", i.digest(), "alice "+reference, "server "+reference)
		works(t)(newNode(t).require(t, only.address, only.serverKey()).pull(t, reference))

		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "carol")))
		only.wantSigned(t, "ns/skopeo", i.digest(), "alice "+reference, "server "+reference, "carol "+reference)
	})
	t.Run("podman", func(t *testing.T) {
		t.Parallel()
		reference, n := only.address+"/ns/podman:v1", newNode(t)
		works(t)(n.podman(t, "pull", newImage("podman signs").layout(t, "v1")))
		works(t)(n.podman(t, "push", "--tls-verify=false", "--sign-by", fingerprintOf(t, "alice"), n.onlyImage(t), "docker://"+reference))
		digest := only.resolve(t, "ns/podman", "v1")
		only.wantSigned(t, "ns/podman", digest, "alice "+reference, "server "+reference)
		works(t)(newNode(t).require(t, only.address, only.serverKey()).podman(t, "pull", "--tls-verify=false", reference))
	})
	t.Run("by digest", func(t *testing.T) {
		t.Parallel()
		i := newImage("signed by digest")
		reference := only.address + "/ns/digest@" + i.digest()
		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
		only.wantSigned(t, "ns/digest", i.digest(), "alice "+reference, "server "+reference)
		works(t)(newNode(t).require(t, only.address, only.serverKey()).pull(t, reference))
	})
	t.Run("a list", func(t *testing.T) {
		t.Parallel()
		testSignByList(t, only)
	})
	t.Run("a key that is not trusted", func(t *testing.T) {
		t.Parallel()
		testSignByStranger(t)
	})
	t.Run("signatures of another repository", func(t *testing.T) {
		t.Parallel()
		testCopyBetween(t, s)
	})
}

// The clients sign every instance and the list, all under the tag (protocol.md 1.2, 3.5).
func testSignByList(t *testing.T, s *server) {
	index, reference := newIndex("signed list", "amd64", "arm64"), s.address+"/ns/list:v1"
	works(t)(newNode(t).copyTo(t, index.layout(t, "v1"), reference, "--all", "--sign-by", fingerprintOf(t, "alice")))
	// When an instance's signature came, its tag did not exist; the push of the list made up for it.
	for _, i := range append([]image{index}, index.children...) {
		s.wantSigned(t, "ns/list", i.digest(), "alice "+reference, "server "+reference)
	}
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, reference, "--all"))
	works(t)(n.skopeo(t, "--override-os=linux", "--override-arch=arm64", "copy", "--src-tls-verify=false",
		"docker://"+reference, "dir:"+t.TempDir()))
}

// The person who pushed reads which key it is, and what to do.
func testSignByStranger(t *testing.T) {
	s := trusting(t)
	i, reference := newImage("stranger"), s.address+"/ns/stranger:v1"
	bob := fingerprintOf(t, "bob")
	fails(t, "denied", bob, "trusted")(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", bob))
	s.wantSigned(t, "ns/stranger", i.digest(), "server "+reference) // the push itself was in order

	n := newNode(t)
	works(t)(n.podman(t, "pull", i.layout(t, "v1")))
	fails(t, bob, "trusted")(n.podman(t, "push", "--tls-verify=false", "--sign-by", bob, n.onlyImage(t), "docker://"+reference))

	// What the message says helps at once, without a restart.
	trust(t, s.data, "bob")
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", bob))
	s.wantSigned(t, "ns/stranger", i.digest(), "server "+reference, "bob "+reference)
	// And whose key is taken away is a stranger again; what was admitted stays.
	if err := os.Remove(filepath.Join(s.data, "trusted", "bob.asc")); err != nil {
		t.Fatal(err)
	}
	fails(t, bob)(newNode(t).copyTo(t, i.layout(t, "v1"), s.address+"/ns/stranger:v2", "--sign-by", bob))
	s.wantSigned(t, "ns/stranger", i.digest(), "server "+reference, "bob "+reference, "server "+s.address+"/ns/stranger:v2")
}

// skopeo copy between repositories carries signatures along; here they name another image.
func testCopyBetween(t *testing.T, s *server) {
	i, from, to := newImage("between"), s.address+"/ns/from:v1", s.address+"/ns/to:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), from, "--sign-by", fingerprintOf(t, "alice")))
	n := newNode(t)
	fails(t, "--remove-signatures")(n.copyTo(t, "docker://"+from, to, "--src-tls-verify=false"))
	s.wantSigned(t, "ns/to", i.digest(), "server "+to)
	works(t)(n.copyTo(t, "docker://"+from, to, "--src-tls-verify=false", "--remove-signatures"))
	s.wantSigned(t, "ns/to", i.digest(), "server "+to)

	// Under another tag of the same repository they stay true, and are there already.
	works(t)(n.copyTo(t, "docker://"+from, s.address+"/ns/from:v2", "--src-tls-verify=false"))
	s.wantSigned(t, "ns/from", i.digest(), "server "+from, "alice "+from, "server "+s.address+"/ns/from:v2")
}

// TestForeignDrop answers 201 to what is not admitted, and keeps nothing of it.
func TestForeignDrop(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-config", config(t, "admission: {foreign: drop}\n"))
	i, from, to := newImage("drop"), s.address+"/ns/from:v1", s.address+"/ns/to:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), from, "--sign-by", fingerprintOf(t, "alice")))
	works(t)(newNode(t).copyTo(t, "docker://"+from, to, "--src-tls-verify=false"))
	s.wantSigned(t, "ns/to", i.digest(), "server "+to)
	s.upload(t, "ns/to", i.digest(), sign(t, "bob", to, i.digest())).want(t, 201)
	s.wantSigned(t, "ns/to", i.digest(), "server "+to)
	// It is for what is foreign only: nonsense is still refused.
	s.upload(t, "ns/to", i.digest(), []byte("nonsense")).refused(t, 400, "SIGNATURE_INVALID")
	s.upload(t, "ns/to", i.digest(), sign(t, "alice", to, newImage("x").digest())).refused(t, 400, "SIGNATURE_INVALID")

	out := refusal(t, "serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0",
		"-config", config(t, "admission: {foreign: sometimes}\n"))
	if !strings.Contains(out, "sometimes") || !strings.Contains(out, "refuse") {
		t.Errorf("the refusal names neither what was said nor what may be said: %s", out)
	}
}

// TestUploadFirst uploads a signature before its image: the push of that tag makes the server
// countersign, and no other does.
func TestUploadFirst(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-sign-on", "upload")
	at := func(repository, name string) string { return s.address + "/" + repository + name }

	t.Run("by tag", func(t *testing.T) {
		t.Parallel()
		i, reference := newImage("first"), at("ns/first", ":v1")
		s.upload(t, "ns/first", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
		s.wantSigned(t, "ns/first", i.digest(), "alice "+reference)
		s.push(t, i, "ns/first", "other")
		s.wantSigned(t, "ns/first", i.digest(), "alice "+reference)
		s.tag(t, i, "ns/first", "v1")
		s.wantSigned(t, "ns/first", i.digest(), "alice "+reference, "server "+reference)
		works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
		fails(t, "Source image rejected")(newNode(t).require(t, s.address, s.serverKey()).pull(t, at("ns/first", ":other")))
	})
	t.Run("by digest", func(t *testing.T) {
		t.Parallel()
		i := newImage("first digest")
		reference := at("ns/firstdigest", "@"+i.digest())
		s.upload(t, "ns/firstdigest", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
		s.push(t, i, "ns/firstdigest", "")
		s.wantSigned(t, "ns/firstdigest", i.digest(), "alice "+reference, "server "+reference)
	})
	t.Run("the tag is another image's", func(t *testing.T) {
		t.Parallel()
		i, reference := newImage("loser"), at("ns/taken", ":v1")
		s.push(t, newImage("winner"), "ns/taken", "v1")
		s.push(t, i, "ns/taken", "") // it is here, and not under that tag
		s.upload(t, "ns/taken", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
		s.wantSigned(t, "ns/taken", i.digest(), "alice "+reference)
	})
	t.Run("an instance, for the tag of its list", func(t *testing.T) {
		t.Parallel()
		index, reference := newIndex("upload list", "amd64"), at("ns/uplist", ":v1")
		child := index.children[0].digest()
		s.push(t, index, "ns/uplist", "v1")
		s.wantSigned(t, "ns/uplist", child)
		s.upload(t, "ns/uplist", child, sign(t, "alice", reference, child)).want(t, 201)
		s.wantSigned(t, "ns/uplist", child, "alice "+reference, "server "+reference)
		s.wantSigned(t, "ns/uplist", index.digest())
	})
	t.Run("another registry's image", func(t *testing.T) {
		t.Parallel()
		// Nobody may upload for a host that is not ours, and its claim is not admitted here.
		i := newImage("foreign host")
		s.push(t, i, "ns/foreign", "v1")
		content := sign(t, "alice", "registry.example.test/ns/foreign:v1", i.digest())
		s.upload(t, "ns/foreign", i.digest(), content).refused(t, 403, "DENIED", s.address)
		s.do(t, "POST", "/lookaside/registry.example.test/ns/foreign@"+strings.Replace(i.digest(), ":", "=", 1), string(content)).
			refused(t, 403, "DENIED")
		s.wantSigned(t, "ns/foreign", i.digest())
	})
}

// TestRefusedUploads sends what the door must keep out. Nothing of it is stored, on any path.
func TestRefusedUploads(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	i, repository := newImage("refused uploads"), "ns/refused"
	reference, digest := s.address+"/"+repository+":v1", i.digest()
	good := sign(t, "alice", reference, digest)
	address := "alice@example.test"
	big := append(append([]byte{}, good...), make([]byte, 64<<10)...)
	for name, c := range map[string]struct {
		content []byte
		status  int
		code    string
		words   []string
	}{
		"a stranger's":             {sign(t, "bob", reference, digest), 403, "DENIED", []string{fingerprintOf(t, "bob"), "trusted"}},
		"for another manifest":     {sign(t, "alice", reference, newImage("another").digest()), 400, "SIGNATURE_INVALID", []string{digest}},
		"for another repository":   {sign(t, "alice", s.address+"/ns/other:v1", digest), 403, "DENIED", []string{"ns/other"}},
		"for a longer repository":  {sign(t, "alice", s.address+"/ns/refused/more:v1", digest), 403, "DENIED", nil},
		"for another registry":     {sign(t, "alice", "quay.example.test/ns/refused:v1", digest), 403, "DENIED", nil},
		"for no tag and no digest": {sign(t, "alice", s.address+"/"+repository, digest), 400, "SIGNATURE_INVALID", []string{"neither tag nor digest"}},
		"for no reference":         {sign(t, "alice", "NOT A REFERENCE", digest), 400, "SIGNATURE_INVALID", nil},
		"nothing":                  {nil, 400, "SIGNATURE_INVALID", nil},
		"no OpenPGP":               {[]byte("<html>"), 400, "SIGNATURE_INVALID", nil},
		"the claim alone":          {claim(reference, digest), 400, "SIGNATURE_INVALID", nil},
		"half of it":               {good[:len(good)/2], 400, "SIGNATURE_INVALID", nil},
		"something behind it":      {append(append([]byte{}, good...), 0), 400, "SIGNATURE_INVALID", nil},
		"two in one":               {append(append([]byte{}, good...), good...), 400, "SIGNATURE_INVALID", nil},
		"armored":                  {gpg(t, claim(reference, digest), "--local-user", address, "--armor", "--sign"), 400, "SIGNATURE_INVALID", nil},
		"clear text":               {gpg(t, claim(reference, digest), "--local-user", address, "--clear-sign"), 400, "SIGNATURE_INVALID", nil},
		"detached":                 {gpg(t, claim(reference, digest), "--local-user", address, "--detach-sign"), 400, "SIGNATURE_INVALID", nil},
		"not signed at all":        {gpg(t, claim(reference, digest), "--store"), 400, "SIGNATURE_INVALID", nil},
		"two signers":              {gpg(t, claim(reference, digest), "--local-user", address, "--local-user", "carol@example.test", "--sign"), 400, "SIGNATURE_INVALID", nil},
		"no claim":                 {gpg(t, []byte(`{"critical":{}}`), "--local-user", address, "--sign"), 400, "SIGNATURE_INVALID", nil},
		"SHA-1":                    {gpg(t, claim(reference, digest), "--local-user", address, "--digest-algo", "SHA1", "--sign"), 403, "DENIED", nil},
		"out of date":              {gpg(t, claim(reference, digest), "--faked-system-time", "20200101T000000", "--ignore-time-conflict", "--ignore-valid-from", "--default-sig-expire", "1d", "--local-user", address, "--sign"), 403, "DENIED", nil},
		"too large":                {big, 413, "SIGNATURE_INVALID", []string{"65536"}},
		"a bomb":                   {gpg(t, make([]byte, 32<<20), "--local-user", address, "--sign"), 400, "SIGNATURE_INVALID", nil},
		"the server's public key":  {[]byte(read(t, s.serverKey())), 400, "SIGNATURE_INVALID", nil},
		"a binary public key":      {gpg(t, nil, "--export", address), 400, "SIGNATURE_INVALID", nil},
		"the name in upper case":   {sign(t, "alice", s.address+"/ns/REFUSED:v1", digest), 400, "SIGNATURE_INVALID", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.do(t, "PUT", lookaside(repository, digest)+"/signature-1", string(c.content)).refused(t, c.status, c.code, c.words...)
			s.do(t, "POST", lookaside(repository, digest), string(c.content)).refused(t, c.status, c.code, c.words...)
			s.upload(t, repository, digest, c.content).refused(t, c.status, c.code, c.words...)
			s.wantSigned(t, repository, digest)
		})
	}
}

// TestCurl uploads as people do without a client: curl -T to an index, POST to append
// (design.md 4).
func TestCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	s := trusting(t, "-sign-on", "none")
	i, n := newImage("curl"), newNode(t)
	s.push(t, i, "ns/app", "v1")
	reference, base := s.address+"/ns/app:v1", "http://"+s.address+lookaside("ns/app", i.digest())
	file := func(name, person string) string {
		path := filepath.Join(n.dir, name)
		write(t, path, string(sign(t, person, reference, i.digest())))
		return path
	}
	alice, carol := file("first", "alice"), file("second", "carol")
	curl := func(args ...string) string {
		out, err := n.run(t, "curl", append([]string{"--silent", "--show-error", "--noproxy", "*", "--write-out",
			"%{http_code} %header{location}%header{content-location}"}, args...)...)
		works(t)(out, err)
		return strings.ReplaceAll(out, "http://"+s.address, "")
	}
	path := lookaside("ns/app", i.digest())
	for _, step := range []struct{ got, want string }{
		{curl("-T", alice, base+"/signature-1"), "201 " + path + "/signature-1"},
		{curl("-T", alice, base+"/signature-1"), "200 " + path + "/signature-1"},
		{curl("--data-binary", "@"+carol, base), "201 " + path + "/signature-2"},
		{curl("--data-binary", "@"+alice, base), "200 " + path + "/signature-1"},
		{curl("-T", alice, base+"/signature-2"), "200 " + path + "/signature-1"},
		{curl("-T", alice, base+"/signature-9"), "200 " + path + "/signature-1"},
	} {
		if step.got != step.want {
			t.Errorf("curl got %q, want %q", step.got, step.want)
		}
	}
	if out := curl("-T", file("third", "alice"), base+"/signature-1"); !strings.HasPrefix(out, `{"errors":[{"code":"SIGNATURE_EXISTS"`) || !strings.HasSuffix(out, "409 ") {
		t.Errorf("another signature to an index that is taken: %q, want SIGNATURE_EXISTS and 409", out)
	}
	if out := curl("-T", file("fourth", "alice"), base+"/signature-4"); !strings.HasSuffix(out, "409 ") {
		t.Errorf("a signature that would leave a gap: %q, want 409", out)
	}
	s.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "carol "+reference)

	// Byte for byte what was sent, from both protocols; wantSigned compared them with each other.
	if got := s.get(t, path+"/signature-2").want(t, 200).body; got != read(t, carol) {
		t.Errorf("signature-2 is served as %s, was sent as %s", digestOf([]byte(got)), digestOf([]byte(read(t, carol))))
	}
	saved := filepath.Join(n.dir, "saved")
	curl("-o", saved, base+"/signature-1")
	if read(t, saved) != read(t, alice) {
		t.Error("curl -o saved other bytes than curl -T sent")
	}
	// Slashes of a base that ends with one, escapes of @ and =.
	escaped := strings.NewReplacer("@", "%40", "=", "%3D").Replace(path)
	for _, url := range []string{"http://" + s.address + strings.Replace(path, "/sigstore/", "/sigstore//", 1), "http://" + s.address + escaped} {
		if got, want := curl("-T", carol, url+"/signature-2"), "200 "+path+"/signature-2"; got != want {
			t.Errorf("curl -T to %s: %q, want %q", url, got, want)
		}
	}
}

// TestUploadCountersigned sends by curl's way what makes the server sign, too: both get into
// one change, the upload first.
func TestUploadCountersigned(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-sign-on", "upload")
	i, reference := newImage("curl countersigned"), s.address+"/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	path := lookaside("ns/app", i.digest())
	s.do(t, "POST", path, string(sign(t, "alice", reference, i.digest()))).want(t, 201).says(t, "Location", path+"/signature-1")
	s.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "server "+reference)
	s.do(t, "PUT", path+"/signature-2", string(sign(t, "carol", reference, i.digest()))).refused(t, 409, "SIGNATURE_EXISTS")
	s.do(t, "PUT", path+"/signature-3", string(sign(t, "carol", reference, i.digest()))).want(t, 201)
	s.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "server "+reference, "carol "+reference)
}

// TestConcurrentUploads appends from many sides at once: every 201 is there, and no index twice.
func TestConcurrentUploads(t *testing.T) {
	t.Parallel()
	const writers = 20
	s := trusting(t, "-sign-on", "upload")
	i, reference := newImage("concurrent"), s.address+"/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	contents := make([][]byte, writers)
	for n := range contents {
		contents[n] = sign(t, "alice", reference, i.digest())
	}
	places := make([]string, writers)
	var all sync.WaitGroup
	for n, content := range contents {
		all.Go(func() {
			places[n] = s.do(t, "POST", lookaside("ns/app", i.digest()), string(content)).want(t, 201).header.Get("Location")
		})
	}
	all.Wait()
	owner := map[string]int{}
	for n, place := range places {
		if other, twice := owner[place]; twice {
			t.Errorf("uploads %d and %d both got %q", other, n, place)
		}
		owner[place] = n
		if got := s.get(t, place).want(t, 200).body; got != string(contents[n]) {
			t.Errorf("%s is not what upload %d sent", place, n)
		}
	}
	if got := len(s.signatures(t, "ns/app", i.digest())); got != writers+1 {
		t.Errorf("%d signatures, want %d and one of the server's", got, writers)
	}
}
