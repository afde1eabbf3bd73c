package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nodeConfig runs countersign node-config for a server and returns both streams; it must end well.
func (s *server) nodeConfig(t testing.TB, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), append([]string{"node-config", "-server", "http://" + s.address}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("node-config %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// containers is where the node's clients look for their files.
func (n *node) containers() string { return filepath.Join(n.dir, ".config/containers") }

// enforce gives the node the files that the server makes for a profile, and no others.
func (n *node) enforce(t testing.TB, s *server, profile string, more ...string) string {
	t.Helper()
	return s.nodeConfig(t, append([]string{"-profile", profile, "-o", n.containers(), "-prefix", n.containers()}, more...)...)
}

// bare removes what newNode made for a node that accepts anything.
func (n *node) bare(t testing.TB) *node {
	t.Helper()
	for _, path := range []string{n.policyFile(), n.registries()} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// A fleet is a server with profiles of nodes, and images signed by one of people each, or nobody.
type fleet struct {
	*server
	images map[string]string // references, by who signed; "nobody"; alice's are also "retagged", and "elsewhere", of a host that no profile names
}

// newFleet has the profiles production, which wants alice, and build, which wants alice or bob,
// for any tag of the repository, and nothing for ns/scratch.
func newFleet(t testing.TB, settings string) fleet {
	t.Helper()
	need(t, "gpg")
	dir, port := t.TempDir(), freePorts(t, 1)[0]
	alice, bob := filepath.Join(dir, "alice.asc"), filepath.Join(dir, "bob.asc")
	write(t, alice, string(publicKey(t, "alice")))
	write(t, bob, string(publicKey(t, "bob")))
	production, build := filepath.Join(dir, "production.json"), filepath.Join(dir, "build.json")
	write(t, production, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, port, alice))
	write(t, build, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{
		%q:[{"type":"signedBy","keyType":"GPGKeys","keyPaths":[%q,%q],"signedIdentity":{"type":"matchRepository"}}],
		%q:[{"type":"insecureAcceptAnything"}]}}}`, port, alice, bob, port+"/ns/scratch"))
	data := filepath.Join(t.TempDir(), "data")
	trust(t, data, "alice", "bob", "carol")
	s := startIn(t, data, "-listen", port, "-sign-on", "none",
		"-config", config(t, fmt.Sprintf("nodes: {production: %s, build: %s}\n%s", production, build, settings)))
	f := fleet{s, map[string]string{}}
	for _, who := range append([]string{"nobody"}, people...) {
		i, repository := newImage("for "+who), "ns/"+who
		s.push(t, i, repository, "v1")
		f.images[who] = port + "/" + repository + ":v1"
		if who != "nobody" {
			s.upload(t, repository, i.digest(), sign(t, who, f.images[who], i.digest())).want(t, 201)
		}
	}
	s.push(t, newImage("scratch"), "ns/scratch/app", "v1")
	f.images["scratch"] = port + "/ns/scratch/app:v1"
	f.abroad(t)
	i := newImage("for another tag")
	s.push(t, i, "ns/retagged", "v1")
	s.tag(t, i, "ns/retagged", "v2")
	f.images["retagged"] = port + "/ns/retagged:v1"
	s.upload(t, "ns/retagged", i.digest(), sign(t, "alice", port+"/ns/retagged:v2", i.digest())).want(t, 201)
	return f
}

// abroad adds an image of another registry, which alice has signed, too.
func (f fleet) abroad(t testing.TB) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	trust(t, data, "alice")
	other := startIn(t, data, "-sign-on", "none")
	i, reference := newImage("of another registry"), other.address+"/ns/app:v1"
	other.push(t, i, "ns/app", "v1")
	other.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	f.images["elsewhere"] = reference
}

// clients are the programs by which a node pulls.
func (n *node) clients(t testing.TB) map[string]func(reference string) (string, error) {
	return map[string]func(string) (string, error){
		"skopeo": func(reference string) (string, error) { return n.pull(t, reference) },
		"podman": func(reference string) (string, error) { return n.podman(t, "pull", "--tls-verify=false", reference) },
	}
}

// pulls asserts which of the fleet's images the node accepts, by skopeo and by podman.
func (f fleet) pulls(t *testing.T, n *node, accepted ...string) {
	t.Helper()
	for who, reference := range f.images {
		for client, pull := range n.clients(t) {
			out, err := pull(reference)
			if want := slices.Contains(accepted, who); want != (err == nil) || err != nil && !strings.Contains(out, "Source image rejected") {
				t.Errorf("%s pulls what %s signed: %v, want it accepted: %v\n%s", client, who, err, want, out)
			}
		}
	}
}

// TestNodeConfig gives nodes only the files that the server makes, per profile: what the profile
// wants signed is accepted, what is unsigned or signed by others is refused, whether clients find
// signatures by the extension or by a lookaside.
func TestNodeConfig(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"extension": "", "lookaside": "advertise: false\n"} {
		f := newFleet(t, settings)
		for profile, accepted := range map[string][]string{"production": {"alice"}, "build": {"alice", "bob", "scratch", "retagged"}} {
			t.Run(name+", "+profile, func(t *testing.T) {
				t.Parallel()
				n := newNode(t).bare(t)
				said := f.nodeConfig(t, "-profile", profile, "-o", n.containers(), "-prefix", n.containers())
				if !strings.Contains(said, "EVERYTHING ELSE IS REFUSED") {
					t.Errorf("it does not say what a default of reject means:\n%s", said)
				}
				if says := "advertises the signature extension: clients find signatures there by themselves, and registries.d has nothing"; strings.Contains(strings.Join(strings.Fields(said), " "), says) != (settings == "") {
					t.Errorf("it does not say how clients find signatures, by %s:\n%s", name, said)
				}
				files := filesIn(t, n.containers())
				if has := slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(f, "registries.d/") }); has == (settings == "") {
					t.Errorf("the files are %q, and signatures are found by %s", files, name)
				}
				f.pulls(t, n, accepted...)
				before := snapshot(t, n.containers())
				if said := n.enforce(t, f.server, profile); !strings.Contains(said, "nothing changes") {
					t.Errorf("the second time it says\n%s", said)
				}
				if after := snapshot(t, n.containers()); after != before {
					t.Errorf("the second time changes files:\n%s\nbefore\n%s", after, before)
				}
			})
		}
	}
}

// filesIn are the paths of files below a directory that are the server's making.
func filesIn(t testing.TB, directory string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(directory, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(path) != "registries.conf" {
			name, _ := filepath.Rel(directory, path)
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// snapshot is names, modes, times and contents of what is below a directory.
func snapshot(t testing.TB, directory string) string {
	t.Helper()
	var out strings.Builder
	for _, name := range filesIn(t, directory) {
		info, err := os.Stat(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out, name, info.Mode(), info.ModTime().UnixNano(), digestOf([]byte(read(t, filepath.Join(directory, name)))))
	}
	return out.String()
}

// TestNodeConfigMerged merges the files into a policy that a node has: its own scopes and its
// default go on, and ours are enforced.
func TestNodeConfigMerged(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "")
	other, _, _ := strings.Cut(f.images["elsewhere"], "/")
	for name, test := range map[string]struct {
		there     string
		flags     []string
		elsewhere bool // whether the other registry's image is accepted
	}{
		"a default that accepts":          {there: `{"default":[{"type":"insecureAcceptAnything"}]}`, elsewhere: true},
		"a default that is to be ours":    {there: `{"default":[{"type":"insecureAcceptAnything"}]}`, flags: []string{"-replace-default"}},
		"another registry's scope":        {there: `{"default":[{"type":"reject"}],"transports":{"docker":{"OTHER":[{"type":"insecureAcceptAnything"}]},"oci":{"":[{"type":"reject"}]}}}`, elsewhere: true},
		"our scope, weaker, and by force": {there: `{"default":[{"type":"reject"}],"transports":{"docker":{"OURS":[{"type":"insecureAcceptAnything"}]}}}`, flags: []string{"-force"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t).bare(t)
			n.policy(t, strings.NewReplacer("OTHER", other, "OURS", f.address).Replace(test.there))
			n.enforce(t, f.server, "production", test.flags...)
			accepted := []string{"alice"}
			if test.elsewhere {
				accepted = append(accepted, "elsewhere")
			}
			f.pulls(t, n, accepted...)
			before := snapshot(t, n.containers())
			n.enforce(t, f.server, "production", test.flags...)
			if after := snapshot(t, n.containers()); after != before {
				t.Errorf("the second time changes files:\n%s\nbefore\n%s", after, before)
			}
		})
	}
}

// What cannot be merged is refused, and nothing is written.
func TestNodeConfigRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "advertise: false\n")
	for name, test := range map[string]struct {
		path, content string
		args          []string
		words         []string
	}{
		"another requirement for our scope": {path: "policy.json", content: `{"default":[{"type":"reject"}],"transports":{"docker":{"OURS":[{"type":"insecureAcceptAnything"}]}}}`,
			words: []string{`transports.docker["OURS"]`, "-force"}},
		"a policy that does not read":       {path: "policy.json", content: "{\n\"default\":[]}", words: []string{"line 2", "no requirement"}},
		"another file claims the namespace": {path: "registries.d/mine.yaml", content: "docker:\n  \"OURS\":\n    lookaside: http://127.0.0.1:1\n", words: []string{"mine.yaml", "OURS", "hint:"}},
		"no profile is named":               {args: []string{"-profile", ""}, words: []string{"build, production"}},
		"no such profile":                   {args: []string{"-profile", "dmz"}, words: []string{`"dmz"`, "build, production"}},
		"a prefix that is no path":          {args: []string{"-prefix", "etc"}, words: []string{`"etc"`, "/etc/containers"}},
		"a format that is none":             {args: []string{"-format", "puppet"}, words: []string{"puppet", "machineconfig"}},
		"keys from anybody":                 {args: []string{"-server", "http://registry.example.test"}, words: []string{"not https", "-plain-http"}},
		"an archive of something else":      {args: []string{"-from", "../README.md"}, words: []string{"README.md"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, ours := t.TempDir(), strings.NewReplacer("OURS", f.address)
			if test.path != "" {
				write(t, filepath.Join(dir, test.path), ours.Replace(test.content))
			}
			before := snapshot(t, dir)
			args := append([]string{"node-config", "-server", "http://" + f.address, "-profile", "production", "-prefix", dir, "-o", dir}, test.args...)
			if name == "a format that is none" {
				args = append(args, "-o", filepath.Join(dir, "x"))
			}
			out, err := command(t.Context(), args...).CombinedOutput()
			if exit := new(exec.ExitError); !errors.As(err, &exit) {
				t.Fatalf("it works: %v\n%s", err, out)
			}
			for _, word := range test.words {
				if !strings.Contains(string(out), ours.Replace(word)) {
					t.Errorf("it does not say %q:\n%s", ours.Replace(word), out)
				}
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("files were written:\n%s", after)
			}
		})
	}
}

// TestNodeConfigAPI asserts what the API answers to anybody.
func TestNodeConfigAPI(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "")
	first := f.get(t, "/api/v1/node-config?profile=production").want(t, 200).says(t, "Content-Type", "application/x-tar")
	if again := f.get(t, "/api/v1/node-config?profile=production"); again.body != first.body {
		t.Error("the same settings give other bytes")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "files.tar"), first.body)
	works(t)(newNode(t).run(t, "tar", "-C", dir, "-xf", filepath.Join(dir, "files.tar")))
	alice := fingerprintOf(t, "alice")
	if got := fingerprint(t, []byte(read(t, filepath.Join(dir, "countersign", alice+".gpg")))); got != alice {
		t.Errorf("%s.gpg has the key %s", alice, got)
	}
	if p := read(t, filepath.Join(dir, "policy.json")); !strings.Contains(p, "/etc/containers/countersign/"+alice+".gpg") || strings.Contains(p, "keyPaths") {
		t.Errorf("policy.json is\n%s", p)
	}
	f.get(t, "/api/v1/node-config").refused(t, 400, "UNSUPPORTED", "build, production")
	f.get(t, "/api/v1/node-config?profile=none").refused(t, 400, "UNSUPPORTED", `"none"`)
	f.get(t, "/api/v1/node-config?profile=build&prefix=/etc/$(x)").refused(t, 400, "UNSUPPORTED", "prefix")
	f.get(t, "/api/v1/node-config?profile=build&format=machineconfig&role=worker%0Ax").refused(t, 400, "UNSUPPORTED", "role")
	f.get(t, "/api/v1/node-config?profile=build&password=x").refused(t, 400, "UNSUPPORTED", "password")
}

// TestPublicKeys asserts that everybody may read the public keys of nodes.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "")
	all := f.get(t, "/api/v1/keys").want(t, 200).says(t, "Content-Type", "application/pgp-keys").body
	if n := strings.Count(all, "BEGIN PGP PUBLIC KEY BLOCK"); n != 1 {
		t.Errorf("%d armored blocks, want one: some clients read only the first", n)
	}
	found := fingerprintLine.FindAllStringSubmatch(string(gpg(t, []byte(all), "--with-colons", "--show-keys")), -1)
	if len(found) != 3 { // the server's, alice's and bob's
		t.Errorf("the keys are %q", found)
	}
	bob := fingerprintOf(t, "bob")
	if got := fingerprint(t, []byte(f.get(t, "/api/v1/keys/"+strings.ToLower(bob)).want(t, 200).body)); got != bob {
		t.Errorf("bob's key is %s, want %s", got, bob)
	}
	f.get(t, "/api/v1/keys/"+fingerprintOf(t, "carol")).refused(t, 404, "NAME_INVALID", fingerprintOf(t, "carol"))
	list := f.get(t, "/api/v1/keys", "Accept: application/json").want(t, 200).body
	if !strings.Contains(list, `"profiles":["build","production"]`) || !strings.Contains(list, `"own":true`) {
		t.Errorf("the list is %s", list)
	}
}
