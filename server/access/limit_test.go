package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign-dev/countersign/server/access"
)

// guess logs in from an address with wrong passwords until it has to wait, and returns how many
// were looked at.
func guess(t *testing.T, o *access.Own, user func(n int) string, address func(n int) string) int {
	t.Helper()
	for n := range 1000 {
		c := basic(user(n), fmt.Sprint("guess", n))
		c.Address = address(n)
		_, err := o.Decide(t.Context(), c, access.Pull, in(""))
		if wait, ok := errors.AsType[*access.Wait](err); ok {
			if wait.For <= 0 || wait.For > time.Minute || !errors.Is(err, access.ErrTooMany) {
				t.Errorf("it says %v", err)
			}
			return n
		}
		if !errors.Is(err, access.ErrUnauthorized) {
			t.Fatalf("guess %d: %v", n, err)
		}
	}
	return 1000
}

func always(s string) func(int) string { return func(int) string { return s } }

// One address cannot try many, nor many addresses one name; whoever has logged in goes on.
func TestFailedLogins(t *testing.T) {
	t.Parallel()
	c := newClock()
	ci, ciLine := token(t, "ci", time.Time{})
	o := open(t, access.Settings{Htpasswd: write(t, line(t, "alice", "secret")+line(t, "bob", "secret")), Tokens: write(t, ciLine)}, c)
	want(t, o, basic("alice", "secret"), access.Pull, in(""), "user:alice", "")

	if n := guess(t, o, func(n int) string { return fmt.Sprint("user", n) }, always("198.51.100.1:1")); n < 10 || n > 100 {
		t.Errorf("one address could try %d names", n)
	}
	if n := guess(t, o, always("alice"), func(n int) string { return fmt.Sprintf("203.0.113.%d:1", n%250) }); n < 3 || n > 30 {
		t.Errorf("many addresses could try %d passwords of alice", n)
	}
	if n := guess(t, o, func(n int) string { return fmt.Sprint("user", n) }, func(n int) string { return fmt.Sprintf("[2001:db8::%x]:1", n) }); n > 100 {
		t.Errorf("one network of IPv6 could try %d names", n)
	}

	// Who has logged in where she is goes on, with this password or, since it changed, a new one.
	want(t, o, basic("alice", "secret"), access.Pull, in(""), "user:alice", "")
	// Right credentials from where too many were wrong: those that were verified, and tokens, pass.
	attacked := bearer(ci)
	attacked.Address = "198.51.100.1:1"
	want(t, o, attacked, access.Pull, in(""), "token:ci", "")
	late := basic("bob", "secret")
	late.Address = "198.51.100.1:1"
	want(t, o, late, access.Pull, in(""), "", "too many failed logins: try again in")
	bad := bearer("a-token-that-is-none-of-them")
	bad.Address = "198.51.100.1:1"
	want(t, o, bad, access.Pull, in(""), "", "too many failed logins")
	c.pass(time.Minute)
	want(t, o, late, access.Pull, in(""), "user:bob", "")
}

// What is remembered of callers is bounded, whatever they call themselves.
func TestLimitsAreBounded(t *testing.T) {
	t.Parallel()
	o := open(t, access.Settings{Tokens: write(t, "")}, newClock())
	for n := range 2*access.MaxLimits + 10 {
		c := bearer("a-token-that-is-none-of-them")
		c.Address = fmt.Sprintf("[2001:db8:%x:%x::1]:1", n/65536, n%65536)
		if _, err := o.Decide(t.Context(), c, access.Pull, in("")); err == nil {
			t.Fatal("it was let in")
		}
	}
	if n := o.Remembered(); n > 3*access.MaxLimits {
		t.Errorf("%d are remembered", n)
	}
}

// A name that is not there costs as much as the dearest that is.
func TestUnknownUsers(t *testing.T) {
	t.Parallel()
	cost, err := access.UnknownCost("a:$2y$05$" + strings.Repeat("e", 53) + "\nb:$2y$07$" + strings.Repeat("e", 53))
	if cost != 7 || !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Errorf("cost %d, %v; want 7 and a mismatch", cost, err)
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := access.NewLimiter("writes", access.Rate{Second: 2, Burst: 3}, c.time)
	for n := range 3 {
		if err := l.Take("user:alice"); err != nil {
			t.Errorf("write %d: %v", n, err)
		}
	}
	wait, ok := errors.AsType[*access.Wait](l.Take("user:alice"))
	if !ok || wait.For <= 0 || wait.For > time.Second || wait.Error() != "too many writes: try again in 1s" {
		t.Errorf("the fourth: %v", wait)
	}
	if err := l.Take("user:bob"); err != nil {
		t.Errorf("another caller: %v", err)
	}
	c.pass(500 * time.Millisecond)
	if err := l.Take("user:alice"); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestBucket(t *testing.T) {
	t.Parallel()
	for address, bucket := range map[string]string{
		"192.0.2.1:1": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1",
		"[2001:db8::1]:1": "2001:db8::/64", "[2001:db8::ffff]:2": "2001:db8::/64", "[fe80::1%eth0]:1": "fe80::/64", "": "?", "@": "?",
	} {
		if got := access.Bucket(address); got != bucket {
			t.Errorf("%q is %q, want %q", address, got, bucket)
		}
	}
}
