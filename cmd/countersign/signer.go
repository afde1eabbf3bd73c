package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

const signerText = `Sign with a key file for other processes, over a unix socket: run it as a user of its own, so that
nobody who gets into the server gets the key. The server names the socket and the public key:

  signing:
    keys:
      release: {socket: /run/countersign-signer/release.sock, public: /etc/countersign/release.asc}

Only claims are signed (doc/signer.md), only for -scope, and the log says which. The kernel tells
who asks: root, this user, and those of -user. The key file is looked at before each signature: one that
was revoked there signs nothing any more.`

// serveSigner is "countersign signer".
func serveSigner(ctx context.Context, t terminal, args []string) error {
	hangup := hangups()
	flags := newFlags("signer", signerText)
	key := flags.String("key", "", "private key `FILE`, armored or binary")
	passphrase := flags.String("passphrase-file", "", "`FILE` with the passphrase of the key, if it has one")
	socket := flags.String("socket", "", "where to listen: a `PATH` in a directory that not everybody may write to")
	users := flags.String("user", "", "`names` or numbers of users who may ask, with commas between")
	group := flags.String("group", "", "`name` or number of the group that may connect; without it everybody may, and is asked who they are")
	scope := flags.String("scope", "", "sign only for these, with commas between: `host`, host/namespace, host/namespace/name, that with :tag")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	place, err := signer.ParsePlace(*socket, *users, *group)
	if err != nil {
		return usageError{err}
	}
	allowed, err := signer.ParseScope(*scope)
	if err != nil {
		return usageError{err}
	}
	if *key == "" {
		return usageError{fmt.Errorf("-key is missing; countersign keys generate makes one")}
	}
	log := logger(t.stderr, slog.LevelInfo)
	s, err := followKey(signer.File{Name: *key, Log: log}, *key, *passphrase, time.Now)
	if err != nil {
		return err
	}
	if err := s.Key().MaySign(time.Now()); err != nil {
		return err
	}
	onHangup(ctx, hangup, s.Reload)
	listener, err := signer.Listen(place, log)
	if err != nil {
		return err
	}
	defer listener.Close()
	log.Info("signing", "socket", place.Path, "key", s.Key().Keys()[0].Fingerprint, "scope", *scope)
	return signer.NewServer(s, allowed.Allows, log).Serve(ctx, listener)
}

// followKey opens a key file, with its passphrase from another if there is one, and looks at it again
// before each signature. The process is made one that cannot be dumped first.
func followKey(f signer.File, file, passphraseFile string, clock func() time.Time) (*signer.Followed, error) {
	if err := signer.KeepSecret(); err != nil {
		return nil, err
	}
	f.Read = keyFile{private: file}.read
	f.Open = func(private []byte) (signature.Signer, error) {
		var passphrase []byte
		if passphraseFile != "" {
			var err error
			if passphrase, err = readPassphrase(passphraseFile, checkKept); err != nil {
				return nil, err
			}
		}
		s, err := signature.NewFileSigner(private, passphrase, clock)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return s, nil
	}
	return signer.Follow(f, clock)
}

// readPassphrase reads one without the line end of its file.
func readPassphrase(file string, check func(string, fs.FileInfo) error) ([]byte, error) {
	content, err := readFile(file, check)
	return bytes.TrimRight(content, "\r\n"), err
}
