package registry

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
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
// A ReverseProxy reads an answer into a buffer and writes that to the client. In place of filling the buffer, the
// answer's body (see relaying) sends what is there to the client, and says that so much was read. To write
// these bytes, which is next, is left out.
type relay struct {
	http.ResponseWriter               // the client's
	to                  io.ReaderFrom // the same, beneath what wraps it
	sent                int           // of what was read last
	mu                  sync.Mutex    // of the client's: ReverseProxy flushes the head from another goroutine
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

// Write leaves out what the client has.
func (r *relay) Write(p []byte) (int, error) {
	n := min(len(p), r.sent)
	if r.sent -= n; n == len(p) {
		return n, nil
	}
	more, err := r.ResponseWriter.Write(p[n:])
	return n + more, err
}

// FlushError is for http.ResponseController. It waits while the client is sent something past ResponseWriter.
func (r *relay) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// take sends what comes from src to the client, past ResponseWriter.
func (r *relay) take(src io.Reader) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.to.ReadFrom(src)
	r.sent += int(n)
	return int(n), err
}

func (r *relay) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// A relaying is the body of an answer, of known length, that goes past who reads it.
type relaying struct {
	*reading
	relay *relay
	left  int64
}

// Read sends what has come to the client, and leaves p as it is but for what came with the head.
func (b *relaying) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	n, err := b.pass(p[:min(int64(len(p)), b.left)])
	switch b.left -= int64(n); {
	case b.left == 0 && err == nil:
		err = io.EOF
	case b.left > 0 && err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// pass has the registry's patience until something comes. What time is taken then is the client's.
func (b *relaying) pass(p []byte) (int, error) {
	if there := b.l.r.Buffered(); there > 0 {
		return b.l.r.Read(p[:min(len(p), there)])
	}
	if err := b.wait(); err != nil {
		return 0, err
	}
	there := arrived(b.l.TCPConn)
	if there == 0 {
		return b.l.Read(p) // which says why
	}
	if err := b.l.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	return b.relay.take(&io.LimitedReader{R: b.l.TCPConn, N: int64(min(there, len(p)))})
}
