package calendar_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/calendar"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// A self is what a key says of itself: how long it is good, and how long this counts; 0: for ever.
type self struct{ at, key, counts time.Duration }

func keyOf(t *testing.T, says ...self) *signature.Keyring {
	t.Helper()
	config := &pgppacket.Config{Algorithm: pgppacket.PubKeyAlgoEdDSA, Time: func() time.Time { return began }}
	e, err := openpgp.NewEntity("any", "", "", config)
	if err != nil {
		t.Fatal(err)
	}
	var key bytes.Buffer
	id := &pgppacket.UserId{Id: "any"}
	if err := errors.Join(e.PrimaryKey.Serialize(&key), id.Serialize(&key)); err != nil {
		t.Fatal(err)
	}
	for _, s := range says {
		seconds, counts := uint32(s.key/time.Second), uint32(s.counts/time.Second)
		signed := &pgppacket.Signature{
			Version: 4, SigType: pgppacket.SigTypePositiveCert, PubKeyAlgo: e.PrimaryKey.PubKeyAlgo, Hash: config.Hash(), CreationTime: began.Add(s.at),
			IssuerKeyId: &e.PrimaryKey.KeyId, FlagsValid: true, FlagCertify: true, FlagSign: true, KeyLifetimeSecs: &seconds, SigLifetimeSecs: &counts,
		}
		if err := errors.Join(signed.SignUserId(id.Id, e.PrimaryKey, e.PrivateKey, config), signed.Serialize(&key)); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := signature.ReadKeyring(key.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// Of a key whose end is past nothing is waited for, also where what it says of itself counts no more:
// each look goes through the whole store.
func TestWatchAfterSelfSignaturesEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		says  []self
		spent string
	}{
		"with the key":                  {[]self{{0, 10 * day, 10 * day}}, "expired"},
		"before the key":                {[]self{{0, 30 * day, 10 * day}}, "expired"},
		"of a key that does not end":    {[]self{{0, 0, 10 * day}}, "expired"},
		"and an older one holds":        {[]self{{0, 0, 0}, {day, 10 * day, 10 * day}}, ""},
		"and there are only later ones": {[]self{{40 * day, 0, 0}}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			start, looks := time.Now(), 0
			now := func() time.Time { return began.Add(20*day + time.Since(start)) }
			s, err := disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: now})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ring := keyOf(t, test.says...)
			ctx, stop := context.WithTimeout(t.Context(), 90*time.Minute)
			defer stop()
			c, err := calendar.New(calendar.Config{
				Own: func() *signature.Keyring { return signature.Join() }, Admitted: func() *signature.Keyring { return ring },
				Store: s, Clock: now, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
				Leads: func() func(context.Context, api.Image, string) bool {
					if looks++; looks > 9 { // it would not end
						stop()
					}
					return func(context.Context, api.Image, string) bool { return true }
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := c.Read(t.Context())
			if err != nil || len(answer.Keys) != 1 || answer.Keys[0].Spent != test.spent {
				t.Errorf("%s: got %+v, %v, want one key that is spent: %q", name, answer, err, test.spent)
			}
			looks = 0
			c.Watch(ctx)
			if looks != 2 {
				t.Errorf("%s: in an hour and a half Watch looks %d times, want 2", name, looks)
			}
		})
	}
}
