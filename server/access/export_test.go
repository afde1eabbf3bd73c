package access

import "golang.org/x/crypto/bcrypt"

// UnknownCost is the cost of what an unknown user's password is compared with, and how that ends.
func UnknownCost(htpasswd string) (int, error) {
	u, err := parseUsers([][]byte{[]byte(htpasswd)})
	if err != nil {
		return 0, err
	}
	cost, err := bcrypt.Cost(u.dummy)
	if err != nil {
		return 0, err
	}
	return cost, bcrypt.CompareHashAndPassword(u.dummy, []byte("password"))
}

// Match says whether a pattern matches.
func Match(pattern, separators, s string) (bool, error) {
	p, err := parsePattern(pattern, separators)
	return err == nil && p.match(s), err
}

// ParseAuthorization returns what a header holds.
func ParseAuthorization(header string) (user, secret string, err error) {
	l, err := parseAuthorization(header)
	return l.user, l.secret, err
}

// ParseFiles reads a file as each kind there is.
func ParseFiles(content []byte) (htpasswd, tokens error) {
	_, htpasswd = parseUsers([][]byte{content})
	_, tokens = parseTokens([][]byte{content})
	return htpasswd, tokens
}

// Remembered is how many addresses, subjects and logins are kept.
func (o *Own) Remembered() int {
	return o.limits.addresses.order.Len() + o.limits.subjects.order.Len() + o.limits.known.order.Len()
}

// MaxLimits bounds each of those.
const MaxLimits = maxLimits
