package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"go.yaml.in/yaml/v3"
)

// A releaseReader finds signatures of a release as OpenShift's cluster version operator does, which
// cannot be built here: by digest alone, nine at most, each a claim with no members but its own.
type releaseReader struct{ ring openpgp.EntityList }

func newReleaseReader(t testing.TB, key string) releaseReader {
	t.Helper()
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(key))
	if err != nil {
		t.Fatal(err)
	}
	return releaseReader{ring}
}

// accepts says whether a signature counts for a digest.
func (r releaseReader) accepts(content []byte, digest string) error {
	message, err := openpgp.ReadMessage(bytes.NewReader(content), r.ring, nil, nil)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(message.UnverifiedBody); err != nil {
		return err
	}
	if message.SignatureError != nil || message.SignedBy == nil {
		return fmt.Errorf("signature: %w", message.SignatureError)
	}
	var claim struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
		} `json:"critical"`
		Optional struct {
			Creator   string `json:"creator"`
			Timestamp int64  `json:"timestamp"`
		} `json:"optional"`
	}
	d := json.NewDecoder(&body)
	d.DisallowUnknownFields()
	if err := d.Decode(&claim); err != nil {
		return err
	}
	if claim.Critical.Type != "atomic container signature" || claim.Critical.Identity.Reference == "" || claim.Critical.Image.Digest != digest {
		return fmt.Errorf("another claim: %+v", claim)
	}
	return nil
}

// store is what the reader finds behind a store's URL.
func (r releaseReader) store(t testing.TB, url, digest string) (contents [][]byte) {
	t.Helper()
	for index := 1; index < 10; index++ {
		res, err := http.Get(url + "/" + strings.Replace(digest, ":", "=", 1) + fmt.Sprint("/signature-", index))
		if err != nil {
			t.Fatal(err)
		}
		a := answered(t, url, res)
		if a.status == http.StatusNotFound {
			return contents
		}
		contents = append(contents, []byte(a.want(t, 200).body))
	}
	return contents
}

// configMap is what the reader finds in a cluster that has these ConfigMaps.
func (r releaseReader) configMap(t testing.TB, yamls, digest string) (contents [][]byte) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(yamls))
	for {
		var m struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string
			Metadata   struct {
				Name, Namespace string
				Labels          map[string]string
			}
			BinaryData map[string]string `yaml:"binaryData"`
		}
		if d.Decode(&m) != nil {
			return contents
		}
		label, labelled := m.Metadata.Labels["release.openshift.io/verification-signatures"]
		if m.APIVersion != "v1" || m.Kind != "ConfigMap" || m.Metadata.Namespace != "openshift-config-managed" || !labelled || label != "" {
			t.Errorf("the operator does not look at %+v", m)
		}
		prefix := strings.Replace(digest, ":", "-", 1)
		for key, value := range m.BinaryData {
			if strings.HasPrefix(key, prefix) {
				contents = append(contents, decode64(t, value))
			}
		}
	}
}

func decode64(t testing.TB, s string) (content []byte) {
	t.Helper()
	if err := json.Unmarshal([]byte(`"`+s+`"`), &content); err != nil {
		t.Fatal(err)
	}
	return content
}

// TestRelease serves releases of OpenShift by digest alone, and as ConfigMaps.
func TestRelease(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-config", config(t, "release: [openshift/release, openshift/other]\n"))
	i, reference := newImage("release"), s.address+"/openshift/release:4.20"
	stranger := sign(t, "alice", reference, i.digest()) // its claim has a member of its own
	s.upload(t, "openshift/release", i.digest(), stranger).want(t, 201)
	theirs := gpg(t, fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},`+
		`"type":"atomic container signature"},"optional":{"creator":"alice","timestamp":1}}`, reference, i.digest()), "--local-user", "alice@example.test", "--sign")
	s.upload(t, "openshift/release", i.digest(), theirs).want(t, 201)
	for n := range 4 {
		s.push(t, i, "openshift/release", fmt.Sprint("4.2", n))
	}
	s.push(t, i, "openshift/other", "v1")
	s.push(t, i, "private/app", "v1")

	reader, url := newReleaseReader(t, read(t, s.serverKey())), "http://"+s.address+"/sigstore"
	check := func(where string, contents [][]byte, want int) {
		t.Helper()
		if len(contents) != want {
			t.Fatalf("%s: %d signatures, want %d", where, len(contents), want)
		}
		own := 0
		for _, content := range contents {
			if reader.accepts(content, i.digest()) == nil {
				own++
			}
			if bytes.Equal(content, stranger) {
				t.Errorf("%s: a claim that the reader refuses is there", where)
			}
		}
		if own != 5 && own != 9 {
			t.Errorf("%s: the reader accepts %d", where, own)
		}
	}
	contents := reader.store(t, url, i.digest())
	check("the store", contents, 6)
	if !bytes.Equal(contents[5], theirs) {
		t.Error("the server's own do not stand in front")
	}
	for _, name := range []string{i.digest(), "openshift/release:4.20", "openshift/release@" + i.digest()} {
		check(name, reader.configMap(t, s.cli(t, 0, "export", "-configmap", name), i.digest()), 6)
	}
	for n := range 5 {
		s.push(t, i, "openshift/release", fmt.Sprint("4.3", n))
	}
	contents = reader.store(t, url, i.digest())
	check("with many", contents, 9)
	newest := []string{"release:4.34", "release:4.33", "release:4.32", "release:4.31", "release:4.30", "other:v1", "release:4.23", "release:4.22", "release:4.21"}
	for n, signed := range s.open(t, i.digest(), contents...) {
		if want := "server " + s.address + "/openshift/" + newest[n]; signed != want {
			t.Errorf("signature-%d is of %s, want %s: own and newest first", n+1, signed, want)
		}
	}

	other := newImage("no release")
	s.push(t, other, "private/app", "v2")
	if got := reader.store(t, url, other.digest()); len(got) != 0 {
		t.Errorf("a repository that is no release's serves %d", len(got))
	}
	shows(t, s.cli(t, 1, "export", "-configmap", other.digest()), "release setting")
	path := "/sigstore/" + strings.Replace(i.digest(), ":", "=", 1)
	for _, name := range []string{"", "/", "/signature-0", "/signature-10", "/signature-x"} {
		s.get(t, path+name).want(t, 404)
	}
	s.do(t, "PUT", path+"/signature-1", string(theirs)).refused(t, 405, "UNSUPPORTED")
	start(t).get(t, path+"/signature-1").want(t, 404)
	refusal(t, "serve", "-config", config(t, "release: [UPPER]\n"))
}
