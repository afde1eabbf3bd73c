// Package postgres is a store in a PostgreSQL database, 13 or later, that any number of processes
// share. Its schema is in package migrations.
//
// A change is two round trips: one takes the image's lock and looks in which state it is, one writes
// everything and commits. Where that state is not known a third, between them, reads what the image
// has. Changes of different images that come together share a transaction; see Start. The locks are
// advisory ones of the transaction, so that it gets its number only when it has its images: see Records.
// A read is one round trip, which those that come together share, and
// a second one for what has changed; see Get.
//
// Nothing is listened to, and nothing is prepared where a pool stands between (see prepare): it may be one
// in transaction mode.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Options are what a store goes by. What has no default is required.
type Options struct {
	// URL is postgres://user@host,host/database?parameters, or the same in keywords; see
	// doc/operating.md. Nothing that is logged or returned has a password of it.
	URL string
	// Follow is asked before each new connection for the URL as it is now, so that a password can be
	// replaced; while it does not know, or what it says does not read, it stays as it was. nil: URL.
	Follow func() (url string, err error)
	Limits store.Limits
	Clock  func() time.Time
	Log    *slog.Logger // of a database that goes away and comes back
	// Damaged is told by Get and List, at each read, of what no longer reads and is left out. May be nil.
	Damaged func(image api.Image, name string, err error)
	Cache   int           // of what images have, in bytes; 0: 64 MiB
	Stale   time.Duration // while the database is away, Get answers what was current so long ago; 0: nothing
	Keep    string        // directory that carries what Get may answer then over a restart; empty: nothing does
	Timeout time.Duration // of one round trip, and of the wait for a connection or an image's lock; 0: 5 s
	Retries int           // of what certainly did not happen; negative: none, 0: 2
	// Settle has Open wait until the audit trail can be read, for as long as it takes, where a database that was restored
	// from another cluster has to have it renumbered first. Without it all but Get is ErrUnavailable until then.
	Settle bool
	// TrailPatience is how long Records waits for transactions that began before what it could
	// return; 0: 5 s. Then it returns what came before them, or store.ErrHeld where that is nothing.
	TrailPatience time.Duration
}

// A Store implements store.Store.
type Store struct {
	o       Options
	pool    *pgxpool.Pool
	known   *memory
	states  *flights[*imageRow, bool]      // whether what is known is current
	content *flights[api.Image, *imageRow] // what images have
	writing *queues                        // one change of an image at a time is written
	writes  *flights[*writer, struct{}]    // who writes together; each is answered by itself
	alone   chan struct{}                  // bounds those who wait for an image that another process has
	slow    chan struct{}                  // bounds everything but reads, so that those always find a connection
	checked sync.Mutex
	ready   atomic.Bool // the schema is one that this program runs on
	away    atomic.Bool // for the log
	// Of a trail that came from another cluster; see mendTrail.
	settled    chan struct{}   // closed when it is this one's
	background sync.WaitGroup  // who renumbers it
	life       context.Context // ends with Close
	end        context.CancelFunc
}

// ErrURL is what a connection string that does not read is. Its own errors quote it.
var ErrURL = errors.New("it is no connection string as PostgreSQL's clients read them\n" +
	"hint: postgres://user:password@host:5432/database?sslmode=verify-full, with %XX for what has a meaning in URLs")

// Open connects to a database whose schema is up. One that is away is no error: the store says
// ErrUnavailable until it is there. One that refuses us is an error, and so is a schema that this
// program must not run on.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	c, err := configure(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Follow != nil {
		c.BeforeConnect = following(o.Follow, c.ConnConfig)
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	reads := max(1, int(c.MaxConns)/2)
	s := &Store{
		o: o, pool: pool, writing: newQueues(), slow: make(chan struct{}, max(1, int(c.MaxConns)-reads)),
	}
	s.known, err = newMemory(o)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s.settled = make(chan struct{})
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.states = &flights[*imageRow, bool]{read: s.readStates, most: reads, room: maxStates, time: late}
	s.content = &flights[api.Image, *imageRow]{read: s.readContent, most: max(1, reads/2), room: maxContent, time: late}
	s.alone = make(chan struct{}, max(1, cap(s.slow)-1))
	s.writes = &flights[*writer, struct{}]{read: s.write, most: cap(s.slow), room: maxWrites, time: lateWrite}
	if err := s.begins(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// begins looks at the database for the first time. One that is away is no error.
func (s *Store) begins(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, 2*s.o.Timeout)
	defer cancel()
	switch err := s.check(first); {
	case err == nil && s.o.Settle:
		return s.settle(ctx)
	case err == nil:
	case errors.Is(err, errSchema):
		return err
	case refusesUs(err):
		return fmt.Errorf("%w\nhint: look at user, password and database of its URL, and at what the user was granted", err)
	default:
		s.away.Store(true)
		s.o.Log.Warn("the database is away; what is known is served, nothing is taken", "error", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Damaged == nil {
		o.Damaged = func(api.Image, string, error) {}
	}
	if o.Cache == 0 {
		o.Cache = 64 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Retries == 0 {
		o.Retries = 2
	}
	if o.TrailPatience == 0 {
		o.TrailPatience = 5 * time.Second
	}
	return o
}

// CheckURL says whether a connection string reads.
func CheckURL(url string) error {
	_, err := configure(url)
	return err
}

func configure(url string) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil || strings.TrimSpace(url) == "" {
		return nil, ErrURL
	}
	p := &c.ConnConfig.Config
	if p.ConnectTimeout == 0 || p.ConnectTimeout > time.Minute {
		p.ConnectTimeout = 2 * time.Second // of each host
	}
	if p.ValidateConnect == nil { // also of one host: it may have become a standby
		p.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if p.RuntimeParams["application_name"] == "" {
		p.RuntimeParams["application_name"] = "countersign"
	}
	p.RuntimeParams["timezone"] = "UTC"
	p.OnNotice = noteWarning
	c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.ConnConfig.StatementCacheCapacity, c.ConnConfig.DescriptionCacheCapacity = 0, 0
	c.AfterConnect = prepare
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // a second round trip; we try again instead
	return c, nil
}

// following connects as the URL says by then, or said when it last read.
func following(follow func() (string, error), first *pgx.ConnConfig) func(context.Context, *pgx.ConnConfig) error {
	var last atomic.Pointer[pgx.ConnConfig]
	last.Store(first)
	return func(_ context.Context, to *pgx.ConnConfig) error {
		if url, err := follow(); err == nil {
			if c, err := configure(url); err == nil {
				last.Store(c.ConnConfig)
			}
		}
		*to = *last.Load().Copy()
		return nil
	}
}

// Close waits for what is going on. What comes later is ErrUnavailable.
func (s *Store) Close() error {
	s.end()
	s.checked.Lock() // who looks whether the trail is to be renumbered
	s.background.Wait()
	s.checked.Unlock()
	s.pool.Close()
	return s.known.close()
}

// acquire returns a connection to a database that this program may use.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	if !s.ready.Load() {
		if err := s.check(ctx); err != nil {
			return nil, err
		}
	}
	return s.pool.Acquire(ctx)
}

// slowly runs f, again if it certainly did not happen, with a connection that no read needs. While a restored trail
// is renumbered it does not.
func (s *Store) slowly(ctx context.Context, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	select {
	case s.slow <- struct{}{}:
	case <-ctx.Done():
		return unavailable(fmt.Errorf("no connection was free: %w", ctx.Err()))
	}
	defer func() { <-s.slow }()
	return s.again(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		if s.settling() {
			return errDecided{errRestored}
		}
		return f(ctx, conn)
	})
}

// again runs f, and again if it certainly did not happen.
func (s *Store) again(ctx context.Context, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	for try := 0; ; try++ {
		err := s.once(ctx, f)
		s.note(err)
		retries := s.o.Retries
		if otherwise(err) { // nothing is wrong, but that connections have lost what was prepared
			retries = max(retries, 1)
		}
		if err == nil || !safeToRepeat(err) || try >= retries || ctx.Err() != nil {
			return unavailable(err)
		}
	}
}

func (s *Store) once(ctx context.Context, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	wait, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	conn, err := s.acquire(wait)
	if err != nil {
		return err
	}
	defer conn.Release() // one that is in a transaction still is closed
	err = f(ctx, conn)
	if broken(err) && !left(err) || otherwise(err) {
		s.pool.Reset() // the others are hardly better: the server has gone, is a standby now, or has another schema
	}
	return err
}

// note logs when the database goes away and when it comes back, once each. One that no longer knows a statement
// is there.
func (s *Store) note(err error) {
	gone := err != nil && !otherwise(err) && !drawnTwice(err) && !errors.Is(err, errRestored) && errors.Is(unavailable(err), store.ErrUnavailable) && !left(err)
	switch {
	case gone && s.away.CompareAndSwap(false, true):
		s.o.Log.Error("the database is away", "error", err)
	case err == nil && s.away.Load() && s.away.CompareAndSwap(true, false):
		s.o.Log.Info("the database is back")
	}
}
