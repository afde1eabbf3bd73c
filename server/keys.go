package server

import (
	"net/http"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
)

// calendar answers when the server's keys and those that may upload stop verifying.
func (s *Server) calendar(r *http.Request) (api.Calendar, error) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return api.Calendar{}, err
	}
	if s.c.Calendar == nil {
		return api.Calendar{}, errNotFound
	}
	return s.c.Calendar(r.Context())
}
