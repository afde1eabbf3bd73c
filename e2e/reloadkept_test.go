package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestReloadKeepsIssuers changes the settings while an issuer is away: its keys are known, as before.
func TestReloadKeepsIssuers(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "")
	g.as(basic("job", g.issuer.token(t, time.Hour, "one", nil))).get(t, "/v2/").want(t, 200)
	g.issuer.leave()
	write(t, g.settings, read(t, g.settings)+"logLevel: debug\n")
	g.tells(t, "settings read again")
	g.as(basic("job", g.issuer.token(t, time.Hour, "one", nil))).get(t, "/v2/").want(t, 200)
}

// TestReloadPublishesNothingRefused changes keys by settings that are refused for something else: nodes
// go on getting the keys that sign. A policy may name what the same settings publish.
func TestReloadPublishesNothingRefused(t *testing.T) {
	t.Parallel()
	keys, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	for _, name := range []string{"one", "two", "three"} {
		runs(t, "keys", "generate", filepath.Join(keys, name+".key"))
	}
	policy := filepath.Join(keys, "policy.json")
	write(t, policy, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.test":[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`,
		filepath.Join(data, "keys", "release.asc")))
	one := fmt.Sprintf("nodes: {production: %s}\nsigning:\n  keys: {release: {file: %s/one.key}}\n", policy, keys)
	two := fmt.Sprintf("nodes: {production: %s}\nsigning:\n  keys: {release: {file: %s/two.key}, more: {file: %[2]s/three.key}}\n", policy, keys)
	published := func() map[string]string {
		t.Helper()
		found := map[string]string{}
		entries, err := os.ReadDir(filepath.Join(data, "keys"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			found[e.Name()] = read(t, filepath.Join(data, "keys", e.Name()))
		}
		return found
	}
	are := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for name := range published() {
			got[name] = inspectKey(t, filepath.Join(data, "keys", name)).fingerprint
		}
		for name, key := range want {
			want[name] = inspectKey(t, filepath.Join(keys, key)).fingerprint
		}
		if !maps.Equal(got, want) {
			t.Errorf("published are %v, want %v", got, want)
		}
	}
	v := newVolume(t, map[string]string{"countersign.yaml": one})
	s := startIn(t, data, "-config", v.path("countersign.yaml"))
	const file = `file_current{file="settings"}`
	s.follows(t, 1, file)
	are(map[string]string{"release.asc": "one.asc"})
	before := published()
	v.swap(t, map[string]string{"countersign.yaml": two})
	s.follows(t, 0, file)
	s.tells(t, "nothing says which of them signs what")
	if got := published(); !maps.Equal(got, before) {
		t.Errorf("published by settings that are refused: %q, want %q as before", got, before)
	}
	v.swap(t, map[string]string{"countersign.yaml": two + "  rules: [{scope: '', key: release, on: [push]}]\n"})
	s.follows(t, 1, file)
	are(map[string]string{"release.asc": "two.asc", "more.asc": "three.asc"})
}
