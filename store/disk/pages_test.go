package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// A page of the file that is overwritten must cost neither the process nor what other pages have.
func TestPagesDamaged(t *testing.T) {
	t.Parallel()
	directory, whole := fifty(t)
	answers := map[bool]int{}
	for page := 2; page < len(whole)/4096; page++ {
		bad := slices.Clone(whole)
		for n := range 4096 {
			bad[page*4096+n] = byte(n * 7)
		}
		write(t, filepath.Join(directory, "signatures.db"), bad)
		s, err := disk.Open(directory, forgiving(t))
		if err != nil {
			answers[false]++
			continue
		}
		getFifty(t, s, page, answers)
		closeStore(t, s)
	}
	if answers[true] == 0 || answers[false] == 0 {
		t.Errorf("answers: %v, want some good ones and some bad ones", answers)
	}
}

// Nor may a page that the file ends before, whether it did when it was opened or does since.
func TestPagesCut(t *testing.T) {
	t.Parallel()
	directory, whole := fifty(t)
	path := filepath.Join(directory, "signatures.db")
	before, since := map[bool]int{}, map[bool]int{}
	for page := 2; page < len(whole)/4096; page++ {
		write(t, path, whole)
		s := open(t, directory, forgiving(t))
		cut(t, path, page)
		getFifty(t, s, page, since)
		closeStore(t, s)

		s, err := disk.Open(directory, forgiving(t))
		before[err == nil]++
		if err != nil {
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "bring it back from a backup") {
				t.Errorf("Open of a file cut off at page %d: %v, want %s, and to bring it back", page, err, path)
			}
			continue
		}
		good := map[bool]int{} // what was cut off is of no use yet
		if getFifty(t, s, page, good); good[true] != 50 {
			t.Errorf("opened, cut off at page %d: answers %v, want 50 good ones", page, good)
		}
		closeStore(t, s)
	}
	if before[true] == 0 || before[false] == 0 || since[true] == 0 || since[false] == 0 {
		t.Errorf("cut before: opened %v; cut since: answers %v; want some good ones and some bad ones of both", before, since)
	}
}

// Nor may one that bbolt needs to begin or to end what it does, whether that has become zero or was cut off: what comes
// later is told so, and waits for nothing.
func TestPagesOfTheWhole(t *testing.T) {
	t.Parallel()
	directory, whole := fifty(t)
	path := filepath.Join(directory, "signatures.db")
	lost := 0
	for page := range len(whole) / 4096 {
		for what, damaged := range map[string]func(){
			"cut off": func() { cut(t, path, page) },
			"zero":    func() { empty(t, path, page) },
		} {
			if err := os.Remove(path); err != nil { // it may be locked still
				t.Fatal(err)
			}
			write(t, path, whole)
			s, err := disk.Open(directory, forgiving(t)) // not open, whose cleanup wants to close it well
			if err != nil {
				t.Fatal(err)
			}
			damaged()
			for n := range 3 {
				if _, err := s.Do(t.Context(), adding(image(fmt.Sprint("new", n)), 1)); err != nil && !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("page %d, %s: Do: %v, want none or %v", page, what, err, store.ErrUnavailable)
				}
			}
			getFifty(t, s, page, map[bool]int{})
			if err := s.Close(); err != nil {
				if !strings.Contains(err.Error(), "start the server again") {
					t.Errorf("page %d, %s: Close: %v", page, what, err)
				}
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("no page was such a one")
	}
}

// fifty makes a store of fifty images, and returns what its file has.
func fifty(t *testing.T) (directory string, whole []byte) {
	t.Helper()
	directory = t.TempDir()
	s := open(t, directory, options(t))
	for n := range 50 {
		do(t, s, adding(image(fmt.Sprintf("app%02d", n)), 1, 2, 3))
	}
	closeStore(t, s)
	whole, err := os.ReadFile(filepath.Join(directory, "signatures.db"))
	if err != nil {
		t.Fatal(err)
	}
	return directory, whole
}

// forgiving are options of a store that may be damaged.
func forgiving(t *testing.T) disk.Options {
	o := options(t)
	o.Damaged = func(api.Image, string, error) {}
	return o
}

// getFifty gets them all, and counts which are answered; none may be answered with what is not its own.
func getFifty(t *testing.T, s *disk.Store, page int, answers map[bool]int) {
	t.Helper()
	for n := range 50 {
		i := image(fmt.Sprintf("app%02d", n))
		set, err := s.Get(t.Context(), i)
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("page %d, Get: %v, want none or %v", page, err, store.ErrUnavailable)
		}
		for _, got := range set.Signatures {
			if got.Name != api.Name(i.Digest, got.Content) {
				t.Errorf("page %d: %s is served with %q", page, got.Name, got.Content)
			}
		}
		answers[err == nil]++
	}
}

func empty(t *testing.T, path string, page int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), int64(page)*4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, path string, page int) {
	t.Helper()
	if err := os.Truncate(path, int64(page)*4096); err != nil {
		t.Fatal(err)
	}
}
