package signature_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/signature"
)

// References that registries read and clients do not are of no use in a claim: a node would
// refuse what was admitted.
func TestParseReference(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 255-len("registry.example.com/"))
	for s, want := range map[string]string{
		"busybox":                                   "docker.io/library/busybox",
		"localhost/app:v1":                          "localhost/app:v1",
		"localhost:5000/app:v1":                     "localhost:5000/app:v1",
		"Registry.example.com/app:v1":               "Registry.example.com/app:v1",
		"REGISTRY:5000/app:v1":                      "REGISTRY:5000/app:v1",
		"127.0.0.1/app:v1":                          "127.0.0.1/app:v1",
		"registry.example.com/" + long:              "registry.example.com/" + long,
		"registry.example.com/" + long + "a":        "",
		"[::1]:5000/app:v1":                         "",
		"[::1]/app:v1":                              "",
		"Registry/app:v1":                           "",
		"LOCALHOST/app:v1":                          "",
		"registry.example.com/App:v1":               "",
		"":                                          "",
		strings.Repeat("a/", 1<<20) + "a":           "",
		"example.com/a:v1" + strings.Repeat(" ", 8): "",
	} {
		got := ""
		named, err := signature.ParseReference(s)
		if err == nil {
			got = named.String()
		}
		if got != want {
			t.Errorf("%.80q: got %q and %v, want %q", s, got, err, want)
		}
	}
}

func TestParseClaimOfUnreadableReference(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"[::1]:5000/app:v1", "Registry/app:v1", "example.com/" + strings.Repeat("a", 250) + ":v1"} {
		claim := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":"sha256:%064d"},"type":"atomic container signature"},"optional":{}}`, s, 0)
		if got, err := signature.ParseClaim(claim); !errors.Is(err, signature.ErrMalformed) {
			t.Errorf("%s: got %+v and %v, want ErrMalformed", s, got, err)
		}
	}
}
