package access_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign-dev/countersign/server/access"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, separators, s string
		match                  bool
	}{
		{"a/b", "/", "a/b", true},
		{"a/b", "/", "a/bc", false},
		{"a/*", "/", "a/b", true},
		{"a/*", "/", "a/", false},
		{"a/*", "/", "a/b/c", false},
		{"a/**", "/", "a/b/c", true},
		{"a/**", "/", "a", false},
		{"a.b/*", "/", "axb/c", false},
		{"repo:acme/*:ref:refs/heads/*", "/:", "repo:acme/app:ref:refs/heads/main", true},
		{"repo:acme/*:ref:refs/heads/*", "/:", "repo:acme/app:ref:refs/heads/a/b", false},
		{"repo:acme/*:ref:refs/heads/*", "/:", "repo:acme/x:environment:y:ref:refs/heads/main", false},
		{"*", "/", "a\nb", true},
		{"(a|b)+", "/", "a", false},
		{"**", "/:", "\x00", true},
	} {
		if got, err := access.Match(test.pattern, test.separators, test.s); err != nil || got != test.match {
			t.Errorf("%q and %q: %v, %v, want %v", test.pattern, test.s, got, err, test.match)
		}
	}
}

// A pattern without wildcards matches itself alone, and * no separator.
func FuzzPattern(f *testing.F) {
	f.Add("a/*", "a/b")
	f.Add("registry.example.com/**", "registry.example.com/a/b")
	f.Add("***", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got, err := access.Match(pattern, "/", s)
		if err != nil {
			return
		}
		if !strings.Contains(pattern, "*") && got != (pattern == s) {
			t.Errorf("%q and %q: %v", pattern, s, got)
		}
		if before, ok := strings.CutSuffix(pattern, "**"); ok && !strings.Contains(before, "*") && got != (strings.HasPrefix(s, before) && s != before) {
			t.Errorf("%q and %q: %v", pattern, s, got)
		}
		if !strings.Contains(pattern, "**") && got && strings.Count(pattern, "/") != strings.Count(s, "/") {
			t.Errorf("a * of %q matched a / of %q", pattern, s)
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	f.Add("Basic YWxpY2U6c2VjcmV0")
	f.Add("Bearer eyJ.x.y")
	f.Add("Basic Og==")
	f.Fuzz(func(t *testing.T, header string) {
		user, secret, err := access.ParseAuthorization(header)
		if err != nil && (user != "" || secret != "") {
			t.Errorf("%q: %q and %q with %v", header, user, secret, err)
		}
		if !utf8.ValidString(user) || strings.ContainsAny(user, "\n\r\x00:") {
			t.Errorf("%q: the user is %q", header, user)
		}
	})
}

// Files of people are read or refused by line, and an error never has the line in it.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("alice:$2y$05$" + strings.Repeat("e", 53) + "\n"))
	f.Add([]byte("ci sha256:" + strings.Repeat("0", 64) + " 2027-01-31T00:00:00Z\n# x\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		htpasswd, tokens := access.ParseFiles(content)
		for _, err := range []error{htpasswd, tokens} {
			if err != nil && !strings.HasPrefix(err.Error(), "line ") {
				t.Errorf("%q: %v", content, err)
			}
		}
	})
}
