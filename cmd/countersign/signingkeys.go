package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// A keyAt says where a key is: in a file, with an external signer (doc/signer.md), or nowhere any
// more, so that what it signed once is still published.
type keyAt struct {
	File           string        `yaml:"file"`
	PassphraseFile string        `yaml:"passphraseFile"` // empty: the key is not encrypted
	Socket         string        `yaml:"socket"`         // of a signer; or
	GPG            string        `yaml:"gpg"`            // a home of gpg
	Public         string        `yaml:"public"`         // file of the public part, where there is no private one
	Timeout        time.Duration `yaml:"timeout"`        // of one signature; 0: signerTimeout
}

// signerTimeout is less than a push waits for its signatures.
const signerTimeout = 5 * time.Second

func (at keyAt) check() error {
	var kinds []string
	for name, value := range map[string]string{"file": at.File, "socket": at.Socket, "gpg": at.GPG} {
		if value != "" {
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	switch {
	case len(kinds) > 1:
		return fmt.Errorf("%s: a key is in one place", strings.Join(kinds, " and "))
	case at.File == "" && at.Public == "":
		return errors.New("file is missing; or socket or gpg, with public")
	case at.File != "" && at.Public != "":
		return errors.New("file has the public part in it: leave public out")
	case at.File == "" && at.PassphraseFile != "":
		return errors.New("passphraseFile is for file")
	case at.Timeout < 0 || at.Timeout > time.Minute:
		return fmt.Errorf("timeout is %v; up to a minute is wanted", at.Timeout)
	}
	return nil
}

// ownKey is what rules call the key that the server has made itself.
const ownKey = "server"

// openKeys opens the keys that the settings name, or else the server's own.
func (h *house) openKeys(ctx context.Context, s settings) (err error) {
	if len(s.Signing.Keys) > 0 {
		if err := h.openNamed(s); err != nil {
			return err
		}
		for name, k := range h.keys {
			if err := k.Key().ReadableBy(s.Admission.Clients); err != nil {
				return fmt.Errorf("signing.keys.%s: %w", name, err)
			}
		}
		h.lookAtKeys(ctx)
		return nil
	}
	h.signer, h.made, err = keyIn(s.Data).open(ctx, h.mayMakeKey(s), s.controlled(), time.Now)
	if err != nil {
		return err
	}
	h.keys = map[string]signature.Signer{}
	switch {
	case h.signer == nil && s.Store.remote():
		h.log.Warn("nothing is signed: with a database the server makes itself no key; name keys in signing.keys", "data", s.Data)
		return nil
	case h.signer == nil:
		h.log.Warn("nothing is signed: there are signatures, and the key in keys/server.key is gone; bring it back from a backup", "data", s.Data)
		return nil
	}
	followed, err := followKey(h.keyFile(s, ownKey), keyIn(s.Data).private, "", time.Now)
	if err != nil {
		return err
	}
	h.addKey(ownKey, followed)
	if err := h.signer.Key().ReadableBy(s.Admission.Clients); err != nil {
		return err
	}
	h.lookAtKeys(ctx)
	return nil
}

// lookAtKeys says in the log which keys cannot sign, as far as that can be told. It waits for no
// signer: what is served does not depend on them.
func (h *house) lookAtKeys(ctx context.Context) {
	for name, k := range h.keys {
		if err := k.Key().MaySign(time.Now()); err != nil {
			h.log.Warn("a key signs nothing", "name", name, "error", err)
			continue
		}
		if c, ok := k.(interface{ Check(context.Context) error }); ok {
			go func() {
				within, cancel := context.WithTimeout(ctx, signerTimeout)
				defer cancel()
				if err := c.Check(within); err != nil && ctx.Err() == nil {
					h.log.Warn("a key signs nothing while its signer is away", "name", name, "error", err)
				}
			}()
		}
	}
}

// contained bounds every key's signer, believes nothing that it returns, and counts.
func (h *house) contained(s settings, metrics prometheus.Registerer) (map[string]signature.Signer, error) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "countersign_signer_requests_total", Help: "What the server's keys were asked to sign, by what became of it.",
	}, []string{"key", "outcome"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "countersign_signer_duration_seconds", Help: "How long a signer took.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"key"})
	if err := errors.Join(metrics.Register(requests), metrics.Register(duration)); err != nil {
		return nil, err
	}
	keys := map[string]signature.Signer{}
	// To sign here takes a processor for milliseconds. Half of them are left to those who read.
	half := max(1, runtime.GOMAXPROCS(0)/2)
	processors := make(chan struct{}, half)
	for name, k := range h.keys {
		bounds := signer.Bounds{Patience: cmp.Or(s.Signing.Keys[name].Timeout, signerTimeout), Room: processors}
		switch at := s.Signing.Keys[name]; { // one that is elsewhere and hangs is in nobody's way
		case at.Socket != "":
			bounds.Room = make(chan struct{}, signer.MaxAtOnce)
		case at.GPG != "":
			bounds.Room = make(chan struct{}, half)
		}
		for _, outcome := range signer.Outcomes() {
			requests.WithLabelValues(name, string(outcome)) // zero is a number, too
		}
		keys[name] = signer.Contain(k, bounds, time.Now, func(o signer.Outcome, took time.Duration) {
			requests.WithLabelValues(name, string(o)).Inc()
			duration.WithLabelValues(name).Observe(took.Seconds())
		})
	}
	return keys, nil
}

func (h *house) openNamed(s settings) error {
	h.keys = map[string]signature.Signer{}
	for name, at := range s.Signing.Keys {
		opened, err := at.open(h.keyFile(s, name), time.Now)
		if err != nil {
			return fmt.Errorf("signing.keys.%s: %w", name, err)
		}
		for other, has := range h.keys {
			if shared := signature.Shared(opened.Key(), has.Key()); len(shared) > 0 {
				return fmt.Errorf("signing.keys: %s and %s are the same key, %s", name, other, shared[0])
			}
		}
		h.addKey(name, opened)
	}
	return nil
}

// addKey has the metric and SIGHUP look at the key's file, too.
func (h *house) addKey(name string, k *signer.Followed) {
	h.keys[name] = k
	h.files = append(h.files, access.File{Name: "key/" + name, Err: k.Err, Reload: k.Reload})
}

// keyFile says what follows from a key that has changed: nodes get it as it is now, what nodes would
// say is judged by it, and the calendar has it.
func (h *house) keyFile(s settings, name string) signer.File {
	return signer.File{Name: name, Log: h.log, Tell: func() error {
		if h.ownPolicy.Load() != nil {
			h.ownPolicy.Store(policy.TrustFirst(s.Hosts, h.own()))
		}
		h.calendar.Again()
		return h.publish(s, name)
	}}
}

// publishNew publishes the keys of which nothing is published yet: policies may name the files. Undo takes them away again.
func (h *house) publishNew(s settings) (undo func(), err error) {
	var made []string
	undo = func() {
		for _, path := range made {
			_ = os.Remove(path)
		}
	}
	if err := checkPublished(s); err != nil {
		return undo, err
	}
	for name := range s.Signing.Keys {
		path := published(s, name).public
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := h.publish(s, name); err != nil {
			return undo, err
		}
		made = append(made, path)
	}
	return undo, nil
}

// publishNamed publishes keys whether a rule names them or not: what they signed once is still served.
func (h *house) publishNamed(s settings) error {
	for name := range s.Signing.Keys {
		if err := h.publish(s, name); err != nil {
			return err
		}
	}
	return nil
}

// checkPublished refuses to publish any key where the public part of one would be written over a private one.
func checkPublished(s settings) error {
	for name := range s.Signing.Keys {
		for other, at := range s.Signing.Keys {
			if sameFile(at.File, published(s, name).public) {
				return fmt.Errorf("signing.keys.%s.file is %s, over which the public part of %s would be written\nhint: move it to another name, as %[1]s.key", other, at.File, name)
			}
		}
	}
	return nil
}

func (h *house) publish(s settings, name string) error {
	return published(s, name).publish(h.keys[name].Key().Armored())
}

// published is beside where a key of the server's own would be.
func published(s settings, name string) keyFile {
	return keyFile{public: filepath.Join(s.Data, "keys", name+".asc")}
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

// open opens a key where it is. What is not in a file need not be there yet.
func (at keyAt) open(f signer.File, clock func() time.Time) (*signer.Followed, error) {
	if at.File != "" {
		return followKey(f, at.File, at.PassphraseFile, clock)
	}
	f.Read = func() ([]byte, error) { return readFile(at.Public, checkPublic) }
	f.Open = func(content []byte) (signature.Signer, error) {
		public, err := signature.ReadKeyring(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at.Public, err)
		}
		switch {
		case at.Socket != "":
			return signer.NewSocket(at.Socket, public)
		case at.GPG != "":
			return signer.NewGPG(at.GPG, public)
		}
		return signer.NewRetired(public)
	}
	return signer.Follow(f, clock)
}
