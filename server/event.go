package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Routes, as logs and metrics name them.
const (
	routeRegistry    = "registry"
	routeExtension   = "extension"
	routeLookaside   = "lookaside"
	routeSignatures  = "signatures"
	routeWithdrawals = "withdrawals"
	routeAudit       = "audit"
	routeImport      = "import"
	routeExport      = "export"
	routeCalendar    = "calendar"
	routeResign      = "resign"
	routeVerify      = "verify"
	routeSign        = "sign"
	routeQueue       = "queue"
	routeTags        = "tags"
	routeCoverage    = "coverage"
	routeNotify      = "notifications"
	routeKeys        = "keys"
	routeNodeConfig  = "node-config"
	routeDebug       = "debug"
	routeNone        = "none"
)

// An event is one request: handlers fill it, and it is logged once, when the answer is out.
// It never holds a query string, a header or a body. It is the request's context, where they find it.
type event struct {
	context.Context
	route   string
	image   string
	index   int
	signer  string // fingerprint of what was uploaded
	subject string // who asks, as access knows them; empty before it was asked
	lent    bool   // the registry has taken the request's credentials
	err     error
	answer  statusWriter
}

type eventKey struct{}

// Value implements context.Context.
func (e *event) Value(key any) any {
	if key == (eventKey{}) {
		return e
	}
	return e.Context.Value(key)
}

// eventOf returns the request's event; a request that came in another way has one that
// nobody reads.
func eventOf(r *http.Request) *event {
	if e, ok := r.Context().Value(eventKey{}).(*event); ok {
		return e
	}
	return &event{}
}

// observed gives every request its event, and writes the log line and the metrics.
func (s *Server) observed(route string, next http.Handler) http.Handler {
	count := s.metrics.requestsOf(route)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := s.c.Clock()
		e := &event{Context: r.Context(), route: route, answer: statusWriter{ResponseWriter: w}}
		defer func() {
			ended := s.c.Clock()
			count(method(r), e.answer.code(), ended.Sub(began))
			s.log(r, e, e.answer.code(), ended, ended.Sub(began))
		}()
		next.ServeHTTP(&e.answer, r.WithContext(e))
	})
}

// log writes the line itself: a Logger would look up for each which line of code it comes from.
func (s *Server) log(r *http.Request, e *event, status int, now time.Time, took time.Duration) {
	level := slog.LevelInfo
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	if !s.c.Log.Enabled(r.Context(), level) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 11),
		slog.String("route", e.route), slog.String("method", method(r)), slog.String("path", r.URL.Path),
		slog.Int("status", status), slog.Duration("duration", took), slog.String("remote", r.RemoteAddr),
	)
	if e.image != "" {
		attrs = append(attrs, slog.String("image", e.image))
	}
	if e.index != 0 {
		attrs = append(attrs, slog.Int("index", e.index))
	}
	if e.subject != "" {
		attrs = append(attrs, slog.String("subject", e.subject))
	}
	if e.signer != "" {
		attrs = append(attrs, slog.String("signer", e.signer))
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("error", said(e.err)))
	}
	line := slog.NewRecord(now, level, "request", 0)
	line.AddAttrs(attrs...)
	_ = s.c.Log.Handler().Handle(r.Context(), line) // where it cannot be written nothing can be said
}

// method bounds what a client can put into logs and metric labels.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// A statusWriter remembers the status. Unwrap keeps what net/http finds behind it: flushing,
// and copying from files.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}
