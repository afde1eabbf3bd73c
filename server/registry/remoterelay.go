package registry

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// relayedFrom is the size from which on an answer is worth a relay.
const relayedFrom = 256 << 10

// maxRelays bounds relays at a time. Each has a pipe of 1 MiB, and a user 64 MiB of them, unless it is root:
// who has more gets tiny ones, which is worse than to copy.
const maxRelays = 32

// A relay moves an answer from the registry's socket into the client's without taking it into this
// process: net.TCPConn.ReadFrom can, with splice(2). It is for HTTP/1.1 without TLS on both sides;
// everything else is copied.
//
// A Transport keeps its connections to itself. But who reads an answer into a buffer larger than the
// Transport's own has the connection read right into it. Ours knows that buffer when it sees it: in
// place of filling it, it sends what is there to the client, and says that so much was read. Whoever
// counts what came and sees its end need not know. To write these bytes, which is next, is left out.
type relay struct {
	http.ResponseWriter               // the client's
	to                  io.ReaderFrom // the same, beneath what wraps it
	from                *conn         // to the registry; nil: none of ours
	sent                int           // of what was read last
}

type relayKey struct{}

// relay returns one for the answer to a request for a blob, or false if it is to be copied. leave is for
// when it is over.
func (r *Remote) relay(w http.ResponseWriter, req *http.Request) (out *relay, leave func(), ok bool) {
	if r.c.URL.Scheme != "http" || !strings.Contains(req.URL.Path, "/blobs/") {
		return nil, nil, false
	}
	if out, ok = newRelay(w, req); !ok {
		return nil, nil, false
	}
	select {
	case r.relaying <- struct{}{}:
		return out, func() { <-r.relaying }, true
	default:
		return nil, nil, false
	}
}

// newRelay returns one for the answer to a request, or false if there is none.
func newRelay(w http.ResponseWriter, r *http.Request) (*relay, bool) {
	if r.Method != http.MethodGet || r.TLS != nil || r.ProtoMajor != 1 {
		return nil, false
	}
	for beneath := w; ; {
		if to, ok := beneath.(io.ReaderFrom); ok {
			return &relay{ResponseWriter: w, to: to}, true
		}
		wraps, ok := beneath.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil, false
		}
		beneath = wraps.Unwrap()
	}
}

// traced returns a context in which a Transport says which connection it takes.
func (r *relay) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		r.from, _ = got.Conn.(*conn)
	}})
}

// read reads from the answer. came is called when the registry has sent something: what time is taken
// then is the client's.
func (r *relay) read(answer io.Reader, p []byte, came func()) (int, error) {
	at := &passage{relay: r, into: &p[0], came: came}
	r.from.passage.Store(at)
	defer r.from.passage.CompareAndSwap(at, nil) // after an answer's end the next one may have the connection
	return answer.Read(p)
}

// Write leaves out what the client has.
func (r *relay) Write(p []byte) (int, error) {
	n := min(len(p), r.sent)
	if r.sent -= n; n == len(p) {
		return n, nil
	}
	more, err := r.ResponseWriter.Write(p[n:])
	return n + more, err
}

func (r *relay) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// A passage is a read that may go past its buffer.
type passage struct {
	relay *relay
	into  *byte // the buffer's first
	came  func()
}

// A conn is a connection to the registry.
type conn struct {
	*net.TCPConn
	passage atomic.Pointer[passage]
}

// relayable returns what makes such connections.
func relayable(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if tcp, ok := c.(*net.TCPConn); ok {
			return &conn{TCPConn: tcp}, nil
		}
		return c, err
	}
}

// Read reads into p or, where there is a passage, past it.
func (c *conn) Read(p []byte) (int, error) {
	at := c.passage.Load()
	if at == nil || len(p) == 0 || &p[0] != at.into {
		return c.TCPConn.Read(p)
	}
	there := arrived(c.TCPConn)
	if there == 0 {
		return c.TCPConn.Read(p) // which says why
	}
	at.came()
	n, err := at.relay.to.ReadFrom(&io.LimitedReader{R: c.TCPConn, N: int64(min(there, len(p)))})
	at.relay.sent += int(n)
	return int(n), err
}
