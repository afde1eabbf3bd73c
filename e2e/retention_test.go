package e2e

import (
	"strings"
	"testing"
)

// deletes deletes a manifest or a tag.
func (s *server) deletes(t testing.TB, repository, name string) {
	t.Helper()
	s.do(t, "DELETE", "/v2/"+repository+"/manifests/"+name, "").want(t, 202)
}

// TestRetention deletes manifests and tags: signatures stay, or go after a delay unless what was
// deleted is pushed again.
func TestRetention(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	trustAlice := func(s *server) *server { trust(t, s.data, "alice"); return s }
	keep := trustAlice(start(t))
	drop := trustAlice(start(t, "-config", config(t, "retention: {deleted: drop, after: 0s}\n")))
	later := trustAlice(start(t, "-config", config(t, "retention: {deleted: drop, after: 3s}\n")))
	i := newImage("retained")
	for _, s := range []*server{keep, drop, later} {
		reference := s.address + "/ns/app"
		s.push(t, i, "ns/app", "v1")
		s.push(t, i, "ns/app", "v2")
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference+":v1", i.digest())).want(t, 201)
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference+":v2", i.digest())).want(t, 201)
		s.push(t, i, "ns/other", "v1")
	}
	of := func(s *server) string {
		t.Helper()
		return strings.ReplaceAll(strings.Join(s.signed(t, "ns/app", i.digest()), ", "), s.address+"/ns/app", "")
	}
	const all = "server :v1, server :v2, alice :v1, alice :v2"
	for _, s := range []*server{keep, drop, later} {
		if got := of(s); got != all {
			t.Fatalf("signed are %q, want %q", got, all)
		}
		s.deletes(t, "ns/app", "v1")
	}
	eventually(t, "the tag's signatures are dropped", func() bool { return of(drop) == "server :v2, alice :v2" })
	later.tag(t, i, "ns/app", "v1") // cancelled
	for _, s := range []*server{keep, drop, later} {
		s.deletes(t, "ns/app", i.digest())
	}
	eventually(t, "the manifest's signatures are dropped", func() bool { return of(drop) == "" })
	later.tag(t, i, "ns/app", "v2") // cancelled, but v1 went with the manifest
	gone := newImage("gone for good")
	later.push(t, gone, "ns/gone", "v1")
	later.deletes(t, "ns/gone", gone.digest())
	eventually(t, "what is deleted later is dropped, so what was cancelled would have been", func() bool {
		return len(later.signatures(t, "ns/gone", gone.digest())) == 0
	})
	for _, s := range []*server{keep, later} {
		if got := of(s); got != all {
			t.Errorf("signed are %q, want %q", got, all)
		}
	}
	for _, s := range []*server{keep, drop, later} {
		s.wantSigned(t, "ns/other", i.digest(), "server "+s.address+"/ns/other:v1")
	}
	shows(t, drop.cli(t, 0, "audit"), "dropped by countersign "+drop.address+"/ns/app@"+i.digest(), "tag v1 was deleted from the registry", "the manifest was deleted from the registry")

	// What was withdrawn does not come back with a re-push.
	drop.tag(t, i, "ns/app", "v1")
	if got := of(drop); got != "server :v1" {
		t.Errorf("pushed again, signed are %q", got)
	}
	drop.cli(t, 0, "withdraw", "-image", "-reason", "bad", drop.address+"/ns/app@"+i.digest())
	drop.deletes(t, "ns/app", i.digest())
	drop.tag(t, i, "ns/app", "v1")
	drop.wantSigned(t, "ns/app", i.digest())
	shows(t, refusal(t, "serve", "-config", config(t, "retention: {deleted: burn}\n")), "retention.deleted", "keep or drop")
}
