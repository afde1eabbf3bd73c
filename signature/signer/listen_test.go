package signer_test

import (
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/signature/signer"
)

var quiet = slog.New(slog.DiscardHandler)

// A socket has its mode from the first moment, and takes the place of one that nobody listens to.
func TestListen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		place signer.Place
		mode  fs.FileMode
	}{
		"nobody else": {signer.Place{Group: -1}, 0o600},
		"a group":     {signer.Place{Group: os.Getgid()}, 0o660},
		"a user":      {signer.Place{Group: -1, Users: []int{12345}}, 0o666},
	} {
		path := place(t)
		left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		left.SetUnlinkOnClose(false)
		if err := left.Close(); err != nil {
			t.Fatal(err)
		}
		test.place.Path = path
		l, err := signer.Listen(test.place, quiet)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|test.mode {
			t.Errorf("%s: %v, %v; want a socket of mode %v", name, info.Mode(), err, test.mode)
		}
		if beside, err := filepath.Glob(path + "?*"); len(beside) > 0 || err != nil {
			t.Errorf("%s: left beside it: %q, %v", name, beside, err)
		}
		go func() { _, _ = l.Accept() }()
		if second, err := signer.Listen(test.place, quiet); err == nil {
			_ = second.Close()
			t.Errorf("%s: a second signer took the place of one that listens", name)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s: the socket is left behind", name)
		}
	}
}

// What is no socket is left alone, and a directory that everybody may write to is refused by both
// ends: somebody could take the socket's place.
func TestPlace(t *testing.T) {
	t.Parallel()
	path := place(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Listen(signer.Place{Path: path, Group: -1}, quiet); err == nil {
		t.Error("a file was taken for a socket")
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("the file is %q, %v now", content, err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	_, ours := signer.NewSocket(path, held(t, "plain").Key())
	_, theirs := signer.Listen(signer.Place{Path: path + "2", Group: -1}, quiet)
	for end, err := range map[string]error{"NewSocket": ours, "Listen": theirs} {
		if err == nil || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s in a directory of mode 0777: %v, want an error with a hint", end, err)
		}
	}
}

// The kernel says who asks. Others are cut off before anything is read, whatever the socket's mode.
func TestPeers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can ask as somebody else")
		}
		t.Skip("SKIPPED: only root can ask as somebody else")
	}
	path, log := place(t), &logged{}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := signer.Listen(signer.Place{Path: path, Users: []int{12345}, Group: -1}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- signer.NewServer(held(t, "plain"), everything, quiet).Serve(t.Context(), l) }()
	ask := func(user string) error {
		c := exec.Command("setpriv", "--reuid", user, "--regid", user, "--clear-groups", "curl", "--silent", "--show-error", "--fail", "--unix-socket", path, "http://signer/v1/key")
		c.Stdout = io.Discard
		return c.Run()
	}
	if err := ask("12345"); err != nil {
		t.Errorf("user 12345 may ask: %v", err)
	}
	if err := ask("12346"); err == nil {
		t.Error("user 12346 may not ask, and was answered")
	}
	if said := log.String(); !strings.Contains(said, "user=12346") {
		t.Errorf("the log does not say who was refused: %s", said)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

// A path that has no room in the address of a socket, and a group of which nobody may ask, are told as that.
func TestNoPlace(t *testing.T) {
	t.Parallel()
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := signer.Listen(signer.Place{Path: long, Group: -1}, quiet); err == nil || !strings.Contains(err.Error(), "too long") || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("a long path: %v, want a sentence and a hint", err)
	}
	if _, err := signer.ParsePlace("/run/s", "", "0"); err == nil || !strings.Contains(err.Error(), "-user") {
		t.Errorf("a group and no user: %v, want a sentence about -user", err)
	}
	if p, err := signer.ParsePlace("/run/s", "root,12345", "0"); err != nil || p.Group != 0 || !slices.Equal(p.Users, []int{0, 12345}) {
		t.Errorf("a group and users: %+v, %v", p, err)
	}
}
