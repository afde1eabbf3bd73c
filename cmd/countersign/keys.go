package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

const keysText = `usage: countersign keys adopt [flags]

  adopt     give the server's own key a name of yours, in place of the mark
            "` + keyMark + `"
`

func keys(ctx context.Context, t terminal, args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("adopt is wanted behind it")}
	}
	switch args[0] {
	case "adopt":
		return adopt(ctx, t, args[1:])
	case "-h", "-help", "--help", "help":
		_, err := fmt.Fprint(t.stdout, keysText)
		return err
	}
	return usageError{fmt.Errorf("there is no %q", args[0])}
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
	k := keyIn(*data)
	private, err := k.read()
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
