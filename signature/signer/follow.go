package signer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A File is where a key is read from: the private one, or the public one of a key that is elsewhere.
type File struct {
	Name string                                         // of the key, in the log
	Read func() ([]byte, error)                         // what it has now
	Open func(content []byte) (signature.Signer, error) // the signer that this makes
	Tell func() error                                   // what to do when the key has changed; nil: nothing
	Log  *slog.Logger
}

// A Followed signs with the key as its file has it now: who revokes it, or extends it, changes the file,
// and the next signature is by what it says then. A file that does not read, or has another key, changes
// nothing but the log, as with all files that a server follows. It is safe for concurrent use.
type Followed struct {
	file  File
	clock func() time.Time

	reading sync.Mutex        // a file that hangs keeps those waiting who want to sign, and nobody else
	sum     [sha256.Size]byte // of what the file had; the content may be a private key

	mu     sync.Mutex
	signer signature.Signer
	err    error
}

// Follow opens a key for the first time.
func Follow(f File, clock func() time.Time) (*Followed, error) {
	content, err := f.Read()
	if err != nil {
		return nil, err
	}
	s, err := f.Open(content)
	if err != nil {
		return nil, err
	}
	return &Followed{file: f, clock: clock, sum: sha256.Sum256(content), signer: s}, nil
}

// Key is the public key, as it was last read.
func (f *Followed) Key() *signature.Keyring {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.signer.Key()
}

// Sign looks at the file first.
func (f *Followed) Sign(ctx context.Context, claim signature.Claim) ([]byte, error) {
	f.Reload()
	f.mu.Lock()
	s := f.signer
	f.mu.Unlock()
	if err := s.Key().MaySign(f.clock()); err != nil {
		return nil, err
	}
	return s.Sign(ctx, claim)
}

// Check says whether a signer that is elsewhere is there.
func (f *Followed) Check(ctx context.Context) error {
	f.mu.Lock()
	s := f.signer
	f.mu.Unlock()
	if c, ok := s.(interface{ Check(context.Context) error }); ok {
		return c.Check(ctx)
	}
	return nil
}

// Err looks at the file, and says why what it had before is still in force.
func (f *Followed) Err() error {
	f.Reload()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Reload looks whether the file has changed.
func (f *Followed) Reload() {
	if !f.reload() || f.file.Tell == nil {
		return
	}
	if err := f.file.Tell(); err != nil {
		f.file.Log.Error("a key was read again, and is not published as it is now", "name", f.file.Name, "error", err)
	}
}

func (f *Followed) reload() (changed bool) {
	f.reading.Lock()
	defer f.reading.Unlock()
	content, err := f.file.Read()
	sum := sha256.Sum256(content)
	var s signature.Signer
	if err == nil && sum != f.sum {
		s, err = f.open(content)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && s == nil { // as before
		f.err = nil
		return false
	}
	if err != nil {
		if f.err == nil || f.err.Error() != err.Error() {
			f.file.Log.Error("a key does not read; what was read before stays in force", "name", f.file.Name, "error", err)
		}
		f.err = err
		return false
	}
	f.sum, f.signer, f.err = sum, s, nil
	if err := s.Key().MaySign(f.clock()); err != nil {
		f.file.Log.Warn("a key was read again, and signs nothing", "name", f.file.Name, "error", err)
	} else {
		f.file.Log.Info("a key was read again", "name", f.file.Name)
	}
	return true
}

// open refuses another key: nodes do not know it, and rules are about this one.
func (f *Followed) open(content []byte) (signature.Signer, error) {
	s, err := f.file.Open(content)
	if err != nil {
		return nil, err
	}
	if is, was := fingerprint(s.Key()), fingerprint(f.Key()); is != was {
		return nil, fmt.Errorf("it is another key, %s, and %s signs until the server is started again\n"+
			"hint: for a new key beside it: another name in signing.keys", is, was)
	}
	return s, nil
}
