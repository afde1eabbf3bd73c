package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// treePath is an image's directory in a lookaside's tree.
func treePath(repository, digest string) string {
	return repository + "@" + strings.Replace(digest, ":", "=", 1)
}

// put writes a file of a lookaside's tree.
func put(t testing.TB, tree, repository, digest string, index int, content []byte) {
	t.Helper()
	write(t, filepath.Join(tree, treePath(repository, digest), fmt.Sprint("signature-", index)), string(content))
}

// TestImportStaging brings in what skopeo wrote into a staging directory, and serves it to nodes.
func TestImportStaging(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg")
	staging := t.TempDir()
	s := trusting(t, "-config", config(t, "advertise: false\n"), "-sign-on", "none")
	n := newNode(t)
	write(t, filepath.Join(n.registries(), "staging.yaml"), fmt.Sprintf(
		"docker:\n  %s:\n    lookaside: http://%[1]s/sigstore\n    lookaside-staging: file://%s\n", s.address, staging))
	i := newImage("staged")
	reference := s.address + "/ns/app:v1"
	works(t)(n.copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
	s.wantSigned(t, "ns/app", i.digest())
	n.require(t, s.address, writeKey(t, "alice"))
	fails(t, "no signature exists")(n.pull(t, reference))

	shows(t, s.cli(t, 0, "import", "-dry-run", staging), "1 signatures would be imported", "0 refused")
	s.wantSigned(t, "ns/app", i.digest())
	shows(t, s.cli(t, 0, "import", staging), "1 images: 1 signatures imported, 0 here already, 0 refused")
	s.wantSigned(t, "ns/app", i.digest(), "alice "+reference)
	works(t)(n.pull(t, reference))
	shows(t, s.cli(t, 0, "import", "file://"+staging), "0 signatures imported, 1 here already, 0 refused")
	shows(t, s.cli(t, 0, "audit"), "imported by anonymous from 127.0.0.1 "+s.address+"/ns/app@"+i.digest(), "key "+fingerprintOf(t, "alice"))
	shows(t, s.cli(t, 0, "list"), "import by anonymous")
}

// writeKey is a file with somebody's public key.
func writeKey(t testing.TB, person string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), person+".asc")
	write(t, path, string(publicKey(t, person)))
	return path
}

// TestImportTree meets everything that can be wrong with a tree, and imports the rest.
func TestImportTree(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	tree, i, other := t.TempDir(), newImage("imported"), newImage("imported, too")
	reference := s.address + "/ns/app:v1"
	first, second := sign(t, "alice", reference, i.digest()), sign(t, "alice", reference, i.digest())
	for index, content := range map[int][]byte{
		2:  first,
		3:  first, // a duplicate
		5:  sign(t, "bob", reference, i.digest()),
		7:  second[:len(second)/2], // rsync is not done
		8:  nil,
		9:  sign(t, "alice", s.address+"/ns/other:v1", i.digest()),
		10: sign(t, "alice", reference, other.digest()),
		11: second,
		12: []byte(strings.Repeat("x", 65<<10)),
		13: sign(t, "bob", reference, i.digest()),
	} {
		put(t, tree, "ns/app", i.digest(), index, content)
	}
	put(t, tree, "NS/App", i.digest(), 1, first)
	put(t, tree, "ns/app", "sha512:"+strings.Repeat("0", 128), 1, first)
	put(t, tree, "a/b/c", other.digest(), 1, sign(t, "alice", s.address+"/a/b/c:v1", other.digest()))
	for path, to := range map[string]string{
		treePath("ns/app", i.digest()) + "/signature-14": "/etc/hostname",
		"ns/out": "/etc", "ns/loop": "..",
	} {
		if err := os.Symlink(to, filepath.Join(tree, path)); err != nil {
			t.Fatal(err)
		}
	}

	dry := s.cli(t, 1, "import", "-dry-run", tree)
	out := s.cli(t, 1, "import", tree)
	at := "refused " + treePath("ns/app", i.digest())
	for _, words := range []string{
		at + "/signature-5: key is not known: " + fingerprintOf(t, "bob"),
		at + "/signature-7: not a simple signing signature",
		at + "/signature-8: not a simple signing signature: it is empty",
		at + "/signature-9: ", "/ns/other:v1",
		at + "/signature-10: signature is for another manifest",
		at + "/signature-12: too large",
		at + "/signature-14: it leads elsewhere",
		"not read ns/out: it leads elsewhere", "not read ns/loop: it leads elsewhere", "not read NS/App@", "not read ns/app@sha512=",
		"2 refused by key " + fingerprintOf(t, "bob"), "countersign keys trust " + fingerprintOf(t, "bob") + ".asc",
		"2 refused by key " + fingerprintOf(t, "alice"),
		"2 images: 3 signatures ", ", 1 here already, 8 refused, 4 not read",
	} {
		shows(t, out, words)
		shows(t, dry, words)
	}
	s.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "alice "+reference)
	s.wantSigned(t, "a/b/c", other.digest(), "alice "+s.address+"/a/b/c:v1")
	for index, content := range [][]byte{first, second} {
		if a := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside("ns/app", i.digest()), index+1)).want(t, 200); a.body != string(content) {
			t.Errorf("signature-%d is not served byte for byte as it was imported", index+1)
		}
	}

	trust(t, s.data, "bob")
	shows(t, s.cli(t, 1, "import", tree), "2 signatures imported, 4 here already, 6 refused")
	reason := "the build was bad"
	s.cli(t, 0, "withdraw", "-image", "-reason", reason, s.address+"/ns/app@"+i.digest())
	shows(t, s.cli(t, 1, "import", tree), reason, "0 signatures imported, 1 here already, 11 refused")

	last := ""
	for line := range strings.Lines(s.cli(t, 1, "import", "-json", tree)) {
		if last = line; !json.Valid([]byte(line)) {
			t.Errorf("-json: no JSON: %s", line)
		}
	}
	shows(t, last, `"sum"`, `"refused":11`, `"unread":4`)
	shows(t, s.cli(t, 2, "import", tree, "ns/app"), "references are for a URL")
	shows(t, s.cli(t, 1, "import", filepath.Join(tree, "none")), "no such file")
}

// TestImportHosts takes a tree with a directory for each host.
func TestImportHosts(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	policy := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"other.example.com:5000":[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, writeKey(t, "alice"))
	write(t, filepath.Join(t.TempDir(), "policy.json"), policy)
	file := filepath.Join(t.TempDir(), "policy.json")
	write(t, file, policy)
	s := start(t, "-config", config(t, "admission: {policy: "+file+"}\n"))
	tree, i := t.TempDir(), newImage("hosts")
	put(t, filepath.Join(tree, "other.example.com:5000"), "ns/app", i.digest(), 1, sign(t, "alice", "other.example.com:5000/ns/app:v1", i.digest()))
	put(t, tree, "toplevel", i.digest(), 1, sign(t, "alice", "other.example.com:5000/toplevel:v1", i.digest()))
	shows(t, s.cli(t, 1, "import", "-hosts", tree), "1 signatures imported", "not read toplevel@")
	shows(t, s.cli(t, 1, "import", "-host", "other.example.com:5000", tree), "1 signatures imported, 0 here already, 0 refused, 1 not read")
	shows(t, s.cli(t, 0, "list", "-host", "other.example.com:5000", "ns/app"), "other.example.com:5000/ns/app:v1")
}

// TestImportURL asks a lookaside that has no listing about what the registry has, or what is named.
func TestImportURL(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	tree, i, list := t.TempDir(), newImage("remote"), newIndex("remote list", "amd64", "arm64")
	files := httptest.NewServer(http.FileServer(http.Dir(tree)))
	t.Cleanup(files.Close)
	s.push(t, i, "ns/app", "v1")
	s.push(t, list, "ns/list", "v1")
	for repository, images := range map[string][]image{"ns/app": {i}, "ns/list": {list, list.children[0], list.children[1]}} {
		for _, i := range images {
			put(t, tree, repository, i.digest(), 1, sign(t, "alice", s.address+"/"+repository+":v1", i.digest()))
		}
	}
	gone := newImage("deleted from the registry")
	put(t, tree, "ns/app", gone.digest(), 1, sign(t, "alice", s.address+"/ns/app:v0", gone.digest()))

	shows(t, s.cli(t, 0, "import", "-dry-run", files.URL, "ns/app"), "1 images: 1 signatures would be imported")
	shows(t, s.cli(t, 0, "import", files.URL), "5 images: 4 signatures imported, 0 here already, 0 refused, 0 not read")
	for _, instance := range list.children[:2] {
		s.wantSigned(t, "ns/list", instance.digest(), "alice "+s.address+"/ns/list:v1")
	}
	references := filepath.Join(t.TempDir(), "references")
	write(t, references, "# more\n\nns/app@"+gone.digest()+"\n"+s.address+"/ns/app:v1\nns/none\nns/app:none\nelsewhere.example.com/app:v1\n")
	shows(t, s.cli(t, 1, "import", "-references", references, files.URL+"/", "ns/app@"+i.digest()),
		"1 signatures imported, 2 here already", "3 not read", "not read ns/none", "not read ns/app:none", "name images by digest")
	shows(t, s.cli(t, 2, "import", "-host", "elsewhere.example.com", files.URL), "by digest")
	shows(t, s.cli(t, 2, "import", "ftp://example.com/"), "not http")
	shows(t, s.cli(t, 1, "import", "http://127.0.0.1:1/", "ns/app"), "not read ns/app@", "does not answer")
}
