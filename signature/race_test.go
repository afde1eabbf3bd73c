package signature_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// go-crypto remembers inside a key what it has verified. Here a key with several self-signatures,
// user ids and signing subkeys is used by many at a time, at times that choose different ones of
// them, while others join, list and hand it out: for the race detector, and each verdict is the
// one that it is alone.
func TestVerifyConcurrently(t *testing.T) {
	t.Parallel()
	blobs := []string{"by-many.sig", "by-subkey-of-many.sig", "by-good.sig", "by-subkey.sig", "by-revoked-subkey.sig", "by-expired-subkey.sig", "ended.sig", "by-unknown.sig"}
	times := []time.Time{signerNow, time.Date(2021, 1, 1, 12, 0, 0, 0, time.UTC), time.Date(2020, 3, 15, 0, 0, 0, 0, time.UTC), time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)}
	kind := func(err error) error {
		for _, kind := range []error{nil, signature.ErrUnknownKey, signature.ErrUnverified, signature.ErrMalformed} {
			if errors.Is(err, kind) {
				return kind
			}
		}
		return err
	}
	want := map[string]map[time.Time]error{}
	for _, blob := range blobs {
		want[blob] = map[time.Time]error{}
		for _, now := range times {
			_, err := parseAndVerify(ringOf(t, "many", "subkeys", "good"), door(t, blob), now)
			want[blob][now] = kind(err)
		}
	}
	read := map[string][]byte{}
	for _, blob := range blobs {
		read[blob] = door(t, blob)
	}
	for range 5 { // fresh keys, of which nothing was ever asked
		ring := ringOf(t, "many", "subkeys", "good")
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := range len(blobs) * len(times) {
					blob, now := blobs[(i+worker)%len(blobs)], times[(i/len(blobs)+worker)%len(times)]
					if _, err := parseAndVerify(ring, read[blob], now); kind(err) != want[blob][now] {
						t.Errorf("%s at %v: got %v, want %v", blob, now, err, want[blob][now])
					}
					if i%len(blobs) == worker {
						_, _, _, _ = signature.Join(ring, ring).Keys(), ring.Armored(), ring.Skipped(), signature.Shared(ring, ring)
					}
				}
			})
		}
		all.Wait()
	}
}
