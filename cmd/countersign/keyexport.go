package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/countersign-dev/countersign/signature"
)

const exportKeysText = `Write public keys in the two forms that every client reads, into the directory of -o: all in one binary
keyring, countersign.gpg, and each in one armored block in a file of its own. Clients without gpgme read no
second block of a file. The keys are those of FILE..., or all that the server publishes below -data,
retired ones too. Private keys are refused.`

// keyringName is the file that has all keys.
const keyringName = "countersign.gpg"

// exportKeys is "countersign keys export".
func exportKeys(_ context.Context, t terminal, args []string) error {
	flags := newFlags("keys export", exportKeysText)
	flags.more = "FILE"
	data := flags.String("data", defaults().Data, "the server's `directory`")
	to := flags.String("o", "", "`directory` to write to; it is made")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if *to == "" {
		return usageError{fmt.Errorf("-o is missing: a directory to write to")}
	}
	files := flags.Args()
	if len(files) == 0 {
		var err error
		if files, err = filepath.Glob(filepath.Join(*data, "keys", "*.asc")); err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("there is no public key in %s\nhint: name the server's directory with -data, or key files", filepath.Join(*data, "keys"))
		}
	}
	var rings []*signature.Keyring
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		ring, err := signature.ReadKeyring(content)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, why := range ring.Skipped() {
			fmt.Fprintf(t.stderr, "warning: %s: %s\n", file, why)
		}
		rings = append(rings, ring)
	}
	return writeKeys(t, signature.Join(rings...), *to)
}

func writeKeys(t terminal, ring *signature.Keyring, directory string) error {
	all := filepath.Join(directory, keyringName)
	if err := (keyFile{}).place(all, ring.Binary(), 0o644, os.Rename); err != nil {
		return err
	}
	if err := ring.ReadableBy(signature.AllClients); err != nil {
		fmt.Fprintf(t.stderr, "warning: %v\n", err)
	}
	for _, k := range ring.Keys() {
		path := filepath.Join(directory, k.Fingerprint+".asc")
		if err := (keyFile{}).place(path, ring.Only(k.Fingerprint).Armored(), 0o644, os.Rename); err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "%s  %s, %q, %s\n", path, k.Algorithm, k.UserID, ends(k))
	}
	_, err := fmt.Fprintf(t.stdout, "%s  all of them: for keyPath of a policy\n", all)
	return err
}
