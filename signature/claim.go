package signature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// claimType is what critical.type must be (containers-signature.5).
const claimType = "atomic container signature"

// maxDepth bounds the nesting of what others put into "optional".
const maxDepth = 32

// lastTimestamp is the end of the year 9999, the last that a time in JSON can say.
const lastTimestamp = 253402300799

// ParseClaim reads a claim as strictly as the strictest client does (protocol.md 5.1): exact
// keys in exact case, none twice at any depth, an integral timestamp of the years 1970 to
// 9999, nothing behind but white space. The digest is a sha256. The reference parses as
// clients parse it, so it may be short, and has a tag, a digest or both: which images it is
// for is the policy's to say. Errors wrap ErrMalformed.
func ParseClaim(untrusted []byte) (Claim, error) {
	c, _, err := parseClaim(untrusted)
	return c, err
}

// parseClaim is ParseClaim, with the reference as it parsed.
func parseClaim(untrusted []byte) (c Claim, named reference.Named, err error) {
	if len(untrusted) > MaxSize {
		return Claim{}, nil, malformed("the claim is larger than %d bytes", MaxSize)
	}
	// Valid is asked first because the token reader forgives what Unmarshal does not.
	if !utf8.Valid(untrusted) || !json.Valid(untrusted) {
		return Claim{}, nil, malformed("what is signed is not one JSON value in UTF-8")
	}
	r := claimReader{json.NewDecoder(bytes.NewReader(untrusted))}
	r.UseNumber()
	if err = r.claim(&c); err == nil {
		named, err = c.check()
	}
	if err != nil {
		return Claim{}, nil, malformed("what is signed is not a claim: %v", err)
	}
	return c, named, nil
}

// Payload is the JSON that ParseClaim reads, with its keys in the order in which clients
// write them.
func (c Claim) Payload() []byte {
	optional := make(map[string]any)
	if c.Creator != "" {
		optional["creator"] = c.Creator
	}
	if !c.Timestamp.IsZero() {
		optional["timestamp"] = c.Timestamp.Unix()
	}
	// Marshal sorts the keys, and has no error for maps of strings and integers.
	payload, _ := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]any{"docker-reference": c.Reference},
			"image":    map[string]any{"docker-manifest-digest": c.Digest},
			"type":     claimType,
		},
		"optional": optional,
	})
	return payload
}

// A claimReader takes a claim off a token stream. encoding/json alone would accept keys in
// another case, and two of the same.
type claimReader struct{ *json.Decoder }

func (r claimReader) claim(c *Claim) error {
	return r.exactly(map[string]func() error{
		"critical": func() error { return r.critical(c) },
		"optional": func() error { return r.optional(c) },
	})
}

func (r claimReader) critical(c *Claim) error {
	var kind string
	err := r.exactly(map[string]func() error{
		"type":     func() error { return r.string(&kind) },
		"image":    func() error { return r.exactly(r.one("docker-manifest-digest", (*string)(&c.Digest))) },
		"identity": func() error { return r.exactly(r.one("docker-reference", &c.Reference)) },
	})
	if err == nil && kind != claimType {
		err = fmt.Errorf("critical.type is %.80q, not %q", kind, claimType)
	}
	return err
}

func (r claimReader) one(key string, value *string) map[string]func() error {
	return map[string]func() error{key: func() error { return r.string(value) }}
}

func (r claimReader) optional(c *Claim) error {
	return r.object(func(key string) error {
		switch key {
		case "creator":
			return r.string(&c.Creator)
		case "timestamp":
			return r.timestamp(&c.Timestamp)
		}
		return r.skip(maxDepth)
	})
}

// check says whether digest and reference are what they are called.
func (c *Claim) check() (reference.Named, error) {
	if err := c.Digest.Validate(); err != nil || c.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("docker-manifest-digest %.150q is not a sha256 digest", string(c.Digest))
	}
	named, err := ParseReference(c.Reference)
	if err != nil {
		return nil, fmt.Errorf("docker-reference %.300q: %v", c.Reference, err)
	}
	if reference.IsNameOnly(named) {
		return nil, fmt.Errorf("docker-reference %.300q has neither tag nor digest; sign it with one", c.Reference)
	}
	return named, nil
}

// exactly reads an object that has these members, each once, and no other.
func (r claimReader) exactly(members map[string]func() error) error {
	missing := maps.Clone(members)
	err := r.object(func(key string) error {
		member, ok := members[key]
		if !ok {
			return fmt.Errorf("unknown key %.80q", key)
		}
		delete(missing, key)
		return member()
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("key %q is missing", slices.Min(slices.Collect(maps.Keys(missing))))
	}
	return err
}

// object reads an object whose keys are all different. member reads the value of a key.
func (r claimReader) object(member func(key string) error) error {
	t, err := r.Token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("%s where an object belongs", shown(t))
	}
	return r.members(member)
}

// members reads the rest of an object whose brace is read already.
func (r claimReader) members(member func(key string) error) error {
	seen := make(map[string]bool)
	for r.More() {
		var key string
		if err := r.string(&key); err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("key %.80q stands there twice", key)
		}
		seen[key] = true
		if err := member(key); err != nil {
			return err
		}
	}
	_, err := r.Token()
	return err
}

// skip reads any value, and finds keys that stand there twice.
func (r claimReader) skip(depth int) error {
	t, err := r.Token()
	switch {
	case err != nil:
		return err
	case depth == 0:
		return fmt.Errorf("optional is nested deeper than %d", maxDepth)
	case t == json.Delim('{'):
		return r.members(func(string) error { return r.skip(depth - 1) })
	case t != json.Delim('['):
		return nil
	}
	for r.More() {
		if err := r.skip(depth - 1); err != nil {
			return err
		}
	}
	_, err = r.Token()
	return err
}

func (r claimReader) string(s *string) error {
	t, err := r.Token()
	if err != nil {
		return err
	}
	var ok bool
	if *s, ok = t.(string); !ok {
		return fmt.Errorf("%s where a string belongs", shown(t))
	}
	return nil
}

// timestamp reads whole seconds. Clients read it as a floating point number, so that 1e9 and
// 1.0 are integral too.
func (r claimReader) timestamp(ts *time.Time) error {
	t, err := r.Token()
	if err != nil {
		return err
	}
	n, ok := t.(json.Number)
	if !ok {
		return fmt.Errorf("optional.timestamp is %s, not a number", shown(t))
	}
	seconds, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || seconds != math.Trunc(seconds) || seconds < 0 || seconds > lastTimestamp {
		return fmt.Errorf("optional.timestamp %.40s is not whole seconds of the years 1970 to 9999", n)
	}
	*ts = time.Unix(int64(seconds), 0).UTC()
	return nil
}

// shown is a token in a message, at a length that can be read.
func shown(t json.Token) string {
	if t == nil {
		return "null"
	}
	return fmt.Sprintf("%.80q", fmt.Sprint(t))
}

// malformed is an error that wraps ErrMalformed.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
