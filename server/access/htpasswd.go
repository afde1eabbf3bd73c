package access

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"
)

// Bounds of htpasswd files and of the work they make.
const (
	maxLines     = 10_000
	maxCost      = 14 // 2^14 rounds take about a second
	maxPassword  = 72 // bcrypt ignores what follows
	maxVerified  = 4096
	passwordWait = 5 * time.Second // for a turn at bcrypt
)

// users are what a htpasswd file says. The logins it verified are kept with it, and so end when
// the file changes.
type users struct {
	hashes   map[string][]byte
	dummy    []byte // compared for unknown users, so that they take as long
	key      [32]byte
	verified *lru[[32]byte, struct{}]
}

func parseUsers(contents [][]byte) (*users, error) {
	u := &users{hashes: map[string][]byte{}, verified: newLRU[[32]byte, struct{}](maxVerified)}
	highest := bcrypt.MinCost
	err := eachLine(contents[0], func(line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" || !nameable(name) {
			return errors.New("it is not name:hash")
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || len(hash) != 60 {
			return fmt.Errorf("the password of %s is not hashed by bcrypt\nhint: htpasswd -B", name)
		}
		if cost > maxCost {
			return fmt.Errorf("the hash of %s has cost %d, at most %d is verified", name, cost, maxCost)
		}
		if u.hashes[name] != nil {
			return fmt.Errorf("%s is there twice", name)
		}
		highest = max(highest, cost)
		u.hashes[name] = []byte(hash)
		return nil
	})
	if err != nil {
		return nil, err
	}
	u.dummy = fmt.Appendf(nil, "$2a$%02d$%s", highest, strings.Repeat("e", 53))
	_, err = rand.Read(u.key[:])
	return u, err
}

// eachLine calls do with each line of a file that is not empty and no comment, and names the one
// it fails with. The error never has the line, which may be half a secret.
func eachLine(data []byte, do func(line string) error) error {
	scan := bufio.NewScanner(bytes.NewReader(data))
	n := 0
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		if n++; n > maxLines {
			return fmt.Errorf("it has more than %d lines", maxLines)
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	return nil
}

// cheapest is the lowest cost of any hash.
func (u *users) cheapest() int {
	lowest := maxCost
	for _, hash := range u.hashes {
		if cost, err := bcrypt.Cost(hash); err == nil {
			lowest = min(lowest, cost)
		}
	}
	return lowest
}

// id is what a login is kept as: nobody learns a password from it who lacks the key, which is
// of this reading of the file.
func (u *users) id(user, password string) (id [32]byte) {
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(user), user, password)
	mac.Sum(id[:0])
	return id
}

// compare takes as long for users there are as for others.
func (u *users) compare(user, password string) bool {
	hash, known := u.hashes[user]
	if !known {
		hash = u.dummy
	}
	if len(password) > maxPassword {
		known, password = false, password[:maxPassword]
	}
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
}

// passwords verifies logins by a htpasswd file.
type passwords struct {
	file   *followed[*users]
	limits *limits
	turns  chan struct{} // bcrypt is only run by as many as leave processors for the rest
	flight singleflight.Group
}

func newPasswords(f *followed[*users], l *limits) *passwords {
	return &passwords{file: f, limits: l, turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// verify says whether this is the user's password. Its errors wrap ErrTooMany or ErrUnavailable.
// What was verified before is neither slowed nor limited.
func (p *passwords) verify(ctx context.Context, l login, address string) (bool, error) {
	u := p.file.get()
	id := u.id(l.user, l.secret)
	if _, ok := u.verified.get(id); ok {
		return true, nil
	}
	if err := p.limits.allow(address, l.user); err != nil {
		return false, err
	}
	// A client's parallel requests with one password are one login; it ends for none of them
	// because the first went away.
	result := p.flight.DoChan(string(id[:])+Bucket(address), func() (any, error) {
		return p.login(context.WithoutCancel(ctx), u, l, address)
	})
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case r := <-result:
		ok, _ := r.Val.(bool)
		return ok, r.Err
	}
}

func (p *passwords) login(ctx context.Context, u *users, l login, address string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, passwordWait)
	defer cancel()
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("%w: too many are logging in", ErrUnavailable)
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	}
	if err := p.limits.allow(address, l.user); err != nil { // those before us in the queue failed
		return false, err
	}
	if !u.compare(l.user, l.secret) {
		p.limits.failed(address, l.user)
		return false, nil
	}
	p.limits.succeeded(address, l.user)
	u.verified.put(u.id(l.user, l.secret), struct{}{})
	return true, nil
}
