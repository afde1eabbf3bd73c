//go:build !race

package signature_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// What a hostile upload may cost: the CPU of so many verifications with a key of 4096 bits,
// measured beside it, and so much allocation in all.
const (
	mostVerifications = 20
	mostAllocated     = 16 << 20
	costRuns          = 100
)

// cpuTime is what this process has used. Other processes do not count.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// costOf is the CPU time and the allocation of one run, over many.
func costOf(t testing.TB, runs int, run func()) (cpu time.Duration, allocated uint64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := cpuTime(t)
	for range runs {
		run()
	}
	cpu = cpuTime(t) - began
	runtime.ReadMemStats(&after)
	return cpu / time.Duration(runs), (after.TotalAlloc - before.TotalAlloc) / uint64(runs)
}

// verification4096 is the CPU time of one, without anything around it.
func verification4096(t testing.TB) time.Duration {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(doorClaim))
	signed, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	cpu, _ := costOf(t, 20*costRuns, func() {
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, hash[:], signed); err != nil {
			t.Fatal(err)
		}
	})
	return cpu
}

// Not parallel: what runs beside it would count.
func TestHostileUploadsCostLittle(t *testing.T) {
	verification := verification4096(t)
	ring := signature.Join(ringOf(t, "good"), readRing(t, bigRing(16384, 1)))
	for name, blob := range hostileUploads(t) {
		var err error
		cpu, allocated := costOf(t, costRuns, func() { _, err = parseAndVerify(ring, blob, signerNow) })
		t.Logf("%-45s %6.2f verifications, %4d KiB: %v", name, float64(cpu)/float64(verification), allocated>>10, err)
		if err == nil || errors.Is(err, signature.ErrMalformed) == errors.Is(err, signature.ErrUnverified) && !errors.Is(err, signature.ErrUnknownKey) {
			t.Errorf("%s: got %v, want it refused in one way", name, err)
		}
		if cpu > mostVerifications*verification {
			t.Errorf("%s: it costs %v, more than %d verifications of %v", name, cpu, mostVerifications, verification)
		}
		if allocated > mostAllocated {
			t.Errorf("%s: it allocates %d bytes, more than %d", name, allocated, mostAllocated)
		}
	}
}

// Ten thousand keys cost at most twice what one does.
func TestKeyringsOfManyKeysCostLittle(t *testing.T) {
	one := ringOf(t, "rsa3072")
	many := signature.Join(readRing(t, manyKeys(t, 10_000)), one)
	if many.Len() != 10_001 {
		t.Fatalf("got %d keys, want 10001", many.Len())
	}
	blob := door(t, "by-rsa3072.sig")
	least := map[*signature.Keyring]time.Duration{one: time.Hour, many: time.Hour}
	for round := 0; round < 5 || round < 25 && least[many] > 2*least[one]; round++ { // by turns: the machine may slow down
		for ring := range least {
			cpu, _ := costOf(t, 5*costRuns, func() {
				if _, err := parseAndVerify(ring, blob, signerNow); err != nil {
					t.Fatal(err)
				}
			})
			least[ring] = min(least[ring], cpu)
		}
	}
	t.Logf("%.2f of what one key costs", float64(least[many])/float64(least[one]))
	if least[many] > 2*least[one] {
		t.Errorf("it costs %v, more than twice the %v of one key", least[many], least[one])
	}
}
