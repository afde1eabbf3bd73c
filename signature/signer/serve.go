package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// MaxAtOnce is how many signatures one socket makes, or asks for, at a time.
const MaxAtOnce = 16

// A Server lets other processes sign with a key that they cannot read.
type Server struct {
	signer  signature.Signer
	allowed func(reference string) error
	log     *slog.Logger
	room    chan struct{}
}

// NewServer serves a signer. allowed says why a reference is not to be signed.
func NewServer(s signature.Signer, allowed func(reference string) error, log *slog.Logger) *Server {
	return &Server{s, allowed, log, make(chan struct{}, MaxAtOnce)}
}

// Serve answers until ctx ends, then lets what is being signed end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+keyPath, s.key)
	mux.HandleFunc("POST "+signPath+"{fingerprint}", s.sign)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: idle, MaxHeaderBytes: maxProblem, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peerOf(c))
		},
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		within, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- server.Shutdown(within)
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func (s *Server) key(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/pgp-keys")
	_, _ = w.Write(s.signer.Key().Armored()) // whoever asked is gone
}

// sign answers one claim. What it signs, and what it refuses, is in the log.
func (s *Server) sign(w http.ResponseWriter, r *http.Request) {
	from := peerIn(r.Context())
	claim, status, err := s.read(w, r)
	var content []byte
	if err == nil {
		status = http.StatusServiceUnavailable
		content, err = s.make(r.Context(), claim)
	}
	log := s.log.With("reference", claim.Reference, "digest", claim.Digest.String(), "user", from.user, "process", from.process)
	if err != nil {
		log.Warn("not signed", "error", err)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(refusal{fmt.Sprintf("%.500s", err.Error())}) // whoever asked is gone
		return
	}
	log.Info("signed")
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(content)
}

func (s *Server) read(w http.ResponseWriter, r *http.Request) (claim signature.Claim, status int, err error) {
	if own, asked := fingerprint(s.signer.Key()), r.PathValue("fingerprint"); asked != own {
		return claim, http.StatusNotFound, fmt.Errorf("the key here is %s, not %.60q", own, asked)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, signature.MaxSize))
	if err != nil {
		return claim, http.StatusBadRequest, err
	}
	claim, err = signature.ParseClaim(body)
	if err != nil {
		return claim, http.StatusBadRequest, err
	}
	return claim, http.StatusForbidden, s.allowed(claim.Reference)
}

// make signs when there is room for it. Whoever has gone gets nothing signed.
func (s *Server) make(ctx context.Context, claim signature.Claim) ([]byte, error) {
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.signer.Sign(ctx, claim)
}

// A peer is the process at the other end of a connection, as the kernel knows it.
type peer struct {
	user, process int // -1: not known
	known         bool
}

type peerKey struct{}

func peerIn(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// peerOf asks the kernel. On a connection that is no unix socket, and on a system that does not
// say, nobody is known.
func peerOf(c net.Conn) peer {
	if u, ok := c.(*net.UnixConn); ok {
		if p, err := credentials(u); err == nil {
			return p
		}
	}
	return peer{user: -1, process: -1}
}

// admits reports whether a peer is one of these users.
func admits(users []int, p peer) bool { return p.known && slices.Contains(users, p.user) }
