package e2e

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A crowd signs and uploads faster than gpg could, and remembers what it was told.
type crowd struct {
	keys    []*openpgp.Entity
	trusted []byte // their public keys, armored
	client  *http.Client

	mu    sync.Mutex
	acked map[string]map[string]bool // by digest: the names of signatures that were answered 201
	more  chan struct{}              // closed by the next one
	count int
}

const crowdHost, crowdRepository = "registry.example.test:5000", "ns/crowd"

func newCrowd(t *testing.T, keys int) *crowd {
	t.Helper()
	c := &crowd{
		acked: map[string]map[string]bool{}, more: make(chan struct{}),
		client: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	t.Cleanup(c.client.CloseIdleConnections)
	var public bytes.Buffer
	w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range keys {
		key, err := openpgp.NewEntity(fmt.Sprint("crowd ", n), "", "", crowdConfig())
		if err != nil {
			t.Fatal(err)
		}
		c.keys = append(c.keys, key)
		if err := key.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.trusted = public.Bytes()
	return c
}

// crowdConfig makes keys a little before now: a server's clock may be read earlier.
func crowdConfig() *packet.Config {
	return &packet.Config{
		Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, DefaultHash: crypto.SHA256,
		Time: func() time.Time { return time.Now().Add(-time.Minute) },
	}
}

// join puts the crowd's keys where a server trusts them.
func (c *crowd) join(t *testing.T, data string) {
	t.Helper()
	write(t, filepath.Join(data, "trusted", "crowd.asc"), string(c.trusted))
}

func (c *crowd) sign(n int, digest string) ([]byte, error) {
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, c.keys[n%len(c.keys)], nil, &packet.Config{DefaultHash: crypto.SHA256})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(claim(crowdHost+"/"+crowdRepository+":v1", digest)); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

func (c *crowd) mustSign(t *testing.T, digest string) []byte {
	t.Helper()
	content, err := c.sign(0, digest)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// put uploads once and returns the status, 0 where no answer came.
func (c *crowd) put(ctx context.Context, address, digest string, content []byte) (int, error) {
	name := digest + "@" + strings.TrimPrefix(digestOf(content), "sha256:")[:32]
	body, err := json.Marshal(entry{2, name, "atomic", content})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, "PUT", "http://"+address+extension(crowdRepository, digest), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Host = crowdHost
	res, err := c.client.Do(req)
	if err != nil {
		return 0, nil // killed
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	switch res.StatusCode {
	case 201:
		c.remember(digest, name)
	case 409, 429, 503:
	default:
		return res.StatusCode, fmt.Errorf("an upload is answered %d %s", res.StatusCode, answer)
	}
	return res.StatusCode, nil
}

func (c *crowd) remember(digest, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acked[digest] == nil {
		c.acked[digest] = map[string]bool{}
	}
	c.acked[digest][name] = true
	c.count++
	close(c.more)
	c.more = make(chan struct{})
}

func (c *crowd) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// await returns when so many more uploads were answered 201.
func (c *crowd) await(t *testing.T, more int) {
	t.Helper()
	late := time.After(2 * patience)
	c.mu.Lock()
	want := c.count + more
	c.mu.Unlock()
	for {
		c.mu.Lock()
		have, next := c.count, c.more
		c.mu.Unlock()
		if have >= want {
			return
		}
		select {
		case <-next:
		case <-late:
			t.Fatalf("uploads did not come back within %v: %d were answered 201, want %d", 2*patience, have, want)
		}
	}
}

// upload keeps workers uploading until stop is called, to addresses in turn, each until it is
// answered 201: as CI would. Images get 24 signatures each.
func (c *crowd) upload(t *testing.T, workers int, addresses ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var turn atomic.Int64
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				n := int(turn.Add(1))
				if err := c.uploadOne(ctx, n, addresses); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

func (c *crowd) uploadOne(ctx context.Context, n int, addresses []string) error {
	digest := newImage(fmt.Sprint("crowd ", n/24)).digest()
	content, err := c.sign(n, digest)
	if err != nil {
		return err
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for try := 0; ; try++ {
		// One that was sent is waited for: a server that nobody waits for may store it while we look at what it has.
		status, err := c.put(context.WithoutCancel(ctx), addresses[(n+try)%len(addresses)], digest, content)
		if err != nil || status == 201 || ctx.Err() != nil {
			return err
		}
		if status == 409 {
			return fmt.Errorf("upload %d is answered 409, and no limit is near", n)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// check asserts that a server has everything that was answered 201, nothing twice, and no hole, by
// both protocols.
func (c *crowd) check(t *testing.T, s *server) {
	t.Helper()
	c.mu.Lock()
	acked := maps.Clone(c.acked)
	c.mu.Unlock()
	for digest, names := range acked {
		list := s.crowdList(t, digest)
		seen := map[string]bool{}
		for n, e := range list {
			if seen[e.Name] {
				t.Errorf("%s is there twice", e.Name)
			}
			seen[e.Name] = true
			path := fmt.Sprintf("%s/signature-%d", lookaside(crowdRepository, digest), n+1)
			if got := s.do(t, "GET", path, "", "Host: "+crowdHost).want(t, 200).body; got != string(e.Content) {
				t.Errorf("GET %s is not what the extension has there", path)
			}
		}
		s.do(t, "GET", fmt.Sprintf("%s/signature-%d", lookaside(crowdRepository, digest), len(list)+1), "", "Host: "+crowdHost).want(t, 404)
		for name := range names {
			if !seen[name] {
				t.Errorf("%s was answered 201 and is lost", name)
			}
		}
	}
	t.Logf("%d uploads were answered 201, of %d images; all are there", c.total(), len(slices.Collect(maps.Keys(acked))))
}

func (s *server) crowdList(t *testing.T, digest string) []entry {
	t.Helper()
	var list struct {
		Signatures []entry `json:"signatures"`
	}
	a := s.do(t, "GET", extension(crowdRepository, digest), "", "Host: "+crowdHost).want(t, 200)
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		t.Fatalf("%s: %v", a.asked, err)
	}
	return list.Signatures
}

// countAt returns how many signatures of an image there are.
func (c *crowd) countAt(ctx context.Context, address, digest string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+extension(crowdRepository, digest), nil)
	if err != nil {
		return 0, err
	}
	req.Host = crowdHost
	res, err := c.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return 0, fmt.Errorf("a read is answered %d", res.StatusCode)
	}
	return countSignatures(res.Body)
}
