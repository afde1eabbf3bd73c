package access

import (
	"errors"
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
	return l.addresses.getOr(Bucket(address), func() *rate.Limiter {
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
	if _, ok := l.known.get([2]string{subject, Bucket(address)}); ok || subject == "" {
		return nil
	}
	return left(l.subject(subject), now)
}

func left(l *rate.Limiter, now time.Time) error {
	tokens := l.TokensAt(now)
	if tokens >= 1 {
		return nil
	}
	return &Wait{What: "failed logins", For: time.Duration((1 - tokens) / float64(l.Limit()) * float64(time.Second))}
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
	l.known.put([2]string{subject, Bucket(address)}, struct{}{})
}

// Bucket is what one caller has of addresses: one of IPv4, a /64 of IPv6. Whatever is no address
// shares one.
func Bucket(address string) string {
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

// A Rate is how much one caller may do: so many a second, and a burst of more at once.
type Rate struct {
	Second float64 `yaml:"perSecond"` // 0: the default, 50
	Burst  int     `yaml:"burst"`     // 0: the default, 500
}

func (r Rate) check() error {
	if !(r.Second >= 0 && r.Second <= 1e6) || r.Burst < 0 || r.Burst > 1e6 {
		return errors.New("perSecond and burst are numbers from 0, which is the default, to 1000000")
	}
	return nil
}

// A Limiter holds every caller to one Rate. It remembers the callers of late, at most so many
// that its memory is bounded, and is safe for concurrent use.
type Limiter struct {
	what    string
	rate    Rate
	clock   func() time.Time
	callers *lru[string, *rate.Limiter]
}

// NewLimiter returns one for what callers do, named for them.
func NewLimiter(what string, r Rate, clock func() time.Time) *Limiter {
	if r.Second == 0 {
		r.Second = 50
	}
	if r.Burst == 0 {
		r.Burst = 500
	}
	return &Limiter{what: what, rate: r, clock: clock, callers: newLRU[string, *rate.Limiter](maxLimits)}
}

// Take counts one more by this caller. Its error is a *Wait.
func (l *Limiter) Take(caller string) error {
	limiter := l.callers.getOr(caller, func() *rate.Limiter { return rate.NewLimiter(rate.Limit(l.rate.Second), l.rate.Burst) })
	now := l.clock()
	if limiter.AllowN(now, 1) {
		return nil
	}
	return &Wait{What: l.what, For: time.Duration((1 - limiter.TokensAt(now)) / l.rate.Second * float64(time.Second))}
}
