package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func testPushList(t *testing.T, s *server) {
	index := newIndex("list", "amd64", "arm64")
	tag := "server " + s.address + "/ns/list:v1"
	for _, child := range index.children {
		s.push(t, child, "ns/list", "")
		s.wantSigned(t, "ns/list", child.digest(), "server "+s.address+"/ns/list@"+child.digest())
	}

	// Whoever sees the list's signature sees those of its instances: these come first.
	seen := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { seen <- s.instancesFirst(ctx, index) }()
	s.tag(t, index, "ns/list", "v1")
	if err := <-seen; err != nil {
		t.Error(err)
	}

	s.wantSigned(t, "ns/list", index.digest(), tag)
	for _, child := range index.children {
		s.wantSigned(t, "ns/list", child.digest(), "server "+s.address+"/ns/list@"+child.digest(), tag)
	}
	s.tag(t, index, "ns/list", "v1")
	s.wantSigned(t, "ns/list", index.children[0].digest(), "server "+s.address+"/ns/list@"+index.children[0].digest(), tag)
}

// instancesFirst waits for a signature of the index, and fails if an instance has less than
// its two by then. It runs beside the test, so it returns instead of failing.
func (s *server) instancesFirst(ctx context.Context, index image) error {
	count := func(digest string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.address+extension("ns/list", digest), nil)
		if err != nil {
			return 0, err
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		return countSignatures(res.Body)
	}
	for {
		n, err := count(index.digest())
		if err != nil {
			return err
		}
		if n > 0 {
			break
		}
	}
	for i, child := range index.children {
		if n, err := count(child.digest()); err != nil || n != 2 {
			return fmt.Errorf("the list is signed, and instance %d has %d signatures (%v), want 2", i, n, err)
		}
	}
	return nil
}

func testPushListPull(t *testing.T, s *server) {
	index, reference := newIndex("pull", "amd64", "arm64", "s390x"), s.address+"/ns/multi:v1"
	works(t)(newNode(t).copyTo(t, index.layout(t, "v1"), reference, "--all"))
	n := newNode(t).require(t, s.address, s.serverKey())
	for _, architecture := range []string{"amd64", "arm64", "s390x"} {
		works(t)(n.skopeo(t, "--override-os=linux", "--override-arch="+architecture, "copy", "--src-tls-verify=false",
			"docker://"+reference, "dir:"+t.TempDir()))
	}
	works(t)(n.pull(t, reference, "--all"))
}

// wide is a list of so many images, which share their blobs.
func wide(text string, entries int) image {
	base := newImage(text)
	index := image{mediaType: indexType, blobs: base.blobs}
	var descriptors []string
	for i := range entries {
		child := image{mediaType: manifestType, manifest: []byte(strings.Replace(string(base.manifest),
			`"layers"`, fmt.Sprintf(`"annotations":{"n":"%d"},"layers"`, i), 1))}
		index.children = append(index.children, child)
		descriptors = append(descriptors, descriptor(manifestType, child.manifest,
			fmt.Sprintf(`,"platform":{"architecture":"amd64","os":"linux","variant":"v%d"}`, i)))
	}
	index.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(descriptors, ","))
	return index
}

func testPushList64(t *testing.T, s *server) {
	index := wide("sixty-four", 64)
	s.push(t, index, "ns/wide64", "v1")
	s.wantSigned(t, "ns/wide64", index.digest(), "server "+s.address+"/ns/wide64:v1")
	last := index.children[63].digest()
	s.wantSigned(t, "ns/wide64", last, "server "+s.address+"/ns/wide64@"+last, "server "+s.address+"/ns/wide64:v1")
}

func testPushList65(t *testing.T, s *server) {
	index := wide("sixty-five", 65)
	for _, blob := range index.blobs {
		s.pushBlob(t, "ns/wide65", blob)
	}
	for _, child := range index.children {
		s.tag(t, child, "ns/wide65", "")
	}
	s.do(t, "PUT", "/v2/ns/wide65/manifests/v1", string(index.manifest), "Content-Type: "+indexType).
		refused(t, 400, "MANIFEST_INVALID", "65", "64")
	s.get(t, "/v2/ns/wide65/manifests/v1", "Accept: "+indexType).want(t, 404)
	s.wantSigned(t, "ns/wide65", index.digest())
	s.wantSigned(t, "ns/wide65", index.children[0].digest(), "server "+s.address+"/ns/wide65@"+index.children[0].digest())

	// The person at skopeo reads why.
	fails(t, "64")(newNode(t).copyTo(t, index.layout(t, "v1"), s.address+"/ns/wide65:v1", "--all"))
}

// One level: what a list in the list contains is not signed, the inner list is.
func testPushNestedList(t *testing.T, s *server) {
	inner := newIndex("inner", "amd64")
	outer := image{mediaType: indexType, children: []image{inner}}
	outer.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType,
		descriptor(indexType, inner.manifest, ""))
	s.push(t, outer, "ns/nested", "v1")
	tag, at := "server "+s.address+"/ns/nested:v1", "server "+s.address+"/ns/nested@"
	s.wantSigned(t, "ns/nested", outer.digest(), tag)
	s.wantSigned(t, "ns/nested", inner.digest(), at+inner.digest(), tag)
	child := inner.children[0].digest()
	s.wantSigned(t, "ns/nested", child, at+child)
}

// A puller that races the push never finds the tag and no signature.
func testPushTagLast(t *testing.T, s *server) {
	for round := range 10 {
		i, tag := newImage(fmt.Sprint("race ", round)), fmt.Sprint("v", round)
		for _, blob := range i.blobs {
			s.pushBlob(t, "ns/race", blob)
		}
		pushed := make(chan error, 1)
		go func() {
			req, err := http.NewRequest("PUT", "http://"+s.address+"/v2/ns/race/manifests/"+tag, strings.NewReader(string(i.manifest)))
			if err == nil {
				req.Header.Set("Content-Type", i.mediaType)
				var res *http.Response
				if res, err = client.Do(req); err == nil {
					defer res.Body.Close()
				}
			}
			pushed <- err
		}()
		for done := false; ; {
			exists := s.do(t, "HEAD", "/v2/ns/race/manifests/"+tag, "", "Accept: "+manifestType).status == 200
			if exists {
				break
			}
			if done {
				t.Fatalf("%s was pushed and does not exist", tag)
			}
			select {
			case err := <-pushed:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
		}
		if n := len(s.signatures(t, "ns/race", i.digest())); n != 1 {
			t.Fatalf("%s exists with %d signatures, want 1", tag, n)
		}
	}
}
