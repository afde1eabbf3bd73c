package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
)

// What is wrong in several places is found in one reading, and what is right is still there.
func TestInspect(t *testing.T) {
	t.Parallel()
	const file = `{
  "default": [{"type": "reject", "why": 1}],
  "transports": {"docker": {
    "registry.example.com": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/a", "keyData": "%"}],
    "registry.example.com": [{"type": "reject"}],
    "quay.example.com": [],
    "good.example.com": [{"type": "insecureAcceptAnything"}, {"type": "signed"}]
  }},
  "extra": {}
}`
	p, problems := policy.Inspect([]byte(file))
	var got []string
	for _, problem := range problems {
		got = append(got, fmt.Sprintf("%d %s %v", problem.Line, problem.Place, problem.Err))
	}
	for i, want := range []string{
		`2 default[0].why unknown key`,
		`4 transports.docker["registry.example.com"][0].keyData not base64`,
		`4 transports.docker["registry.example.com"][0] may have only one of keyPath and keyData`,
		`5 transports.docker["registry.example.com"] duplicate key`,
		`6 transports.docker["quay.example.com"] no requirement`,
		`7 transports.docker["good.example.com"][1].type "signed" is none of`,
		`9 extra unknown key`,
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("problem %d is missing or another, want %q; got\n%s", i, want, strings.Join(got, "\n"))
		}
	}
	if p == nil || len(p.Scopes()) < 3 {
		t.Errorf("what could be read is not there: %+v", p)
	}
	if p, problems := policy.Inspect([]byte("{\n]")); p != nil || len(problems) != 1 || problems[0].Line != 2 {
		t.Errorf("no JSON: got %v and %v", p, problems)
	}
}

// Scopes written again make the same policy.
func TestScopesWritten(t *testing.T) {
	t.Parallel()
	file := within(by("alice", `"signedIdentity":{"type":"remapIdentity","prefix":"a.b:5000/c","signedPrefix":"localhost"}`) + `,` +
		`{"type":"sigstoreSigned","fulcio":{"caData":"YQ==","oidcIssuer":"i \u00e9<","subjectEmail":"e"},"rekorPublicKeyData":"YQ=="}`)
	p, err := policy.Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	document := map[string]any{}
	transports := map[string]map[string][]json.RawMessage{}
	for _, s := range p.Scopes() {
		var written []json.RawMessage
		for _, r := range s.Requirements {
			written = append(written, r.Written)
		}
		if s.Transport == "" {
			document["default"] = written
			continue
		}
		if transports[s.Transport] == nil {
			transports[s.Transport] = map[string][]json.RawMessage{}
		}
		transports[s.Transport][s.Name] = written
	}
	document["transports"] = transports
	again, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if !same(t, []byte(file), again) {
		t.Errorf("got\n%s\nof\n%s", again, file)
	}
	if prefix := p.Scopes()[1].Requirements[0].Prefix; prefix != "a.b:5000/c" {
		t.Errorf("the prefix is %q", prefix)
	}
}

func same(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

// An example is of the scope that it is for; scopes that clients never look up have none.
func TestExample(t *testing.T) {
	t.Parallel()
	for scope, want := range map[string]string{
		"":                                    "registry.example.com/image:tag",
		"registry.example.com":                "registry.example.com/image:tag",
		"registry.example.com:5000":           "registry.example.com:5000/image:tag",
		"registry.example.com/ns":             "registry.example.com/ns/image:tag",
		"registry.example.com/ns/app:v1":      "registry.example.com/ns/app:v1",
		"r.example.com/a@" + string(manifest): "r.example.com/a@" + string(manifest),
		"*.example.com":                       "example.example.com/image:tag",
		"docker.io":                           "docker.io/library/image:tag",
		"docker.io/bitnami":                   "docker.io/bitnami/image:tag",
		"localhost":                           "localhost/image:tag",
		"https://registry.example.com":        "", "docker://registry.example.com": "", "registry.example.com/": "", "/registry": "",
		"registry.example.com/NS": "", "busybox": "", "library/busybox": "", "docker.io/busybox:latest": "", "index.docker.io": "",
		"*": "", "*.example.com:5000": "", "*.example.com/ns": "", "reg*.example.com": "", "registry.example.com/ns/*": "",
		"[::1]:5000": "", "registry.example.com/a:v1@" + string(manifest): "", " registry.example.com": "", "registry": "", "REGISTRY": "",
	} {
		named, ok := policy.Example(scope)
		if got := fmt.Sprint(named); ok != (want != "") || ok && got != want {
			t.Errorf("scope %q: got %s, %v; want %q", scope, got, ok, want)
		}
		if !ok {
			continue
		}
		p, err := policy.Parse(fmt.Appendf(nil, `{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"insecureAcceptAnything"}]}}}`, scope))
		if err != nil {
			t.Fatal(err)
		}
		if s := p.For("docker", named); s.Name != scope || s.Transport != "docker" {
			t.Errorf("scope %q: for its example it is %+v", scope, s)
		}
		if s := p.For("atomic", named); s.Transport != "" || s.Place != "default" {
			t.Errorf("scope %q: for another transport it is %+v", scope, s)
		}
	}
}
