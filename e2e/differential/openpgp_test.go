//go:build containers_image_openpgp

package differential

import (
	"os"
	"os/exec"
	"testing"
)

// library is the build of containers/image that this test is compiled with.
const library = openpgp

// The same comparison with the library's other build, the one that podman and skopeo have.
func TestWithGPGME(t *testing.T) {
	t.Parallel()
	if err := exec.Command("pkg-config", "--exists", "gpgme").Run(); err != nil {
		lack(t, "libgpgme-dev is not installed; run e2e/install as root, or: apt-get install libgpgme-dev pkg-config")
	}
	args := []string{"test", "-tags=", "-count=1", "-v", "-timeout=4h", "."}
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("go %q: %v\n%s", args, err, out)
	}
	t.Logf("%s", out)
}
