package e2e

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// TestSyncedBeforeAnswer traces one upload: what it wrote is on the disk when the 201 is sent.
func TestSyncedBeforeAnswer(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a := newAppending(t)
	lines := a.calls(t)
	if err := syncedBefore(lines, "signatures.db"); err != nil {
		t.Errorf("%v; the calls were\n%s", err, strings.Join(lines, "\n"))
	}
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	succeeded   = regexp.MustCompile(`\) += \d+`)
)

// syncedBefore tells what is wrong with the order of calls in what strace wrote: a file is to be
// written, and every write to it to be followed by a successful fsync or fdatasync, before an
// answer 201 is sent.
func syncedBefore(lines []string, file string) error {
	writes := 0                  // begins and ends of writes to the file
	clean := -1                  // what writes was when the last sync that succeeded began
	begun := map[string]string{} // by thread: the arguments of a call that has not ended
	syncing := map[string]int{}  // by thread: what writes was when its sync began
	for _, line := range lines {
		var thread, call, rest string
		m, resumed := callLine.FindStringSubmatch(line), resumedLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			thread, call, rest = m[1], m[2], m[3]
			begun[thread] = rest
		case resumed != nil:
			thread, call, rest = resumed[1], resumed[2], resumed[3]
		default:
			continue
		}
		ends := !strings.Contains(rest, "<unfinished ...>")
		ours := strings.Contains(begun[thread], file+">")
		switch {
		case ours && (call == "fsync" || call == "fdatasync"):
			if m != nil {
				syncing[thread] = writes
			}
			if ends && succeeded.MatchString(rest) {
				clean = syncing[thread]
			}
		case ours:
			writes++
		case m != nil && strings.Contains(rest, `"HTTP/1.1 201 `):
			if writes == 0 {
				return errors.New("201 is answered before anything is written")
			}
			if clean != writes {
				return errors.New("201 is answered before the last write is synced")
			}
			return nil
		}
	}
	return errors.New("no 201 is answered")
}

// TestSyncedBefore keeps the judge of traces honest.
func TestSyncedBefore(t *testing.T) {
	t.Parallel()
	const (
		write   = `7 pwrite64(5</d/signatures.db>, "x"..., 4096, 0) = 4096`
		sync    = `7 fdatasync(5</d/signatures.db>) = 0`
		other   = `7 fdatasync(6</d/other.db>) = 0`
		failed  = `7 fdatasync(5</d/signatures.db>) = -1 EIO (Input/output error)`
		begin   = `8 fdatasync(5</d/signatures.db> <unfinished ...>`
		end     = `8 <... fdatasync resumed>) = 0`
		created = `9 write(9<socket:[1]>, "HTTP/1.1 201 Created\r\n"..., 99) = 99`
		refused = `9 write(9<socket:[1]>, "HTTP/1.1 403 Forbidden\r\n"..., 99) = 99`
	)
	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"in order":                       {[]string{write, sync, write, sync, created}, ""},
		"a sync of another thread":       {[]string{write, begin, end, created}, ""},
		"no sync":                        {[]string{write, created}, "before the last write"},
		"a sync too late":                {[]string{write, created, sync}, "before the last write"},
		"a sync of another file":         {[]string{write, other, created}, "before the last write"},
		"a sync that failed":             {[]string{write, failed, created}, "before the last write"},
		"a sync that has not ended":      {[]string{write, begin, created, end}, "before the last write"},
		"a write behind the sync":        {[]string{write, sync, write, created}, "before the last write"},
		"a write while the sync runs":    {[]string{write, begin, write, end, created}, "before the last write"},
		"nothing written":                {[]string{sync, created}, "before anything"},
		"written after it was answered":  {[]string{created, write, sync}, "before anything"},
		"another answer, and nothing of": {[]string{write, sync, refused}, "no 201"},
	} {
		err := syncedBefore(test.lines, "signatures.db")
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
