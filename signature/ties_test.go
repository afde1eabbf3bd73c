package signature_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// An identity is a user id, and what its key says of it.
type identity struct {
	name       string
	at         time.Duration // behind the key's date
	primary    bool
	days       uint32 // that the key is good; 0: for ever
	verifyOnly bool
	revoked    bool
}

// keyOf is a key with these user ids, in their order, and a signature by it.
func keyOf(t *testing.T, created time.Time, identities ...identity) (public, signed []byte) {
	t.Helper()
	config := &pgppacket.Config{Algorithm: pgppacket.PubKeyAlgoEdDSA, Time: func() time.Time { return created }}
	e, err := openpgp.NewEntity("any", "", "", config)
	if err != nil {
		t.Fatal(err)
	}
	var key, message bytes.Buffer
	w, err := openpgp.Sign(&message, []*openpgp.Entity{e}, nil, config)
	if err == nil {
		_, err = w.Write([]byte(`{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"sha256:` +
			`e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"identity":{"docker-reference":"registry.example.com/app:v1"}},"optional":{}}`))
	}
	if err := errors.Join(err, w.Close(), e.PrimaryKey.Serialize(&key)); err != nil {
		t.Fatal(err)
	}
	for _, i := range identities {
		seconds := i.days * 86400
		kinds := []pgppacket.SignatureType{pgppacket.SigTypePositiveCert}
		if i.revoked {
			kinds = append(kinds, pgppacket.SigTypeCertificationRevocation)
		}
		id := &pgppacket.UserId{Id: i.name}
		if err := id.Serialize(&key); err != nil {
			t.Fatal(err)
		}
		for _, kind := range kinds {
			s := &pgppacket.Signature{
				Version: 4, SigType: kind, PubKeyAlgo: e.PrimaryKey.PubKeyAlgo, Hash: config.Hash(), CreationTime: created.Add(i.at),
				IssuerKeyId: &e.PrimaryKey.KeyId, FlagsValid: true, FlagCertify: true, FlagSign: !i.verifyOnly, IsPrimaryId: &i.primary, KeyLifetimeSecs: &seconds,
			}
			if err := errors.Join(s.SignUserId(i.name, e.PrimaryKey, e.PrivateKey, config), s.Serialize(&key)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return key.Bytes(), message.Bytes()
}

// Of user ids that are signed in the same second clients take any: the strictest counts, each time.
func TestUserIDsOfTheSameSecond(t *testing.T) {
	t.Parallel()
	created := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	year := func(i identity) identity { i.days = 365; return i }
	a, b, c := identity{name: "a"}, identity{name: "b"}, identity{name: "c"}
	only, gone, later, main := year(b), year(b), c, c
	only.days, only.verifyOnly = 0, true
	gone.revoked, later.at, main.primary = true, time.Second, true
	for name, test := range map[string]struct {
		identities []identity
		userID     string
		good       bool // two years later
	}{
		"both for ever":            {[]identity{b, a}, "a", true},
		"the second for a year":    {[]identity{a, year(b)}, "b", false},
		"the first for a year":     {[]identity{year(a), b}, "a", false},
		"three":                    {[]identity{a, c, year(b)}, "b", false},
		"one not for signing":      {[]identity{a, only}, "b", false},
		"the strict one revoked":   {[]identity{a, gone}, "a", true},
		"one newer than these":     {[]identity{a, year(b), later}, "c", true},
		"one primary beside these": {[]identity{a, year(b), main}, "c", true},
		"one user id signed twice": {[]identity{a, {name: "a", days: 365}}, "a", false},
	} {
		public, signed := keyOf(t, created, test.identities...)
		for range 20 { // what go-crypto would take is chance
			ring := readRing(t, public)
			_, err := parseAndVerify(ring, signed, created.Add(2*365*24*time.Hour))
			if (err == nil) != test.good {
				t.Errorf("%s: two years later: %v, want it good: %v", name, err, test.good)
			}
			s, err := parseAndVerify(ring, signed, created.Add(24*time.Hour))
			if refused := name == "one not for signing"; (err != nil) != refused || err == nil && s.UserID != test.userID {
				t.Errorf("%s: a day later: %q, %v; want by %q", name, s.UserID, err, test.userID)
			}
			if t.Failed() {
				break
			}
		}
	}
}
