package access

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// How often a login may fail: bursts, and one more after each interval.
const (
	addressBurst    = 30
	addressInterval = 2 * time.Second
	subjectBurst    = 10
	subjectInterval = 10 * time.Second
	maxLimits       = 10_000 // addresses, and subjects, remembered
)

// limits counts failed logins by address and by subject. To guess one password of many, or many
// of one, is as slow from one address as from a thousand. Somebody who guesses at alice does not
// keep her out where she has logged in before.
type limits struct {
	clock     func() time.Time
	addresses *lru[string, *rate.Limiter]
	subjects  *lru[string, *rate.Limiter]
	known     *lru[[2]string, struct{}] // subject and address of logins that succeeded
}

func newLimits(clock func() time.Time) *limits {
	return &limits{
		clock:     clock,
		addresses: newLRU[string, *rate.Limiter](maxLimits),
		subjects:  newLRU[string, *rate.Limiter](maxLimits),
		known:     newLRU[[2]string, struct{}](maxLimits),
	}
}

func (l *limits) address(address string) *rate.Limiter {
	return l.addresses.getOr(bucket(address), func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(addressInterval), addressBurst)
	})
}

func (l *limits) subject(subject string) *rate.Limiter {
	return l.subjects.getOr(subject, func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(subjectInterval), subjectBurst)
	})
}

// allow says whether another login may be tried, and takes nothing. Its error is a *Wait.
func (l *limits) allow(address, subject string) error {
	now := l.clock()
	if err := left(l.address(address), now); err != nil {
		return err
	}
	if _, ok := l.known.get([2]string{subject, bucket(address)}); ok || subject == "" {
		return nil
	}
	return left(l.subject(subject), now)
}

func left(l *rate.Limiter, now time.Time) error {
	tokens := l.TokensAt(now)
	if tokens >= 1 {
		return nil
	}
	return &Wait{For: time.Duration((1 - tokens) / float64(l.Limit()) * float64(time.Second))}
}

// failed counts a login that failed. subject is "" where the credentials claim none.
func (l *limits) failed(address, subject string) {
	now := l.clock()
	l.address(address).AllowN(now, 1)
	if subject != "" {
		l.subject(subject).AllowN(now, 1)
	}
}

func (l *limits) succeeded(address, subject string) {
	l.known.put([2]string{subject, bucket(address)}, struct{}{})
}

// bucket is what one caller has of addresses: one of IPv4, a /64 of IPv6. Whatever is no address
// shares one.
func bucket(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		port, err := netip.ParseAddrPort(address)
		if err != nil {
			return "?"
		}
		ip = port.Addr()
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	prefix, err := ip.Prefix(64)
	if err != nil {
		return "?"
	}
	return prefix.String()
}
