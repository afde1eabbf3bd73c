package server

import (
	"net/http"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/store"
)

// serveResign queues a page of what is to be signed again.
func (s *Server) serveResign(w http.ResponseWriter, r *http.Request) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		writeError(w, r, err)
		return
	}
	var request api.ResignRequest
	if err := decode(w, r, api.MaxBody, &request); err != nil {
		writeError(w, r, err)
		return
	}
	done, next, err := s.c.Signing.Resign(r.Context(), signing.Resigning{
		From: request.From, To: request.To, Scope: request.Scope, Look: request.Look, By: caller(r),
	}, store.Cursor(request.After))
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, api.ResignResult{From: done.From, To: done.To, Signed: done.Signed, Lacking: done.Lacking, Next: string(next)})
}
