package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// manifest is an image without layers: its configuration is the blob that pushBlob has pushed.
func manifest(config []byte, n int) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[],"annotations":{"n":"%d"}}`,
		manifestType, digest.FromBytes(config), len(config), n)
}

// pushBlob pushes a blob in one request after the one that asks where to.
func pushBlob(ctx context.Context, c *http.Client, address, repository string, blob []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v2/"+repository+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	to, err := res.Location()
	if err != nil {
		return fmt.Errorf("an upload of a blob is answered %s: %w", res.Status, err)
	}
	query := to.Query()
	query.Set("digest", digest.FromBytes(blob).String())
	to.RawQuery = query.Encode()
	req, err = http.NewRequestWithContext(ctx, http.MethodPut, to.String(), bytes.NewReader(blob))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	return done(c, req, http.StatusCreated)
}

func pushManifest(ctx context.Context, c *http.Client, address, repository, tag string, content []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address+"/v2/"+repository+"/manifests/"+tag, bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", manifestType)
	return done(c, req, http.StatusCreated)
}

func done(c *http.Client, req *http.Request, want int) error {
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != want {
		return fmt.Errorf("%s %s is answered %s, want %d", req.Method, req.URL.Path, res.Status, want)
	}
	return nil
}

const repository = "bench/app"

var emptyConfig = []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)

// pushMany pushes so many images and returns the paths of their manifests.
func pushMany(ctx context.Context, address string, n int) ([]string, error) {
	c := client(1)
	defer c.CloseIdleConnections()
	if err := pushBlob(ctx, c, address, repository, emptyConfig); err != nil {
		return nil, err
	}
	var paths []string
	for i := range n {
		content := manifest(emptyConfig, i)
		if err := pushManifest(ctx, c, address, repository, fmt.Sprint("v", i), content); err != nil {
			return nil, err
		}
		paths = append(paths, "/v2/"+repository+"/manifests/"+digest.FromBytes(content).String())
	}
	return paths, nil
}

// pushes measures how long a push takes that makes the server sign, and one that does not, in turn.
func pushes(ctx context.Context, b *bench) error {
	silent, err := b.server(ctx, serverAt{name: "pushes-none", core: serving, open: true, flags: []string{"-sign-on", "none"}})
	if err != nil {
		return err
	}
	defer silent.stop()
	signs, err := b.server(ctx, serverAt{name: "pushes-sign", core: serving, open: true, flags: []string{"-sign-on", "push"}})
	if err != nil {
		return err
	}
	defer signs.stop()
	key := filepath.Join(b.dir, "pushes-sign", "keys", "server.key")
	var without, with, raw []float64
	for round := range b.Rounds {
		b.say("pushes: round %d of %d", round+1, b.Rounds)
		t, err := b.as(ctx, loading, "push", silent.address, signs.address, strconv.Itoa(b.Pushes), strconv.Itoa(round))
		if err != nil {
			return err
		}
		s, err := b.rawSignatures(ctx, key)
		if err != nil {
			return err
		}
		without = append(without, median(everyOther(t.Seconds, 0))*1e3)
		with = append(with, median(everyOther(t.Seconds, 1))*1e3)
		raw = append(raw, s*1e3)
	}
	b.report.atMost(5, "ms", "what signing adds to a push, less a raw signature by its key",
		each(func(v ...float64) float64 { return v[0] - v[1] - v[2] }, with, without, raw))
	b.report.figure("pushes", "a push", "ms", without)
	b.report.figure("pushes", "a push that is signed", "ms", with)
	b.report.figure("pushes", "a raw signature", "ms", raw)
	return nil
}

func everyOther(v []float64, from int) (some []float64) {
	for i := from; i < len(v); i += 2 {
		some = append(some, v[i])
	}
	return some
}

// rawSignatures is the median of what a signature takes by itself, in seconds, on an idle core.
func (b *bench) rawSignatures(ctx context.Context, key string) (float64, error) {
	private, err := os.ReadFile(key)
	if err != nil {
		return 0, err
	}
	signer, err := signature.NewFileSigner(private, nil, time.Now)
	if err != nil {
		return 0, err
	}
	var took []float64
	for i := range b.Pushes {
		began := time.Now()
		if _, err := signer.Sign(ctx, signature.Claim{Digest: digest.FromString(strconv.Itoa(i)), Reference: host + "/" + repository + ":v1"}); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return median(took), nil
}

// performPush pushes to one address and to the other, in turn.
func performPush(ctx context.Context, args []string) (t tally, err error) {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return t, err
	}
	c := client(2)
	for _, address := range args[:2] {
		if err := pushBlob(ctx, c, address, repository, emptyConfig); err != nil {
			return t, err
		}
	}
	round, err := strconv.Atoi(args[3])
	if err != nil {
		return t, err
	}
	for i := range n {
		for _, address := range args[:2] {
			content := manifest(emptyConfig, round*n+i)
			began := time.Now()
			if err := pushManifest(ctx, c, address, repository, fmt.Sprintf("v%d-%d", round, i), content); err != nil {
				return t, err
			}
			t.Seconds = append(t.Seconds, time.Since(began).Seconds())
		}
	}
	t.Count = len(t.Seconds)
	return t, nil
}

// sidecar measures a registry alone and with the server before it. All have one core together, also
// who asks.
func sidecar(ctx context.Context, b *bench) error {
	r, err := b.registry(ctx, serving)
	if err != nil {
		return err
	}
	defer r.stop()
	s, err := b.server(ctx, serverAt{
		name: "sidecar", core: serving, open: true, flags: []string{"-sign-on", "none"},
		settings: fmt.Sprintf("registry: {url: 'http://%s'}\n", r.address),
	})
	if err != nil {
		return err
	}
	defer s.stop()
	c := client(1)
	blob := bytes.Repeat([]byte("countersign\n"), b.Blob/12)
	if err := pushBlob(ctx, c, r.address, repository, blob); err != nil {
		return err
	}
	names, err := pushMany(ctx, r.address, 100)
	if err != nil {
		return err
	}
	paths := filepath.Join(b.dir, "sidecar.paths")
	if err := os.WriteFile(paths, []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	path := "/v2/" + repository + "/blobs/" + digest.FromBytes(blob).String()
	var alone, beside sidecarSeries
	for round := range b.Rounds {
		b.say("sidecar: round %d of %d", round+1, b.Rounds)
		if err := b.sidecarRound(ctx, &alone, r.address, path, paths, r.pid()); err != nil {
			return err
		}
		if err := b.sidecarRound(ctx, &beside, s.address, path, paths, r.pid(), s.pid()); err != nil {
			return err
		}
	}
	b.report.atMost(1.5, "", "sidecar: CPU of a gigabyte of blobs, of that without it", ratios(beside.all, alone.all))
	b.report.atLeast(.6, "sidecar: manifest GET, of that without it", ratios(beside.manifests, alone.manifests))
	b.report.figure("sidecar", "CPU of a gigabyte, of all, without", "s", alone.all)
	b.report.figure("sidecar", "CPU of a gigabyte, of all, with", "s", beside.all)
	b.report.figure("sidecar", "CPU of a gigabyte, of who serves only, without", "s", alone.serves)
	b.report.figure("sidecar", "CPU of a gigabyte, of who serves only, with", "s", beside.serves)
	b.report.figure("sidecar", "manifests, without", "a second", alone.manifests)
	b.report.figure("sidecar", "manifests, with", "a second", beside.manifests)
	return nil
}

type sidecarSeries struct{ all, serves, manifests []float64 }

func (b *bench) sidecarRound(ctx context.Context, s *sidecarSeries, address, blob, manifests string, pids ...int) error {
	times := max(1, (1<<30)/b.Blob)
	var t tally
	used, err := spent(pids, func() (err error) {
		t, err = b.as(ctx, serving, "fetch", address, blob, strconv.Itoa(times))
		return err
	})
	if err != nil {
		return err
	}
	gigabytes := float64(t.Count) / 1e9
	s.serves = append(s.serves, used/gigabytes)
	s.all = append(s.all, (used+t.CPU)/gigabytes)
	l, err := b.wrk(ctx, serving, address, manifests, 8, 0, pids...)
	if err != nil {
		return err
	}
	s.manifests = append(s.manifests, l.rate())
	return nil
}
