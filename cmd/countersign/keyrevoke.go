package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

const revokeText = `End a key for good: its private FILE, and its public part beside it, get a revocation. A server, or a
signer, that has the key signs nothing with it from then on, and nodes that are given the public part
refuse what it signed, also before. Keys in a token or in gpg are revoked with gpg --edit-key and revkey, or the certificate
that gpg made with the key; the signing.keys.NAME.public file then gets the revoked public part.`

// revokeKey is "countersign keys revoke".
func revokeKey(_ context.Context, t terminal, args []string) error {
	flags := newFlags("keys revoke", revokeText)
	flags.arguments = "FILE"
	why := flags.String("reason", "", "why: `compromised`, superseded or retired")
	passphrase := flags.String("passphrase-file", "", "`FILE` with the passphrase of the key, if it has one")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if *why == "" {
		return usageError{errors.New("-reason is missing: compromised, superseded or retired")}
	}
	if err := signer.KeepSecret(); err != nil {
		return err
	}
	k := keyFile{private: flags.Arg(0), public: publicBeside(flags.Arg(0))}
	private, err := k.readToChange()
	if err != nil {
		return err
	}
	var phrase []byte
	if *passphrase != "" {
		if phrase, err = readPassphrase(*passphrase, checkPrivate); err != nil {
			return err
		}
	}
	revoked, public, err := signature.Revoke(private, phrase, signature.Revocation(*why), time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", k.private, err)
	}
	ring, err := signature.ReadKeyring(public)
	if err != nil {
		return err
	}
	key := ring.Keys()[0]
	if _, err := os.Stat(k.public); err == nil {
		if err := sameKey(k.public, key.Fingerprint); err != nil {
			return err
		}
	}
	if err := k.replace(revoked, public); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, revokedText, key.Fingerprint, *why, k.public, filepath.Base(k.private))
	return err
}

// sameKey refuses to write over the public part of another key.
func sameKey(file, fingerprint string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	ring, err := signature.ReadKeyring(content)
	if err != nil || !ring.Has(fingerprint) || len(ring.Keys()) != 1 {
		return fmt.Errorf("%s is not the public part of key %s alone, and would be written over\nhint: move it away", file, fingerprint)
	}
	return nil
}

const revokedText = `Key %[1]s is revoked: %[2]s. Its public part, with the revocation, is in %[3]s.

What to do next, in this order:
 1. A server or signer that has %[4]s here signs nothing with it from now on: the log and
    countersign keys say so. One that has a copy, also of the public part alone, wants this one.
 2. Where nothing signs in its place yet, make a key: countersign keys generate NEW.key. Put it into
    signing.keys beside the old one, let signing.rules name it, and start the server again.
 3. Give nodes the new key as well: countersign node-config, or keys export. They need both until the end of 4.
 4. Sign again what the old key signed: countersign resign -from %[1]s -to NEW.
 5. Give nodes the new key alone, or the revoked public part: from then on they refuse what only the old
    key signed. If it was compromised, do this first, and 4 as fast as you can: whoever has the key
    can sign anything, and images that only it signed do not start meanwhile.
 6. Stop its signatures here: countersign withdraw -key, for images that must not run any more.
 7. Destroy the private key, and its backups. Keep the public part: it says that the key is revoked.
`
