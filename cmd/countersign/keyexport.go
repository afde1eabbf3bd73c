package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

const exportKeysText = `Write public keys in the two forms that every client reads, into the directory of -o: all in one binary
keyring, countersign.gpg, and each in one armored block in a file of its own. Clients without gpgme read no
second block of a file. The keys are those of FILE..., or all that the server publishes: at -server, its
own and those that policies of nodes name, or below -data, its own. Retired ones are there, too. Private
keys are refused.`

// keyringName is the file that has all keys.
const keyringName = "countersign.gpg"

// exportKeys is "countersign keys export".
func exportKeys(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("keys export", exportKeysText)
	flags.more = "FILE"
	data := flags.String("data", defaults().Data, "the server's `directory`")
	to := flags.String("o", "", "`directory` to write to; it is made")
	c := &client{}
	c.login.flags(flags.FlagSet)
	flags.StringVar(&c.server, "server", "", "`URL` of a server that publishes them; it asks for no login")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if *to == "" {
		return usageError{fmt.Errorf("-o is missing: a directory to write to")}
	}
	var ring *signature.Keyring
	var err error
	switch files := flags.Args(); {
	case len(files) > 0:
		ring, err = readKeys(t, files)
	case c.server != "":
		ring, err = publishedKeys(ctx, t, c)
	default:
		ring, err = keysBelow(t, *data)
	}
	if err != nil {
		return err
	}
	return writeKeys(t, ring, *to)
}

func keysBelow(t terminal, data string) (*signature.Keyring, error) {
	files, err := filepath.Glob(filepath.Join(data, "keys", "*.asc"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no public key in %s\nhint: name the server with -server, its directory with -data, or key files", filepath.Join(data, "keys"))
	}
	return readKeys(t, files)
}

func readKeys(t terminal, files []string) (*signature.Keyring, error) {
	var rings []*signature.Keyring
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		ring, err := readKeysOf(t, file, content)
		if err != nil {
			return nil, err
		}
		rings = append(rings, ring)
	}
	return signature.Join(rings...), nil
}

func publishedKeys(ctx context.Context, t terminal, c *client) (*signature.Keyring, error) {
	content, _, err := c.ask(ctx, http.MethodGet, api.KeysPath, http.Header{"Accept": {"application/pgp-keys"}}, nil)
	if err != nil {
		return nil, err
	}
	ring, err := readKeysOf(t, c.server, content)
	if err == nil && len(ring.Keys()) == 0 {
		err = fmt.Errorf("%s publishes no key: it signs nothing, and no policy of nodes names one", c.server)
	}
	return ring, err
}

func readKeysOf(t terminal, source string, content []byte) (*signature.Keyring, error) {
	ring, err := signature.ReadKeyring(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	for _, why := range ring.Skipped() {
		fmt.Fprintf(t.stderr, "warning: %s: %s\n", source, why)
	}
	return ring, nil
}

func writeKeys(t terminal, ring *signature.Keyring, directory string) error {
	all := filepath.Join(directory, keyringName)
	if err := (keyFile{}).place(all, ring.Binary(), 0o644, rename); err != nil {
		return err
	}
	if err := ring.ReadableBy(signature.AllClients); err != nil {
		fmt.Fprintf(t.stderr, "warning: %v\n", err)
	}
	for _, k := range ring.Keys() {
		path := filepath.Join(directory, k.Fingerprint+".asc")
		if err := (keyFile{}).place(path, ring.Only(k.Fingerprint).Armored(), 0o644, rename); err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "%s  %s, %q, %s\n", path, k.Algorithm, k.UserID, ends(k))
	}
	_, err := fmt.Fprintf(t.stdout, "%s  all of them: for keyPath of a policy\n", all)
	return err
}
