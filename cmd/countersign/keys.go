package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// keyCommands are what "countersign keys" takes behind it.
func keyCommands() []command {
	return []command{
		{"list", "say when keys stop verifying, and what that concerns", listKeys},
		{"generate", "make a private key and its public part", generateKey},
		{"adopt", "give the server's own key a name of yours", adopt},
		{"trust", "let whoever has a key upload signatures, for all images or some", trustKey},
		{"export", "write public keys in the forms that every client reads", exportKeys},
		{"revoke", "end a key for good", revokeKey},
	}
}

func keys(ctx context.Context, t terminal, args []string) error {
	help := len(args) > 0 && slices.Contains([]string{"h", "help"}, strings.TrimLeft(args[0], "-"))
	if !help && (len(args) == 0 || strings.HasPrefix(args[0], "-")) {
		args = append([]string{"list"}, args...)
	}
	var names []string
	for _, c := range keyCommands() {
		if args[0] == c.name {
			return c.run(ctx, t, args[1:])
		}
		names = append(names, c.name)
	}
	if !help {
		return usageError{fmt.Errorf("there is no %q; there are %s", args[0], strings.Join(names, ", "))}
	}
	fmt.Fprint(t.stdout, "usage: countersign keys [COMMAND] [flags]\n\n")
	for _, c := range keyCommands() {
		fmt.Fprintf(t.stdout, "  %-10s%s\n", c.name, c.summary)
	}
	_, err := fmt.Fprint(t.stdout, "\ncountersign keys COMMAND -h tells more.\n")
	return err
}

const adoptText = `Give the server's own key a name of yours. The key that the first start makes carries the mark
"` + keyMark + `", because whoever could reach
the server could have it sign. To adopt it is to say that you stand for what it signed so far. The
key and its fingerprint stay the same, and so do its signatures.`

// adopt renames the key where it lies. A server that runs keeps the old name until it is
// started again; both are the same key.
func adopt(_ context.Context, t terminal, args []string) error {
	flags := newFlags("keys adopt", adoptText)
	data := flags.String("data", defaults().Data, "the server's `directory`")
	name := flags.String("user-id", keyName, "the key's new `name`, as OpenPGP writes it: Name <address>")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if err := signer.KeepSecret(); err != nil {
		return err
	}
	k := keyIn(*data)
	private, err := k.readToChange()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no key in %s\nhint: name the server's directory with -data, or start the server once", k.private)
	}
	if err != nil {
		return err
	}
	renamed, public, err := signature.Rename(private, *name, time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", k.private, err)
	}
	if err := k.replace(renamed, public); err != nil {
		return err
	}
	ring, err := signature.ReadKeyring(public)
	if err != nil {
		return err
	}
	key := ring.Keys()[0]
	_, err = fmt.Fprintf(t.stdout, "Key %s is called %q now.\nIts public part is in %s; nodes that have it already need nothing new.\nA server that runs uses the new name from its next start on.\n",
		key.Fingerprint, key.UserID, k.public)
	return err
}
