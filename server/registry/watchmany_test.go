package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// A list of more entries than can be signed is stored as others are, and refused by who signs.
func TestLargeList(t *testing.T) {
	t.Parallel()
	instances := func(_ context.Context, p Push) error {
		_, err := p.Manifest.Instances()
		return err
	}
	s := serve(t, EmbeddedConfig{Pushed: instances, Refusal: func(err error) (code, message string) {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
		return api.CodeManifestInvalid, err.Error()
	}})
	image := s.image("a", "{}")
	d := s.push("a", digest.FromString(image).String(), image)
	s.want(201, s.put("a", "most", ociList, list(slices.Repeat([]digest.Digest{d}, MaxInstances)...)), "a list of 64")
	s.refused(s.put("a", "more", ociList, list(slices.Repeat([]digest.Digest{d}, MaxInstances+1)...)),
		400, api.CodeManifestInvalid, "manifest invalid: a list of 65 entries, at most 64 can be signed")
	if _, err := s.Manifest(t.Context(), "a", "more"); !isUnknown(err) {
		t.Errorf("the refused tag: %v", err)
	}
}

// Of pushes at once each is reported before and after its own tag, and one of those who
// wanted the same tag has it.
func TestConcurrentPushes(t *testing.T) {
	t.Parallel()
	const n = 8
	s, w := watch(t)
	var images []string
	for i := range n {
		images = append(images, s.image("a", fmt.Sprint(i)))
	}
	var group sync.WaitGroup
	for i, image := range images {
		group.Go(func() {
			for _, tag := range []string{"shared", fmt.Sprint("own", i), digest.FromString(image).String()} {
				if got := s.put("a", tag, ociImage, image); got.status != 201 {
					t.Errorf("push %d as %s: %d %s", i, tag, got.status, got.body)
				}
			}
		})
	}
	group.Wait()
	if len(w.pushes) != 2*3*n {
		t.Errorf("heard of %d, want %d", len(w.pushes), 2*3*n)
	}
	told := map[string]string{}
	for i, p := range w.pushes {
		hook, _, _ := strings.Cut(w.heard[i], " ")
		told[p.Tag+" "+p.Manifest.Digest.String()] += hook + " "
		if strings.Contains(w.heard[i], "not stored") || hook == "tagged" && strings.Contains(w.heard[i], "no tag") {
			t.Errorf("heard %s", w.heard[i])
		}
	}
	for push, hooks := range told {
		if hooks != "pushed tagged " {
			t.Errorf("%s: told %s", push, hooks)
		}
	}
	has := s.tagged("a", "shared")
	if !slices.ContainsFunc(images, func(image string) bool { return digest.FromString(image) == has }) {
		t.Errorf("the shared tag is %s, which nobody pushed", has)
	}
	for i, image := range images {
		if got := s.tagged("a", fmt.Sprint("own", i)); got != digest.FromString(image) {
			t.Errorf("own%d is %s, want %s", i, got, digest.FromString(image))
		}
	}
}
