package lookaside

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// Bounds of one image of a guarded Remote. MaxGuarded is of its signatures.
const (
	MaxGuarded  = 32
	guardedTime = 5 * time.Second
)

// NewGuarded returns a lookaside that strangers make this server ask, by asking it for an image: at
// most MaxGuarded signatures of it within 5 s, without credentials and proxies, and redirects only
// to the same host. What it connects to must be a public address unless private is set; looked at
// is the address itself, whatever its name stood for a moment ago.
func NewGuarded(base string, private bool) (*Remote, error) {
	r, err := NewRemote(base)
	if err != nil {
		return nil, err
	}
	if r.base.User != nil {
		return nil, errors.New("it has a user or a password, and no credentials are sent there")
	}
	dialer := &net.Dialer{Timeout: guardedTime}
	if !private {
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return checkPublic(address) }
	}
	transport, ok := r.client.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("unexpected transport %T", r.client.Transport)
	}
	transport.Proxy, transport.DialContext = nil, dialer.DialContext
	r.client.Timeout, r.client.CheckRedirect = guardedTime, r.sameHost
	r.most, r.time = MaxGuarded, guardedTime
	return r, nil
}

func (r *Remote) sameHost(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", ErrElsewhere, maxRedirects)
	}
	if u := next.URL; u.Scheme != r.base.Scheme || authority(u) != authority(r.base) || u.User != nil {
		return fmt.Errorf("%w: a redirect to another host", ErrElsewhere)
	}
	return nil
}

func checkPublic(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return err
	}
	ip = ip.Unmap().WithZone("")
	public := ip.IsGlobalUnicast() && !ip.IsPrivate()
	for _, prefix := range notPublic {
		public = public && !prefix.Contains(ip)
	}
	if !public {
		return fmt.Errorf("%w: %s is no public address", ErrElsewhere, ip)
	}
	return nil
}

// notPublic is what is not private by name, and is not somebody's on the Internet either: of
// carriers and of clouds (RFC 6598), of protocols, benchmarks and the future, and ways to write an
// IPv4 address in IPv6, which a gateway may follow to a private one.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}
