package e2e

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestKilledServer kills a server again and again while it takes uploads: nothing that was answered
// 201 is lost, nothing is there twice, and there is no hole.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 4)
	s := c.on(t, d.URL("postgres"))
	stop := c.upload(t, 4, s.address)
	for range killings() {
		c.await(t, 10)
		s.kill(t)
		s = s.again(t, "-database-url", d.URL("postgres"), "-host", crowdHost, "-sign-on", "none")
	}
	c.await(t, 10)
	stop()
	c.check(t, s)
}

// TestKilledDatabase does the same to the database: its postmaster and all backends at once.
func TestKilledDatabase(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 4)
	s := c.on(t, d.URL("postgres"))
	stop := c.upload(t, 4, s.address)
	for range killings() {
		c.await(t, 10)
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := d.Serve(); err != nil {
			t.Fatal(err)
		}
	}
	c.await(t, 10)
	stop()
	c.check(t, s)
	c.check(t, c.on(t, d.URL("postgres"))) // that knows nothing but what is in the database
}

// killings is how often a part is killed under load.
func killings() int {
	if soak() {
		return 100
	}
	return 5
}

// TestFailover kills the primary of a synchronous pair under load and promotes the standby, again and
// again: nothing that was answered 201 is lost, uploads come back by themselves, and a node that
// pulls all the while never fails.
func TestFailover(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	c, primary := newCrowd(t, 4), newDatabase(t)
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	second := standby // they change places
	t.Cleanup(func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := primary.Synchronous(); err != nil {
		t.Fatal(err)
	}
	s := c.on(t, fmt.Sprintf("host=%s,%s user=postgres dbname=postgres sslmode=disable", primary.Socket(), standby.Socket()))
	stopPulling := c.pullAlways(t, s)
	stop := c.upload(t, 4, s.address)
	rounds := 1
	if soak() {
		rounds = 20
	}
	for round := range rounds {
		c.await(t, 20)
		if err := primary.Kill(); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		if err := standby.Promote(); err != nil {
			t.Fatal(err)
		}
		promoted := time.Now()
		c.await(t, 1)
		t.Logf("round %d: promoted %.1f s after the kill, and an upload was answered 201 %.1f s after that",
			round+1, promoted.Sub(killed).Seconds(), time.Since(promoted).Seconds())
		primary, standby = standby, primary
		if err := standby.Follow(primary); err != nil {
			t.Fatal(err)
		}
		if err := primary.Synchronous(); err != nil {
			t.Fatal(err)
		}
	}
	c.await(t, 20)
	stop()
	stopPulling()
	c.check(t, s)
}

// pullAlways has skopeo pull an image whose policy wants a signature, until it is stopped; it must
// never fail.
func (c *crowd) pullAlways(t *testing.T, s *server) (stop func()) {
	t.Helper()
	i := newImage("pulled all the while")
	s.push(t, i, crowdRepository, "v1")
	content := c.mustSign(t, i.digest())
	if status, err := c.put(t.Context(), s.address, i.digest(), content); err != nil || status != 201 {
		t.Fatalf("upload: %d, %v, want 201", status, err)
	}
	key := filepath.Join(t.TempDir(), "crowd.asc")
	write(t, key, string(c.trusted))
	n := newNode(t)
	n.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q,`+
		`"signedIdentity":{"type":"exactReference","dockerReference":%q}}]}}}`, s.address, key, crowdHost+"/"+crowdRepository+":v1"))
	pull := func() (string, error) { return n.pull(t, s.address+"/"+crowdRepository+":v1") }
	works(t)(pull())
	done := make(chan struct{})
	var pulling sync.WaitGroup
	pulls := 1
	pulling.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if out, err := pull(); err != nil {
				t.Errorf("pull %d failed: %v\n%s", pulls, err, out)
				return
			}
			pulls++
		}
	})
	return func() {
		close(done)
		pulling.Wait()
		t.Logf("skopeo pulled %d times, and never failed", pulls)
	}
}
