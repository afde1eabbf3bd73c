package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/countersign-dev/countersign/api"
	"github.com/opencontainers/go-digest"
)

// DebugHandler answers the second listener: metrics and health, profiles only where asked for.
func (s *Server) DebugHandler() http.Handler {
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler { return s.observed(routeDebug, s.guarded(next)) })
	var told prometheus.Gatherer = s.c.Metrics
	if s.c.Gather != nil {
		told = s.c.Gather
	}
	r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(told, promhttp.HandlerOpts{}))
	r.Get("/healthz", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, http.StatusOK, state{Status: "ok"}) })
	r.Get("/readyz", s.serveReady)
	if s.c.Profiling {
		r.HandleFunc("/debug/pprof/*", pprof.Index)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	r.NotFound(refusing(errNotFound))
	r.MethodNotAllowed(refusing(errMethod))
	return r
}

// A state is what /healthz and /readyz say.
type state struct {
	Status string `json:"status"`
	Store  string `json:"store,omitempty"`
}

// probe is an image that nobody can have: a read of it asks the store and finds nothing.
var probe = api.Image{Host: "countersign.invalid", Repository: "readyz", Digest: digest.FromString("")}

// serveReady answers 200 when reads can be served.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	set, err := s.c.Store.Get(ctx, probe)
	switch {
	case s.leaving.Load():
		writeJSON(w, http.StatusServiceUnavailable, state{Status: "shutting down"})
	case err != nil:
		eventOf(r).err = err
		writeJSON(w, http.StatusServiceUnavailable, state{Status: "not ready", Store: "away"})
	case !set.AsOf.IsZero():
		writeJSON(w, http.StatusOK, state{Status: "ok", Store: fmt.Sprintf("away; serving what was current at %s", set.AsOf.Format(time.RFC3339))})
	default:
		writeJSON(w, http.StatusOK, state{Status: "ok", Store: "ok"})
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
