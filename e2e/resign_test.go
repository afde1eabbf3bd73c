package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// resigning is a line that is written over the one before.
var resigning = regexp.MustCompile(`\r\d+ queued, \d+ signed already`)

// TestResign is about what is not simply signed again: a tag that has moved, an image that is gone,
// what was withdrawn, people's signatures, another scope, keys that there are not.
func TestResign(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "script", "skopeo")
	s, settings, old, next, images := rotating(t, 5)
	trust(t, s.data, "alice")
	moved := newImage("moved")
	s.push(t, moved, "ns/app0", "v0") // images[0] is left by its tag
	s.do(t, "DELETE", "/v2/ns/app1/manifests/"+images[1].digest(), "").want(t, 202)
	s.cli(t, 0, "withdraw", "-reason", "test", "-image", s.address+"/ns/app2@"+images[2].digest())
	s.upload(t, "ns/app3", images[3].digest(), sign(t, "alice", s.address+"/ns/app3:v3", images[3].digest())).want(t, 201)
	s.stop(t)
	s = s.again(t, "-config", config(t, settings))
	fingerprints := []string{inspectKey(t, old).fingerprint, inspectKey(t, next).fingerprint}
	if got := s.alone(t, fingerprints[0]); got != 3 { // v0, v1, v4: v2 is withdrawn, and alice has signed v3
		t.Errorf("%d tags are nobody's but the old key's, want 3", got)
	}
	// Somebody pushes it by its digest, as clients do with the instances of a list.
	s.tag(t, images[4], "ns/app4", "")
	if got := s.signers(t, "ns/app4", images[4].digest()); !slices.Equal(got, fingerprints) {
		t.Errorf("a push by digest is signed by %q, want both", got)
	}

	s.cli(t, 0, "resign", "-from", "old", "-to", "next", s.address+"/ns/app3")
	if got := s.signers(t, "ns/app0", moved.digest()); !slices.Equal(got, fingerprints[:1]) {
		t.Errorf("outside of its scope it signed: %q", got)
	}
	if got := s.signers(t, "ns/app3", images[3].digest()); !slices.Equal(got, []string{fingerprints[0], fingerprintOf(t, "alice"), fingerprints[1]}) {
		t.Errorf("signed by %q, want the old key, alice and the new key", got)
	}
	if out, err := s.onTerminal(t, "resign", "-from", "old", "-to", "next"); err != nil || !resigning.Match(out) {
		t.Errorf("resign on a terminal: %v, %q; want a line that moves on", err, out)
	}
	new := newNode(t).require(t, s.address, next)
	works(t)(new.pull(t, s.address+"/ns/app0:v0"))
	works(t)(new.pull(t, s.address+"/ns/app4:v4"))
	// What its tag has left is pulled by digest, and never again under that tag.
	works(t)(new.pull(t, s.address+"/ns/app0@"+images[0].digest()))
	for _, e := range s.list(t, "ns/app0", images[0].digest()) {
		if e.Fingerprint == fingerprints[1] && !strings.HasSuffix(e.Reference, "@"+images[0].digest()) {
			t.Errorf("the new key signed %s as %s, which its tag has left", images[0].digest(), e.Reference)
		}
	}
	if got := s.signers(t, "ns/app1", images[1].digest()); slices.Contains(got, fingerprints[1]) {
		t.Errorf("what the registry does not have any more is signed: %q", got)
	}
	if got := s.signers(t, "ns/app2", images[2].digest()); len(got) != 0 {
		t.Errorf("what was withdrawn is signed again: %q", got)
	}
	if got := s.alone(t, fingerprints[0]); got != 1 {
		t.Errorf("%d tags are nobody's but the old key's, want that whose image is gone", got)
	}
	if out := s.cli(t, 0, "resign", "-from", "old", "-to", "next"); !strings.Contains(out, ", 0 more than before") {
		t.Errorf("a second time: %q", out)
	}
	for name, args := range map[string][]string{
		"-from": {"-from", "nothing", "-to", "next"}, "signing.keys": {"-from", "old", "-to", "nothing"}, "both are": {"-from", "old", "-to", "old"},
	} {
		if out := s.cli(t, 1, "resign", args...); !strings.Contains(out, name) && !strings.Contains(out, "neither a name") {
			t.Errorf("resign %q says %q, want a word about %s", args, out, name)
		}
	}
	s.cli(t, 2, "resign", "-from", "old")
	shows(t, s.cli(t, 1, "resign", "-from", "old", "-to", "next", "other.example.test/ns"), "is not for "+s.address)
}
