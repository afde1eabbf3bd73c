// Package repeat answers requests that repeat the one before them, but for their path.
//
// A client that reads signatures asks for one path after the other on the same connection, and all that
// it sends beside them is the same each time. net/http reads each request from its first byte to its
// last, makes a map of its headers, and has a goroutine watch the connection meanwhile: that is more work
// than most answers are. So the connections of a Listener look at what comes before net/http does. Where
// that is a request which net/http has read on the same connection, byte for byte but for the path, then
// what net/http made of that one is what it would make of this, but for the path, and the handler is
// called at once. All else goes to net/http as if nobody had looked.
//
// No header is read here, so none is read otherwise than net/http does.
package repeat

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Listener accepts the connections of one http.Server, the one that it is attached to. They answer by
// themselves where HTTP/1.1 is spoken on them without TLS; otherwise they only pass on.
type Listener struct {
	net.Listener
	ours    func(path string) bool
	server  *http.Server
	handler http.Handler
	rooms   sync.Pool     // *bytes.Buffer, for answers
	look    time.Duration // how long a client may have gone, at most, before its request ends

	mu     sync.Mutex
	ended  *sync.Cond           // of mu: ending is less
	ending map[*connection]bool // those that the server has closed, and that are to be answered
}

// New returns a listener that looks at what comes to l. ours says which paths of letters, digits and
// /@=:._- may be answered without net/http. Their handler says what the Content-Type is. It changes nothing
// of a request, is done with it and the http.ResponseWriter when it returns, and wants nothing more of that
// than the interface has.
func New(l net.Listener, ours func(path string) bool) *Listener {
	r := &Listener{Listener: l, ours: ours, look: time.Second, ending: map[*connection]bool{}}
	r.rooms.New = func() any { return new(bytes.Buffer) }
	r.ended = sync.NewCond(&r.mu)
	return r
}

// Attach makes s the server that is to serve the listener, and is called before it does. The handler of s
// is set, and its ConnContext becomes the listener's. Of its timeouts a repeated request has IdleTimeout.
func (l *Listener) Attach(s *http.Server) {
	l.server, l.handler = s, s.Handler
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if c, ok := c.(*connection); ok {
			return c.begin(ctx)
		}
		return ctx
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
			c.heard(r)
		}
		l.handler.ServeHTTP(w, r)
	})
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c, err
	}
	raw, err := tcp.SyscallConn()
	return &connection{TCPConn: tcp, l: l, raw: raw, plain: true}, err
}

// Wait returns when the last answer is out. When ctx ends it cuts the requests that are not answered, and says
// how many. It is called after the server's Shutdown, which takes a connection for idle where net/http has
// nothing to do with its request, and then no longer knows of it.
func (l *Listener) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ending) > 0 {
		if ctx.Err() != nil {
			l.cut()
			return fmt.Errorf("%w: %d requests are not answered", ctx.Err(), len(l.ending))
		}
		l.ended.Wait()
	}
	return nil
}

// cut ends the requests that are to be answered. Their handlers see it, and their clients. It has mu.
func (l *Listener) cut() {
	for c := range l.ending {
		_ = c.close() // it is gone if that fails
	}
}
