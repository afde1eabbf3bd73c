package api

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// FuzzPlainNames holds what is plainly a name to the regular expression that it is not sent through.
func FuzzPlainNames(f *testing.F) {
	for _, host := range []string{"registry.example.com", "localhost:5000", "h", "10.0.0.1:80", "a-b.c", "a:", "a..b", ":80", "a.", "[::1]:80", "a_b"} {
		for _, repository := range []string{"a", "a/b-c/d_e.f", "a//b", "a.-b", "a--b", "-a", "a-", "A", strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a/", 127) + "ab"} {
			f.Add(host, repository)
		}
	}
	f.Fuzz(func(t *testing.T, host, repository string) {
		if !plainHost(host) || !plainRepository(repository) {
			return
		}
		named, err := reference.WithName(host + "/" + repository)
		if err != nil || reference.Domain(named) != host || reference.Path(named) != repository {
			t.Errorf("%q and %q are plain, and read as %v, %v", host, repository, named, err)
		}
	})
}

// Names as they are do not pay for the regular expression.
func TestPlainNames(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"registry.example.com", "localhost:5000", "10.0.0.1:80"} {
		if !plainHost(host) {
			t.Errorf("host %q is not plain", host)
		}
	}
	for _, repository := range []string{"app", "team-01/app.web_2", "a/b/c/d"} {
		if !plainRepository(repository) {
			t.Errorf("repository %q is not plain", repository)
		}
	}
}
