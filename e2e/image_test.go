package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// An image is an image or an index, made out of nothing; the same arguments make the same bytes.
type image struct {
	mediaType string
	manifest  []byte
	blobs     [][]byte
	children  []image // of an index, in its order
}

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

func (i image) digest() string { return digestOf(i.manifest) }

// newImage is an image of one layer, /etc/motd with this text.
func newImage(text string) image { return newImageFor("amd64", map[string]string{"etc/motd": text}) }

// newImageFor is an image of one architecture with these files; those below bin/ are executable.
func newImageFor(architecture string, files map[string]string) image {
	layer := archive(files)
	config := fmt.Appendf(nil, `{"created":"2020-01-01T00:00:00Z","architecture":%q,"os":"linux",`+
		`"config":{"Cmd":["/bin/busybox","cat","/etc/motd"]},"rootfs":{"type":"layers","diff_ids":[%q]}}`,
		architecture, digestOf(layer))
	zipped := compress(layer)
	return image{
		mediaType: manifestType,
		manifest: fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`,
			manifestType, descriptor(configType, config, ""), descriptor(layerType, zipped, "")),
		blobs: [][]byte{config, zipped},
	}
}

// newIndex is an index of images for the given platforms, and of an attestation as buildkit
// makes them: for no platform, of the first image.
func newIndex(text string, architectures ...string) image {
	index := image{mediaType: indexType}
	var entries []string
	for _, architecture := range architectures {
		child := newImageFor(architecture, map[string]string{"etc/motd": text + architecture})
		index.children = append(index.children, child)
		entries = append(entries, descriptor(manifestType, child.manifest,
			fmt.Sprintf(`,"platform":{"architecture":%q,"os":"linux"}`, architecture)))
	}
	attestation := newImageFor("unknown", map[string]string{"attestation": text})
	entries = append(entries, descriptor(manifestType, attestation.manifest, fmt.Sprintf(
		`,"platform":{"architecture":"unknown","os":"unknown"},"annotations":`+
			`{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":%q}`,
		index.children[0].digest())))
	index.children = append(index.children, attestation)
	index.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`,
		indexType, strings.Join(entries, ","))
	return index
}

func descriptor(mediaType string, content []byte, more string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, mediaType, digestOf(content), len(content), more)
}

func archive(files map[string]string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		header := tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(&header); err != nil {
			panic(err) // a bytes.Buffer never fails
		}
		_, _ = w.Write([]byte(files[name]))
	}
	_ = w.Close()
	return out.Bytes()
}

func compress(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(content)
	_ = w.Close()
	return out.Bytes()
}

// layout writes the image as an OCI layout and returns what skopeo calls it: oci:DIR:TAG.
func (i image) layout(t testing.TB, tag string) string {
	t.Helper()
	// Podman names an image after the path and wants it in lower case, unlike t.TempDir's.
	dir, err := os.MkdirTemp("/tmp", "e2e-oci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	write(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	write(t, filepath.Join(dir, "index.json"), fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`,
		descriptor(i.mediaType, i.manifest, fmt.Sprintf(`,"annotations":{"org.opencontainers.image.ref.name":%q}`, tag))))
	for _, blob := range i.everything() {
		write(t, filepath.Join(dir, "blobs", strings.Replace(digestOf(blob), ":", "/", 1)), string(blob))
	}
	return "oci:" + dir + ":" + tag
}

// everything is the content of all blobs and manifests.
func (i image) everything() [][]byte {
	all := append([][]byte{i.manifest}, i.blobs...)
	for _, child := range i.children {
		all = append(all, child.everything()...)
	}
	return all
}

// push pushes over plain HTTP, for tests that are not about a client. An empty tag pushes by
// digest, as the instances of an index always are.
func (s *server) push(t testing.TB, i image, repository, tag string) {
	t.Helper()
	for _, blob := range i.blobs {
		s.pushBlob(t, repository, blob)
	}
	for _, child := range i.children {
		s.push(t, child, repository, "")
	}
	s.tag(t, i, repository, tag)
}

func (s *server) pushBlob(t testing.TB, repository string, blob []byte) {
	t.Helper()
	upload := s.do(t, "POST", "/v2/"+repository+"/blobs/uploads/", "").want(t, 202)
	s.do(t, "PUT", s.where(t, upload, "digest="+digestOf(blob)), string(blob)).want(t, 201)
}

// resolve is the digest that the registry has under a tag.
func (s *server) resolve(t testing.TB, repository, tag string) string {
	t.Helper()
	return s.do(t, "HEAD", "/v2/"+repository+"/manifests/"+tag, "", "Accept: "+manifestType,
		"Accept: application/vnd.docker.distribution.manifest.v2+json").want(t, 200).header.Get("Docker-Content-Digest")
}

// tag PUTs the manifest alone.
func (s *server) tag(t testing.TB, i image, repository, tag string) {
	t.Helper()
	if tag == "" {
		tag = i.digest()
	}
	s.do(t, "PUT", "/v2/"+repository+"/manifests/"+tag, string(i.manifest), "Content-Type: "+i.mediaType).want(t, 201)
}

// where is the path an answer's Location names, absolute or relative, with more of a query.
func (s *server) where(t testing.TB, a answer, query string) string {
	t.Helper()
	path := strings.TrimPrefix(a.header.Get("Location"), "http://"+s.address)
	if !strings.HasPrefix(path, "/") {
		t.Fatalf("%s: Location %q is not on this server", a.asked, a.header.Get("Location"))
	}
	if query == "" {
		return path
	}
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}
