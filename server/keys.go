package server

import (
	"net/http"

	"github.com/countersign-dev/countersign/server/access"
)

// serveCalendar answers when the server's keys and those that may upload stop verifying.
func (s *Server) serveCalendar(w http.ResponseWriter, r *http.Request) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		writeError(w, r, err)
		return
	}
	if s.c.Calendar == nil {
		writeError(w, r, errNotFound)
		return
	}
	c, err := s.c.Calendar(r.Context())
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, c)
}
