package differential

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"
)

// soak tells whether the full counts are wanted.
func soak() bool { return os.Getenv("COUNTERSIGN_SOAK") != "" }

// The small world of generated policies and references, in which things often meet.
var (
	hosts        = []string{"a.example.com", "b.example.com:5000", "localhost:5000", "docker.io", "10.0.0.1"}
	repositories = []string{"ns/app", "ns", "ns/app/deep", "library/busybox", "nsx/app"}
	tags         = []string{"v1", "v2", "latest"}
	digests      = []string{digest.FromBytes(imageManifest()).String(), "sha256:" + strings.Repeat("0", 64)}
)

// A generator makes questions. The same claims come often: they are signed once.
type generator struct {
	signers []signer
	mu      sync.Mutex
	signed  map[string][]byte
}

func (g *generator) sign(t *testing.T, by int, payload []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := fmt.Sprintf("%d %s", by, payload)
	if g.signed[key] == nil {
		g.signed[key] = g.signers[by].sign(t, payload)
	}
	return g.signed[key]
}

func pick(t *rapid.T, label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(t, label)
}

// often is true in n of ten.
func often(t *rapid.T, label string, n int) bool { return rapid.IntRange(0, 9).Draw(t, label) < n }

func someRepository(t *rapid.T) string {
	return pick(t, "host", hosts...) + "/" + pick(t, "repository", repositories...)
}

// someReference is one with a tag, one of the digests, both or none, of a repository.
func someReference(t *rapid.T, repository string, digests ...string) string {
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind of reference"); {
	case kind < 5:
		return repository + ":" + pick(t, "tag", tags...)
	case kind < 7:
		return repository + "@" + pick(t, "digest", digests...)
	case kind < 8:
		return repository + ":" + pick(t, "tag", tags...) + "@" + digests[0]
	case kind < 9:
		return strings.TrimPrefix(strings.TrimPrefix(repository, "docker.io/"), "library/") // as people write
	}
	return repository
}

// someScope is one that is for the reference, or for another.
func someScope(t *rapid.T, reference, repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	name, _, _ := strings.Cut(host, ":")
	switch rapid.IntRange(0, 8).Draw(t, "kind of scope") {
	case 0:
		return ""
	case 1:
		return host
	case 2:
		return reference
	case 3:
		return repository
	case 4:
		return repository[:strings.LastIndex(repository, "/")]
	case 5:
		_, domain, _ := strings.Cut(name, ".")
		return "*." + domain
	case 6:
		return "*." + name[strings.LastIndex(name, ".")+1:]
	case 7:
		return name
	}
	return scopeOfAnother
}

const scopeOfAnother = "other.example.com/ns"

func someIdentity(t *rapid.T, claimed, repository, claimedRepository string) string {
	prefix := func(of string) string {
		for range rapid.IntRange(0, 2).Draw(t, "shorter by") {
			if i := strings.LastIndex(of, "/"); i > 0 {
				of = of[:i]
			}
		}
		return of
	}
	switch rapid.IntRange(0, 8).Draw(t, "kind of identity") {
	case 0:
		return `,"signedIdentity":{"type":"matchExact"}`
	case 1:
		return `,"signedIdentity":{"type":"matchRepoDigestOrExact"}`
	case 2:
		return `,"signedIdentity":{"type":"matchRepository"}`
	case 3:
		return fmt.Sprintf(`,"signedIdentity":{"type":"exactReference","dockerReference":%q}`, claimed)
	case 4:
		return fmt.Sprintf(`,"signedIdentity":{"type":"exactRepository","dockerRepository":%q}`, claimedRepository)
	case 5, 6:
		return fmt.Sprintf(`,"signedIdentity":{"type":"remapIdentity","prefix":%q,"signedPrefix":%q}`, prefix(repository), prefix(claimedRepository))
	}
	return ""
}

// question draws a policy, a reference, and signatures: by those whom the policy names and others,
// for this and other images.
func (g *generator) question(t *testing.T, r *rapid.T) question {
	repo := someRepository(r)
	// Clients hash what they fetch, so an image that was asked for by digest has that digest.
	ref := someReference(r, repo, digests[0])
	claimedRepo, claimed := repo, ref
	if !often(r, "claims the repository", 9) {
		claimedRepo = someRepository(r)
	}
	if claimedRepo != repo || !often(r, "claims the reference", 9) {
		claimed = someReference(r, claimedRepo, digests...)
	}
	q := question{transport: pick(r, "transport", "docker", "docker", "atomic"), reference: ref}
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 1, 1, 2, 2, 3}).Draw(r, "signatures") {
		by, of, what := rapid.IntRange(0, 3).Draw(r, "signer"), claimed, digests[0]
		if !often(r, "for this", 9) {
			of, what = someReference(r, someRepository(r), digests...), pick(r, "of", digests...)
		}
		q.signatures = append(q.signatures, g.sign(t, min(by, 1), claim(of, what, "")))
	}
	requirements := func(label string) string {
		var all []string
		for range rapid.SampledFrom([]int{1, 1, 1, 2, maxRequirements}).Draw(r, label) {
			switch kind := rapid.IntRange(0, 15).Draw(r, "kind of requirement"); {
			case kind == 0:
				all = append(all, `{"type":"reject"}`)
			case kind < 5:
				all = append(all, anything)
			case kind < 15:
				keys := [][]byte{g.signers[1].keys, append(append([]byte{}, g.signers[0].keys...), g.signers[1].keys...), g.signers[0].keys}
				all = append(all, byKeys(keys[min(rapid.IntRange(0, 4).Draw(r, "keys")/2, 2)], someIdentity(r, claimed, repo, claimedRepo)))
			default:
				all = append(all, `{"type":"sigstoreSigned","keyPath":"/nonexistent"}`)
			}
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	scopes := map[string]bool{}
	var listed []string
	for range rapid.IntRange(0, 4).Draw(r, "scopes") {
		if s := someScope(r, ref, repo); !scopes[s] {
			scopes[s] = true
			listed = append(listed, fmt.Sprintf("%q:%s", s, requirements("requirements")))
		}
	}
	q.policy = fmt.Sprintf(`{"default":%s,"transports":{%q:{%s}}}`, requirements("default"), q.transport, strings.Join(listed, ","))
	return q
}

func newGenerator(t *testing.T) *generator {
	return &generator{signers: []signer{newSigner(t, "bob"), newSigner(t, "alice")}, signed: map[string][]byte{}}
}

// Whatever the policy, the image and its signatures are: what is accepted here, every client accepts.
func testGenerated(t *testing.T, c *comparison) {
	g := newGenerator(t)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		q := g.question(t, r)
		oracles := []oracle{library}
		// skopeo takes no reference with tag and digest, and asks registries, not OpenShift.
		both := strings.Contains(q.reference, "@") && strings.Contains(q.reference[strings.LastIndex(q.reference, "/"):strings.Index(q.reference, "@")], ":")
		if n++; q.transport == "docker" && !both && (soak() || n%10 == 0) {
			oracles = c.oracles
		}
		if err := c.ask(t, generated, q, oracles...); err != nil {
			r.Fatalf("%v\nfor %s:%s with %d signatures under %s", err, q.transport, q.reference, len(q.signatures), q.policy)
		}
	})
}
