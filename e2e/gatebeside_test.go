package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestGateBeside opens a gate beside a registry that wants a login, which the server has another of
// than clients: until its own is right the signature waits in the queue, which says why.
func TestGateBeside(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo", "docker-registry")
	behind, dir := debian(t), t.TempDir()
	auth, tokens, token := filepath.Join(dir, "auth.json"), filepath.Join(dir, "tokens"), filepath.Join(dir, "token")
	login := func(password string) {
		writeSecret(t, auth, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, behind, strings.TrimPrefix(basic("bob", password), "Basic ")))
	}
	login("wrong")
	writeSecret(t, token, runs(t, "token", "-file", tokens, "-days", "1", "operator"))
	s := trusting(t, "-config", config(t, fmt.Sprintf("registry: {url: 'http://%s', authFile: %s}\naccess:\n  tokens: %s\n  grants:\n"+
		"  - {who: ['token:operator'], repositories: ['**'], actions: [admin]}\nsigning: {rules: [{scope: '', on: [upload], require: %s}]}\n",
		behind, auth, tokens, gatePolicy(t, "alice", "carol"))))
	alice, i, reference := s.as(basic("alice", "secret")), newImage("gate beside"), s.address+"/ns/app:v1"
	push := func(person string) {
		t.Helper()
		works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret", "--sign-by", fingerprintOf(t, person)))
	}
	queue := func() string { return s.cli(t, 0, "queue", "-json", "-token-file", token) }

	push("alice")
	if out := queue(); out != "" {
		t.Errorf("a shut gate has queued %s", out)
	}
	push("carol")
	alice.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "carol "+reference)
	var task struct{ ID, State, Problem string }
	eventually(t, "the queue has asked the registry", func() bool {
		return json.Unmarshal([]byte(queue()), &task) == nil && task.Problem != ""
	})
	if task.State != "queued" || !strings.Contains(task.Problem, "401") && !strings.Contains(task.Problem, "authentication") {
		t.Errorf("it is %s, and says %q", task.State, task.Problem)
	}

	login("secret") // read again each time
	// The task may be on its turn just now, still with what was wrong.
	eventually(t, "the task is tried again", func() bool {
		c := command(t.Context(), "queue", "retry", "-server", "http://"+s.address, "-token-file", token, task.ID)
		out, err := c.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "is being worked on") && !strings.Contains(string(out), "is finished") {
			t.Fatalf("queue retry: %v\n%s", err, out)
		}
		return err == nil || strings.Contains(string(out), "is finished")
	})
	eventually(t, "it is done", func() bool { return queue() == "" })
	alice.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "carol "+reference, "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference, "--src-creds", "alice:secret"))
	fails(t, "unauthorized")(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
}
