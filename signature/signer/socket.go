package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// Paths of the protocol (doc/signer.md).
const (
	signPath = "/v1/sign/" // + fingerprint
	keyPath  = "/v1/key"
)

// Bounds of the protocol.
const (
	maxProblem = 4 << 10 // of what is wrong, in bytes
	idle       = 2 * time.Minute
)

// A Socket asks another process to sign, over a unix socket. It holds no private key.
type Socket struct {
	path   string
	key    *signature.Keyring
	client *http.Client
}

// NewSocket returns the signer of a key, behind a socket. The other process need not run yet. It
// refuses a directory in which everybody may put a socket of that name.
func NewSocket(path string, key *signature.Keyring) (*Socket, error) {
	if err := one(key); err != nil {
		return nil, err
	}
	if err := checkDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Socket{path: path, key: key, client: &http.Client{
		Transport: &http.Transport{
			DialContext: dial, DisableCompression: true, MaxConnsPerHost: MaxAtOnce, MaxIdleConnsPerHost: MaxAtOnce,
			IdleConnTimeout: idle / 2, MaxResponseHeaderBytes: maxProblem,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// checkDirectory refuses a directory where everybody could take the socket's place.
func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("everybody may write to %s, and put another socket there\nhint: chmod o-w %[1]s, or use a directory of its own", dir)
	}
	return nil
}

// Key is the public key that the signer is configured with.
func (s *Socket) Key() *signature.Keyring { return s.key }

// Sign sends the claim and returns what comes back, at most signature.MaxSize bytes, unverified.
func (s *Socket) Sign(ctx context.Context, claim signature.Claim) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://signer"+signPath+fingerprint(s.key), bytes.NewReader(claim.Payload()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header["Idempotency-Key"] = nil // it is not sent: a connection that was idle and is gone is replaced
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, s.unreachable(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, problem(answer)
	}
	content, err := io.ReadAll(io.LimitReader(answer.Body, signature.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("the signer at %s stopped within its answer: %w", s.path, err)
	}
	if len(content) > signature.MaxSize {
		return nil, fmt.Errorf("the signer at %s answered more than %d bytes", s.path, signature.MaxSize)
	}
	return content, nil
}

// Check says whether the other process answers, and has this key.
func (s *Socket) Check(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://signer"+keyPath, nil)
	if err != nil {
		return err
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return s.unreachable(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return problem(answer)
	}
	content, err := io.ReadAll(io.LimitReader(answer.Body, signature.MaxSize))
	if err != nil {
		return err
	}
	other, err := signature.ReadKeyring(content)
	if err != nil {
		return fmt.Errorf("the signer at %s has no key that reads: %w", s.path, err)
	}
	if !other.Has(fingerprint(s.key)) {
		return fmt.Errorf("the signer at %s has the key %s, and %s is wanted", s.path, fingerprint(other), fingerprint(s.key))
	}
	return nil
}

// unreachable says what is in the way of a person who looks for it.
func (s *Socket) unreachable(err error) error {
	info, statErr := os.Stat(s.path)
	switch {
	case statErr != nil:
		return fmt.Errorf("there is no signer at %s: %w", s.path, statErr)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket", s.path)
	}
	return fmt.Errorf("the signer at %s does not answer: %w", s.path, err)
}

// problem is what the other process says is wrong. It goes to the log, so it is cut and quoted.
func problem(answer *http.Response) error {
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxProblem))
	var said refusal
	if err != nil || json.Unmarshal(content, &said) != nil || said.Error == "" {
		return fmt.Errorf("the signer answered %d and no reason", answer.StatusCode)
	}
	return fmt.Errorf("the signer refuses: %.500q", said.Error)
}

// A refusal is the body of every answer but 200.
type refusal struct {
	Error string `json:"error"`
}
