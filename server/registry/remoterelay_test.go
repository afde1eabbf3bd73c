package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A counting writer says what was handed to it as a source.
type counting struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (c counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// ReadFrom counts what comes from a socket.
func (c counting) ReadFrom(src io.Reader) (int64, error) {
	n, err := c.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*net.TCPConn); ok {
			c.bytes.Add(n)
		}
	}
	return n, err
}

// relays serves a remote registry and says how many bytes went from its socket to the client's, when all that is
// being served is: a client has its last byte before that is counted.
func relays(t *testing.T, address string, c RemoteConfig) (r *Remote, url string, relayed func() int64) {
	t.Helper()
	_, r = pass(t, address, c)
	var serving sync.RWMutex
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		serving.RLock()
		defer serving.RUnlock()
		r.ServeHTTP(counting{w, &n}, req)
	}))
	t.Cleanup(server.Close)
	return r, server.URL, func() int64 {
		serving.Lock()
		defer serving.Unlock()
		return n.Load()
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

// A flushed writer says when its first flush is under way, and whether it is handed a source meanwhile.
type flushed struct {
	http.ResponseWriter
	flush, read   sync.Once
	begun, source chan struct{}
	together      *atomic.Bool
}

func (f *flushed) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f *flushed) FlushError() error {
	f.flush.Do(func() {
		close(f.begun)
		select {
		case <-f.source:
			f.together.Store(true)
		case <-time.After(100 * time.Millisecond): // the answer goes on meanwhile
		}
	})
	return http.NewResponseController(f.ResponseWriter).Flush()
}

func (f *flushed) ReadFrom(src io.Reader) (int64, error) {
	f.read.Do(func() { close(f.source) })
	return f.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

// Where the head comes alone it is flushed, and what comes meanwhile waits for that: net/http's writer is
// for one goroutine at a time.
func TestRelayWaitsForTheHead(t *testing.T) {
	t.Parallel()
	content, begun := noise(400_000), make(chan struct{})
	s := newScript(t, func(c net.Conn, _, _ int) {
		told(c, "HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")
		select {
		case <-begun:
			told(c, string(content))
		case <-t.Context().Done():
		}
	})
	_, r := pass(t, s.url, RemoteConfig{})
	var together atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.ServeHTTP(&flushed{ResponseWriter: w, begun: begun, source: make(chan struct{}), together: &together}, req)
	}))
	t.Cleanup(server.Close)
	answer, err := http.Get(server.URL + blobPath)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v; want the %d that the registry has", len(got), err, len(content))
	}
	if together.Load() {
		t.Error("the client was sent the body by one goroutine while another flushed the head")
	}
}

// A takes is a client that takes what it is sent, or is gone.
type takes struct {
	err error
	got bytes.Buffer
}

func (c *takes) ReadFrom(src io.Reader) (int64, error) {
	if c.err != nil {
		return 0, c.err
	}
	return c.got.ReadFrom(src)
}

// What came with the head is read as ever. The rest goes to the client, past the buffer, and what does not
// belong to the answer stays where it is. A client that is gone is the reader's error.
func TestRelaying(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(c net.Conn, _, request int) {
		told(c, "HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\nabc"+strings.Repeat("-", 399997))
	})
	client := &takes{}
	r := &relay{to: client, ResponseWriter: httptest.NewRecorder()}
	ask := func() io.ReadCloser {
		t.Helper()
		req, err := http.NewRequestWithContext(context.WithValue(t.Context(), relayKey{}, r), "GET", s.url+blobPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := newDirect(nil, RemoteConfig{URL: parseURL(t, s.url), Transport: Transport(nil), Patience: time.Minute})
		answer, err := d.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Body
	}
	body := ask()
	defer body.Close()
	var written int
	for p := make([]byte, 1<<20); ; {
		clear(p)
		n, err := body.Read(p)
		if r.sent > 0 && (n != r.sent || p[0] != 0) {
			t.Errorf("of %d bytes %d went past the buffer, which has %q", n, r.sent, p[0])
		}
		if m, err := r.Write(p[:n]); m != n || err != nil {
			t.Errorf("Write of %d: %d, %v", n, m, err)
		}
		if written += n; err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	copied := r.ResponseWriter.(*httptest.ResponseRecorder).Body.String()
	if all := copied + client.got.String(); written != 400000 || len(all) != 400000 || !strings.HasPrefix(all, "abc-") || client.got.Len() < 200000 {
		t.Errorf("read %d bytes; %d were copied, and %d relayed", written, len(copied), client.got.Len())
	}
	if n, err := r.Write([]byte("more")); n != 4 || err != nil || !strings.HasSuffix(r.ResponseWriter.(*httptest.ResponseRecorder).Body.String(), "more") {
		t.Errorf("what is written after that: %d, %v", n, err)
	}
	client.err = errors.New("gone")
	body = ask()
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, client.err) {
		t.Errorf("a client that is gone: %v", err)
	}
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, client.err) {
		t.Errorf("and then: %v", err)
	}
}
