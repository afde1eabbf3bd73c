package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// TestFsckFinds has one signature of each kind of wrong in an image, between two that are right, in
// both stores. A repair says what it did, and what it left.
func TestFsckFinds(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	eachStore(t, testFsckFinds)
}

func testFsckFinds(t *testing.T, k kept) {
	flags := append(k.flags(t, ""), "-sign-on", "none")
	s := trusting(t, flags...)
	trust(t, s.data, "bob")
	i, j := newImage("fsck finds"), newImage("fsck finds another's")
	reference := s.address + "/ns/app:v1"
	for _, person := range []string{"alice", "alice", "alice", "carol", "bob", "alice"} {
		eventually(t, person+" is trusted", func() bool {
			return s.upload(t, "ns/app", i.digest(), sign(t, person, reference, i.digest())).status == 201
		})
	}
	list := s.signatures(t, "ns/app", i.digest())
	s.stop(t)
	if err := os.Remove(filepath.Join(s.data, "trusted", "bob.asc")); err != nil {
		t.Fatal(err)
	}
	w := wounds{
		image: strings.Join([]string{s.address, "ns/app", i.digest()}, "\x00"), digest: i.digest(), carol: fingerprintOf(t, "carol"),
		grafted: list[1].Name, foreign: sign(t, "alice", reference, j.digest()), halved: list[2].Name, half: list[2].Content[:100],
	}
	w.foreignName = i.digest() + "@" + digestOf(w.foreign)[len("sha256:"):][:32]
	if k.database == nil {
		w.directory(t, filepath.Join(s.data, "signatures", "signatures.db"))
	} else {
		w.database(t, k)
	}
	at, image := k.flags(t, ""), s.address+"/ns/app@"+i.digest()
	wrong := []string{
		image + " signature-2: it claims " + j.digest(),
		image + " " + list[2].Name + ": what is stored does not read",
		image + " signature-3: it is withdrawn, and served",
		image + " signature-4: key is not known: " + fingerprintOf(t, "bob"),
	}
	shows(t, s.fsck(t, 1, at...), append(wrong, "5 signatures of 1 images: 4 wrong, 0 repaired")...)
	mended := s.fsck(t, 1, append(at, "-repair")...)
	shows(t, mended, append(wrong, "4 wrong, 3 repaired")...)
	for line := range strings.Lines(mended) {
		dropped, left := strings.HasSuffix(line, ": dropped\n"), strings.Contains(line, "key is not known")
		if strings.HasPrefix(line, image) && dropped == left {
			t.Errorf("a repair says %q", line)
		}
	}
	shows(t, s.fsck(t, 1, append(at, "-repair")...), wrong[3][:len(image)]+" signature-2: key is not known", "3 signatures of 1 images: 1 wrong, 0 repaired")

	s = s.again(t, flags...)
	back := s.signatures(t, "ns/app", i.digest())
	if len(back) != 3 || back[0].Name != list[0].Name || back[1].Name != list[4].Name || back[2].Name != list[5].Name {
		t.Errorf("after the repair %d are served, want the first, bob's and the last", len(back))
	}
	s.wantServed(t, "ns/app", i.digest())
	shows(t, s.cli(t, 0, "audit"), "dropped by countersign fsck "+image+" (repaired)", "dropped by countersign fsck "+image+" (it did not read)")
}

// wounds are what is done to an image behind its server's back: a signature for another one is in the
// place of grafted, half of halved is there, and carol's are withdrawn but were not taken away.
type wounds struct {
	image, digest, carol string
	grafted, foreignName string
	foreign              []byte
	halved               string
	half                 []byte
}

func (w wounds) directory(t *testing.T, file string) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		images, contents := tx.Bucket([]byte("images")), tx.Bucket([]byte("contents"))
		var image map[string]any
		if err := json.Unmarshal(images.Get([]byte(w.image)), &image); err != nil {
			return err
		}
		for _, s := range image["signatures"].([]any) {
			s := s.(map[string]any)
			at := big.NewInt(int64(s["at"].(float64))).FillBytes(make([]byte, 8))
			var err error
			switch s["name"] {
			case w.grafted:
				s["name"], err = w.foreignName, contents.Put(at, w.foreign)
			case w.halved:
				err = contents.Put(at, w.half)
			}
			if err != nil {
				return err
			}
		}
		image["withdrawn"] = []any{map[string]any{
			"serial": 99, "id": "w", "scope": "key", "key": w.carol, "reason": "x", "subject": "x", "time": "2026-01-01T00:00:00Z",
		}}
		value, err := json.Marshal(image)
		if err == nil {
			err = images.Put([]byte(w.image), value)
		}
		return err
	})
	if closeErr := db.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
}

func (w wounds) database(t *testing.T, k kept) {
	t.Helper()
	host, _, _ := strings.Cut(w.image, "\x00")
	_, err := k.database.Psql("postgres", fmt.Sprintf(`
		UPDATE signatures SET content = decode('%s', 'hex'), name = '%s' WHERE name = '%s';
		UPDATE signatures SET content = decode('%s', 'hex') WHERE name = '%s';
		INSERT INTO withdrawals VALUES ('%s', 'ns/app', '%s', 99, 'w', 'key', '', '', '%s', 'x', 'x', now())`,
		hex.EncodeToString(w.foreign), w.foreignName, w.grafted, hex.EncodeToString(w.half), w.halved, host, w.digest, w.carol))
	if err != nil {
		t.Fatal(err)
	}
}
