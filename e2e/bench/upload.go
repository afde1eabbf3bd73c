package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
	"github.com/countersign-dev/countersign/store/postgres"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

const uploaders = 32

// A batch is signatures by one key, of an image each.
type batch struct {
	algorithm signature.Algorithm
	public    []byte // the key, armored
	first     string // file of signed images to warm up with
	file      string // of signed images
	keys      string // directory with the key
}

// A signed is a signature of an image that has no other.
type signed struct {
	Image   api.Image
	Content []byte
}

// sign makes a batch, with so many signatures to warm up with before the others.
func (b *bench) sign(ctx context.Context, algorithm signature.Algorithm, first, n int) (batch, error) {
	in := func(extension string) string { return filepath.Join(b.dir, string(algorithm)+extension) }
	made := batch{algorithm: algorithm, first: in(".first"), file: in(".signed"), keys: in(".keys")}
	private, public, err := signature.Spec{UserID: "bench", Algorithm: algorithm}.Generate(time.Now().Add(-time.Minute))
	if err != nil {
		return made, err
	}
	made.public = public
	signer, err := signature.NewFileSigner(private, nil, time.Now)
	if err != nil {
		return made, err
	}
	all := make([]signed, first+n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i := range all {
		group.Go(func() (err error) {
			image := imageOf(i)
			image.Digest = digest.FromString(fmt.Sprint(algorithm, " ", i))
			all[i].Image = image
			all[i].Content, err = signer.Sign(ctx, signature.Claim{Digest: image.Digest, Reference: host + "/" + image.Repository + ":v1"})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return made, err
	}
	return made, errors.Join(writeSigned(made.first, all[:first]), writeSigned(made.file, all[first:]), os.MkdirAll(made.keys, 0o755),
		os.WriteFile(filepath.Join(made.keys, "bench.asc"), public, 0o644))
}

func writeSigned(file string, all []signed) error {
	var text bytes.Buffer
	return errors.Join(gob.NewEncoder(&text).Encode(all), os.WriteFile(file, text.Bytes(), 0o644))
}

func readSigned(file string) (all []signed, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return all, gob.NewDecoder(bytes.NewReader(text)).Decode(&all)
}

// A price is what an upload costs, and what its parts cost alone, in seconds of a core.
type price struct{ upload, verify, append, empty []float64 }

// uploads measures what an upload costs, beside one verification, one append and one empty request.
func uploads(ctx context.Context, b *bench) error {
	c, pid, err := b.cluster()
	if err != nil {
		return err
	}
	defer c.Stop()
	for _, algorithm := range []signature.Algorithm{signature.RSA3072, signature.RSA4096} {
		b.say("uploads: signing with %s", algorithm)
		made, err := b.sign(ctx, algorithm, b.Uploads, b.Uploads)
		if err != nil {
			return err
		}
		for _, kind := range []string{"disk", "database"} {
			var p price
			for round := range 3 * b.Rounds { // short ones: a neighbour on the machine is there for seconds
				name := fmt.Sprintf("uploads-%s-%s-%d", kind, algorithm, round)
				b.say("%s", name)
				if err := b.uploadRound(ctx, &p, name, made, kind == "database", c, pid); err != nil {
					return err
				}
			}
			b.reportUploads(p, kind, string(algorithm))
		}
	}
	return nil
}

func (b *bench) reportUploads(p price, kind, algorithm string) {
	micro := func(v []float64) []float64 { return each(func(v ...float64) float64 { return v[0] * 1e6 }, v) }
	name := fmt.Sprintf("%s, %s: ", kind, algorithm)
	b.report.atMost(1.3, "", name+"an upload's CPU, of its parts' together",
		each(func(v ...float64) float64 { return v[0] / (v[1] + v[2] + v[3]) }, p.upload, p.verify, p.append, p.empty))
	b.report.figure("uploads", name+"an upload", "µs of CPU", micro(p.upload))
	b.report.figure("uploads", name+"a verification", "µs of CPU", micro(p.verify))
	b.report.figure("uploads", name+"an append", "µs of CPU", micro(p.append))
	b.report.figure("uploads", name+"an empty PUT", "µs of CPU", micro(p.empty))
}

// uploadRound measures each once, on stores that are new, of processes that have done as much before: what one
// touches for the first time is not what an upload costs.
func (b *bench) uploadRound(ctx context.Context, p *price, name string, made batch, remote bool, c *cluster.Cluster, pid int) (err error) {
	at := serverAt{name: name, trusted: made.public, flags: []string{"-sign-on", "none"}}
	where, database := filepath.Join(b.dir, name+"-append"), 0
	if remote {
		d, e := b.newDatabase(ctx, c, pid)
		if e != nil {
			return e
		}
		other, e := b.newDatabase(ctx, c, pid)
		if e != nil {
			return e
		}
		at.database, where, database = d, other.url, pid
		defer func() { err = errors.Join(err, c.Drop(d.name), c.Drop(other.name)) }() // there are many rounds
	}
	s, err := b.server(ctx, at)
	if err != nil {
		return err
	}
	defer s.stop()
	var warm []float64
	upload := func(file, body string) []string {
		return []string{"upload", s.address, file, body, strconv.Itoa(uploaders)}
	}
	for _, m := range []struct {
		into *[]float64
		pids []int
		core int
		role []string
	}{
		{&warm, s.pids(), loading, upload(made.first, "whole")},
		{&p.empty, s.pids(), loading, upload(made.file, "empty")},
		{&p.upload, s.pids(), loading, upload(made.file, "whole")},
		{&p.append, nil, serving, []string{"append", where, made.first, made.file, made.keys, strconv.Itoa(database)}},
		{&p.verify, nil, serving, []string{"verify", made.file, made.keys}},
	} {
		var t tally
		used, err := spent(m.pids, func() (err error) {
			t, err = b.as(ctx, m.core, m.role[0], m.role[1:]...)
			return err
		})
		if err != nil {
			return err
		}
		*m.into = append(*m.into, (used+t.CPU)/float64(t.Count))
	}
	return nil
}

// performUpload sends each signature of a file once, whole, or nothing in its place. What it uses
// itself is not told: it is who asks.
func performUpload(ctx context.Context, args []string) (tally, error) {
	all, err := readSigned(args[1])
	if err != nil {
		return tally{}, err
	}
	clients, err := strconv.Atoi(args[3])
	if err != nil {
		return tally{}, err
	}
	http := client(clients)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for _, s := range all {
		group.Go(func() error {
			body, want := []byte{}, 400
			if args[2] == "whole" {
				want = 201
				if body, err = json.Marshal(api.NewSignature(s.Image.Digest, s.Content)); err != nil {
					return err
				}
			}
			status, err := send(ctx, http, "PUT", "http://"+args[0]+api.ExtensionPath(s.Image), body)
			if err == nil && status != want {
				err = fmt.Errorf("PUT %s is answered %d, want %d", s.Image, status, want)
			}
			return err
		})
	}
	return tally{Count: len(all)}, group.Wait()
}

// send sends a request and reads its answer to the end.
func send(ctx context.Context, c *http.Client, method, url string, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if method != http.MethodGet {
		authorize(req)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// performAppend stores what the door has let in, as many at a time as there are uploaders: a file of it to warm up, and
// then another one. What that costs the database's processes counts, too.
func performAppend(ctx context.Context, args []string) (tally, error) {
	database, err := strconv.Atoi(args[4])
	if err != nil {
		return tally{}, err
	}
	live, err := admission.OpenTrusted(args[3], []string{host}, slog.New(slog.DiscardHandler))
	if err != nil {
		return tally{}, err
	}
	door := admission.New(admission.Config{Hosts: []string{host}, Policy: live.Since, Clients: signature.AllClients, Clock: time.Now})
	var changes [2][]store.Change
	for i, file := range args[1:3] {
		if changes[i], err = admitAll(door, file); err != nil {
			return tally{}, err
		}
	}
	to, closes, err := openStore(ctx, args[0], database != 0)
	if err != nil {
		return tally{}, err
	}
	t, err := appendWarm(ctx, to, database, changes[0], changes[1])
	return t, errors.Join(err, closes())
}

// admitAll returns what the signatures of a file change.
func admitAll(door *admission.Door, file string) ([]store.Change, error) {
	all, err := readSigned(file)
	if err != nil {
		return nil, err
	}
	changes := make([]store.Change, len(all))
	for i, s := range all {
		admitted, err := door.Admit(admission.Upload{Image: s.Image, Content: s.Content, Caller: admission.Caller{Subject: "token:ci", Address: "127.0.0.1"}, Origin: "upload"})
		if err != nil {
			return nil, err
		}
		changes[i] = admitted.Change(0)
	}
	return changes, nil
}

func openStore(ctx context.Context, where string, remote bool) (store.Store, func() error, error) {
	if remote {
		s, err := postgres.Open(ctx, postgres.Options{URL: where, Limits: store.DefaultLimits(), Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	s, err := disk.Open(where, disk.Options{Limits: store.DefaultLimits(), Clock: time.Now})
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

// performVerify reads and verifies each signature of a file once to warm up, and then once more.
func performVerify(ctx context.Context, args []string) (tally, error) {
	all, err := readSigned(args[0])
	if err != nil {
		return tally{}, err
	}
	key, err := os.ReadFile(filepath.Join(args[1], "bench.asc"))
	if err != nil {
		return tally{}, err
	}
	ring, err := signature.ReadKeyring(key)
	if err != nil {
		return tally{}, err
	}
	verify := func(t *tally) error {
		for _, s := range all {
			m, err := signature.Parse(signature.Untrusted(s.Content))
			if err == nil {
				_, err = ring.Verify(m, time.Now())
			}
			if err != nil {
				return err
			}
			t.Count++
		}
		return ctx.Err()
	}
	if err := verify(new(tally)); err != nil {
		return tally{}, err
	}
	return measured(verify)
}
