package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Place is where a signer listens, and for whom.
type Place struct {
	Path  string
	Users []int // numbers of those who may ask, beside root and the signer's own
	Group int   // who may connect at all; below 0: everybody may where Users names somebody, and is asked who they are
}

// maxPath is what the path of a unix socket has room for, in bytes.
const maxPath = 107

// Listen makes the socket. It is bound under another name, gets its mode, and is then moved into
// its place: nobody meets it before, and what a signer left that was killed is replaced. One that
// still answers is not. Connections of others than Users are closed before anything is read.
func Listen(p Place, log *slog.Logger) (net.Listener, error) {
	if err := checkDirectory(filepath.Dir(p.Path)); err != nil {
		return nil, err
	}
	if err := vacant(p.Path); err != nil {
		return nil, err
	}
	temporary := fmt.Sprintf("%s.%d", p.Path, os.Getpid())
	if len(temporary) > maxPath {
		return nil, fmt.Errorf("%s is too long for a socket: with a dot and a number behind it, it may have %d bytes\nhint: a directory nearer to the root, as /run/countersign-signer", p.Path, maxPath)
	}
	_ = os.Remove(temporary) // of a process of the same number that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	mode := fs.FileMode(0o600)
	switch {
	case p.Group >= 0:
		mode, err = 0o660, os.Chown(temporary, -1, p.Group)
	case len(p.Users) > 0:
		mode = 0o666
	}
	if err := errors.Join(err, os.Chmod(temporary, mode), os.Rename(temporary, p.Path)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(temporary))
	}
	users := append(slices.Clone(p.Users), 0, os.Getuid())
	return &listener{UnixListener: l, path: p.Path, users: users, log: log}, nil
}

// vacant says whether a socket may be made here: nothing is there, or what nobody listens to.
func vacant(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there already, and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("another signer listens at %s\nhint: stop it, or give this one another -socket", path)
	}
	return nil
}

// A listener accepts only those who may ask.
type listener struct {
	*net.UnixListener
	path  string
	users []int
	log   *slog.Logger
}

// Accept waits for somebody who may ask. Others are closed at once: they take no room.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p := peerOf(c)
		if admits(l.users, p) {
			return c, nil
		}
		l.log.Warn("a connection was refused: this user may not ask", "user", p.user, "process", p.process)
		_ = c.Close() // nothing was said
	}
}

// Close also removes the socket, unless another signer has taken its place.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if vacant(l.path) == nil {
		if gone := os.Remove(l.path); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// ParsePlace reads a place from a command line: users, by name or number, with commas between, and a
// group, by name or number; either may be empty.
func ParsePlace(path, users, group string) (Place, error) {
	p := Place{Path: path, Group: -1}
	if path == "" {
		return p, errors.New("-socket is missing: where to listen, as /run/countersign-signer/release.sock")
	}
	for name := range strings.SplitSeq(users, ",") {
		if name == "" {
			continue
		}
		id, err := number(name, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return p, err
		}
		p.Users = append(p.Users, id)
	}
	switch {
	case group == "":
		return p, nil
	case len(p.Users) == 0:
		return p, errors.New("-group says who may connect, and -user who of them may ask: name users, too")
	}
	var err error
	p.Group, err = number(group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return p, err
}

func number(name string, lookup func(string) (string, error)) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return n, nil
	}
	found, err := lookup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found)
}
