package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// A cable is the way of one server to its database. It can be cut, or held behind a number of messages.
type cable struct {
	database *cluster.Cluster
	address  string

	mu    sync.Mutex
	conns []net.Conn
	cut   bool
	limit int           // messages that still go to the database; below 0: all
	sent  int           // that went there
	held  chan struct{} // closed when the limit is reached
}

func newCable(t testing.TB, d *cluster.Cluster) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &cable{database: d, address: listener.Addr().String(), limit: -1}
	t.Cleanup(func() {
		_ = listener.Close()
		l.setCut(true)
	})
	go func() {
		for {
			server, err := listener.Accept()
			if err != nil {
				return
			}
			go l.serve(server)
		}
	}()
	return l
}

func (l *cable) url() string {
	host, port, _ := net.SplitHostPort(l.address)
	return fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port)
}

func (l *cable) serve(server net.Conn) {
	defer server.Close()
	database, err := net.Dial("unix", filepath.Join(l.database.Socket(), ".s.PGSQL.5432"))
	if err != nil {
		return
	}
	defer database.Close()
	l.mu.Lock()
	cut := l.cut
	l.conns = append(l.conns, server, database)
	l.mu.Unlock()
	if cut {
		return
	}
	go l.copy(server, database, func() bool { return l.passes(0) })
	l.copy(database, server, func() bool { return l.passes(1) })
}

// copy passes on what comes, as far as pass says so: then it is as on one that went dead.
func (l *cable) copy(to, from net.Conn, pass func() bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !pass() {
			continue
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			_, _ = to.Close(), from.Close() // either may be closed
			return
		}
	}
}

// passes counts messages to the database. When the last one has gone nothing comes back either.
func (l *cable) passes(messages int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit < 0 {
		l.sent += messages
		return true
	}
	if l.limit < messages || l.limit == 0 {
		return false
	}
	l.sent += messages
	if l.limit -= messages; l.limit == 0 {
		close(l.held)
	}
	return true
}

// holdBehind lets so many more messages pass to the database.
func (l *cable) holdBehind(n int) (held chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit, l.held = n, make(chan struct{})
	return l.held
}

// count says how many messages went to the database since it was asked last.
func (l *cable) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.sent
	l.sent = 0
	return n
}

func (l *cable) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, c := range l.conns {
		_ = c.Close() // it may have ended
	}
	l.conns = nil
}

// readsAt is what the lookaside and the extension serve of an image; both must agree, or be away.
func (s *server) readsAt(t testing.TB, digest string) (status, n int) {
	t.Helper()
	file := s.do(t, "GET", lookaside("ns/app", digest)+"/signature-1", "", "Host: "+appendHost)
	list := s.do(t, "GET", extension("ns/app", digest), "", "Host: "+appendHost)
	n = strings.Count(list.body, `"content"`)
	if list.status == 200 && file.status != map[bool]int{true: 200, false: 404}[n > 0] {
		t.Errorf("the extension lists %d, and the lookaside answers %d", n, file.status)
	}
	return list.status, n
}

// TestWithdrawnOnReplicas withdraws through one server what another has read: with the database at
// hand it is gone there at once; without it when the database is back, or when what is known has
// grown too old, and not for a moment longer.
func TestWithdrawnOnReplicas(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	k := inDatabase(t)
	on := func(way kept, settings string) *server {
		t.Helper()
		data := filepath.Join(t.TempDir(), "data")
		trust(t, data, "alice", "carol")
		return startIn(t, data, append(way.flags(t, settings), "-host", appendHost, "-sign-on", "none")...)
	}
	near, far := newCable(t, k.database), newCable(t, k.database)
	one, other := on(k, ""), on(k.at(near.url()), "")
	stale := k.at(far.url())
	stale.settings = strings.Replace(stale.settings, "store: {", "store: {stale: 4s, ", 1)
	old := on(stale, "")
	images := map[string]image{}
	for _, name := range []string{"signature", "key", "image", "cut", "old"} {
		i := newImage("replicas " + name)
		images[name] = i
		one.do(t, "POST", lookaside("ns/app", i.digest()), string(sign(t, "alice", appendHost+"/ns/app:v1", i.digest())), "Host: "+appendHost).want(t, 201)
		for _, s := range []*server{other, old} {
			if status, n := s.readsAt(t, i.digest()); status != 200 || n != 1 {
				t.Fatalf("another server answers %d with %d signatures, want the one that was uploaded", status, n)
			}
		}
	}
	withdraw := func(name string, flags ...string) {
		t.Helper()
		one.cli(t, 0, "withdraw", append(flags, "-reason", "x", appendHost+"/ns/app@"+images[name].digest())...)
	}
	list := one.do(t, "GET", extension("ns/app", images["signature"].digest()), "", "Host: "+appendHost).body
	withdraw("signature", "-signature", slices.Collect(strings.SplitSeq(list, `"name":"`))[1][:len("sha256:")+64+1+32])
	withdraw("key", "-key", fingerprintOf(t, "alice"))
	withdraw("image", "-image")
	for _, name := range []string{"signature", "key", "image"} {
		if status, n := other.readsAt(t, images[name].digest()); status != 200 || n != 0 {
			t.Errorf("scope %s: the first read of another server after the withdrawal has %d signatures, %d", name, n, status)
		}
	}

	near.setCut(true)
	withdraw("cut", "-image")
	if status, n := other.readsAt(t, images["cut"].digest()); status != 200 || n != 1 {
		t.Errorf("cut off, what was known is answered %d with %d signatures, want 1: that is what store.stale is for", status, n)
	}
	near.setCut(false)
	eventually(t, "it is gone when the database is back", func() bool {
		status, n := other.readsAt(t, images["cut"].digest())
		return status == http.StatusOK && n == 0
	})

	far.setCut(true)
	withdraw("old", "-image")
	eventually(t, "what is known has grown too old", func() bool {
		return old.do(t, "GET", extension("ns/app", images["old"].digest()), "", "Host: "+appendHost).status == http.StatusTooManyRequests
	})
	old.do(t, "GET", lookaside("ns/app", images["old"].digest())+"/signature-1", "", "Host: "+appendHost).refused(t, 503, "UNAVAILABLE")
	far.setCut(false)
	eventually(t, "it is gone", func() bool {
		status, n := old.readsAt(t, images["old"].digest())
		return status == http.StatusOK && n == 0
	})
}

// TestKilledInWithdrawOnDatabase kills a server behind each message of a withdrawal to its database:
// the withdrawal is whole, or not there, and done again it is.
func TestKilledInWithdrawOnDatabase(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	k := inDatabase(t)
	start := func(way kept) *server {
		t.Helper()
		data := filepath.Join(t.TempDir(), "data")
		trust(t, data, "alice", "carol")
		return startIn(t, data, append(way.flags(t, ""), "-host", appendHost, "-sign-on", "none")...)
	}
	witness := start(k)
	// upload makes an image that has three signatures, two of them alice's, and returns its digest.
	upload := func(name string) string {
		t.Helper()
		digest := newImage("killed in withdraw " + name).digest()
		for _, person := range []string{"alice", "carol", "alice"} {
			witness.do(t, "POST", lookaside("ns/app", digest), string(sign(t, person, appendHost+"/ns/app:v1", digest)), "Host: "+appendHost).want(t, 201)
		}
		return digest
	}
	send := func(s *server, digest string) (status int) {
		res, err := client.Post("http://"+s.address+"/api/v1/withdrawals", "application/json", strings.NewReader(
			fmt.Sprintf(`{"repository":"ns/app","digest":%q,"scope":"key","key":%q,"reason":"lost"}`, digest, fingerprintOf(t, "alice"))))
		if err != nil {
			return 0 // killed
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	const all, most = 3, 20
	done := map[bool]int{}
	for messages := 1; messages <= most; messages++ {
		digest, l := upload(fmt.Sprint(messages)), newCable(t, k.database)
		s := start(k.at(l.url()))
		if got := s.dense(t, digest); got != all {
			t.Fatalf("%d signatures, want %d", got, all)
		}
		held := l.holdBehind(messages)
		answered := make(chan int, 1)
		go func() { answered <- send(s, digest) }()
		select {
		case <-held:
		case status := <-answered: // with fewer messages than that
			answered <- status
		}
		s.kill(t)
		status := <-answered
		eventually(t, "the database has done or undone what it was sent", func() bool {
			out, err := k.database.Psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()")
			return err == nil && out == "0"
		})
		withdrawn := strings.Contains(witness.get(t, "/api/v1/withdrawals?repository=ns/app&digest="+digest).want(t, 200).body, "lost")
		got := witness.dense(t, digest)
		t.Logf("killed behind message %d: answered %d, withdrawn %v, %d signatures", messages, status, withdrawn, got)
		if want := map[bool]int{true: 1, false: all}[withdrawn]; got != want || status == 201 && !withdrawn {
			t.Errorf("killed behind message %d and answered %d: withdrawn %v with %d signatures, want %d", messages, status, withdrawn, got, want)
		}
		records := 0
		for _, r := range witness.audited(t) {
			if r.Action == "withdrawn" && r.Image.Digest == digest {
				records++
			}
		}
		if want := map[bool]int{true: 1, false: 0}[withdrawn]; records != want {
			t.Errorf("killed behind message %d: withdrawn %v, with %d records", messages, withdrawn, records)
		}
		if again := send(witness, digest); again != 201 || witness.dense(t, digest) != 1 {
			t.Errorf("done again it is answered %d, and there are %d signatures, want 201 and 1", again, witness.dense(t, digest))
		}
		done[withdrawn]++
		if status == 201 {
			break
		}
	}
	if done[true] == 0 || done[false] == 0 {
		t.Errorf("of the kills %v had withdrawn: none was in the middle", done)
	}
}

// dense is how many signatures an image has; the lookaside serves as many, and 404 behind them.
func (s *server) dense(t testing.TB, digest string) int {
	t.Helper()
	list := s.do(t, "GET", extension("ns/app", digest), "", "Host: "+appendHost).want(t, 200)
	n := strings.Count(list.body, `"content"`)
	for index := 1; index <= n; index++ {
		s.do(t, "GET", fmt.Sprintf("%s/signature-%d", lookaside("ns/app", digest), index), "", "Host: "+appendHost).want(t, 200)
	}
	return n
}
