package postgres_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

const patience = 2 * time.Minute

func image(repository string) api.Image {
	return api.Image{Host: "registry.example", Repository: repository, Digest: digest.FromString("manifest")}
}

func signature(i api.Image, n int) store.Signature {
	content := fmt.Appendf(nil, "signature %d of %s", n, i)
	return store.Signature{
		Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprint("identity ", n), Fingerprint: fmt.Sprintf("%040X", n%4),
		Reference: "registry.example/app:v1", Origin: "upload", Signed: time.Unix(1e9, 0), Added: time.Unix(1e9, 0),
	}
}

func adding(i api.Image, n int) store.Change {
	return store.Change{Image: i, Add: []store.Signature{signature(i, n)}, Record: store.Record{Action: store.Admitted, Reason: fmt.Sprint(n)}}
}

func do(t *testing.T, s store.Store, c store.Change) store.Set {
	t.Helper()
	set, err := s.Do(t.Context(), c)
	if err != nil {
		t.Fatalf("Do: %v", err)
	}
	return set
}

func get(t *testing.T, s store.Store, i api.Image) store.Set {
	t.Helper()
	set, err := s.Get(t.Context(), i)
	if err != nil {
		t.Fatalf("Get(%s): %v", i, err)
	}
	return set
}

// trail reads all that the audit trail shows, as the reasons of its records.
func trail(t *testing.T, s store.Store, after store.Cursor) (reasons []string, end store.Cursor) {
	t.Helper()
	for end = after; ; {
		page, next, err := s.Records(t.Context(), end, 7)
		if err != nil {
			t.Fatalf("Records: %v", err)
		}
		if len(page) == 0 {
			return reasons, next
		}
		for _, r := range page {
			reasons = append(reasons, r.Reason)
		}
		end = next
	}
}

// eventually asks again until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(patience); !yes(); {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func psql(t *testing.T, c *cluster.Cluster, database, sql string) string {
	t.Helper()
	out, err := c.Psql(database, sql)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// own starts a cluster that a test may kill, with our schema in its database postgres.
func own(t *testing.T, settings ...string) *cluster.Cluster {
	t.Helper()
	need(t)
	c, err := cluster.Start(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	migrateUp(t, c.URL("postgres"))
	return c
}

// A wire stands between the store and the database and counts.
type wire struct {
	directory string
	mu        sync.Mutex
	trips     int           // how often the client waited for the server: messages Sync and Query
	parsed    []string      // what the database was given to parse
	hang      bool          // the connection that asks next gets no answer
	hangOn    string        // nor the first that asks this; "": all get one
	hanging   chan struct{} // closed when one does not
	broken    chan struct{} // closed when it breaks instead
	cutOn     string        // the first that asks this is asked, and breaks before it is answered; "": none does
}

// between starts a wire to the shared cluster and returns how it is reached.
func between(t *testing.T, database string) (*wire, string) {
	t.Helper()
	directory, err := cluster.SocketDir("wire-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	l, err := net.Listen("unix", filepath.Join(directory, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w := &wire{directory: directory, hanging: make(chan struct{}), broken: make(chan struct{})}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(client)
		}
	}()
	return w, fmt.Sprintf("host=%s user=postgres dbname=%s sslmode=disable", directory, database)
}

func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", filepath.Join(shared.Socket(), ".s.PGSQL.5432"))
	if err != nil {
		return
	}
	defer server.Close()
	var cut atomic.Bool
	go func() {
		defer client.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if cut.Load() {
				return
			}
			if _, failed := client.Write(buffer[:n]); err != nil || failed != nil {
				return
			}
		}
	}()
	startup := true
	for {
		message, err := readMessage(client, startup)
		if err != nil {
			return
		}
		if !startup && message[0] == 'P' {
			w.mu.Lock()
			w.parsed = append(w.parsed, string(message[5:]))
			if w.hangOn != "" && strings.Contains(string(message[5:]), w.hangOn) {
				w.hang, w.hangOn = true, ""
			}
			if w.cutOn != "" && strings.Contains(string(message[5:]), w.cutOn) {
				cut.Store(true)
				w.cutOn = ""
			}
			w.mu.Unlock()
		}
		if !startup && (message[0] == 'S' || message[0] == 'Q') {
			w.mu.Lock()
			w.trips++
			hang := w.hang
			w.hang = false
			w.mu.Unlock()
			if hang {
				close(w.hanging)
				<-w.broken
				return
			}
		}
		startup = false
		if _, err := server.Write(message); err != nil {
			return
		}
	}
}

// hangNext lets the connection that asks next hang until the test is over, or that asks what has this
// text. What it returns is closed when it does.
func (w *wire) hangNext(t *testing.T, text string) <-chan struct{} {
	t.Cleanup(func() { close(w.broken) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hang, w.hangOn = text == "", text
	return w.hanging
}

// cutNext breaks the connection that asks this next when it is answered.
func (w *wire) cutNext(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutOn = text
}

// count returns the round trips since it was asked last.
func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.trips
	w.trips = 0
	return n
}

// parses returns how often the database was given something to parse that has this text, since it was
// asked last.
func (w *wire) parses(text string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, parsed := range w.parsed {
		n += strings.Count(parsed, text)
	}
	w.parsed = nil
	return n
}

// bouncer starts pgbouncer in transaction mode before the shared cluster, with few connections to
// it, and returns how a database is reached through it.
func bouncer(t *testing.T, database string) string {
	t.Helper()
	need(t)
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("pgbouncer is not installed: apt-get install pgbouncer")
		}
		t.Skip("SKIPPED: pgbouncer is not installed: apt-get install pgbouncer")
	}
	directory, err := cluster.SocketDir("pgb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	c := exec.Command(program, filepath.Join(directory, "ini"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: nobody(t, directory)}
	settings := fmt.Sprintf("[databases]\n* = host=%s user=postgres\n[pgbouncer]\nunix_socket_dir = %s\nlisten_port = 5432\nauth_type = any\n"+
		"pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 500\n", shared.Socket(), directory)
	if err := os.WriteFile(filepath.Join(directory, "ini"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	c.Stderr, c.Stdout = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, "pgbouncer listens", func() bool {
		_, err := os.Stat(filepath.Join(directory, ".s.PGSQL.5432"))
		return !errors.Is(err, os.ErrNotExist)
	})
	return fmt.Sprintf("host=%s user=postgres dbname=%s sslmode=disable", directory, database)
}

// nobody is whom root runs pgbouncer as, which refuses root.
func nobody(t *testing.T, directory string) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err == nil {
		err = os.Chown(directory, uid, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
}
