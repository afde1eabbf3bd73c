package signing_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
)

// leaver is a key that may upload, and what is left of it when it is revoked.
func leaver(t *testing.T) (key *signature.FileSigner, revoked *signature.Keyring) {
	t.Helper()
	made := time.Now().Add(-time.Hour)
	private, _, err := signature.Generate("leaver", 3072, made)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = signature.NewFileSigner(private, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	_, public, err := signature.Revoke(private, nil, signature.Compromised, made.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if revoked, err = signature.ReadKeyring(public); err != nil {
		t.Fatal(err)
	}
	return key, revoked
}

// Without a gate, too, an upload counts only while its key would still be admitted: when its image is
// pushed, and when the queue comes to it.
func TestUploadOfAKeyThatLeft(t *testing.T) {
	t.Parallel()
	key, revoked := leaver(t)
	bob := signers()["bob"].Key()
	for name, test := range map[string]struct {
		left *signature.Keyring
		says string // what the record of the refusal has; "": it is signed
	}{
		"it stays":      {key.Key(), ""},
		"it is removed": {signature.Join(), "key is not known"},
		"it is revoked": {revoked, "it is revoked"},
	} {
		for _, queued := range []bool{false, true} {
			w := ruled(t, everything(signing.OnUpload)...)
			w.trust(bob, key.Key())
			m := w.manifest(t, "ns/app", name)
			image := imageOf("ns/app", m)
			content, err := key.Sign(t.Context(), signature.Claim{Reference: v1, Digest: image.Digest})
			if err != nil {
				t.Fatal(err)
			}
			if queued {
				w.mustPush(t, "ns/app", "v1", m)
				w.storeOnly(t, image, content)
				w.trust(bob, test.left)
				w.due(t)
			} else {
				if err := w.bring(t, image, content); err != nil {
					t.Fatal(err)
				}
				w.trust(bob, test.left)
				w.mustPush(t, "ns/app", "v1", m)
			}
			w.idle(t)
			if got := w.own(t, image); (len(got) > 0) != (test.says == "") {
				t.Errorf("%s, queued %v: signed as %q, want it signed: %v", name, queued, got, test.says == "")
			}
			if records := w.records(t); queued && !strings.Contains(records[len(records)-1].Reason, test.says) {
				t.Errorf("%s: the record says %q, want %q in it", name, records[len(records)-1].Reason, test.says)
			}
			w.mustUpload(t, "bob", image, v1) // which counts beside it
			w.want(t, image, v1)
		}
	}
}
