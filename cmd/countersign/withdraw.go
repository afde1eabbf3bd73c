package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
)

const withdrawText = `Stop something for good: nodes get it no more, and it is not let in or made again before the
withdrawal is lifted. REFERENCE names the image by digest, host[:port]/repository@sha256:….
One of -signature, -key and -image says what.`

func withdraw(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("withdraw", withdrawText)
	flags.arguments = "REFERENCE"
	c := clientFlags(flags.FlagSet)
	request := api.WithdrawRequest{}
	flags.StringVar(&request.Name, "signature", "", "`name` of one signature, as countersign list shows it")
	flags.StringVar(&request.Key, "key", "", "`fingerprint`: nothing by this key for this image")
	image := flags.Bool("image", false, "nothing at all for this image, the server's own signatures included")
	flags.StringVar(&request.Reason, "reason", "", "why, in a `sentence`; it is recorded")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	chosen := 0
	for scope, given := range map[string]bool{api.ScopeSignature: request.Name != "", api.ScopeKey: request.Key != "", api.ScopeImage: *image} {
		if given {
			request.Scope = scope
			chosen++
		}
	}
	switch {
	case chosen != 1:
		return usageError{errors.New("exactly one of -signature, -key and -image is wanted")}
	case request.Reason == "":
		return usageError{errors.New("-reason is wanted: who looks at this later asks why")}
	}
	named, err := reference.ParseNormalizedNamed(flags.Arg(0))
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", flags.Arg(0), err)}
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return usageError{fmt.Errorf("%s has no digest; tags move, withdrawals do not", flags.Arg(0))}
	}
	request.Host, request.Repository, request.Digest = reference.Domain(named), reference.Path(named), digested.Digest().String()
	var withdrawn api.WithdrawalEntry
	if err := c.do(ctx, http.MethodPost, api.WithdrawalsPath, request, &withdrawn); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "withdrawn: %s %s%s of %s\nto undo it: countersign lift %s\n",
		withdrawn.Scope, withdrawn.Name, withdrawn.Key, withdrawn.Image, withdrawn.ID)
	return err
}

const liftText = `Undo a withdrawal. What it stopped does not come back by itself: it may be uploaded or signed again.`

func lift(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("lift", liftText)
	flags.arguments = "ID"
	c := clientFlags(flags.FlagSet)
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if _, err := api.ParseWithdrawalID(flags.Arg(0)); err != nil {
		return usageError{fmt.Errorf("%w; countersign list -withdrawn shows them", err)}
	}
	return c.do(ctx, http.MethodDelete, api.WithdrawalsPath+"/"+flags.Arg(0), nil, nil)
}
