package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// serveExtension is the signature extension: /extensions/v2/<repository>/signatures/<digest>
// of the server's own host.
func (s *Server) serveExtension(w http.ResponseWriter, r *http.Request) {
	image, err := api.ParseExtensionPath(s.c.Hosts[0], r.URL.Path)
	if err != nil {
		writeError(w, r, err)
		return
	}
	eventOf(r).image = image.String()
	if isRead(r) {
		err = s.mayRead(r, image)
	} else {
		err = s.mayImage(r, access.Push, image)
	}
	switch {
	case err != nil:
		writeError(w, r, err)
	case isRead(r):
		s.listSignatures(w, r, image)
	default:
		s.putEntry(w, r, image)
	}
}

// mayRead is may for a read of the extension: that nobody can decide is an outage like the store's.
func (s *Server) mayRead(r *http.Request, image api.Image) error {
	err := s.mayImage(r, access.Pull, image)
	if !errors.Is(err, access.ErrUnavailable) {
		s.undecided.over()
		return err
	}
	s.undecided.began(s.c.Clock())
	return s.undecided.extensionError(s.c.Clock(), err)
}

// listSignatures answers 200 for every image, also one that nobody has heard of: a client's
// pull ends at anything else (protocol.md 3.4).
func (s *Server) listSignatures(w http.ResponseWriter, r *http.Request, image api.Image) {
	set, err := s.get(r, image, 5*time.Second)
	if errors.Is(err, store.ErrUnavailable) {
		err = s.outage.extensionError(s.c.Clock(), err)
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	list := api.SignatureList{Signatures: make([]api.Signature, len(set.Signatures))}
	for i, sig := range set.Signatures {
		list.Signatures[i] = api.Signature{SchemaVersion: api.SchemaVersion, Name: sig.Name, Type: api.TypeAtomic, Content: sig.Content}
	}
	room := s.lists.Get().(*[]byte)
	defer s.lists.Put(room)
	body, err := list.Append((*room)[:0])
	if err != nil {
		writeError(w, r, err)
		return
	}
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = jsonText, noStore
	writeBody(w, r, body)
	if cap(body) <= maxListRoom {
		*room = body // whoever it was written to has a copy
	}
}

// maxListRoom bounds the room for an encoded list that is kept for another: what most need.
const maxListRoom = 64 << 10

// putEntry answers exactly 201, also for a signature that is there already: clients take
// every other status for a failure (protocol.md 3.5).
func (s *Server) putEntry(w http.ResponseWriter, r *http.Request, image api.Image) {
	body, err := readBody(w, r, api.MaxBody)
	if err != nil {
		s.refuse(w, r, image, err)
		return
	}
	entry, err := api.DecodeSignature(image, body)
	if err != nil {
		s.refuse(w, r, image, err)
		return
	}
	if len(entry.Content) > signature.MaxSize {
		s.refuse(w, r, image, fmt.Errorf("%w: the signature has %d bytes, at most %d are taken", errTooLarge, len(entry.Content), signature.MaxSize))
		return
	}
	up, err := s.upload(r, image, signature.Untrusted(entry.Content), 0)
	outcome := up.outcome()
	if s.c.DropForeign && foreign(err) {
		outcome = "dropped"
		eventOf(r).err = err
		err = s.drop(r, image, err)
	}
	if err != nil {
		s.refuse(w, r, image, err)
		return
	}
	s.metrics.uploads.WithLabelValues(outcome).Inc()
	w.Header().Set("Location", api.ExtensionPath(image))
	w.WriteHeader(http.StatusCreated)
}

// maxDrained bounds what is read of a body that is too large, so that its sender reads the answer:
// one whose connection is closed while it writes sees only that.
const maxDrained = 4 << 20

// readBody reads at most limit bytes, more is errTooLarge, and for half a minute: whoever sends
// so little slower than that holds the connection, not the signature.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	slow := time.AfterFunc(30*time.Second, func() {
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // a recorder has none
	})
	defer slow.Stop()
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if int64(len(body)) > limit {
		_, _ = io.CopyN(io.Discard, r.Body, maxDrained)
		return nil, fmt.Errorf("%w: the body is limited to %d bytes", errTooLarge, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the body ended early", api.ErrBody)
	}
	return body, nil
}

// writeBody writes a 200 with its length; a HEAD has only that.
func writeBody(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // who has gone asks no more
	}
}
