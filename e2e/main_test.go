package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// built is what TestMain makes once; the tests only read it.
var built struct {
	dir      string // of all this
	program  string // the binary under test
	registry string // distribution's registry
	people   string // GNUPGHOME with the private keys of people; empty where gpg is missing

	keys         map[string][]byte // of people: public, armored
	fingerprints map[string]string // of people
}

// people have keys; who is trusted is up to each test.
var people = []string{"alice", "bob", "carol"}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// A short path: the agent of gpg has a socket in its home, and those end at 108 bytes.
	dir, err := os.MkdirTemp("/tmp", "e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir, built.program = dir, filepath.Join(dir, "countersign")
	built.registry = filepath.Join(dir, "distribution")
	if err := build("1", built.program, "../cmd/countersign", raceFlag); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// As releases are built, so that what both need is compiled once. It runs in containers, too.
	if err := build("0", built.registry, "./distribution", "-trimpath", "-ldflags=-s -w"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := exec.LookPath("gpg"); err == nil {
		built.people = filepath.Join(dir, "people")
		defer stopAgent(built.people)
		err := makePeople(built.people)
		if err == nil {
			built.keys, built.fingerprints, err = exportPeople(built.people)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build makes a program, with cgo ("1") or without ("0"). It has no VCS stamps: git refuses a checkout
// that another user owns.
func build(cgo, program, source string, flags ...string) error {
	c := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-o", program}, flags...), source)...)
	c.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", c.Args, err, out)
	}
	return nil
}

// packages names Debian's package where it is not called as its program.
var packages = map[string]string{"gpg": "gnupg", "busybox": "busybox-static", "script": "bsdutils", "nginx": "nginx-light", "promtool": "prometheus",
	"softhsm2-util": "softhsm2", "pkcs11-tool": "opensc",
	"systemd-analyze": "systemd", "systemd-sysusers": "systemd", "ansible-playbook": "ansible-core"}

// need skips the test where a program is missing, and fails it where CI says that nothing may be.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		name := program
		if debian, ok := packages[program]; ok {
			name = debian
		}
		lack(t, fmt.Sprintf("%s is not installed; run e2e/install as root, or: apt-get install %s", program, name))
	}
}

// lack ends a test for which this machine lacks something.
func lack(t testing.TB, sentence string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip("SKIPPED: " + sentence)
}

// soak tells whether the full counts are wanted.
func soak() bool { return os.Getenv("COUNTERSIGN_SOAK") != "" }
