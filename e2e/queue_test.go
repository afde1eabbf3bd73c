package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestReplicasQueue has two servers on one database work off one queue. What one had taken when it
// was killed the other finishes, and nothing is done twice.
func TestReplicasQueue(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	const images = 20
	d, dir := newDatabase(t), t.TempDir()
	for _, name := range []string{"old", "next"} {
		runs(t, "keys", "generate", filepath.Join(dir, name+".key"))
	}
	signer := startStuck(t)
	settings := func(next string) string {
		return config(t, fmt.Sprintf("signing:\n  keys: {old: {file: %s/old.key}, next: {%s}}\n  rules: [{scope: '', key: old, on: [push]}]\nregistry: {embedded: %[1]s/registry}\n", dir, next))
	}
	replica := func(next string) *server {
		return start(t, "-config", settings(next), "-host", appendHost, "-database-url", d.URL("postgres"))
	}

	first := replica(fmt.Sprintf("socket: %s, public: %s/next.asc, timeout: 20s", signer.socket, dir))
	var digests []string
	for n := range images {
		i := newImage(fmt.Sprint("replicas queue ", n))
		first.push(t, i, "ns/app", fmt.Sprintf("v%d", n))
		digests = append(digests, i.digest())
	}
	resigning := command(t.Context(), "resign", "-server", "http://"+first.address, "-from", "old", "-to", "next")
	if err := resigning.Start(); err != nil {
		t.Fatal(err)
	}
	<-signer.asked
	first.kill(t)
	_ = resigning.Wait() // its server is gone

	others := []*server{replica("file: " + dir + "/next.key"), replica("file: " + dir + "/next.key")}
	others[0].cli(t, 0, "resign", "-from", "old", "-to", "next")
	for _, s := range others {
		s.idle(t)
	}
	want := []string{inspectKey(t, filepath.Join(dir, "old.asc")).fingerprint, inspectKey(t, filepath.Join(dir, "next.asc")).fingerprint}
	for _, s := range others {
		for _, digest := range digests {
			if got := s.signers(t, "ns/app", digest); !slices.Equal(got, want) {
				t.Errorf("%s is signed by %q, want both keys once", digest, got)
			}
		}
	}
	made := others[0].signedAgain(t) + others[1].signedAgain(t)
	if records := strings.Count(others[0].cli(t, 0, "audit", "-json"), `"fingerprint":"`+want[1]+`"`); made != images || records != images {
		t.Errorf("%d images were signed %d times, and %d records say so", images, made, records)
	}
}

// A stuck signer takes what is asked of it and never answers.
type stuck struct {
	socket string
	asked  chan struct{} // closed when the first request is there
}

func startStuck(t *testing.T) stuck {
	t.Helper()
	s := stuck{socket: filepath.Join(t.TempDir(), "s"), asked: make(chan struct{})}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := sync.OnceFunc(func() { close(s.asked) })
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			asked()
		}
		<-r.Context().Done()
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // until it is closed
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return s
}

// A waitingTask is what queue -json says of one.
type waitingTask struct{ ID, State, Problem string }

// ruleRemoved is a server whose rule went while a task waited, so that the task is dead.
func ruleRemoved(t *testing.T) (a appending, s *server, task waitingTask) {
	t.Helper()
	a = newAppending(t)
	s = a.start(t)
	// Killed when the upload is stored and its signature is not.
	if !a.killBetween(t, s) {
		t.Fatal("the upload and its signature are one: there is nothing between")
	}
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "none")
	eventually(t, "the task is dead", func() bool {
		return json.Unmarshal([]byte(s.cli(t, 0, "queue", "-dead", "-json")), &task) == nil && task.State == "dead"
	})
	return a, s, task
}

// TestQueue has a rule removed while a task waits. It is not done, and a person decides.
func TestQueue(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a, s, task := ruleRemoved(t)
	if !strings.Contains(task.Problem, "no signing rule") {
		t.Errorf("the task says %q", task.Problem)
	}
	stored := a.afterward[:2]
	s.wantSigned(t, "ns/app", a.image.digest(), stored...)
	shows(t, s.cli(t, 0, "queue"), "dead", "ns/app@"+a.image.digest(), "v1", task.ID)
	all, _ := s.scrape(t)
	if all.sum("countersign_queue_tasks", `state="dead"`) != 1 || all.sum("countersign_queue_tasks", `state="queued"`) != 0 ||
		all.sum("countersign_queue_attempts_total", `outcome="dead"`) < 1 || all.sum("countersign_queue_age_seconds") != 0 {
		t.Errorf("the metrics do not say so: %v", all)
	}
	s.stop(t)

	// The rule comes back, and somebody retries.
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "upload")
	s.wantSigned(t, "ns/app", a.image.digest(), stored...) // by itself nothing happens
	s.task(t, 1, "retry", "bm9uZQ")
	s.task(t, 2, "retry")
	shows(t, s.task(t, 0, "retry", "-dead"), "retry: 1")
	s.idle(t)
	s.wantSigned(t, "ns/app", a.image.digest(), a.afterward...)
	s.task(t, 1, "drop", task.ID) // it is finished
}

// TestQueueDrop gives a dead task up.
func TestQueueDrop(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a, s, task := ruleRemoved(t)
	s.task(t, 0, "drop", task.ID)
	if out := s.cli(t, 0, "queue", "-json"); out != "" {
		t.Errorf("after the drop there is %s", out)
	}
	shows(t, s.cli(t, 0, "audit"), "was dropped from the queue")
	s.stop(t)
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "upload")
	s.idle(t)
	s.wantSigned(t, "ns/app", a.image.digest(), a.afterward[:2]...)
}

// task does something to tasks of the queue.
func (s *server) task(t testing.TB, code int, word string, args ...string) string {
	t.Helper()
	c := command(t.Context(), append([]string{"queue", word, "-server", "http://" + s.address}, args...)...)
	out, _ := c.CombinedOutput() // its exit code is looked at
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("queue %s %v: exit code %d, want %d\n%s", word, args, got, code, out)
	}
	return string(out)
}
