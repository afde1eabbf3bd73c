package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// spoil changes the values of a bucket of a stopped server's store; change returns what a value
// becomes, nil what stays.
func (s *server) spoil(t testing.TB, bucket string, change func(key, value []byte) []byte) (n int) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(s.data, "signatures", "signatures.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		changed := map[string][]byte{}
		err := tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			if next := change(k, v); next != nil {
				changed[string(k)] = next
			}
			return nil
		})
		for k, v := range changed {
			if err := tx.Bucket([]byte(bucket)).Put([]byte(k), v); err != nil {
				return err
			}
		}
		n = len(changed)
		return err
	})
	if closeErr := db.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	return n
}

// fsck runs it on a stopped server's directory.
func (s *server) fsck(t testing.TB, code int, flags ...string) string {
	t.Helper()
	c := command(t.Context(), append([]string{"fsck", "-data", s.data}, flags...)...)
	out, _ := c.CombinedOutput() // its exit code is looked at
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("fsck %q: exit code %d, want %d\n%s", flags, got, code, out)
	}
	return string(out)
}

// TestFsck finds what is wrong in a store, and mends it.
func TestFsck(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	i, j := newImage("fsck"), newImage("fsck, too")
	s.push(t, i, "ns/app", "v1")
	s.push(t, j, "ns/app", "v2")
	s.push(t, j, "ns/lost", "v1")
	for range 3 {
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v1", i.digest())).want(t, 201)
	}
	s.upload(t, "ns/app", i.digest(), sign(t, "carol", s.address+"/ns/app:v1", i.digest())).want(t, 201)
	shows(t, refusal(t, "fsck", "-data", s.data), "in use by process")
	list := s.signatures(t, "ns/app", i.digest())
	s.stop(t)
	shows(t, s.fsck(t, 0), "7 signatures of 3 images: 0 wrong, 0 repaired")
	s.lacking(t, filepath.Join("signatures", "signatures.db"), func() {
		shows(t, s.fsck(t, 1), "signatures.db: no such file", "hint", "backup")
	})
	s.lacking(t, "trusted", func() { shows(t, s.fsck(t, 1), "key is not known: "+fingerprintOf(t, "alice"), "4 wrong, 0 repaired") })
	none := filepath.Join(s.data, "none")
	shows(t, refusal(t, "fsck", "-data", none), "no such file", "hint")
	missing(t, none)

	s.spoil(t, "contents", func(_, value []byte) []byte {
		if bytes.Equal(value, list[1].Content) {
			return append(bytes.Clone(value), 'x')
		}
		return nil
	})
	s.spoil(t, "images", func(key, value []byte) []byte {
		switch {
		case bytes.Contains(key, []byte("ns/lost")):
			return []byte("no JSON")
		case bytes.Contains(key, []byte(i.digest())):
			return bytes.Replace(value, []byte(fingerprintOf(t, "carol")), []byte(strings.Repeat("0", 40)), 1)
		}
		return nil
	})
	found := s.fsck(t, 1)
	shows(t, found, list[1].Name+": what is stored does not read", "signature-4: it is by "+fingerprintOf(t, "carol"),
		"ns/lost@"+j.digest(), "backup", "5 signatures of 2 images: 3 wrong, 0 repaired")
	shows(t, s.fsck(t, 1), "3 wrong, 0 repaired")
	shows(t, s.fsck(t, 1, "-repair"), list[1].Name+": what is stored does not read", ": dropped", "3 wrong, 1 repaired")
	shows(t, s.fsck(t, 1), "2 wrong, 0 repaired")

	// A key that is not known is told, and nothing is taken away.
	trusted := filepath.Join(s.data, "trusted")
	write(t, filepath.Join(trusted, "alice.asc"), string(publicKey(t, "bob")))
	shows(t, s.fsck(t, 1, "-repair"), "key is not known: "+fingerprintOf(t, "alice"), "4 wrong, 0 repaired")
	trust(t, s.data, "alice")

	back := s.again(t)
	reference := s.address + "/ns/app:v1"
	back.wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference, "alice "+reference, "carol "+reference)
	shows(t, back.cli(t, 0, "audit"), "dropped by countersign fsck "+s.address+"/ns/app@"+i.digest()+" (it did not read)")
}

// lacking puts a part of a stopped server's data away meanwhile. It must not be made anew.
func (s *server) lacking(t *testing.T, part string, meanwhile func()) {
	t.Helper()
	path := filepath.Join(s.data, part)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	missing(t, path)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
}

func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there, and nothing should be: %v", path, err)
	}
}

// TestFsckKilled kills a repair on its way. What was mended stays, and the next one ends it. With both
// stores.
func TestFsckKilled(t *testing.T) {
	t.Parallel()
	eachStore(t, testFsckKilled)
}

func testFsckKilled(t *testing.T, k kept) {
	n := 100
	if soak() {
		n = 10_000
	}
	flags := append(k.flags(t, ""), "-sign-on", "none")
	s := start(t, flags...)
	tree := t.TempDir()
	newMill(t, s.data).tree(t, tree, s.address, n)
	s.timed(t, "import", tree)
	s.stop(t)
	spoiled := k.halve(t, s)
	if spoiled < n/10 {
		t.Fatalf("%d of %d signatures are spoiled", spoiled, n)
	}
	at := k.flags(t, "")
	c := command(context.Background(), append([]string{"fsck", "-data", s.data, "-repair"}, at...)...)
	said := newOutput()
	c.Stdout = said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	amid(t, "something is mended", func() bool { return strings.Count(said.String(), ": dropped\n") > spoiled/4 })
	_ = c.Process.Kill()
	_ = c.Wait() // it was killed, or was done before
	t.Logf("of %d spoiled signatures of %d the repair told of %d when it was killed", spoiled, n, strings.Count(said.String(), ": dropped\n"))
	s.fsck(t, 0, append(at, "-repair")...)
	shows(t, s.fsck(t, 0, at...), fmt.Sprintf("%s signatures of ", thousands(n-spoiled)), ": 0 wrong, 0 repaired")
	back := s.again(t, flags...)
	shows(t, back.timed(t, "import", tree), fmt.Sprintf("%s signatures imported", thousands(spoiled)))
	if got := strings.Count(back.cli(t, 0, "audit"), "it did not read"); got == 0 || got > spoiled {
		t.Errorf("%d signatures did not read, and %d records say so", spoiled, got)
	}
}

// halve cuts about half of a stopped server's signatures in two, and returns how many.
func (k kept) halve(t testing.TB, s *server) (spoiled int) {
	t.Helper()
	if k.database == nil {
		return s.spoil(t, "contents", func(_, value []byte) []byte {
			if value[len(value)-1]%2 == 0 {
				return value[:len(value)/2]
			}
			return nil
		})
	}
	out, err := k.database.Psql("postgres", `WITH halved AS (UPDATE signatures SET content = substring(content FOR length(content) / 2)
		WHERE get_byte(content, length(content) - 1) % 2 = 0 RETURNING 1) SELECT count(*) FROM halved`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(out, &spoiled); err != nil {
		t.Fatalf("psql says %q", out)
	}
	return spoiled
}
