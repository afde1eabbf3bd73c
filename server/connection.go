package server

import (
	"context"
	"net"
	"net/http"
)

// A connection can hold back the first part of an answer until there is the rest. What does not fit
// net/http's buffer of 4 KiB it writes in two parts, the headers with the beginning of the body and then
// the rest: as most lists of signatures are that long, the second call of the kernel for each of them is
// an eighth of what they cost.
type connection struct {
	*net.TCPConn
	holds bool
	held  []byte // of room, while it is held
	room  []byte
}

type connectionKey struct{}

// Whole makes a listener whose connections take a large answer whole, where an HTTP server has
// ConnContext, too. Where TLS is spoken on them they are as they were.
func Whole(l net.Listener) net.Listener { return whole{l} }

type whole struct{ net.Listener }

func (l whole) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &connection{TCPConn: tcp}, err
	}
	return c, err
}

// ConnContext is for http.Server: requests find their connection.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	return ctx
}

// Write holds a first part back, and sends it with the second.
func (c *connection) Write(p []byte) (int, error) {
	switch {
	case c.holds:
		c.room = append(c.room[:0], p...)
		c.holds, c.held = false, c.room
		return len(p), nil
	case c.held == nil:
		return c.TCPConn.Write(p)
	}
	first := len(c.held)
	parts := net.Buffers{c.held, p}
	c.held = nil
	n, err := parts.WriteTo(c.TCPConn)
	return max(0, int(n)-first), err
}

// release sends what is still held: it was all.
func (c *connection) release() {
	c.holds = false
	if c.held != nil {
		_, _ = c.Write(nil) // who has gone asks no more
	}
}

// writeWhole writes a body whose length is in the headers. Nobody else writes to the connection while
// its request is handled, and when it returns nothing is held.
func writeWhole(w http.ResponseWriter, r *http.Request, body []byte) {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		_, _ = w.Write(body)
		return
	}
	c.holds = true
	defer c.release()
	if _, err := w.Write(body); err == nil {
		_ = http.NewResponseController(w).Flush()
	}
}
