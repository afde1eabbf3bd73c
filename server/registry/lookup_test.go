package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func isUnknown(err error) bool { return errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnavailable) }

func TestManifest(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	image := s.image("a/b", "{}")
	d := s.push("a/b", "v1", image)
	for _, reference := range []string{"v1", d.String()} {
		m, err := s.Manifest(t.Context(), "a/b", reference)
		if err != nil || m.Digest != d || m.MediaType != ociImage || string(m.Content) != image {
			t.Errorf("Manifest(%s): got %s %s %s, %v\nwant %s %s %s", reference, m.Digest, m.MediaType, m.Content, err, d, ociImage, image)
		}
	}
}

// No name and no reference leads to anything but a manifest of that repository.
func TestManifestUnknown(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	config := digest.FromString("{}")
	d := s.push("a/b", "v1", s.image("a/b", "{}"))
	for name, test := range map[string]struct{ repository, reference string }{
		"repository":             {"c", "v1"},
		"repository, by digest":  {"c", d.String()},
		"its parent":             {"a", "v1"},
		"below it":               {"a/b/c", "v1"},
		"tag":                    {"a/b", "v2"},
		"digest":                 {"a/b", digestA.String()},
		"a blob":                 {"a/b", config.String()},
		"sha512":                 {"a/b", digest.SHA512.FromString("a").String()},
		"no repository":          {"", "v1"},
		"no reference":           {"a/b", ""},
		"up":                     {"c/../a/b", "v1"},
		"up, absolute":           {"/a/b", "v1"},
		"up, escaped":            {"c/%2e%2e/a/b", "v1"},
		"a slash twice":          {"a//b", "v1"},
		"a slash at the end":     {"a/b/", "v1"},
		"a dot":                  {"a/./b", "v1"},
		"capitals":               {"A/b", "v1"},
		"a host and port":        {"localhost:5000/a/b", "v1"},
		"a host with capitals":   {"Example.com/a/b", "v1"},
		"a tag in the name":      {"a/b:v1", "v1"},
		"a digest in the name":   {"a/b@" + d.String(), d.String()},
		"a name too long":        {strings.Repeat("a", 300), "v1"},
		"distribution's own":     {"a/b/_manifests", "v1"},
		"tag: up":                {"a/b", ".."},
		"tag: up and down":       {"a/b", "../tags/v1"},
		"tag: a path":            {"a/b", "v1/index/../../v1"},
		"tag: a zero":            {"a/b", "v1\x00"},
		"tag: a newline":         {"a/b", "v1\n"},
		"tag too long":           {"a/b", strings.Repeat("v", 129)},
		"half a digest":          {"a/b", d.String()[:70]},
		"a digest in capitals":   {"a/b", "sha256:" + strings.ToUpper(d.Encoded())},
		"a digest and more":      {"a/b", d.String() + "/../../x"},
		"another algorithm":      {"a/b", "md5:d41d8cd98f00b204e9800998ecf8427e"},
		"no algorithm":           {"a/b", d.Encoded()},
		"a digest, wrong length": {"a/b", "sha512:" + d.Encoded()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := s.Manifest(t.Context(), test.repository, test.reference)
			if !isUnknown(err) || m.Digest != "" {
				t.Errorf("Manifest(%q, %q): got %+v, %v, want ErrUnknown", test.repository, test.reference, m, err)
			}
		})
	}
}

// stored returns where a manifest's content is.
func (s *served) stored(d digest.Digest) string {
	return filepath.Join(s.directory, "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// Content that does not hash to its digest is no manifest, and no reason to say there is none.
func TestManifestDamaged(t *testing.T) {
	t.Parallel()
	for name, damaged := range map[string]string{
		"another image":          `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":{"digest":"` + digestA.String() + `"},"layers":[]}`,
		"nothing":                "",
		"no JSON":                "\x00\x00",
		"what makes it panic":    `{"schemaVersion":2,"manifests":5}`,
		"schema 1":               `{"schemaVersion":1}`,
		"another media type":     `{"schemaVersion":2,"mediaType":"text/html"}`,
		"half of it, still JSON": `{"schemaVersion":2,"mediaType":"` + ociImage + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, EmbeddedConfig{})
			d := s.push("a", "v1", s.image("a", "{}"))
			if err := os.WriteFile(s.stored(d), []byte(damaged), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, reference := range []string{"v1", d.String()} {
				m, err := s.Manifest(t.Context(), "a", reference)
				if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) || m.Digest != "" {
					t.Errorf("Manifest(%s): got %+v, %v, want ErrUnavailable", reference, m, err)
				}
			}
		})
	}
}

// What cannot be read is not what is not there: who asks must not go on without it.
func TestManifestUnavailable(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{
		"the repository": "docker/registry/v2/repositories/a/_manifests",
		"the blobs":      "docker/registry/v2/blobs",
		"the tag":        "docker/registry/v2/repositories/a/_manifests/tags/v1/current",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, EmbeddedConfig{})
			s.push("a", "v1", s.image("a", "{}"))
			s.replaceByFile(broken)
			if m, err := s.Manifest(t.Context(), "a", "v1"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) {
				t.Errorf("got %+v, %v, want ErrUnavailable", m, err)
			}
		})
	}
}

// replaceByFile puts a file where the registry wants a directory: root may read the rest.
func (s *served) replaceByFile(name string) {
	s.t.Helper()
	path := filepath.Join(s.directory, name)
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a file"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}
