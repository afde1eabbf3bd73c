package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// configMaps writes a ConfigMap for each release, as OpenShift's cluster version operator reads
// signatures where it reaches no lookaside: it looks in one namespace for a label, and there for
// keys that begin with the digest.
func configMaps(ctx context.Context, t terminal, r references) error {
	var failed error
	for i, name := range r.named {
		if strings.HasPrefix(name, string(digest.SHA256)+":") {
			r.named[i] = "release@" + name // the repository does not matter
		}
	}
	seen := map[digest.Digest]bool{}
	err := r.each(ctx, func(image api.Image) error {
		if seen[image.Digest] {
			return nil
		}
		seen[image.Digest] = true
		signatures, err := r.c.release(ctx, image.Digest)
		if err != nil {
			return err
		}
		if len(signatures) == 0 {
			failed = errors.Join(failed, fmt.Errorf("%s has no signature that OpenShift reads: is its repository in the server's release setting?", image.Digest))
			return nil
		}
		return writeConfigMap(t.stdout, image.Digest, signatures)
	}, func(name string, reason error) { failed = errors.Join(failed, fmt.Errorf("%s: %w", name, reason)) })
	return errors.Join(err, failed)
}

// release reads what the server has for a release, as OpenShift does.
func (c *client) release(ctx context.Context, d digest.Digest) (signatures [][]byte, err error) {
	for index := 1; index <= api.MaxRelease; index++ {
		content, _, err := c.ask(ctx, http.MethodGet, api.SigstorePrefix+api.ReleasePath(d)+"/"+api.SignatureName(index), http.Header{}, nil)
		if refused, ok := errors.AsType[refusedError](err); ok && refused.status == http.StatusNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, content)
	}
	return signatures, nil
}

func writeConfigMap(w io.Writer, d digest.Digest, signatures [][]byte) error {
	name := d.Algorithm().String() + "-" + d.Encoded() // keys have no colons
	var keys strings.Builder
	for i, content := range signatures {
		fmt.Fprintf(&keys, "  %s-%d: %s\n", name, i+1, base64.StdEncoding.EncodeToString(content))
	}
	_, err := fmt.Fprintf(w, `---
apiVersion: v1
kind: ConfigMap
metadata:
  name: %s
  namespace: openshift-config-managed
  labels:
    release.openshift.io/verification-signatures: ""
binaryData:
%s`, name, keys.String())
	return err
}
