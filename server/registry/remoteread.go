package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"
)

// A ReverseProxy clones each request and copies the headers of each answer, since it cannot know who else has
// them. Where the answer is as short as a manifest that is much of what it costs to pass it on. So what is
// plain, a request and then its answer, is passed on here; all else is ReverseProxy's. What either makes of a plain
// one is the same: tests compare them.

// shortAnswer is up to which size an answer is passed on in one piece. Most manifests are.
const shortAnswer = 64 << 10

// isPlainRead tells requests to a registry without TLS of which ReverseProxy would change nothing but what
// rewrite does: they only read, say nothing to this hop alone, and have no parameters that some would read
// otherwise. A blob that is asked for is long.
func (r *Remote) isPlainRead(req *http.Request) bool {
	switch {
	case r.direct.address == "" || req.ContentLength != 0 || strings.ContainsAny(req.URL.RawQuery, "%;&"):
		return false
	case req.Method == http.MethodHead:
	case req.Method != http.MethodGet || strings.Contains(req.URL.Path, "/blobs/"):
		return false
	}
	for _, name := range ofHop {
		if _, said := req.Header[name]; said {
			return false
		}
	}
	return true
}

// ofHop are headers for whoever is at the other end of a connection, and for nobody behind.
var ofHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// read passes a plain read on, and a plain answer to it back. Another answer it leaves to ReverseProxy.
func (r *Remote) read(w http.ResponseWriter, req *http.Request) {
	out := r.plainRead(req)
	answer, err := r.direct.RoundTrip(out)
	if err != nil {
		r.failed(w, out, err)
		return
	}
	if !isPlain(answer) {
		proxy := *r.proxy
		proxy.Transport = already{answer}
		proxy.ServeHTTP(w, req)
		return
	}
	if err := r.pass(w, answer); err != nil {
		if !errors.Is(err, context.Canceled) {
			r.c.Log.Debug("an answer ended early", "method", req.Method, "path", req.URL.Path, "error", err)
		}
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
}

// plainRead is what ReverseProxy makes of a plain read, but that the values of headers are the client's
// own: nobody changes them.
func (r *Remote) plainRead(in *http.Request) *http.Request {
	u := *in.URL
	out := (&http.Request{Method: in.Method, URL: &u, Host: in.Host, Header: make(http.Header, len(in.Header)+4)}).WithContext(in.Context())
	for name, values := range in.Header {
		switch name {
		case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto": // rewrite's
		default:
			out.Header[name] = values
		}
	}
	r.rewrite(&httputil.ProxyRequest{In: in, Out: out})
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // no other one
	}
	return out
}

// isPlain tells answers that are short, of known length, and end with their body.
func isPlain(answer *http.Response) bool {
	return answer.ContentLength >= 0 && (answer.ContentLength <= shortAnswer || answer.Body == http.NoBody) &&
		len(answer.Trailer) == 0
}

// pass passes a plain answer on in one piece.
func (r *Remote) pass(w http.ResponseWriter, answer *http.Response) error {
	defer answer.Body.Close()
	toNextHop(answer.Header)
	r.clean(answer)
	header := w.Header()
	for name, values := range answer.Header {
		if ours := header[name]; ours != nil {
			values = append(ours, values...)
		}
		header[name] = values
	}
	w.WriteHeader(answer.StatusCode) // it goes out with the body, or never
	if answer.Body == http.NoBody {
		return nil
	}
	room := r.proxy.BufferPool.Get()
	defer r.proxy.BufferPool.Put(room)
	body := room[:answer.ContentLength]
	if _, err := io.ReadFull(answer.Body, body); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// toNextHop leaves out what was said to this hop alone: headers that are, and those that Connection names.
func toNextHop(h http.Header) {
	for _, names := range h["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range ofHop {
		delete(h, name)
	}
}

// already is a transport that has the answer already.
type already struct{ answer *http.Response }

// RoundTrip implements http.RoundTripper.
func (a already) RoundTrip(*http.Request) (*http.Response, error) { return a.answer, nil }
