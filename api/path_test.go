package api_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

const host = "registry.example.com:5000"

var manifest = digest.FromString("manifest")

var repositories = []string{
	"app", "ns/app", "a/b/c/d/e/f", "signatures", "signatures/signatures", "ns/signatures/app", "a.b/c__d/e-f", "library/busybox",
}

// A path of the extension is read from the right: "signatures" may be a segment of the name (protocol.md 3.2).
func TestExtensionPathHasAnInverse(t *testing.T) {
	t.Parallel()
	for _, repository := range repositories {
		want := api.Image{Host: host, Repository: repository, Digest: manifest}
		path := api.ExtensionPath(want)
		got, err := api.ParseExtensionPath(host, path)
		if err != nil || got != want {
			t.Errorf("%s\n got %v, %v\nwant %v", path, got, err, want)
		}
	}
}

func TestLookasidePathHasAnInverse(t *testing.T) {
	t.Parallel()
	for _, repository := range repositories {
		want := api.Image{Host: host, Repository: repository, Digest: manifest}
		for _, front := range []string{"", "/", "//"} { // protocol.md 1.1
			got, index, err := api.ParseLookasidePath(host, front+api.LookasidePath(want))
			if err != nil || got != want || index != 0 {
				t.Errorf("%s: got %v, index %d, %v", front+api.LookasidePath(want), got, index, err)
			}
			got, index, err = api.ParseLookasidePath(host, front+api.LookasidePath(want)+"/"+api.SignatureName(17))
			if err != nil || got != want || index != 17 {
				t.Errorf("%s: got %v, index %d, %v", front+api.LookasidePath(want), got, index, err)
			}
		}
	}
}

func TestPathsRefused(t *testing.T) {
	t.Parallel()
	hex := manifest.Encoded()
	for _, test := range []struct {
		path string
		want error
	}{
		{"/extensions/v2/", api.ErrPath},
		{"/extensions/v2/ns/app", api.ErrPath},
		{"/extensions/v2/ns/app/signatures", api.ErrPath},
		{"/extensions/v2/ns/app/signatures/", api.ErrDigest},
		{"/extensions/v2/ns/app/signature/sha256:" + hex, api.ErrPath},
		{"/extensions/v2//signatures/sha256:" + hex, api.ErrName},
		{"/extensions/v2/signatures/sha256:" + hex, api.ErrPath},
		{"/extensions/v2/NS/app/signatures/sha256:" + hex, api.ErrName},
		{"/extensions/v2/ns/app:v1/signatures/sha256:" + hex, api.ErrName},
		{"/extensions/v2/ns//app/signatures/sha256:" + hex, api.ErrName},
		{"/extensions/v2/../app/signatures/sha256:" + hex, api.ErrName},
		{"/extensions/v2/ns/app/signatures/sha256:" + strings.ToUpper(hex), api.ErrDigest},
		{"/extensions/v2/ns/app/signatures/sha256:" + hex[1:], api.ErrDigest},
		{"/extensions/v2/ns/app/signatures/sha512:" + hex + hex, api.ErrDigest},
		{"/extensions/v2/" + strings.Repeat("a/", 130) + "a/signatures/sha256:" + hex, api.ErrName},
		{"ns/app", api.ErrPath},
		{"ns/app@sha256", api.ErrDigest},
		{"ns/app@sha256:" + hex, api.ErrDigest},
		{"ns/app@sha256=" + hex + "/", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-0", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-01", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-+1", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature--1", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-10000", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-99999999999999999999", api.ErrPath},
		{"ns/app@sha256=" + hex + "/signature-1/", api.ErrPath},
		{"ns/app@sha256=" + hex + "/index.html", api.ErrPath},
		{"@sha256=" + hex + "/signature-1", api.ErrName},
		{"ns/app@v1@sha256=" + hex + "/signature-1", api.ErrName},
	} {
		var err error
		if strings.HasPrefix(test.path, api.ExtensionPrefix) {
			_, err = api.ParseExtensionPath(host, test.path)
		} else {
			_, _, err = api.ParseLookasidePath(host, test.path)
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.path, err, test.want)
		}
	}
}

func TestHostPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][2]string{
		"h/rest/of": {"h", "rest/of"}, "//h:5000/x": {"h:5000", "x"}, "h//x": {"h", "/x"},
	} {
		h, rest, err := api.ParseHostPath(path)
		if err != nil || h != want[0] || rest != want[1] {
			t.Errorf("%s: got %q, %q, %v, want %q", path, h, rest, err, want)
		}
	}
	for _, path := range []string{"", "/", "h", "//"} {
		if h, rest, err := api.ParseHostPath(path); !errors.Is(err, api.ErrPath) {
			t.Errorf("%q: got %q, %q, %v, want ErrPath", path, h, rest, err)
		}
	}
}

// A host that is taken for a repository, or the other way round, would put signatures where
// others may write (protocol.md 9.16).
func TestImageTakesNoHostForARepository(t *testing.T) {
	t.Parallel()
	for _, h := range []string{"", "/", "a/b", "host:port", "h@", "h/", "..", "h:5000/x", "[::1]x", strings.Repeat("h", 300)} {
		if i, err := api.NewImage(h, "ns/app", string(manifest)); !errors.Is(err, api.ErrName) {
			t.Errorf("host %q: got %v, %v, want ErrName", h, i, err)
		}
	}
	for _, h := range []string{"localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "registry.example.com"} {
		if _, err := api.NewImage(h, "ns/app", string(manifest)); err != nil {
			t.Errorf("host %q: %v", h, err)
		}
	}
}

// Whatever somebody else could take for another path is not plain (protocol.md 9.5).
func TestPlain(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]bool{
		"/v2/ns/app/manifests/v1":                    true,
		"/sigstore/ns/app@sha256=ab/signature-1":     true,
		"/sigstore/ns/app%40sha256%3Dab/signature-1": true,
		"/sigstore/ns/app%40sha256%3dab/signature-1": true,
		"/extensions/v2/app/signatures/sha256%3Aab":  true,
		"/sigstore//ns/app@sha256=ab/signature-1":    true,
		"/v2/ns%2Fapp/manifests/v1":                  false,
		"/v2/ns%2fapp/manifests/v1":                  false,
		"/v2/ns/%2e%2e/app/manifests/v1":             false,
		"/v2/ns/../app/manifests/v1":                 false,
		"/v2/./app/manifests/v1":                     false,
		"/v2/..":                                     false,
		"/v2/ns/app%25/manifests/v1":                 false,
		"/v2/ns/a%70p/manifests/v1":                  false,
		"/v2/ns/app%5C/manifests/v1":                 false,
		"/v2/ns/app%00/manifests/v1":                 false,
		"/v2/ns/app%3Fx/manifests/v1":                false,
	} {
		u, err := url.ParseRequestURI(sent)
		if err != nil {
			t.Fatal(err)
		}
		if got := api.Plain(u.Path, u.EscapedPath()); got != want {
			t.Errorf("%s: got %v, want %v", sent, got, want)
		}
	}
}

// What parses has an inverse that parses to the same, and nothing parses to two images.
func FuzzPaths(f *testing.F) {
	for _, repository := range repositories {
		i := api.Image{Host: host, Repository: repository, Digest: manifest}
		f.Add(api.ExtensionPath(i))
		f.Add(api.LookasidePath(i) + "/signature-1")
		f.Add("//" + api.LookasidePath(i))
	}
	f.Add("h/ns@sha256=ab/signature-1")
	f.Fuzz(func(t *testing.T, path string) {
		if i, err := api.ParseExtensionPath(host, path); err == nil && api.ExtensionPath(i) != path {
			t.Errorf("%q is %v, whose path is %q", path, i, api.ExtensionPath(i))
		}
		i, index, err := api.ParseLookasidePath(host, path)
		if err != nil {
			return
		}
		want := api.LookasidePath(i)
		if index > 0 {
			want += "/" + api.SignatureName(index)
		}
		again, place, err := api.ParseLookasidePath(host, want)
		if err != nil || again != i || place != index {
			t.Errorf("%q is %v, %d; %q is %v, %d, %v", path, i, index, want, again, place, err)
		}
	})
}
