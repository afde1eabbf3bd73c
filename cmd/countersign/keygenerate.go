package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

const generateText = `Make a private key in FILE, for signing.keys or countersign signer, and its public part beside it, in
FILE with .asc for its extension, or .pub.asc where it has that. The default, rsa3072, is what every client reads.`

// generateKey is "countersign keys generate".
func generateKey(_ context.Context, t terminal, args []string) error {
	flags := newFlags("keys generate", generateText)
	flags.arguments = "FILE"
	name := flags.String("user-id", keyName, "the key's `name`, as OpenPGP writes it: Name <address>")
	algorithm := flags.String("algorithm", string(signature.RSA3072), "`one` of "+algorithms())
	expires := flags.String("expires", "", "when it ends: a `time` from now, as 730d, or a day, as 2030-01-31; without it never")
	passphrase := flags.String("passphrase-file", "", "encrypt the private part with what is in this `FILE`")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if err := signer.KeepSecret(); err != nil {
		return err
	}
	now := time.Now()
	spec := signature.Spec{UserID: *name, Algorithm: signature.Algorithm(*algorithm)}
	var err error
	if spec.Lifetime, err = lifetime(*expires, now); err != nil {
		return usageError{err}
	}
	if *passphrase != "" {
		if spec.Passphrase, err = readPassphrase(*passphrase, checkPrivate); err != nil {
			return err
		}
	}
	k := keyFile{private: flags.Arg(0), public: publicBeside(flags.Arg(0))}
	private, public, err := spec.Generate(now)
	if err != nil {
		return err
	}
	// The public part is first: where it is missing, the private one is of no use to anybody.
	if err := k.place(k.public, public, 0o644, linkNew); err != nil {
		return err
	}
	if err := k.place(k.private, private, 0o600, linkNew); err != nil {
		return errors.Join(err, os.Remove(k.public))
	}
	ring, err := signature.ReadKeyring(public)
	if err != nil {
		return err
	}
	made := ring.Keys()[0]
	if err := ring.ReadableBy(signature.AllClients); err != nil {
		fmt.Fprintf(t.stderr, "warning: %s\n", shutsOut(made.Algorithm))
	}
	_, err = fmt.Fprintf(t.stdout, "Key %s, %s, %q, %s.\nThe private part is in %s: keep it secret and backed up.\nThe public part is in %s, for nodes.\n",
		made.Fingerprint, made.Algorithm, made.UserID, ends(made), k.private, k.public)
	return err
}

func algorithms() string {
	var names []string
	for _, a := range signature.Algorithms() {
		names = append(names, string(a))
	}
	return strings.Join(names, ", ")
}

// shutsOut says which clients cannot read what a key of this algorithm signs (protocol.md 5.2).
func shutsOut(algorithm string) string {
	who := "containers/image reads ECDSA keys, and other clients may not"
	if strings.HasPrefix(algorithm, "EdDSA") {
		who = "podman, CRI-O and skopeo with containers/image up to 5.40, built without gpgme, read no EdDSA key, and none of a keyring that has one in it: they refuse such images"
	}
	return who + ". The server signs with it where admission.clients is recent; rsa3072 is for all"
}

func ends(k signature.Key) string {
	if k.Expires.IsZero() {
		return "never expires"
	}
	return "expires on " + k.Expires.Format(time.DateOnly)
}

// linkNew brings a file to a path that nothing may have.
func linkNew(temporary *os.File, path string) error {
	err := os.Link(temporary.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and what a key has signed needs that key\nhint: give another FILE, or move it away", path)
	}
	return err
}

// publicBeside is where the public part of a private key is kept.
func publicBeside(private string) string {
	name := strings.TrimSuffix(private, filepath.Ext(private))
	if name+".asc" == private {
		return name + ".pub.asc"
	}
	return name + ".asc"
}

// lifetime reads days or hours from now, or a day.
func lifetime(s string, now time.Time) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, s, time.UTC); err == nil {
		if !day.After(now) {
			return 0, fmt.Errorf("-expires %s is over", s)
		}
		return day.Sub(now), nil
	}
	var days int
	if _, err := fmt.Sscanf(s, "%dd", &days); err == nil && fmt.Sprintf("%dd", days) == s && days > 0 && days < 36500 {
		return time.Duration(days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("-expires %q is neither a time from now, as 730d or 12h, nor a day, as 2030-01-31", s)
	}
	return d, nil
}
