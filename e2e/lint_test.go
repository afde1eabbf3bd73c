package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lint runs countersign lint and returns what it writes and its exit code.
func lint(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	c := command(t.Context(), append([]string{"lint"}, args...)...)
	data, err := c.Output()
	exit := new(exec.ExitError)
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(data), c.ProcessState.ExitCode()
}

// What node-config makes is right, for every profile, however clients find signatures, and for old
// clients: lint finds nothing.
func TestLintNodeConfig(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"extension": "", "lookaside": "advertise: false\n"} {
		f := newFleet(t, settings)
		for _, profile := range []string{"production", "build"} {
			directory := filepath.Join(t.TempDir(), "nodes")
			f.nodeConfig(t, "-profile", profile, "-o", directory)
			for _, flags := range [][]string{{}, {"-client", "podman-3.4"}, {"-client", "5.42"}} {
				out, code := lint(t, append(append(flags, "-json", "-strict"), directory)...)
				if code != 0 || !strings.Contains(out, `"findings": []`) {
					t.Errorf("%s, %s, %q: exit code %d\n%s", name, profile, flags, code, out)
				}
			}
		}
	}
}
