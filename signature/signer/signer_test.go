package signer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// now is after everything that happened to the keys of ../testdata/signer.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// long is more than any test takes.
const long = time.Minute

var claim = signature.Claim{
	Reference: "registry.example.com/app:1", Digest: digest.FromString("app"), Creator: "countersign", Timestamp: now,
}

func held(t testing.TB, name string) *signature.FileSigner {
	t.Helper()
	private, err := os.ReadFile(filepath.Join("..", "testdata", "signer", name+".asc"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := signature.NewFileSigner(private, nil, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func everything(string) error { return nil }

// A logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// place is a short path: those of sockets end at 108 bytes.
func place(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "signer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serve runs a signer and returns what stops it.
func serve(t testing.TB, path string, s signature.Signer, allowed func(string) error, log io.Writer) (stop func()) {
	t.Helper()
	l := slog.New(slog.NewTextHandler(log, nil))
	listener, err := signer.Listen(signer.Place{Path: path, Group: -1}, l)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- signer.NewServer(s, allowed, l).Serve(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func socket(t testing.TB, path string, key *signature.Keyring) *signer.Socket {
	t.Helper()
	s, err := signer.NewSocket(path, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An observer keeps what a Contained tells.
type observer struct{ outcomes []signer.Outcome }

func (o *observer) observe(outcome signer.Outcome, _ time.Duration) {
	o.outcomes = append(o.outcomes, outcome)
}

// What a key signs behind a socket is what it signs in the process.
func TestSocket(t *testing.T) {
	t.Parallel()
	path, key, log := place(t), held(t, "plain"), &logged{}
	stop := serve(t, path, key, everything, log)
	s := socket(t, path, key.Key())
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if err := socket(t, path, held(t, "ends").Key()).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "is wanted") {
		t.Errorf("Check for another key: %v, want an error that says which is wanted", err)
	}
	o := &observer{}
	contained := signer.Contain(s, signer.Bounds{Patience: long}, clock, o.observe)
	content, err := contained.Sign(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	message, err := signature.Parse(content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.Key().Verify(message, now)
	if err != nil || got.Claim != claim {
		t.Errorf("signed %+v, %v; want %+v", got.Claim, err, claim)
	}
	if said := log.String(); !strings.Contains(said, claim.Reference) || !strings.Contains(said, claim.Digest.String()) || !strings.Contains(said, fmt.Sprint("user=", os.Getuid())) {
		t.Errorf("the log does not say what was signed and for whom: %s", said)
	}

	// It is stopped, is gone, and comes back: the same Socket goes on.
	stop()
	if _, err := os.Lstat(path); err == nil {
		t.Error("a signer that was stopped left its socket")
	}
	if _, err := contained.Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), path) {
		t.Errorf("without the signer: %v, want ErrSigner and the path", err)
	}
	serve(t, path, key, everything, io.Discard)
	if _, err := contained.Sign(t.Context(), claim); err != nil {
		t.Errorf("after the signer came back: %v", err)
	}
	if got, want := fmt.Sprint(o.outcomes), fmt.Sprint([]signer.Outcome{signer.Signed, signer.Failed, signer.Signed}); got != want {
		t.Errorf("outcomes %s, want %s", got, want)
	}
}

// A signer does only what it is for: its key, claims, what it is allowed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	path, key := place(t), held(t, "plain")
	serve(t, path, key, func(reference string) error {
		if reference != claim.Reference {
			return errors.New("outside of its scope")
		}
		return nil
	}, io.Discard)
	other := claim
	other.Reference = "registry.example.com/other:1"
	for name, test := range map[string]struct {
		key   *signature.Keyring
		claim signature.Claim
		want  string
	}{
		"another key":       {held(t, "ends").Key(), claim, "the key here is"},
		"another reference": {key.Key(), other, "outside of its scope"},
		"no reference":      {key.Key(), signature.Claim{Digest: claim.Digest}, "docker-reference"},
		"no digest":         {key.Key(), signature.Claim{Reference: claim.Reference}, "docker-manifest-digest"},
	} {
		if _, err := socket(t, path, test.key).Sign(t.Context(), test.claim); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, test.want)
		}
	}
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	for name, body := range map[string]string{
		"a bare digest": claim.Digest.String(), "nothing": "", "too much": strings.Repeat(" ", signature.MaxSize) + string(claim.Payload()),
		"a claim and more": string(claim.Payload()) + "{}",
	} {
		answer, err := c.Post("http://signer/v1/sign/"+key.Key().Keys()[0].Fingerprint, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", name, answer.StatusCode)
		}
	}
}

// Whatever another process does, what comes of it is an error in time, and never a signature.
func TestContained(t *testing.T) {
	t.Parallel()
	key, other := held(t, "plain"), held(t, "ends")
	answer := func(content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
	}
	sign := func(s signature.Signer, c signature.Claim) []byte {
		content, err := s.Sign(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	retagged, redigested, redated, recreated := claim, claim, claim, claim
	retagged.Reference, redigested.Digest = "registry.example.com/app:2", digest.FromString("other")
	redated.Timestamp, recreated.Creator = now.Add(time.Hour), "somebody else"
	good := sign(key, claim)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		outcome signer.Outcome
		want    string
	}{
		"another key":       {answer(sign(other, claim)), signer.Rejected, "not used"},
		"another reference": {answer(sign(key, retagged)), signer.Rejected, "app:2"},
		"another digest":    {answer(sign(key, redigested)), signer.Rejected, redigested.Digest.String()},
		"another time":      {answer(sign(key, redated)), signer.Rejected, "another creator or time"},
		"another creator":   {answer(sign(key, recreated)), signer.Rejected, "another creator or time"},
		"broken":            {answer(flipped), signer.Rejected, "not used"},
		"garbage":           {answer([]byte("<html>")), signer.Rejected, "not used"},
		"nothing":           {answer(nil), signer.Rejected, "not used"},
		"two at once":       {answer(append(bytes.Clone(good), good...)), signer.Rejected, "not used"},
		"endless":           {answer(bytes.Repeat([]byte{0x90}, 10<<20)), signer.Failed, "more than"},
		"an error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("x", 1<<20), 500) },
			signer.Failed, "no reason"},
		"an error with control characters": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":"\u001b[2Jtoken away"}`)
		}, signer.Failed, `"\x1b[2Jtoken away"`},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusTemporaryRedirect)
		},
			signer.Failed, "307"},
		"death": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(good[:100])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, signer.Failed, "stopped within its answer"},
		"silence":     {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, signer.Late, "within"},
		"no listener": {nil, signer.Failed, "no signer at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := place(t)
			if test.handler != nil {
				l, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				server := &http.Server{Handler: test.handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
				go func() { _ = server.Serve(l) }()
				t.Cleanup(func() { _ = server.Close() })
			}
			patience, o := long, &observer{}
			if test.outcome == signer.Late {
				patience = 50 * time.Millisecond
			}
			content, err := signer.Contain(socket(t, path, key.Key()), signer.Bounds{Patience: patience}, clock, o.observe).Sign(t.Context(), claim)
			if content != nil || !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), key.Key().Keys()[0].Fingerprint) {
				t.Errorf("%d bytes, %v; want nothing, ErrSigner, the key and %q", len(content), err, test.want)
			}
			if len(o.outcomes) != 1 || o.outcomes[0] != test.outcome {
				t.Errorf("outcomes %v, want %s", o.outcomes, test.outcome)
			}
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("control characters reach the log: %q", err)
			}
		})
	}
}

// A caller who has gone is no fault of the signer.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := &observer{}
	if _, err := signer.Contain(held(t, "plain"), signer.Bounds{Patience: long}, clock, o.observe).Sign(ctx, claim); !errors.Is(err, context.Canceled) || errors.Is(err, signature.ErrSigner) {
		t.Errorf("%v, want context.Canceled and not ErrSigner", err)
	}
	if len(o.outcomes) != 0 {
		t.Errorf("outcomes %v, want none", o.outcomes)
	}
}

// A key that has expired is not even asked for: what it signs nodes would refuse.
func TestExpired(t *testing.T) {
	t.Parallel()
	path, key := place(t), held(t, "ends") // for twenty years
	serve(t, path, key, everything, io.Discard)
	s := socket(t, path, key.Key())
	later := func() time.Time { return now.AddDate(30, 0, 0) }
	o := &observer{}
	if _, err := signer.Contain(s, signer.Bounds{Patience: long}, later, o.observe).Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v, want ErrSigner that says expired", err)
	}
	if _, err := signer.Contain(s, signer.Bounds{Patience: long}, clock, o.observe).Sign(t.Context(), claim); err != nil {
		t.Errorf("before its end: %v", err)
	}
}
