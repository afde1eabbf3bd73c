package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A counting writer says what was handed to it as a source.
type counting struct {
	http.ResponseWriter
	mu    *sync.Mutex
	bytes *int64
}

func (c counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// ReadFrom counts what comes from a socket.
func (c counting) ReadFrom(src io.Reader) (int64, error) {
	n, err := c.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*net.TCPConn); ok {
			c.mu.Lock()
			*c.bytes += n
			c.mu.Unlock()
		}
	}
	return n, err
}

// relays serves a remote registry and says how many bytes went from its socket to the client's.
func relays(t *testing.T, address string, c RemoteConfig) (r *Remote, url string, relayed func() int64) {
	t.Helper()
	_, r = pass(t, address, c)
	var mu sync.Mutex
	var n int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.ServeHTTP(counting{w, &mu, &n}, req)
	}))
	t.Cleanup(server.Close)
	return r, server.URL, func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p) // never an error
	return p
}

const blobPath = "/v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// What is relayed is what the registry sent, over connections that stay, whatever its size.
func TestRelay(t *testing.T) {
	t.Parallel()
	content := noise(9<<20 + 12345)
	var mu sync.Mutex
	var connections []string
	at := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if !slices.Contains(connections, r.RemoteAddr) {
			connections = append(connections, r.RemoteAddr)
		}
		mu.Unlock()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	_, url, relayed := relays(t, at, RemoteConfig{})
	for name, test := range map[string]struct {
		method, path, ranged string
		want                 []byte
		relayed              bool
	}{
		"whole":      {"GET", blobPath, "", content, true},
		"again":      {"GET", blobPath, "", content, true},
		"part":       {"GET", blobPath, "bytes=1000000-4000000", content[1000000:4000001], true},
		"end":        {"GET", blobPath, "bytes=9437184-", content[9437184:], false},
		"head":       {"HEAD", blobPath, "", nil, false},
		"not a blob": {"GET", "/v2/a/manifests/v1", "", content, false},
	} {
		before := relayed()
		r, err := http.NewRequestWithContext(t.Context(), test.method, url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.ranged != "" {
			r.Header.Set("Range", test.ranged)
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !bytes.Equal(got, test.want) {
			t.Errorf("%s: %d bytes, %v; want the %d that the registry has", name, len(got), err, len(test.want))
		}
		// Some of it comes with the head, and the beginning goes as net/http wants it.
		n := relayed() - before
		if most := int64(len(test.want)); test.relayed != (n > most/2 && n <= most) || !test.relayed && n != 0 {
			t.Errorf("%s: %d of %d bytes were relayed", name, n, most)
		}
	}
	if len(connections) != 1 {
		t.Errorf("one after the other took %d connections to the registry, want 1", len(connections))
	}
}

// Many clients, of which some leave, get what is theirs: connections are handed on from one answer to
// the next.
func TestRelayTogether(t *testing.T) {
	t.Parallel()
	at := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		content := bytes.Repeat([]byte{byte(n)}, 1<<20+n)
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content) // some leave
	})
	_, url, _ := relays(t, at, RemoteConfig{})
	var all sync.WaitGroup
	for n := range 32 {
		all.Go(func() {
			answer, err := http.Get(url + blobPath + "?n=" + strconv.Itoa(n))
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			if n%4 == 0 {
				return // without reading it
			}
			got, err := io.ReadAll(answer.Body)
			if want := bytes.Repeat([]byte{byte(n)}, 1<<20+n); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d: %d bytes, %v; want %d of its own", n, len(got), err, len(want))
			}
		})
	}
	all.Wait()
}

// When there are too many relays the others copy.
func TestRelayMany(t *testing.T) {
	t.Parallel()
	content := noise(1 << 20)
	at := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	r, url, relayed := relays(t, at, RemoteConfig{})
	get := func() {
		t.Helper()
		answer, err := http.Get(url + blobPath)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(content))
		}
	}
	for range maxRelays {
		r.relaying <- struct{}{}
	}
	if get(); relayed() != 0 {
		t.Errorf("beside %d others %d bytes were relayed", maxRelays, relayed())
	}
	<-r.relaying
	if get(); relayed() == 0 {
		t.Error("with room for one nothing is relayed")
	}
}

// An answer that ends early, or stops, must not look whole.
func TestRelayBroken(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	defer close(left)
	half := noise(2 << 20)
	for name, test := range map[string]struct {
		broken   func()
		patience time.Duration
	}{
		"ends":  {func() { panic(http.ErrAbortHandler) }, time.Minute},
		"stops": {func() { <-left }, 2 * time.Second},
	} {
		at := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(4<<20))
			_, _ = w.Write(half)
			_ = http.NewResponseController(w).Flush() // the client may be away by then
			test.broken()
		})
		_, url, _ := relays(t, at, RemoteConfig{Patience: test.patience})
		answer, err := http.Get(url + blobPath)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK && (err == nil || !bytes.HasPrefix(half, got)) {
			t.Errorf("the registry %s: the client has %d bytes, not the beginning, or no error: %v", name, len(got), err)
		}
	}
}

// A takes is a client that is slow, or gone.
type takes struct {
	came *bool
	err  error
	got  bytes.Buffer
	late bool
}

func (c *takes) ReadFrom(src io.Reader) (int64, error) {
	c.late = c.late || !*c.came
	if c.err != nil {
		return 0, c.err
	}
	return c.got.ReadFrom(src)
}

// While the client takes its time the registry is not waited for; what else reads from the connection
// is no passage; and an error is the reader's.
func TestConnRead(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err := relayable(&net.Dialer{})(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	registry, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	say := func(s string) {
		if _, err := io.WriteString(registry, s); err != nil {
			t.Fatal(err)
		}
	}
	came := false
	client := &takes{came: &came}
	r := &relay{to: client, from: there.(*conn), ResponseWriter: httptest.NewRecorder()}
	p := bytes.Repeat([]byte{'-'}, 100)
	read := func() string {
		came = false
		n, err := r.read(there, p, func() { came = true })
		return fmt.Sprint(n, " ", err)
	}
	say("0123456789")
	if got := read(); got != "10 <nil>" || client.late || client.got.String() != "0123456789" || strings.Trim(string(p), "-") != "" {
		t.Errorf("read: %s; the client has %q, the buffer %q; it was asked too early: %v", got, client.got.String(), p, client.late)
	}
	if n, err := r.Write(p[:12]); n != 12 || err != nil || r.ResponseWriter.(*httptest.ResponseRecorder).Body.String() != "--" {
		t.Errorf("of 12 bytes, of which the client has 10, Write wrote %q; %d, %v", r.ResponseWriter.(*httptest.ResponseRecorder).Body, n, err)
	}
	say("abc")
	if n, err := there.Read(p); n != 3 || err != nil || string(p[:3]) != "abc" {
		t.Errorf("after that: %q, %v", p[:n], err)
	}
	client.err = errors.New("gone")
	say("def")
	if got := read(); got != "0 gone" {
		t.Errorf("a client that is gone: %s", got)
	}
	if n, err := there.Read(p); n != 3 || err != nil {
		t.Errorf("then: %q, %v", p[:n], err)
	}
	registry.Close()
	if got := read(); got != "0 EOF" || came {
		t.Errorf("at the end: %s, came: %v", got, came)
	}
}
