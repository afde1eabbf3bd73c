package signer_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// A keyFile is a private key that somebody changes while it is used.
type keyFile struct {
	*signer.Followed
	path string
	log  logged
	told atomic.Int32
}

func follow(t *testing.T, content []byte) *keyFile {
	t.Helper()
	k := &keyFile{path: filepath.Join(t.TempDir(), "key")}
	k.write(t, content)
	followed, err := signer.Follow(signer.File{
		Name: "release", Log: slog.New(slog.NewTextHandler(&k.log, nil)),
		Read: func() ([]byte, error) { return os.ReadFile(k.path) },
		Open: func(content []byte) (signature.Signer, error) { return signature.NewFileSigner(content, nil, clock) },
		Tell: func() error {
			k.told.Add(1)
			return nil
		},
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	k.Followed = followed
	return k
}

// write brings content there in one step, as every tool of ours does.
func (k *keyFile) write(t *testing.T, content []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(k.path+".new", content, 0o600), os.Rename(k.path+".new", k.path)); err != nil {
		t.Fatal(err)
	}
}

func privateKey(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "testdata", "signer", name+".asc"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// revoked is a key after "countersign keys revoke".
func revoked(t *testing.T, name string) []byte {
	t.Helper()
	private, _, err := signature.Revoke(privateKey(t, name), nil, signature.Compromised, now)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// A key that is revoked in its file signs nothing any more, with nobody having told the process.
func TestFollowedIsRevoked(t *testing.T) {
	t.Parallel()
	k := follow(t, privateKey(t, "plain"))
	if _, err := k.Sign(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	k.write(t, revoked(t, "plain"))
	for range 2 {
		if content, err := k.Sign(t.Context(), claim); content != nil || !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%d bytes, %v; want nothing, and ErrSigner that says revoked", len(content), err)
		}
	}
	if err := k.Key().MaySign(now); !errors.Is(err, signature.ErrSigner) {
		t.Errorf("the public part says %v, want that it is revoked", err)
	}
	if k.told.Load() != 1 || !strings.Contains(k.log.String(), "level=WARN") || !strings.Contains(k.log.String(), "release") {
		t.Errorf("told %d times, want once; the log:\n%s", k.told.Load(), &k.log)
	}
}

// Behind a socket the public file says it; the other process may not know yet, and is not asked.
func TestFollowedIsRevokedElsewhere(t *testing.T) {
	t.Parallel()
	path, key := place(t), held(t, "plain")
	serve(t, path, key, everything, &logged{})
	public, o := key.Key().Armored(), &observer{}
	followed, err := signer.Follow(signer.File{
		Log:  slog.New(slog.DiscardHandler),
		Read: func() ([]byte, error) { return public, nil },
		Open: func(content []byte) (signature.Signer, error) {
			ring, err := signature.ReadKeyring(content)
			if err != nil {
				return nil, err
			}
			return signer.NewSocket(path, ring)
		},
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	s := signer.Contain(followed, signer.Bounds{Patience: long}, clock, o.observe)
	if _, err := s.Sign(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if _, public, err = signature.Revoke(privateKey(t, "plain"), nil, signature.Compromised, now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("%v, want ErrSigner that says revoked", err)
	}
}

// What does not read, and what is another key, changes nothing but the log; what is right again is used.
func TestFollowedStaysInForce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"half":        {privateKey(t, "plain")[:300], "no OpenPGP key"},
		"nothing":     {nil, "no OpenPGP key"},
		"another key": {privateKey(t, "ends"), "another key"},
	} {
		k := follow(t, privateKey(t, "plain"))
		k.write(t, test.content)
		for range 2 {
			if _, err := k.Sign(t.Context(), claim); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := k.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want a reason with %q", name, err, test.want)
		}
		if n := strings.Count(k.log.String(), "level=ERROR"); n != 1 || k.told.Load() != 0 {
			t.Errorf("%s: %d lines in the log, want one; told %d times, want none", name, n, k.told.Load())
		}
		k.write(t, privateKey(t, "plain"))
		if err := k.Err(); err != nil {
			t.Errorf("%s: right again, and %v", name, err)
		}
	}
	k := follow(t, privateKey(t, "plain"))
	if err := os.Remove(k.path); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), claim); err != nil || !errors.Is(k.Err(), os.ErrNotExist) {
		t.Errorf("gone: %v, and %v, want a signature and that the file is not there", err, k.Err())
	}
}

// Of many that sign at the time of a revocation, those that begin behind it get nothing.
func TestFollowedTogether(t *testing.T) {
	t.Parallel()
	k := follow(t, privateKey(t, "plain"))
	s := signer.Contain(k.Followed, signer.Bounds{Patience: long}, clock, func(signer.Outcome, time.Duration) {})
	ended := revoked(t, "plain")
	var done atomic.Bool
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := 0; n < 20; n++ {
				behind := done.Load()
				if _, err := s.Sign(t.Context(), claim); behind && !errors.Is(err, signature.ErrSigner) {
					t.Errorf("signed behind the revocation: %v", err)
				}
			}
		})
	}
	k.write(t, ended)
	done.Store(true)
	all.Wait()
	k.Reload()
	if k.told.Load() != 1 {
		t.Errorf("told %d times, want once", k.told.Load())
	}
}

// A file that hangs, as on a server that is away, keeps those waiting who want to sign. Whoever looks at the
// public key, to verify or to publish, does not wait.
func TestFollowedHangs(t *testing.T) {
	t.Parallel()
	content, hangs, reads := privateKey(t, "plain"), make(chan struct{}), make(chan struct{}, 2)
	followed, err := signer.Follow(signer.File{
		Log: slog.New(slog.DiscardHandler),
		Read: func() ([]byte, error) {
			reads <- struct{}{}
			if len(reads) > 1 {
				<-hangs
			}
			return content, nil
		},
		Open: func(content []byte) (signature.Signer, error) { return signature.NewFileSigner(content, nil, clock) },
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	signed := make(chan error, 1)
	go func() {
		_, err := followed.Sign(t.Context(), claim)
		signed <- err
	}()
	for len(reads) < 2 { // until it reads a second time
		runtime.Gosched()
	}
	if followed.Key().Len() != 1 {
		t.Error("there is no public key while its file hangs")
	}
	close(hangs)
	if err := <-signed; err != nil {
		t.Error(err)
	}
}
