package e2e

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// exponent is the private exponent of a key file that is not encrypted, most significant byte
// first. gpg lists it as the first secret number of the packet.
func exponent(t testing.TB, private string) []byte {
	t.Helper()
	need(t, "gpg")
	block := string(gpg(t, []byte(read(t, private)), "--dearmor"))
	listed := string(gpg(t, []byte(block), "--list-packets"))
	if !strings.Contains(listed, "skey[2]") {
		t.Fatalf("gpg does not list a secret number of %s:\n%s", private, listed)
	}
	// Behind the packet's header: version, time, algorithm, n, e, how it is encrypted (not), d.
	body := []byte(block)[3:]
	if block[0] != 0x95 && block[0] != 0xc5 {
		t.Fatalf("%s begins with 0x%02x, no secret key packet of two bytes of length", private, block[0])
	}
	at := 6
	number := func() []byte {
		n := (int(body[at])<<8 + int(body[at+1]) + 7) / 8
		at += 2 + n
		return body[at-n : at]
	}
	number()
	if e := number(); hex.EncodeToString(e) != "010001" || body[at] != 0 {
		t.Fatalf("%s is not an RSA key that is not encrypted: e %x, usage %d", private, e, body[at])
	}
	at++
	d := bytes.Clone(number())
	if len(d) < 300 {
		t.Fatalf("an exponent of %d bytes", len(d))
	}
	return d
}

var mapped = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) r`)

// inMemory reports whether a process has this number in its memory, in either order of bytes.
func inMemory(t testing.TB, process int, number []byte) bool {
	t.Helper()
	reversed := bytes.Clone(number)
	slices.Reverse(reversed)
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", process))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	maps := read(t, fmt.Sprintf("/proc/%d/maps", process))
	searched := int64(0)
	for line := range strings.Lines(maps) {
		area := mapped.FindStringSubmatch(line)
		if area == nil || strings.Contains(line, "[v") { // vvar, vdso and vsyscall cannot be read
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(area[1]+" "+area[2], "%x %x", &from, &to); err != nil || from < 0 || to < from {
			continue
		}
		if raceFlag == "-race" && to-from >= 1<<30 {
			continue // the race detector's notes about memory: which of it was touched, not what it holds
		}
		found, n := contains(io.NewSectionReader(memory, from, to-from), number, reversed)
		searched += n
		if found {
			return true
		}
	}
	if searched < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be searched:\n%s", searched, process, maps)
	}
	return false
}

// contains looks for any of some needles of one length; what cannot be read is passed over.
func contains(in io.Reader, needles ...[]byte) (found bool, read int64) {
	r := bufio.NewReaderSize(in, 1<<20)
	overlap := len(needles[0]) - 1
	for {
		page, err := r.Peek(1 << 20)
		for _, needle := range needles {
			if bytes.Contains(page, needle) {
				return true, read
			}
		}
		if err != nil {
			return false, read + int64(len(page))
		}
		n, _ := r.Discard(len(page) - overlap) // it is buffered
		read += int64(n)
	}
}

// needRoot is for what the kernel lets only root do.
func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Getuid() != 0 {
		lack(t, what+" needs root")
	}
}

// TestMemory finds the private exponent in a server with a key file, so that the search is known to
// find; and such a server leaves no core and lets nobody but root look into it.
func TestMemory(t *testing.T) {
	t.Parallel()
	needRoot(t, "to read the memory of a process that is not dumpable")
	s := start(t)
	s.push(t, newImage("memory"), "ns/app", "v1")
	process := s.command.Process.Pid
	if !inMemory(t, process, exponent(t, s.data+"/keys/server.key")) {
		t.Error("the exponent is not found where a key file is used: the search does not work")
	}
	if limits := read(t, fmt.Sprintf("/proc/%d/limits", process)); !regexp.MustCompile(`Max core file size\s+0\s+0\s`).MatchString(limits) {
		t.Errorf("core dumps are on:\n%s", limits)
	}
	// What is not dumpable belongs to root in /proc; for root's own process that says nothing.
	dir := room(t, nobody)
	other := launch(t, filepath.Join(dir, "data"), as(dir, nobody))
	other.locate(t)
	if got := userOf(t, fmt.Sprintf("/proc/%d/mem", other.command.Process.Pid)); got != 0 {
		t.Errorf("the memory of a server of user %d belongs to user %d, want root's: it is dumpable", nobody, got)
	}
}

// nobody is a user who has nothing.
const nobody = 65534

// room is a directory of a user, with a short path and the binary in it.
func room(t testing.TB, user int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "room-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Link(built.program, filepath.Join(dir, "countersign")), os.Chmod(dir, 0o755), os.Chown(dir, user, user)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// as makes a command one of a user, run from their room.
func as(dir string, user uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.Path, c.Dir = filepath.Join(dir, "countersign"), dir
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
}

func userOf(t testing.TB, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
