package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

const host = "registry.example.test"

// contentSize is about that of a signature by RSA-4096 with its claim.
const contentSize = 900

var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// imageOf is the n-th image: ten thousand repositories take them in turn.
func imageOf(n int) api.Image {
	return api.Image{
		Host: host, Repository: fmt.Sprintf("team-%02d/app-%02d", n%100, n/100%100),
		Digest: digest.FromString(fmt.Sprint("image ", n)),
	}
}

// contentOf is the k-th signature's of an image. To serve it nobody verifies it: it is noise of the size.
func contentOf(n, k int) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	binary.BigEndian.PutUint64(seed[8:], uint64(k))
	content := make([]byte, contentSize)
	_, _ = rand.NewChaCha8(seed).Read(content) // never fails
	return content
}

// changeOf is what an upload of a signature to the n-th image makes: all that the server stores of one.
func changeOf(n, signatures int) store.Change {
	i := imageOf(n)
	c := store.Change{Image: i, Record: store.Record{
		Time: born, Action: store.Admitted, Subject: "token:ci", Address: "192.0.2.1", Image: i,
		Fingerprint: strings.Repeat("0123456789ABCDEF0123", 2), Reference: i.Host + "/" + i.Repository + ":v1",
	}}
	for k := range signatures {
		content := contentOf(n, k)
		identity := sha256.Sum256(content)
		s := store.Signature{
			Name: api.Name(i.Digest, content), Content: content, Identity: hex.EncodeToString(identity[:]),
			Fingerprint: c.Record.Fingerprint, UserID: "Release Engineering <release@example.test>", Reference: c.Record.Reference,
			Origin: "upload", Uploader: c.Record.Subject, Signed: born, Added: born,
		}
		c.Add, c.Record.Names = append(c.Add, s), append(c.Record.Names, s.Name)
	}
	return c
}

// fillDisk makes a store of n images as the server makes it, change by change.
func (b *bench) fillDisk(ctx context.Context, directory string, n, signatures int) error {
	s, err := disk.Open(directory, disk.Options{Limits: store.DefaultLimits(), Clock: time.Now})
	if err != nil {
		return err
	}
	defer s.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(1000) // as many share a transaction
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		if i > 0 && i%100_000 == 0 {
			b.say("%d of %d signatures are on disk", i, n)
		}
		group.Go(func() error {
			_, err := s.Do(ctx, changeOf(i, signatures))
			return err
		})
	}
	return group.Wait()
}

// fillTree writes what a file server serves: a directory for each image, a file for each signature.
func fillTree(root string, n int) error {
	for i := range n {
		path := filepath.Join(root, filepath.FromSlash(lookasidePath(i, 1)))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, contentOf(i, 0), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func lookasidePath(n, index int) string {
	return api.SigstorePrefix + api.LookasidePath(imageOf(n)) + "/" + api.SignatureName(index)
}

// writeLines makes a file of what each of n has, for load generators.
func writeLines(file string, n int, each func(w io.Writer, i int)) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for i := range n {
		each(w, i)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// hitsAndMisses are what clients ask a lookaside for: signature-1, and then signature-2, which is
// not there.
func hitsAndMisses(file string, n int) error {
	return writeLines(file, n, func(w io.Writer, i int) {
		fmt.Fprintln(w, lookasidePath(i, 1))
		fmt.Fprintln(w, lookasidePath(i, 2))
	})
}
