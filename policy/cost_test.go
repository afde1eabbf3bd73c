//go:build !race

package policy_test

import (
	"crypto/sha1"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// someKeys are so many keys, one like the other, that nobody has the other part of.
func someKeys(n int) (keys [][]byte) {
	random := rand.New(rand.NewSource(1))
	for i := range n {
		modulus := make([]byte, 128)
		random.Read(modulus)
		modulus[0] |= 0x80
		body := slices.Concat([]byte{4, 0x5e, 0x0b, 0xe1, byte(i), 1, 4, 0}, modulus, []byte{0, 17, 1, 0, 1})
		hash := sha1.Sum(slices.Concat([]byte{0x99, 0, byte(len(body))}, body))
		self := slices.Concat([]byte{4, 0x13, 1, 8, 0, 6, 5, 2, 0x5e, 0x0b, 0xe1, 0, 0, 10, 9, 16}, hash[12:], []byte{0, 0, 0, 1, 1})
		var key []byte
		for j, packet := range [][]byte{body, []byte("somebody"), self} {
			key = append(append(key, 0xc0|[]byte{6, 13, 2}[j], byte(len(packet))), packet...)
		}
		keys = append(keys, key)
	}
	return keys
}

// costPolicies all admit alice; what they name beside her should not cost.
func costPolicies(t testing.TB) map[string]*policy.Policy {
	alice := who(t, "alice").signer.Key().Binary()
	data := func(keys []byte) string {
		return `{"type":"signedBy","keyType":"GPGKeys","keyData":"` + encoded(keys) + `"}`
	}
	some := someKeys(10_000)
	var each, copies, identities, scopes []string
	for i := range 200 {
		each = append(each, data(some[i]))
		copies = append(copies, data(slices.Concat(alice, some[i])))
		identities = append(identities, by("alice", fmt.Sprintf(`"signedIdentity":{"type":"exactReference","dockerReference":"a.example.com/b:v%d"}`, i)))
		scopes = append(scopes, fmt.Sprintf(`"other%d.example.com":[%s]`, i, each[i]))
	}
	docker := func(more []string, requirements ...string) *policy.Policy {
		more = append(slices.Clone(more), fmt.Sprintf(`"%s":[%s]`, host, strings.Join(requirements, ",")))
		return load(t, `{"default":[`+nothing+`],"transports":{"docker":{`+strings.Join(more, ",")+`}}}`)
	}
	return map[string]*policy.Policy{
		"one key":                       docker(nil, by("alice")),
		"10,000 keys in one file":       docker(nil, data(slices.Concat(slices.Concat(some[:5000]...), alice, slices.Concat(some[5000:]...)))),
		"200 requirements, a key each":  docker(nil, append(each, by("alice"))...),
		"200 requirements, her key too": docker(nil, append(copies, by("alice"))...),
		"200 requirements, only hers":   docker(nil, append(identities, by("alice"))...),
		"200 scopes":                    docker(scopes, by("alice")),
	}
}

// cpuOf is the CPU time of a run, over many.
func cpuOf(t *testing.T, run func()) time.Duration {
	t.Helper()
	const runs = 500
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	for range runs {
		run()
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	return time.Duration(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano()) / runs
}

// What an upload costs does not grow with the policy, whether it is admitted or not: at most twice
// what one key does. Not parallel: what runs beside it would count.
func TestPoliciesOfManyKeysCostLittle(t *testing.T) {
	good, stranger := sign(t, "alice", app+":v1", manifest), sign(t, "bob", app+":v1", manifest)
	ref := named(t, app+":v1")
	policies := costPolicies(t)
	for name, upload := range map[string]signature.Untrusted{"admitted": good, "unknown": stranger} {
		least := map[string]time.Duration{}
		little := func() bool {
			for _, cpu := range least {
				if cpu > 2*least["one key"] {
					return false
				}
			}
			return true
		}
		for round := 0; round < 5 || round < 25 && !little(); round++ { // by turns: the machine may slow down
			for which, p := range policies {
				cpu := cpuOf(t, func() {
					m, err := signature.Parse(upload)
					if err != nil {
						t.Fatal(err)
					}
					s, err := p.Verify(m, now)
					if err == nil {
						err = p.Admit(ref, s)
					}
					if (err == nil) != (name == "admitted") {
						t.Fatal(err)
					}
				})
				if before, ok := least[which]; !ok || cpu < before {
					least[which] = cpu
				}
			}
		}
		for which, cpu := range least {
			t.Logf("%s, %s: %.2f of what one key costs", name, which, float64(cpu)/float64(least["one key"]))
			if cpu > 2*least["one key"] {
				t.Errorf("%s, %s: it costs %v, more than twice the %v of one key", name, which, cpu, least["one key"])
			}
		}
	}
}
