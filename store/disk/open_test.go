package disk_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

func TestOpenMakesPrivate(t *testing.T) {
	t.Parallel()
	top := filepath.Join(t.TempDir(), "data")
	directory := filepath.Join(top, "signatures")
	open(t, directory, options(t))
	for path, want := range map[string]fs.FileMode{
		top: 0o700, directory: 0o700,
		filepath.Join(directory, "signatures.db"): 0o600,
		filepath.Join(directory, "owner"):         0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) != 2 {
		t.Errorf("in the directory: %v, %v, want signatures.db and owner", entries, err)
	}
}

func TestOpenAgain(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	s := open(t, directory, options(t))
	c := adding(image("app"), 1, 2, 3)
	c.Then = []store.Task{{Key: "one", Kind: "sign"}}
	c.Withdraw = []store.Withdrawal{{ID: "w", Scope: store.ScopeKey, Key: "ABCD", Reason: "lost"}}
	do(t, s, c)
	set, trail := get(t, s, image("app")), records(t, s)
	tasks, _ := list(t, s, store.Filter{Kind: store.Tasks}, 10)
	_, cursor, err := s.Records(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = open(t, directory, options(t))
	if diff := cmp.Diff(set, get(t, s, image("app"))); diff != "" {
		t.Errorf("the set, opened again (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(trail, records(t, s)); diff != "" {
		t.Errorf("the trail, opened again (-before +after):\n%s", diff)
	}
	again, _ := list(t, s, store.Filter{Kind: store.Tasks}, 10)
	if diff := cmp.Diff(tasks, again); diff != "" {
		t.Errorf("the tasks, opened again (-before +after):\n%s", diff)
	}
	do(t, s, adding(image("app"), 4))
	if page, _, err := s.Records(t.Context(), cursor, 10); err != nil || len(page) != 1 {
		t.Errorf("records behind a cursor from before: %v, %v, want the one that came since", page, err)
	}
}

func TestOpenInUse(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	first := open(t, directory, options(t))
	_, err := disk.Open(directory, options(t))
	for _, want := range []string{directory, fmt.Sprintf("process %d on ", os.Getpid()), "since 2026-03-01T12:00:00Z", "\nhint: stop that one first"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("second Open: %v, want it to say %q", err, want)
		}
	}
	do(t, first, adding(image("app"), 1))
	closeStore(t, first)
	second := open(t, directory, options(t))
	if got := len(get(t, second, image("app")).Signatures); got != 1 {
		t.Errorf("after the first has closed: %d signatures, want 1", got)
	}
}

// Word of who has the store is for people: where it cannot be written the store is opened nevertheless.
func TestOpenWithoutOwner(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	before := open(t, directory, options(t))
	do(t, before, adding(image("app"), 1))
	closeStore(t, before)
	if err := os.MkdirAll(filepath.Join(directory, "owner.new", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, directory, options(t))
	if got := len(get(t, s, image("app")).Signatures); got != 1 {
		t.Errorf("opened without word of it: %d signatures, want 1", got)
	}
	_, err := disk.Open(directory, options(t))
	if err == nil || !strings.Contains(err.Error(), "is in use by another process\n") {
		t.Errorf("second Open: %v, want it to name nobody, least of all who had it before", err)
	}
}

// All of them make a file, or none of them sees half of one; only one has it.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "signatures")
	var opens sync.WaitGroup
	stores := make([]*disk.Store, 8)
	for n := range stores {
		opens.Go(func() {
			s, err := disk.Open(directory, options(t))
			if err != nil && !strings.Contains(err.Error(), "is in use by ") {
				t.Errorf("Open: %v, want none, or who has it", err)
			}
			stores[n] = s
		})
	}
	opens.Wait()
	have := 0
	for _, s := range stores {
		if s != nil {
			have++
			do(t, s, adding(image("app"), 1))
			closeStore(t, s)
		}
	}
	if have != 1 {
		t.Errorf("%d have it open, want 1", have)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	newer := func(t *testing.T, path string) {
		change(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("3")) })
	}
	foreign := func(t *testing.T, path string) {
		change(t, path, func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("meta")) })
	}
	garbage := func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("not a database. ", 4096))) }
	short := func(t *testing.T, path string) { write(t, path, []byte("bbolt")) }
	pages := func(t *testing.T, path string) { // but those that say where the others are
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, append(whole[:2*4096], bytes.Repeat([]byte{7}, len(whole)-2*4096)...))
	}
	for name, test := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"newer":   {newer, `it has format "3", and this program reads "2": use the version that wrote it, or a later one`},
		"foreign": {foreign, "this is no store of signatures"},
		"garbage": {garbage, "hint: if the file is damaged, bring it back from a backup"},
		"short":   {short, "hint: if the file is damaged, bring it back from a backup"},
		"pages":   {pages, "hint: if the file is damaged, bring it back from a backup"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			directory := t.TempDir()
			path := filepath.Join(directory, "signatures.db")
			closeStore(t, open(t, directory, options(t)))
			test.spoil(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first leaves no lock
				_, err := disk.Open(directory, options(t))
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("Open: %v, want %s, and %q", err, path, test.want)
				}
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("Open wrote to the file that it refused: %v", err)
			}
		})
	}
}

// A crash while the file is made leaves something under another name only.
func TestOpenAfterHalf(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	half := filepath.Join(directory, "new-1234")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(half, "signatures.db"), []byte("half"))
	s := open(t, directory, options(t))
	do(t, s, adding(image("app"), 1))
}

func TestOpenNoDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	for _, directory := range []string{file, filepath.Join(file, "signatures")} {
		if _, err := disk.Open(directory, options(t)); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Open(%s): %v, want an error that names it", directory, err)
		}
	}
}

// change opens the file behind the store's back.
func change(t *testing.T, path string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
