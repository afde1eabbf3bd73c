package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// answerRoom is what is read of an answer at a time: most manifests are there at once, with their head.
const answerRoom = 16 << 10

// A direct takes what a client wants to read from a registry without TLS on connections of its own, with
// no goroutine but the one that asks. An http.Transport has two more for each connection, and hands each
// request and answer to and fro between them, which is most of what a manifest costs in passing. What is
// not for it goes to the transport.
type direct struct {
	transport http.RoundTripper
	address   string // host and port; empty: everything goes to the transport
	patience  time.Duration

	mu    sync.Mutex
	idle  []*line // that of the last answer is the last
	prune *time.Timer
}

// newDirect returns a direct to a registry that this transport, too, has connections to.
func newDirect(transport http.RoundTripper, c RemoteConfig) *direct {
	d := &direct{transport: transport, patience: c.Patience}
	_, plain := c.Transport.(*http.Transport)
	foreign := func(r rune) bool { return r > unicode.MaxASCII } // the transport knows how that is written in ASCII
	if plain && c.URL.Scheme == "http" && !strings.ContainsFunc(c.URL.Host, foreign) {
		d.address = c.URL.Host
		if c.URL.Port() == "" {
			d.address = net.JoinHostPort(c.URL.Hostname(), "80")
		}
	}
	return d
}

// RoundTrip implements http.RoundTripper. A connection that the registry has closed meanwhile is no
// error: what only reads can be asked again, once, on a new one.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.Body == nil || r.Body == http.NoBody)
	if d.address == "" || !reads {
		return d.transport.RoundTrip(r)
	}
	if l := d.take(); l != nil {
		answer, err := d.ask(l, r)
		if !errors.Is(err, errSilent) {
			return answer, err
		}
	}
	l, err := d.dial(r.Context())
	if err != nil {
		return nil, err
	}
	return d.ask(l, r)
}

// errSilent is that a connection ended without a word of an answer.
var errSilent = errors.New("the registry has closed the connection")

func (d *direct) ask(l *line, r *http.Request) (*http.Response, error) {
	body := &reading{d: d, l: l, ctx: r.Context()}
	body.heeds = context.AfterFunc(body.ctx, func() { _ = l.Close() }) // who reads sees it
	answer, err := l.exchange(r, d.patience)
	if err != nil {
		return nil, body.end(err)
	}
	body.body, body.stays = answer.Body, !answer.Close && !r.Close
	if answer.Body == http.NoBody {
		_ = body.end(io.EOF)
		return answer, nil
	}
	answer.Body = body
	if answer.ContentLength >= relayedFrom {
		if out, ok := body.ctx.Value(relayKey{}).(*relay); ok {
			answer.Body = &relaying{body, out, answer.ContentLength}
		}
	}
	return answer, nil
}

// take returns the connection that was used last, nil if there is none. One on which something has come
// that nobody has asked for, be it its end, is not used again: it would be read as the next answer.
func (d *direct) take() *line {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.idle) > 0 {
		l := d.idle[len(d.idle)-1]
		d.idle = d.idle[:len(d.idle)-1]
		if l.quiet() {
			return l
		}
		_ = l.Close()
	}
	return nil
}

// keep keeps a connection for the next request.
func (d *direct) keep(l *line) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.idle) == idleConnections {
		_ = l.Close()
		return
	}
	l.idle = time.Now()
	d.idle = append(d.idle, l)
	if d.prune == nil {
		d.prune = time.AfterFunc(idlePatience, d.drop)
	}
}

// drop closes what was not used for long.
func (d *direct) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.idle) > 0 && time.Since(d.idle[0].idle) >= idlePatience {
		_ = d.idle[0].Close()
		d.idle = d.idle[1:]
	}
	if d.prune = nil; len(d.idle) > 0 {
		d.prune = time.AfterFunc(idlePatience-time.Since(d.idle[0].idle), d.drop)
	}
}

// A line is a connection to the registry, for one request at a time.
type line struct {
	*net.TCPConn
	raw  syscall.RawConn
	head io.LimitedReader // what the connection is read through: it bounds the head of an answer
	r    *bufio.Reader
	out  bytes.Buffer
	idle time.Time // since when
}

func (d *direct) dial(ctx context.Context) (*line, error) {
	c, err := dialer().DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	l := &line{TCPConn: c.(*net.TCPConn)} // of a network that is called tcp it always is one
	if l.raw, err = l.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.head.R = l.TCPConn
	l.r = bufio.NewReaderSize(&l.head, answerRoom)
	return l, nil
}

// quiet tells that the connection is there and that nothing has come.
func (l *line) quiet() bool {
	var err error
	looked := l.raw.Control(func(fd uintptr) {
		_, _, err = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return looked == nil && err == syscall.EAGAIN
}

// exchange sends a request and reads the head of its answer. Interim ones are left out, as by patient.
func (l *line) exchange(r *http.Request, patience time.Duration) (*http.Response, error) {
	l.out.Reset()
	if err := r.Write(&l.out); err != nil {
		return nil, err
	}
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := l.Write(l.out.Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", errSilent, err)
	}
	l.head.N = maxHeader
	if _, err := l.r.Peek(1); err != nil {
		return nil, fmt.Errorf("%w: %w", errSilent, err)
	}
	for {
		answer, err := http.ReadResponse(l.r, r)
		switch {
		case err != nil && l.head.N <= 0:
			return nil, fmt.Errorf("the head of its answer is larger than %d bytes", maxHeader)
		case err != nil:
			return nil, err
		case !isInterim(answer):
			l.head.N = math.MaxInt64
			return answer, understood(answer)
		}
	}
}

func isInterim(answer *http.Response) bool {
	return answer.StatusCode >= 100 && answer.StatusCode < 200 && answer.StatusCode != http.StatusSwitchingProtocols
}

// A reading is the body of an answer. At its end the connection is free for the next.
type reading struct {
	body  io.Reader // as net/http reads it
	d     *direct
	l     *line
	ctx   context.Context
	heeds func() bool // ctx, until it is called; false: ctx has ended
	stays bool        // the connection, after this
	ended error       // what every further read returns
}

// Read implements io.Reader.
func (b *reading) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	if err := b.wait(); err != nil {
		return 0, b.end(err)
	}
	n, err := b.body.Read(p)
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// wait begins to wait for the registry's next byte.
func (b *reading) wait() error { return b.l.SetReadDeadline(time.Now().Add(b.d.patience)) }

// Close implements io.Closer. What is left of the body is not waited for.
func (b *reading) Close() error {
	if b.ended == nil {
		_ = b.end(http.ErrBodyReadAfterClose)
	}
	return nil
}

// end ends the reading, and says why: that the client has left, or that nothing came, is more than that the
// connection ended. At the body's end, io.EOF, the connection is kept if it stays.
func (b *reading) end(err error) error {
	heeded := !b.heeds()
	switch {
	case err == io.EOF && b.stays && !heeded && b.l.r.Buffered() == 0:
		b.d.keep(b.l)
	default:
		_ = b.l.Close() // it is read no more
	}
	switch {
	case err != io.EOF && b.ctx.Err() != nil:
		err = b.ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("%w within %v", errStalled, b.d.patience)
	}
	b.ended = err
	return err
}
