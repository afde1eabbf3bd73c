package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

const fsckText = `Look at everything that is stored: it parses, verifies with a key that is known (of the admission
policy or the trusted directory, or the server's own), is for its image, is what is told of it, and
its places have no hole. With -repair what can be mended is: what does not read, is for another image
or is withdrawn is dropped, and recorded. What a key or time decides is told and left.
A disk store's server must be stopped. Exit code 1: something is wrong, and is left so.`

// A mender drops what does not read, where a store can leave something unread.
type mender interface {
	Mend(ctx context.Context, image api.Image, record store.Record) (dropped []string, err error)
}

// A checking is one run of fsck.
type checking struct {
	t        terminal
	store    keptStore
	ring     *signature.Keyring
	repair   bool
	progress *progress

	damaged                             map[api.Image]map[string]error // what the store has told of
	mended                              map[api.Image]bool             // what was told of it was told on
	images, signatures, wrong, repaired int
}

func fsck(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("fsck", fsckText)
	file := flags.String("config", "", "settings `FILE`, in YAML")
	data := flags.String("data", "", "`directory` of everything that the settings do not place elsewhere")
	var at storeAt
	at.flags(flags)
	repair := flags.Bool("repair", false, "mend what can be mended, and say what was")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	s, err := storedSettings(*file, *data, at)
	if err != nil {
		return err
	}
	c := &checking{t: t, repair: *repair, progress: newProgress(t.stderr), damaged: map[api.Image]map[string]error{}, mended: map[api.Image]bool{}}
	log := logger(t.stderr, slog.LevelInfo)
	if c.store, err = openStored(ctx, s, log, c.tell); err != nil {
		return err
	}
	if c.ring, err = knownKeys(s, log); err == nil {
		err = c.run(ctx)
	}
	return errors.Join(err, c.store.Close())
}

// storedSettings are those of a server, as far as they say what it has stored and where.
func storedSettings(file, data string, at storeAt) (settings, error) {
	s := defaults()
	if file != "" {
		if err := s.load(file); err != nil {
			return s, err
		}
	}
	if data != "" {
		s.Data = data
	}
	if at.remote() {
		s.Store.Database, s.Store.DatabaseFile = at.Database, at.DatabaseFile
	}
	if err := s.Store.check(); err != nil {
		return s, err
	}
	s.place()
	return s, nil
}

// openStored opens a store that is there: to make one would say that all is well.
// What was known lately does not count here, so nothing of it is kept or used.
func openStored(ctx context.Context, s settings, log *slog.Logger, damaged func(api.Image, string, error)) (keptStore, error) {
	s.Store.Stale, s.Store.Keep, s.Store.settle = 0, "", true
	if !s.Store.remote() {
		if _, err := os.Stat(filepath.Join(s.Store.Directory, "signatures.db")); err != nil {
			return nil, fmt.Errorf("%w\nhint: -config or -data says where the store is; one that is gone comes back from a backup", err)
		}
	}
	return s.openStore(ctx, log, nil, damaged)
}

// knownKeys are those whose signatures the server keeps: of uploaders, and its own, whose public
// parts lie beside its data.
func knownKeys(s settings, log *slog.Logger) (*signature.Keyring, error) {
	var rings []*signature.Keyring
	admitted, err := uploaders(s, log)
	switch {
	case err != nil:
		return nil, err
	case admitted != nil:
		rings = append(rings, admitted.Policy().Keyring())
	}
	published, err := filepath.Glob(filepath.Join(s.Data, "keys", "*.asc"))
	if err != nil {
		return nil, err
	}
	for _, path := range published {
		public, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		own, err := signature.ReadKeyring(public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		rings = append(rings, own)
	}
	return signature.Join(rings...), nil
}

// uploaders are those of the admission policy, or of the trusted directory. nil: there is none, and a check
// does not make it.
func uploaders(s settings, log *slog.Logger) (*admission.Live, error) {
	if s.Admission.Policy != "" {
		return admission.OpenPolicy(s.Admission.Policy, log)
	}
	if _, err := os.Stat(s.Admission.Trusted); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return admission.OpenTrusted(s.Admission.Trusted, s.Hosts, log)
}

func (c *checking) tell(image api.Image, name string, err error) {
	if c.mended[image] {
		return
	}
	if c.damaged[image] == nil {
		c.damaged[image] = map[string]error{}
	}
	c.damaged[image][name] = err
}

func (c *checking) run(ctx context.Context) error {
	var last api.Image
	for after := store.Cursor(""); ; {
		entries, next, err := c.store.List(ctx, store.Filter{Kind: store.Signatures}, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Image == last {
				continue
			}
			last = e.Image
			if err := c.image(ctx, e.Image); err != nil {
				return fmt.Errorf("%s: %w", e.Image, err)
			}
		}
		if after = next; after == "" {
			break
		}
	}
	if err := c.mendAll(ctx); err != nil {
		return err
	}
	c.progress.clear()
	if _, err := fmt.Fprintf(c.t.stdout, "%s\n", c.line()); err != nil {
		return err
	}
	if c.wrong > c.repaired {
		return exitError{code: exitFailed}
	}
	return nil
}

func (c *checking) line() string {
	return fmt.Sprintf("%s signatures of %s images: %s wrong, %s repaired", count(c.signatures), count(c.images), count(c.wrong), count(c.repaired))
}

// say writes what is wrong, and what became of it.
func (c *checking) say(what string, err error, repaired string) {
	c.wrong++
	if repaired != "" {
		c.repaired++
		repaired = ": " + repaired
	}
	c.progress.clear()
	fmt.Fprintf(c.t.stdout, "%s: %s%s\n", printable(what), printable(err.Error()), repaired)
}

// image checks what one image has, and makes one change of all that is to be mended of it.
func (c *checking) image(ctx context.Context, image api.Image) error {
	set, err := c.store.Get(ctx, image)
	if err == nil && c.damaged[image] != nil {
		// First what does not read: the change below would leave it out, and not record that.
		if err = c.mend(ctx, image); err == nil {
			set, err = c.store.Get(ctx, image)
		}
	}
	if err != nil {
		return err
	}
	c.images++
	change := store.Change{Image: image, If: set.Version, Record: store.Record{Action: store.Dropped, Subject: "countersign fsck", Image: image, Reason: "repaired"}}
	for i, sig := range set.Signatures { // 1 to n: a set cannot have a hole
		c.signatures++
		wrong := c.signature(set, image, sig)
		if wrong == nil {
			continue
		}
		done := ""
		if c.repair && !errors.As(wrong, new(left)) {
			change.Drop = append(change.Drop, sig.Name)
			done = "dropped"
		}
		c.say(fmt.Sprintf("%s %s", image, api.SignatureName(i+1)), wrong, done)
	}
	c.progress.show(c.line)
	if len(change.Drop) == 0 {
		return nil
	}
	_, err = c.store.Do(ctx, change)
	return err
}

// A left is wrong and nothing that fsck can mend: a key or time decides, or what nodes are served is
// good and only what is told of it is not.
type left struct{ error }

// signature says what is wrong with a signature.
func (c *checking) signature(set store.Set, image api.Image, sig store.Signature) error {
	message, err := signature.Parse(sig.Content)
	if err != nil {
		return err
	}
	if set.Stops(sig) {
		return errors.New("it is withdrawn, and served")
	}
	verified, err := c.ring.Verify(message, time.Now())
	switch {
	case errors.Is(err, signature.ErrMalformed):
		return err
	case err != nil:
		return left{err}
	case verified.Claim.Digest != image.Digest:
		return fmt.Errorf("it claims %s", verified.Claim.Digest)
	case verified.Fingerprint != sig.Fingerprint || verified.Identity != sig.Identity || verified.Claim.Reference != sig.Reference || !verified.Created.Equal(sig.Signed):
		return left{fmt.Errorf("it is by %s as %s, and listings tell something else of it", verified.Fingerprint, verified.Claim.Reference)}
	}
	return nil
}

// mendAll does with what the store could not read what can be done, of images that have nothing else.
func (c *checking) mendAll(ctx context.Context) error {
	for image := range c.damaged {
		if err := c.mend(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// mend does that for one image. What it told once it does not tell again.
func (c *checking) mend(ctx context.Context, image api.Image) error {
	names, done := c.damaged[image], ""
	if _, whole := names[""]; c.repair && !whole {
		if m, ok := c.store.(mender); ok {
			record := store.Record{Action: store.Dropped, Subject: "countersign fsck", Reason: "it did not read"}
			if _, err := m.Mend(ctx, image, record); err != nil {
				return err
			}
			done = "dropped"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		err := names[name]
		if name == "" {
			err = fmt.Errorf("%w; nothing of this image can be served or changed. hint: bring the store back from a backup", err)
		}
		c.say(fmt.Sprintf("%s %s", image, name), err, done)
	}
	c.mended[image] = true
	delete(c.damaged, image)
	return nil
}
