package admission_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
)

const host, alias = "registry.example.com", "alias.example.com:5000"

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// A person has a key.
type person struct {
	signer  *signature.FileSigner
	public  []byte
	private []byte
}

var people = sync.OnceValue(func() map[string]person {
	made := map[string]person{}
	for _, name := range []string{"alice", "bob"} {
		private, public, err := signature.Generate(name, 3072, now.Add(-time.Hour))
		if err != nil {
			panic(err)
		}
		signer, err := signature.NewFileSigner(private, nil, clock)
		if err != nil {
			panic(err)
		}
		made[name] = person{signer, public, private}
	}
	return made
})

var image = api.Image{Host: host, Repository: "ns/app", Digest: digest.FromString("manifest")}

func sign(t *testing.T, by string, d digest.Digest, reference string) signature.Untrusted {
	t.Helper()
	content, err := people()[by].signer.Sign(t.Context(), signature.Claim{Reference: reference, Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// newDoor is a door that alice may bring signatures through.
func newDoor(policyJSON ...string) *admission.Door {
	p := policy.Trust([]string{host, alias}, people()["alice"].signer.Key())
	for _, json := range policyJSON {
		parsed, err := policy.Parse([]byte(json))
		if err == nil {
			p, err = parsed.Load(func(string) ([]byte, error) { return people()["alice"].public, nil })
		}
		if err != nil {
			panic(err)
		}
	}
	return admission.New(admission.Config{
		Hosts: []string{host, alias}, Policy: func(time.Time) *policy.Policy { return p }, Remedy: "the remedy",
		Clients: signature.AllClients, Clock: clock,
	})
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	door := newDoor()
	for name, reference := range map[string]string{
		"by tag":              host + "/ns/app:v1",
		"by digest":           host + "/ns/app@" + string(image.Digest),
		"under an alias":      alias + "/ns/app:v1",
		"with tag and digest": host + "/ns/app:v1",
	} {
		content := sign(t, "alice", image.Digest, reference)
		got, err := door.Admit(admission.Upload{Image: image, Content: content, Caller: admission.Caller{Subject: "ci", Address: "192.0.2.1"}, Origin: "upload"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s, r := got.Signature, got.Record
		fingerprint := people()["alice"].signer.Key().Keys()[0].Fingerprint
		if string(s.Content) != string(content) || s.Name != api.Name(image.Digest, content) || s.Fingerprint != fingerprint ||
			s.Reference != reference || s.Own || s.Uploader != "ci" || s.Origin != "upload" || !s.Added.Equal(now) || s.Identity == "" {
			t.Errorf("%s: the signature is %+v", name, s)
		}
		if r.Action != "admitted" || r.Subject != "ci" || r.Address != "192.0.2.1" || r.Fingerprint != fingerprint || r.Image != image {
			t.Errorf("%s: the record is %+v", name, r)
		}
		if change := got.Change(3); change.At != 3 || len(change.Add) != 1 || change.Image != image {
			t.Errorf("%s: the change is %+v", name, change)
		}
	}
}

// What was admitted by a clock that is ahead of this one stands, though it would not be admitted here yet.
func TestStandsByAnotherClock(t *testing.T) {
	t.Parallel()
	ring := people()["alice"].signer.Key()
	p := policy.Trust([]string{host}, ring)
	behind := admission.New(admission.Config{
		Hosts: []string{host}, Policy: func(time.Time) *policy.Policy { return p }, Clients: signature.AllClients,
		Clock: func() time.Time { return now.Add(-time.Minute) },
	})
	upload := admission.Upload{Image: image, Content: sign(t, "alice", image.Digest, host+"/ns/app:v1")}
	got, err := newDoor().Admit(upload)
	if err != nil {
		t.Fatal(err)
	}
	if err := behind.Stands(image, got.Signature); err != nil {
		t.Errorf("by a clock that is a minute behind it does not stand: %v", err)
	}
	if _, err := behind.Admit(upload); err == nil {
		t.Error("a signature of a time to come was admitted")
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	other := digest.FromString("another manifest")
	door := newDoor()
	for name, test := range map[string]struct {
		content signature.Untrusted
		err     error
		says    []string
	}{
		"nothing":                       {nil, signature.ErrMalformed, nil},
		"no signature":                  {signature.Untrusted("hello"), signature.ErrMalformed, nil},
		"a stranger's":                  {sign(t, "bob", image.Digest, host+"/ns/app:v1"), signature.ErrUnknownKey, []string{people()["bob"].signer.Key().Keys()[0].Fingerprint, "hint: the remedy"}},
		"of another manifest":           {sign(t, "alice", other, host+"/ns/app:v1"), admission.ErrOtherDigest, []string{string(other), string(image.Digest)}},
		"of another repository":         {sign(t, "alice", image.Digest, host+"/ns/other:v1"), policy.ErrRefused, []string{host + "/ns/other:v1", "hint: the remedy"}},
		"of another host":               {sign(t, "alice", image.Digest, "elsewhere.example.com/ns/app:v1"), policy.ErrRefused, []string{"elsewhere.example.com/ns/app:v1"}},
		"of another digest's reference": {sign(t, "alice", image.Digest, host+"/ns/app@"+string(other)), admission.ErrOtherDigest, []string{string(other)}},
		"of a short name":               {sign(t, "alice", image.Digest, "ns/app:v1"), policy.ErrRefused, []string{"ns/app:v1"}},
	} {
		got, err := door.Admit(admission.Upload{Image: image, Content: test.content})
		if !errors.Is(err, test.err) {
			t.Errorf("%s: got a signature of %q, %v, want %v", name, got.Signature.Reference, err, test.err)
		}
		for _, word := range test.says {
			if !strings.Contains(fmt.Sprint(err), word) {
				t.Errorf("%s: the message lacks %q: %v", name, word, err)
			}
		}
	}
}

// A policy that accepts anything admits nobody: an upload needs a signer that somebody named
// (design.md, Admission).
func TestPoliciesThatNameNobody(t *testing.T) {
	t.Parallel()
	signedBy := `{"type":"signedBy","keyType":"GPGKeys","keyPath":"/alice"}`
	for requirements, admitted := range map[string]bool{
		`{"type":"insecureAcceptAnything"}`: false,
		`{"type":"reject"}`:                 false,
		signedBy:                            true,
		`{"type":"insecureAcceptAnything"},` + signedBy:                                                                         true,
		signedBy + `,{"type":"reject"}`:                                                                                         false,
		`{"type":"sigstoreSigned","keyPath":"/alice"}`:                                                                          false,
		`{"type":"sigstoreSigned","keyPath":"/alice"},` + signedBy:                                                              true,
		strings.Replace(signedBy, "}", `,"signedIdentity":{"type":"matchRepository"}}`, 1):                                      true,
		strings.Replace(signedBy, "}", `,"signedIdentity":{"type":"exactRepository","dockerRepository":"x.example.com/y"}}`, 1): false,
	} {
		door := newDoor(`{"default":[` + requirements + `]}`)
		_, err := door.Admit(admission.Upload{Image: image, Content: sign(t, "alice", image.Digest, host+"/ns/app:v1")})
		if (err == nil) != admitted {
			t.Errorf("%s: got %v, admitted should be %v", requirements, err, admitted)
		}
		if err != nil && !errors.Is(err, policy.ErrRefused) && !errors.Is(err, signature.ErrUnknownKey) {
			t.Errorf("%s: %v is neither ErrRefused nor ErrUnknownKey", requirements, err)
		}
	}
}

// Signatures of another host's images are judged by the policy for that host, and kept there.
func TestOtherHosts(t *testing.T) {
	t.Parallel()
	door := newDoor(`{"default":[{"type":"reject"}],"transports":{"docker":{"other.example.com":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/alice"}]}}}`)
	theirs := api.Image{Host: "other.example.com", Repository: "ns/app", Digest: image.Digest}
	if _, err := door.Admit(admission.Upload{Image: theirs, Content: sign(t, "alice", image.Digest, "other.example.com/ns/app:v1")}); err != nil {
		t.Errorf("of theirs: %v", err)
	}
	if got, err := door.Admit(admission.Upload{Image: theirs, Content: sign(t, "alice", image.Digest, host+"/ns/app:v1")}); !errors.Is(err, policy.ErrRefused) {
		t.Errorf("of ours, sent there: got %+v, %v, want ErrRefused", got, err)
	}
	if got, err := door.Admit(admission.Upload{Image: image, Content: sign(t, "alice", image.Digest, "other.example.com/ns/app:v1")}); !errors.Is(err, policy.ErrRefused) {
		t.Errorf("of theirs, sent here: got %+v, %v, want ErrRefused", got, err)
	}
	for h, want := range map[string]string{host: host, alias: host, "other.example.com": "other.example.com"} {
		if got := door.Host(h); got != want {
			t.Errorf("images of %s are kept under %s, want %s", h, got, want)
		}
	}
}

// What a signer returns is verified like what anybody sends.
func TestOwn(t *testing.T) {
	t.Parallel()
	door, alice := newDoor(), people()["alice"].signer
	asked := signature.Claim{Reference: host + "/ns/app:v1", Digest: image.Digest}
	good := sign(t, "alice", image.Digest, asked.Reference)
	s, err := door.Own(image, alice.Key(), asked, good)
	if err != nil || !s.Own || s.Reference != asked.Reference {
		t.Fatalf("got %+v, %v", s, err)
	}
	for name, test := range map[string]struct {
		content signature.Untrusted
		want    error
	}{
		"another key":       {sign(t, "bob", image.Digest, asked.Reference), signature.ErrUnknownKey},
		"another reference": {sign(t, "alice", image.Digest, host+"/ns/app:v2"), admission.ErrReference},
		"another digest":    {sign(t, "alice", digest.FromString("x"), asked.Reference), admission.ErrOtherDigest},
		"half of it":        {good[:len(good)/2], signature.ErrMalformed},
	} {
		if s, err := door.Own(image, alice.Key(), asked, test.content); !errors.Is(err, test.want) {
			t.Errorf("%s: got a signature of %q, %v, want %v", name, s.Reference, err, test.want)
		}
	}
}
