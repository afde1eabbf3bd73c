// Countersign-signer-pkcs11 is a signer (doc/signer.md) whose key is in a PKCS#11 token. It is a build
// of its own, with cgo and the token's library in it, so that the server has neither.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ThalesGroup/crypto11"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

const text = `Sign with a key in a PKCS#11 token for other processes, over a unix socket (doc/signer.md).

The key is an RSA key pair of 3072 bits or more, found by -key, its label. First make an OpenPGP key of it,
once: its fingerprint depends on the time.

  countersign-signer-pkcs11 -module LIB -token LABEL -pin-file FILE -key LABEL \
      -certify "Example release <release@example.com>" -public release.asc

Then serve it. The server names the socket and the public key in signing.keys.

  countersign-signer-pkcs11 -module LIB -token LABEL -pin-file FILE -key LABEL \
      -public release.asc -socket /run/countersign-signer/release.sock -user countersign

`

// flags are the command line.
type flags struct {
	module, token, pinFile, key   string
	public, certify               string
	socket, users, groups, scopes string
}

func parse(args []string) (*flags, error) {
	f := &flags{}
	set := flag.NewFlagSet("countersign-signer-pkcs11", flag.ContinueOnError)
	set.Usage = func() {
		fmt.Fprint(set.Output(), text)
		set.PrintDefaults()
	}
	set.StringVar(&f.module, "module", "", "the token's `library`, as /usr/lib/softhsm/libsofthsm2.so")
	set.StringVar(&f.token, "token", "", "`label` of the token")
	set.StringVar(&f.pinFile, "pin-file", "", "`FILE` with the user PIN, which nobody else may read")
	set.StringVar(&f.key, "key", "", "`label` of the key pair")
	set.StringVar(&f.public, "public", "", "`FILE` of the OpenPGP public key")
	set.StringVar(&f.certify, "certify", "", "write -public anew, with this `name`, and end")
	set.StringVar(&f.socket, "socket", "", "where to listen: a `PATH` in a directory that not everybody may write to")
	set.StringVar(&f.users, "user", "", "`names` or numbers of users who may ask, with commas between")
	set.StringVar(&f.groups, "group", "", "`name` or number of the group that may connect")
	set.StringVar(&f.scopes, "scope", "", "sign only for these, with commas between: `host`, host/namespace, host/namespace/name, that with :tag")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("what is %q?", set.Arg(0))
	}
	for name, value := range map[string]string{"-module": f.module, "-token": f.token, "-pin-file": f.pinFile, "-key": f.key, "-public": f.public} {
		if value == "" {
			return nil, fmt.Errorf("%s is missing", name)
		}
	}
	return f, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once: a token may hang
	err := run(ctx, os.Args[1:])
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "countersign-signer-pkcs11:", err)
	os.Exit(1)
}

func run(ctx context.Context, args []string) error {
	f, err := parse(args)
	if err != nil {
		return err
	}
	token, closeToken, err := f.open()
	if err != nil {
		return err
	}
	defer closeToken()
	if f.certify != "" {
		return f.write(token)
	}
	place, err := signer.ParsePlace(f.socket, f.users, f.groups)
	if err != nil {
		return err
	}
	scope, err := signer.ParseScope(f.scopes)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	s, err := f.follow(token, log)
	if err != nil {
		return err
	}
	onHangup(ctx, s.Reload)
	listener, err := signer.Listen(place, log)
	if err != nil {
		return err
	}
	defer listener.Close()
	log.Info("signing", "socket", f.socket, "key", s.Key().Keys()[0].Fingerprint, "token", f.token, "scope", f.scopes)
	return signer.NewServer(s, scope.Allows, log).Serve(ctx, listener)
}

// onHangup does something at each SIGHUP until ctx ends.
func onHangup(ctx context.Context, do func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
				do()
			case <-ctx.Done():
				return
			}
		}
	}()
}

// follow looks at the public key before each signature: one that was revoked there signs nothing.
func (f *flags) follow(token signature.Token, log *slog.Logger) (*signer.Followed, error) {
	return signer.Follow(signer.File{
		Name: f.key, Log: log,
		Read: func() ([]byte, error) {
			public, err := os.ReadFile(f.public)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w\nhint: -certify makes it", err)
			}
			return public, err
		},
		Open: func(public []byte) (signature.Signer, error) {
			s, err := signature.NewTokenSigner(public, token, time.Now)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.public, err)
			}
			return s, nil
		},
	}, time.Now)
}

// open logs in to the token and finds the key pair.
func (f *flags) open() (token signature.Token, closeToken func() error, err error) {
	if err := signer.KeepSecret(); err != nil { // who has the PIN signs
		return nil, nil, err
	}
	pin, err := readPIN(f.pinFile)
	if err != nil {
		return nil, nil, err
	}
	c, err := crypto11.Configure(&crypto11.Config{
		Path: f.module, TokenLabel: f.token, Pin: pin, MaxSessions: 16, PoolWaitTimeout: 10 * time.Second,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("token %q of %s: %w", f.token, f.module, err)
	}
	pair, err := c.FindKeyPair(nil, []byte(f.key))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("token %q, key %q: %w\nhint: pkcs11-tool --list-objects shows labels", f.token, f.key, err), c.Close())
	}
	return pair, c.Close, nil
}

// readPIN refuses a file that others may read, or replace.
func readPIN(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o026 != 0 {
		return "", fmt.Errorf("%s may be read or written by others\nhint: chmod 600 %[1]s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%s belongs to user %d, neither root nor the signer's own\nhint: chown it", path, stat.Uid)
	}
	pin, err := os.ReadFile(path)
	return string(bytes.TrimRight(pin, "\r\n")), err
}

// write makes the OpenPGP key, and never over another: what that has signed would be nobody's.
func (f *flags) write(token signature.Token) (err error) {
	public, err := signature.CertifyToken(f.certify, token, time.Now())
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.public, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and another would have another fingerprint\nhint: serve with it, or move it away", f.public)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(public)
	return cmp.Or(err, file.Sync(), file.Close())
}
