package server

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// serveSigstore is the lookaside of the server's own host.
func (s *Server) serveSigstore(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, api.SigstorePrefix)
	if isRelease(path) {
		s.serveRelease(w, r, path)
		return
	}
	s.lookaside(w, r, s.c.Hosts[0], api.SigstorePrefix, path)
}

// serveLookaside is the lookaside of any host, named by the first segment.
func (s *Server) serveLookaside(w http.ResponseWriter, r *http.Request) {
	host, rest, err := api.ParseHostPath(strings.TrimPrefix(r.URL.Path, api.LookasidePrefix))
	if err != nil {
		writeError(w, r, err)
		return
	}
	s.lookaside(w, r, s.c.Door.Host(host), api.LookasidePrefix+host+"/", rest)
}

// lookaside serves <repository>@sha256=<hex>/signature-<n> below a base, and takes uploads
// there: PUT to an index, POST behind the last.
func (s *Server) lookaside(w http.ResponseWriter, r *http.Request, host, base, path string) {
	image, index, err := api.ParseLookasidePath(host, path)
	if err != nil {
		writeError(w, r, err)
		return
	}
	e := eventOf(r)
	e.image, e.index = image.String(), index
	switch {
	case isRead(r) && index > 0:
		if err := s.mayImage(r, access.Pull, image); err != nil && !s.c.ServePrivate {
			writeError(w, r, hidden(err))
			return
		}
		s.getSignature(w, r, image, index)
	case isRead(r):
		writeError(w, r, fmt.Errorf("%w: there are no listings", errNotFound))
	case r.Method == http.MethodPut && index > 0, r.Method == http.MethodPost && index == 0:
		if err := s.mayImage(r, access.Push, image); err != nil {
			writeError(w, r, err)
			return
		}
		s.putSignature(w, r, base, image, index)
	default:
		w.Header().Set("Allow", map[bool]string{true: "GET, HEAD, PUT", false: "POST"}[index > 0])
		writeError(w, r, errMethod)
	}
}

// getSignature answers 200 or 404: clients end their list at 404 and fail on everything else
// (protocol.md 1.3). A miss is never kept by a cache, it would hide the next upload; a hit is
// asked for again, its index may have another signature by then.
func (s *Server) getSignature(w http.ResponseWriter, r *http.Request, image api.Image, index int) {
	set, err := s.get(r, image, 10*time.Second)
	if err != nil {
		writeError(w, r, err)
		return
	}
	place := placeOf(set, index, s.c.Clock)
	if place == 0 {
		writeError(w, r, missing(errNotFound.Error()+": "+eventOf(r).image+" has "+strconv.Itoa(len(set.Signatures))+" signatures"))
		return
	}
	s.writeSignature(w, r, set.Signatures[place-1])
}

// A missing is the errNotFound that most reads end with: the image has no more signatures.
type missing string

func (m missing) Error() string { return string(m) }
func (m missing) Unwrap() error { return errNotFound }

// Values of headers that many answers have. Nobody writes to them.
var (
	octetStream = []string{"application/octet-stream"}
	jsonText    = []string{"application/json; charset=utf-8"}
	noSniff     = []string{"nosniff"}
	noCache     = []string{"no-cache"}
	noStore     = []string{"no-store"}
)

func (s *Server) writeSignature(w http.ResponseWriter, r *http.Request, sig store.Signature) {
	etag := `"` + sig.Name[strings.IndexByte(sig.Name, '@')+1:] + `"`
	h := w.Header()
	h["Content-Type"], h["X-Content-Type-Options"], h["Cache-Control"] = octetStream, noSniff, noCache
	h["Etag"] = []string{etag}
	if matches(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBody(w, r, sig.Content)
}

// inMidLoop is how long after a withdrawal somebody may still be reading the list as it was, one
// file after the other.
const inMidLoop = 30 * time.Second

// placeOf returns which signature is served at an index; 0: none. A withdrawal moves the others up,
// past whoever is in the middle of reading them. So that nobody misses one that stays, for a moment
// the list is served twice over, as far as clients read; that some come twice clients allow.
func placeOf(set store.Set, index int, clock func() time.Time) int {
	n := len(set.Signatures)
	if index <= n {
		return index
	}
	if len(set.Withdrawn) == 0 {
		return 0
	}
	now := clock()
	recent := slices.ContainsFunc(set.Withdrawn, func(wd store.Withdrawal) bool { return now.Sub(wd.Time) < inMidLoop })
	if recent && index <= min(2*n, api.MaxIndex) {
		return index - n
	}
	return 0
}

// matches compares a list of entity tags with ours (RFC 9110, 13.1.2: weakly).
func matches(list, etag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == etag {
			return true
		}
	}
	return false
}

// putSignature takes one signature; index 0 appends. A new one is 201 and Location, one that
// is there already 200 and Content-Location.
func (s *Server) putSignature(w http.ResponseWriter, r *http.Request, base string, image api.Image, index int) {
	body, err := readBody(w, r, signature.MaxSize)
	if err != nil {
		s.refuse(w, r, image, err)
		return
	}
	up, err := s.upload(r, image, signature.Untrusted(body), index)
	if err != nil {
		s.refuse(w, r, image, err)
		return
	}
	s.metrics.uploads.WithLabelValues(up.outcome()).Inc()
	eventOf(r).index = up.index
	where := base + api.LookasidePath(image) + "/" + api.SignatureName(up.index)
	if up.was {
		w.Header().Set("Content-Location", where)
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Location", where)
	w.WriteHeader(http.StatusCreated)
}
