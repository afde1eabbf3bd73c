package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lint runs countersign lint and returns what it writes and its exit code.
func lint(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	c := command(t.Context(), append([]string{"lint"}, args...)...)
	data, err := c.Output()
	exit := new(exec.ExitError)
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(data), c.ProcessState.ExitCode()
}

// What node-config makes is right, for every profile, however clients find signatures, and for old
// clients: lint finds nothing.
func TestLintNodeConfig(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"extension": "", "lookaside": "advertise: false\n"} {
		f := newFleet(t, settings)
		for _, profile := range []string{"production", "build"} {
			directory := filepath.Join(t.TempDir(), "nodes")
			f.nodeConfig(t, "-profile", profile, "-o", directory)
			for _, flags := range [][]string{{}, {"-client", "podman-3.4"}, {"-client", "5.42"}} {
				out, code := lint(t, append(append(flags, "-json", "-strict"), directory)...)
				if code != 0 || !strings.Contains(out, `"findings": []`) {
					t.Errorf("%s, %s, %q: exit code %d\n%s", name, profile, flags, code, out)
				}
			}
		}
	}
}

// TestLintOKD gives nodes the policy of OKD's guide: the registry's host accepts, two of its
// namespaces want a key each, a vendor's registry its own, and all else is rejected. The host's
// scopes are of atomic, so lint warns that they govern no pull by docker; as it says, all of those
// are rejected. With what it says to do, the six pulls are judged as the guide means them.
func TestLintOKD(t *testing.T) {
	t.Parallel()
	vendor := startIn(t, trustedIn(t, "alice"), "-sign-on", "none")
	s := startIn(t, trustedIn(t, "alice", "bob"), "-sign-on", "none")
	signed := func(s *server, repository, who string) string {
		i, reference := newImage("of "+repository), s.address+"/"+repository+":v1"
		s.push(t, i, repository, "v1")
		if who != "" {
			s.upload(t, repository, i.digest(), sign(t, who, reference, i.digest())).want(t, 201)
		}
		return reference
	}
	_, port, _ := strings.Cut(s.address, ":")
	pulls := []struct {
		name, reference string
		meant           bool // by the guide
		ofHost          bool // and so not judged by docker
	}{
		{"openshift, by the vendor's key", signed(s, "openshift/app", "alice"), true, true},
		{"openshift, by another key", signed(s, "openshift/wrong", "bob"), false, true},
		{"production, by its key", signed(s, "production/app", "bob"), true, true},
		{"production, unsigned", signed(s, "production/wrong", ""), false, true},
		{"another namespace, unsigned", signed(s, "other/app", ""), true, true},
		{"the vendor's registry", signed(vendor, "rhel9/app", "alice"), true, false},
		{"the vendor's registry, unsigned", signed(vendor, "rhel9/wrong", ""), false, false},
		{"a registry of which nothing is said", "localhost:" + port + "/other/app:v1", false, false},
	}
	n := newNode(t)
	alice, bob := filepath.Join(n.dir, "alice.asc"), filepath.Join(n.dir, "bob.asc")
	write(t, alice, string(publicKey(t, "alice")))
	write(t, bob, string(publicKey(t, "bob")))
	by := func(key string) string { return `[{"type":"signedBy","keyType":"GPGKeys","keyPath":"` + key + `"}]` }
	host := strings.NewReplacer("HOST", s.address).Replace(`"HOST/openshift":` + by(alice) + `,"HOST/production":` + by(bob) + `,"HOST":[{"type":"insecureAcceptAnything"}]`)
	for _, remedied := range []bool{false, true} {
		docker, warnings := `"`+vendor.address+`":`+by(alice), 3
		if remedied {
			docker, warnings = docker+","+host, 0
		}
		n.policy(t, `{"default":[{"type":"reject"}],"transports":{"docker":{`+docker+`},"atomic":{`+host+`}}}`)
		out, code := lint(t, n.containers())
		if code != 0 || strings.Count(out, "[atomic-only]") != warnings || !strings.Contains(out, fmt.Sprintf(" 0 errors, %d warning", warnings)) {
			t.Errorf("docker has the scopes, too: %v; lint ends with %d:\n%s", remedied, code, out)
		}
		for _, pull := range pulls {
			want := pull.meant && (remedied || !pull.ofHost)
			for client, pulled := range map[string]func() (string, error){
				"skopeo": func() (string, error) { return n.pull(t, pull.reference) },
				"podman": func() (string, error) { return n.podman(t, "pull", "--tls-verify=false", pull.reference) },
			} {
				if out, err := pulled(); want != (err == nil) || err != nil && !strings.Contains(out, "Source image rejected") {
					t.Errorf("docker has the scopes, too: %v; %s pulls %s: %v, want it accepted: %v\n%s", remedied, client, pull.name, err, want, out)
				}
			}
		}
	}
}

// trustedIn is a new directory for data where uploads by these people are admitted.
func trustedIn(t testing.TB, people ...string) (data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	trust(t, data, people...)
	return data
}

// TestLintMirror shows what lint says of mirrors to skopeo: it looks for signatures behind the
// mirror that it got the image from, and wants the mirror's name in them where that was typed.
func TestLintMirror(t *testing.T) {
	t.Parallel()
	s := start(t, "-sign-on", "none", "-config", config(t, "advertise: false\n"))
	i, n := newImage("mirrored"), newNode(t)
	s.push(t, i, "ns/app", "v1")
	const original = "registry.example.com/ns/app:v1"
	lookaside := httptest.NewServer(signatures{"/ns/app@" + strings.Replace(i.digest(), ":", "=", 1) + "/signature-1": sign(t, "alice", original, i.digest())})
	t.Cleanup(lookaside.Close)
	key := filepath.Join(n.dir, "alice.asc")
	write(t, key, string(publicKey(t, "alice")))
	n.mirrors(t, fmt.Sprintf("[[registry]]\nlocation = \"registry.example.com\"\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", s.address))
	by := `{"type":"signedBy","keyType":"GPGKeys","keyPath":"` + key + `"`
	remap := fmt.Sprintf(`,"signedIdentity":{"type":"remapIdentity","prefix":%q,"signedPrefix":"registry.example.com"}`, s.address)
	for _, test := range []struct {
		name, namespaces, identity string
		finds                      string
		original, mirror           bool // whether pulls by that name are accepted
	}{
		{"the original's lookaside alone", "registry.example.com", remap, "mirror-lookaside", false, false},
		{"no remapIdentity", "registry.example.com " + s.address, "", "mirror-identity", true, false},
		{"all is well", "registry.example.com " + s.address, remap, "", true, true},
	} {
		sources := "docker:\n"
		for _, namespace := range strings.Fields(test.namespaces) {
			sources += "  " + namespace + ":\n    lookaside: " + lookaside.URL + "\n    lookaside-staging: file:///var/lib/sigs\n"
		}
		write(t, filepath.Join(n.registries(), "lookaside.yaml"), sources)
		n.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.com":[%s}],%q:[%[1]s%[3]s}]}}}`, by, s.address, test.identity))
		out, _ := lint(t, "-strict", n.containers())
		if strings.Contains(out, "["+test.finds+"]") != (test.finds != "") || test.finds == "" && !strings.Contains(out, " 0 errors, 0 warnings, 0 notes") {
			t.Errorf("%s: lint says\n%s", test.name, out)
		}
		for reference, accepted := range map[string]bool{original: test.original, s.address + "/ns/app:v1": test.mirror} {
			if out, err := n.pull(t, reference); accepted != (err == nil) || err != nil && !strings.Contains(out, "Source image rejected") {
				t.Errorf("%s: a pull of %s: %v, want it accepted: %v\n%s", test.name, reference, err, accepted, out)
			}
		}
	}
}

// signatures is a lookaside: what is behind paths.
type signatures map[string][]byte

func (s signatures) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, ok := s[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(content) // the client that has gone fails by itself
}

// TestLintOnline shows to skopeo what lint says of lookasides that it asks: who advertises the
// extension makes one dead, and one that answers a page or 403 fails every pull.
func TestLintOnline(t *testing.T) {
	t.Parallel()
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html></html>"))
	}
	forbidden := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
	for name, test := range map[string]struct {
		advertise string
		answer    http.HandlerFunc
		finds     string
		code      int
		pulls     bool
	}{
		"an advertised extension": {"true", forbidden, "lookaside-dead", 0, true},
		"a page":                  {"false", page, "lookaside-html", 1, false},
		"403":                     {"false", forbidden, "lookaside-status", 1, false},
		"404":                     {"false", http.NotFound, "", 0, true},
		"a bucket":                {"false", nil, "lookaside-url", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, "-sign-on", "none", "-config", config(t, "advertise: "+test.advertise+"\n"))
			s.push(t, newImage("online"), "ns/app", "v1")
			url := "s3://bucket/sigs"
			if test.answer != nil {
				lookaside := httptest.NewServer(test.answer)
				t.Cleanup(lookaside.Close)
				url = lookaside.URL
			}
			n := newNode(t).lookaside(t, `"`+s.address+`"`, url)
			n.mirrors(t, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", s.address))
			out, code := lint(t, "-online", n.containers())
			if code != test.code || strings.Contains(out, "["+test.finds+"]") != (test.finds != "") {
				t.Errorf("lint ends with %d and says\n%s", code, out)
			}
			if out, err := n.pull(t, s.address+"/ns/app:v1"); test.pulls != (err == nil) {
				t.Errorf("a pull: %v, want it to work: %v\n%s", err, test.pulls, out)
			}
		})
	}
}
