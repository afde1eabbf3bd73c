package repeat

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

// A connection is read by net/http, and closed by it. Its fields are those of the goroutine that serves
// it, but for the phase.
type connection struct {
	*net.TCPConn
	l      *Listener
	raw    syscall.RawConn
	ctx    context.Context // of its requests: it ends with the connection
	cancel context.CancelFunc

	plain  bool          // where its requests begin is no longer known: all of them are net/http's
	passed bool          // net/http has got a request, and not yet called the handler
	rest   []byte        // what followed the path of the request that was passed last
	known  *http.Request // what net/http made of it, but for the path; nil: none of ours
	url    url.URL       // the path of known
	reply  reply         // to it

	phase atomic.Int32
	look  *time.Timer // at whether the client has gone
	looks atomic.Bool // it is set
	since time.Time   // when the deadline of an idle connection was set last
}

// Phases of a connection. The server may close it at any time, from any goroutine.
const (
	waiting   int32 = iota // for a request, or net/http has one
	answering              // here
	ending                 // answering, and then it is to be closed
	closed
)

type connectionKey struct{}

// begin returns the context of the connection's requests. A connection on which the server does not begin
// is plain, as beneath TLS.
func (c *connection) begin(ctx context.Context) context.Context {
	c.ctx, c.cancel = context.WithCancel(context.WithValue(ctx, connectionKey{}, c))
	c.plain = false
	return c.ctx
}

// Read is called by net/http for more of a request, or for the next. It is the next if what it was given
// last is one request to its last byte: one without a body, whose handler was called. So much is known of
// each request in turn, from the first byte of the connection on. With the first request of which it is
// not, the connection is plain.
//
// While a handler runs, net/http reads a single byte, to see whether the client goes.
func (c *connection) Read(p []byte) (int, error) {
	if len(p) == 1 && !c.plain {
		return c.readEnd(p)
	}
	for {
		n, err := c.TCPConn.Read(p)
		if n == 0 || c.plain {
			return n, err
		}
		path, rest, ok := cut(p[:n])
		switch {
		case !ok, c.passed:
			c.plain = true
			return n, err
		case !c.repeats(path, rest):
			c.passed, c.known, c.rest = true, nil, append(c.rest[:0], rest...)
			return n, err
		}
		if err := c.answer(string(path)); err != nil {
			return 0, err
		}
	}
}

// readEnd waits for the client to go, or for the deadline that is set when the handler returns. What comes
// before that is left where it is: it begins the next request.
func (c *connection) readEnd(p []byte) (int, error) {
	if err := c.raw.Read(ended); err != nil {
		return 0, err
	}
	n, err := c.TCPConn.Read(p)
	c.plain = n > 0
	return n, err
}

// ended tells whether nothing more will come on a socket. It takes nothing of what has.
func ended(fd uintptr) bool {
	n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n <= 0 && err != syscall.EAGAIN
}

func (c *connection) repeats(path, rest []byte) bool {
	return c.known != nil && bytes.Equal(rest, c.rest) && literal(path) && c.l.ours(string(path))
}

// cut returns the path of a GET and what follows it, if nothing can follow that but a body. Lines may end
// with LF alone for net/http, so none does.
func cut(request []byte) (path, rest []byte, ok bool) {
	target, get := bytes.CutPrefix(request, []byte("GET "))
	end := bytes.IndexByte(target, ' ')
	if !get || end < 0 {
		return nil, nil, false
	}
	path, rest = target[:end], target[end:]
	ok = bytes.HasPrefix(rest, []byte(" HTTP/1.1\r\n")) && bytes.Index(rest, []byte("\r\n\r\n")) == len(rest)-4 &&
		bytes.Count(request, []byte("\n")) == bytes.Count(rest, []byte("\r\n"))
	return path, rest, ok
}

// literals stand for themselves wherever they are in a path. They are in a table because of digests: no
// processor can guess which of their digits are letters.
var literals = func() (is [256]bool) {
	for _, b := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/@=:._-") {
		is[b] = true
	}
	return is
}()

// literal tells paths of literals.
func literal(path []byte) bool {
	for _, b := range path {
		if !literals[b] {
			return false
		}
	}
	return true
}

// heard is told of each request that net/http has read, before it is handled. One without a body, after
// which the connection goes on as it was, ends where its headers do.
func (c *connection) heard(r *http.Request) {
	if !c.passed || r.Body != http.NoBody || r.Close || r.Header["Upgrade"] != nil || r.Header["Expect"] != nil {
		return
	}
	c.passed = false
	if r.RequestURI == r.URL.Path && c.l.ours(r.URL.Path) { // no other host than its header says
		known := http.Request{
			Method: r.Method, URL: &c.url, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
			Header: r.Header, Body: http.NoBody, Host: r.Host, RemoteAddr: r.RemoteAddr,
		}
		c.known = known.WithContext(c.ctx)
	}
}

// answer has the known request handled for another path.
func (c *connection) answer(path string) (err error) {
	if !c.phase.CompareAndSwap(waiting, answering) {
		return net.ErrClosed
	}
	defer func() {
		if c.done() {
			err = net.ErrClosed
		}
	}()
	c.watch()
	c.url, c.known.RequestURI = url.URL{Path: path}, path
	room := c.l.rooms.Get().(*bytes.Buffer)
	defer c.l.rooms.Put(room)
	c.reply.begin(c, room, time.Now())
	defer c.reply.forget()
	c.l.handler.ServeHTTP(&c.reply, c.known)
	if err := c.reply.end(); err != nil {
		return err
	}
	return c.stayAlive(time.Now())
}

// stayAlive puts off the deadline that net/http has set for the next request, however long the answer took. A
// deadline for each answer would cost more than one that is up to a sixty-fourth too short.
func (c *connection) stayAlive(now time.Time) error {
	idle := c.l.server.IdleTimeout
	if idle <= 0 || now.Sub(c.since) <= idle/64 {
		return nil
	}
	c.since = now
	return c.SetReadDeadline(now.Add(idle))
}

// watch has the client looked after. One timer is for all requests that come before it is up: to set one for
// each cost more than to find out then that there is none.
func (c *connection) watch() {
	if c.looks.Swap(true) {
		return
	}
	if c.look == nil {
		c.look = time.AfterFunc(time.Hour, c.lookout)
	}
	c.look.Reset(c.l.look)
}

// lookout ends the request of a client that has gone.
func (c *connection) lookout() {
	c.looks.Store(false) // first: who is answered from now on is watched anew
	switch phase := c.phase.Load(); {
	case phase != answering && phase != ending:
	case c.gone():
		c.cancel()
	default:
		c.watch()
	}
}

func (c *connection) gone() (gone bool) {
	err := c.raw.Control(func(fd uintptr) { gone = ended(fd) })
	return gone || err != nil
}

// Close implements net.Conn. Who is being answered gets the answer first, unless it is called again.
func (c *connection) Close() error {
	if c.postponed() {
		return nil
	}
	return c.close()
}

// postponed says whether the connection is closed when the answer is out.
func (c *connection) postponed() bool {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	for {
		switch phase := c.phase.Load(); {
		case phase == waiting && c.phase.CompareAndSwap(waiting, closed):
		case phase == answering && c.phase.CompareAndSwap(answering, ending):
			c.l.ending[c] = true
			return true
		case phase == ending, phase == closed:
			return false
		}
	}
}

// done ends an answer, and tells whether the connection was closed with it.
func (c *connection) done() (last bool) {
	if c.phase.CompareAndSwap(answering, waiting) {
		return false
	}
	_ = c.close() // whoever closed it does not wait
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	delete(c.l.ending, c)
	c.l.ended.Broadcast()
	return true
}

func (c *connection) close() error {
	if c.cancel != nil {
		c.cancel()
	}
	return c.TCPConn.Close()
}
