package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var (
	digestA = digest.FromString("a")
	digestB = digest.FromString("b")
)

func list(digests ...digest.Digest) string {
	var entries []string
	for _, d := range digests {
		entries = append(entries, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":2}`, ociImage, d))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ociList, strings.Join(entries, ","))
}

func numbered(n int) []digest.Digest {
	var digests []digest.Digest
	for i := range n {
		digests = append(digests, digest.FromString(fmt.Sprint(i)))
	}
	return digests
}

func TestInstances(t *testing.T) {
	t.Parallel()
	docker := strings.ReplaceAll
	for name, test := range map[string]struct {
		mediaType, content string
		want               []digest.Digest
	}{
		"an OCI image":                 {ociImage, `{"schemaVersion":2,"config":{},"layers":[]}`, nil},
		"an OCI image of its type":     {ociImage, `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":{}}`, nil},
		"an artifact":                  {ociImage, `{"schemaVersion":2,"artifactType":"a/b","config":{},"layers":[],"subject":{"digest":"x"}}`, nil},
		"a Docker image":               {dockerImage, `{"schemaVersion":2,"mediaType":"` + dockerImage + `","config":{},"layers":[]}`, nil},
		"an OCI list":                  {ociList, list(digestA, digestB), []digest.Digest{digestA, digestB}},
		"an OCI list without type":     {ociList, `{"schemaVersion":2,"manifests":[{"digest":"` + string(digestA) + `"}]}`, []digest.Digest{digestA}},
		"a Docker list":                {dockerList, docker(list(digestB, digestA), ociList, dockerList), []digest.Digest{digestB, digestA}},
		"a list in a list":             {ociList, strings.Replace(list(digestA), ociImage, ociList, 1), []digest.Digest{digestA}},
		"the same entry again":         {ociList, list(digestA, digestB, digestA), []digest.Digest{digestA, digestB}},
		"an empty list":                {ociList, list(), nil},
		"as many as there may be":      {ociList, list(numbered(MaxInstances)...), numbered(MaxInstances)},
		"annotations named like it":    {ociList, `{"annotations":{"config":"x","Manifests":"y"},"schemaVersion":2,"manifests":[]}`, nil},
		"an attestation is an entry":   {ociList, `{"schemaVersion":2,"manifests":[{"digest":"` + string(digestA) + `","annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}`, []digest.Digest{digestA}},
		"spaces around it are no harm": {ociImage, "\n {\"schemaVersion\":2,\"config\":{}} \n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Manifest{MediaType: test.mediaType, Content: []byte(test.content)}.Instances()
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("Instances of %s\n got %v, %v\nwant %v", test.content, got, err, test.want)
			}
		})
	}
}

// ambiguous is content that some client could read as something else than its media type says,
// or that two readers of JSON could disagree on.
var ambiguous = map[string]struct{ mediaType, content, says string }{
	"an image that is a list":          {ociImage, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, `with "manifests"`},
	"a list that is an image":          {ociList, `{"schemaVersion":2,"config":{},"manifests":[]}`, `with "config"`},
	"a list with layers":               {ociList, `{"schemaVersion":2,"layers":[],"manifests":[]}`, `with "layers"`},
	"an image that is of schema 1":     {ociImage, `{"schemaVersion":2,"config":{},"fsLayers":[]}`, `with "fsLayers"`},
	"a list without entries":           {ociList, `{"schemaVersion":2}`, `without "manifests"`},
	"an image without config":          {ociImage, `{"schemaVersion":2,"layers":[]}`, `without "config"`},
	"null is there":                    {ociImage, `{"schemaVersion":2,"config":{},"manifests":null}`, `with "manifests"`},
	"null is no list":                  {ociList, `{"schemaVersion":2,"manifests":null}`, "not an array"},
	"an object is no list":             {ociList, `{"schemaVersion":2,"manifests":{}}`, "not an array"},
	"another type inside":              {ociImage, `{"schemaVersion":2,"mediaType":"` + ociList + `","config":{}}`, "mediaType is not"},
	"an empty type inside":             {ociImage, `{"schemaVersion":2,"mediaType":"","config":{}}`, "mediaType is not"},
	"a null type inside":               {ociImage, `{"schemaVersion":2,"mediaType":null,"config":{}}`, "mediaType is not"},
	"Docker without type":              {dockerImage, `{"schemaVersion":2,"config":{}}`, `without "mediaType"`},
	"a Docker list without type":       {dockerList, `{"schemaVersion":2,"manifests":[]}`, `without "mediaType"`},
	"twice, the first is a list":       {ociList, `{"schemaVersion":2,"manifests":[],"manifests":[]}`, `"manifests" twice`},
	"a type twice":                     {ociImage, `{"schemaVersion":2,"mediaType":"` + ociList + `","mediaType":"` + ociImage + `","config":{}}`, `"mediaType" twice`},
	"another case":                     {ociImage, `{"schemaVersion":2,"config":{},"Manifests":[]}`, `"manifests" twice, or in another case`},
	"another case by Unicode folding":  {ociImage, `{"schemaVersion":2,"config":{},"manifeſts":[]}`, `"manifests" twice, or in another case`},
	"another case, escaped":            {ociImage, `{"schemaVersion":2,"config":{},"manifest\u0053":[]}`, `"manifests" twice, or in another case`},
	"the same, escaped":                {ociImage, `{"schemaVersion":2,"config":{},"manifest\u0073":[]}`, `with "manifests"`},
	"two documents":                    {ociImage, `{"schemaVersion":2,"config":{}}{}`, "something follows"},
	"schema 1":                         {ociImage, `{"schemaVersion":1,"config":{}}`, "schemaVersion"},
	"no schema":                        {ociImage, `{"config":{}}`, "schemaVersion"},
	"a schema in words":                {ociImage, `{"schemaVersion":"2","config":{}}`, "schemaVersion"},
	"an array":                         {ociImage, `[]`, "not a JSON object"},
	"nothing":                          {ociImage, ``, "not a JSON object"},
	"half of it":                       {ociImage, `{"schemaVersion":2,"config":{}`, "not JSON"},
	"no JSON":                          {ociImage, `{"schemaVersion":2,config:{}}`, "not JSON"},
	"a media type of schema 1":         {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":2,"config":{}}`, "media type"},
	"a media type with parameters":     {ociImage + "; charset=utf-8", `{"schemaVersion":2,"config":{}}`, "media type"},
	"no media type":                    {"", `{"schemaVersion":2,"config":{}}`, "media type"},
	"more JSON than a parser can nest": {ociImage, `{"schemaVersion":2,"config":` + strings.Repeat("[", 20000), "not JSON"},
}

func TestInstancesRefused(t *testing.T) {
	t.Parallel()
	for name, test := range ambiguous {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, Manifest{MediaType: test.mediaType, Content: []byte(test.content)}, test.says)
		})
	}
	for name, test := range map[string]struct{ entries, says string }{
		"one too many":             {strings.Repeat(`{},`, MaxInstances) + `{}`, "65 entries, at most 64"},
		"no digest":                {`{"size":2}`, "entry 1 of the list: no digest"},
		"a digest that is a list":  {`{"digest":[]}`, "no digest"},
		"a digest that is none":    {`{"digest":"` + string(digestA) + `"},{"digest":"sha256:abc"}`, "entry 2 of the list: invalid"},
		"upper case in a digest":   {`{"digest":"sha256:` + strings.ToUpper(digestA.Encoded()) + `"}`, "invalid"},
		"sha512":                   {`{"digest":"` + string(digest.SHA512.FromString("a")) + `"}`, "sha256"},
		"a digest twice":           {`{"digest":"` + string(digestA) + `","digest":"` + string(digestB) + `"}`, `"digest" twice`},
		"a digest in another case": {`{"Digest":"` + string(digestA) + `"}`, "another case"},
		"an entry that is none":    {`"` + string(digestA) + `"`, "not a JSON object"},
		"null":                     {`null`, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, Manifest{MediaType: ociList, Content: []byte(`{"schemaVersion":2,"manifests":[` + test.entries + `]}`)}, test.says)
		})
	}
}

func refused(t *testing.T, m Manifest, says string) {
	t.Helper()
	got, err := m.Instances()
	if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("Instances of %.200s\n got %v, %v\nwant ErrInvalid that says %q", m.Content, got, err, says)
	}
	if len(fmt.Sprint(err)) > 200 {
		t.Errorf("the error quotes what somebody pushed: %d bytes", len(err.Error()))
	}
}

// What Instances says of any bytes is what a client that reads them says, and the same bytes
// are never both an image and a list.
func FuzzInstances(f *testing.F) {
	for _, test := range ambiguous {
		f.Add([]byte(test.content))
	}
	f.Add([]byte(list(digestA, digestB)))
	f.Add([]byte(strings.ReplaceAll(list(digestA), ociList, dockerList)))
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		read := map[bool][]string{}
		for mediaType, isList := range map[string]bool{ociImage: false, dockerImage: false, ociList: true, dockerList: true} {
			instances, err := Manifest{MediaType: mediaType, Content: content}.Instances()
			if err != nil {
				continue
			}
			read[isList] = append(read[isList], mediaType)
			if want := lenient(t, content, isList); !slices.Equal(instances, want) {
				t.Errorf("%s %q\n got %v\na client reads %v", mediaType, content, instances, want)
			}
		}
		if len(read[false]) > 0 && len(read[true]) > 0 {
			t.Errorf("%q reads as %v", content, read)
		}
	})
}

// lenient reads as Go clients do.
func lenient(t *testing.T, content []byte, isList bool) []digest.Digest {
	t.Helper()
	var object struct {
		Config    any
		Manifests []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal(content, &object); err != nil {
		t.Fatalf("%q was taken, a client fails: %v", content, err)
	}
	if isList == (object.Config != nil) && isList {
		t.Fatalf("%q was taken for a list, a client sees a config", content)
	}
	var digests []digest.Digest
	for _, entry := range object.Manifests {
		if !slices.Contains(digests, entry.Digest) {
			digests = append(digests, entry.Digest)
		}
	}
	return digests
}
