package main

import (
	"time"

	"github.com/countersign-dev/countersign/server/access"
)

// A gate is who may do what: who may pull and push, everything else, and how much of it.
type gate struct {
	access, own access.Access // both nil: everybody may do everything
	issued      func(authorization string) bool
	writes      *access.Limiter
}

// openTLS opens what the listener proves itself with, once: it follows its files.
func (g *ground) openTLS(s settings) error {
	if s.TLS.Certificate == "" || g.tls != nil {
		return nil
	}
	config, file, err := s.TLS.Listen(time.Now, g.log)
	if err != nil {
		return err
	}
	g.tls, g.files = config, append(g.files, file)
	return nil
}

// openAccess opens our own settings, and TLS. Where the registry answers who may pull and push there,
// it goes on to: our own settings say the rest.
func (h *house) openAccess(s settings, registrys access.Access) (gate, error) {
	g := gate{access: registrys}
	if err := h.openTLS(s); err != nil {
		return gate{}, err
	}
	var rate access.Rate
	if s.Access != nil {
		own, err := access.Open(*s.Access, access.Options{Clock: time.Now, Log: h.log, Hosts: s.Hosts})
		if err != nil {
			return gate{}, err
		}
		if before := h.current.Load(); before != nil && before.access != nil {
			own.GoOn(before.access)
		}
		h.access, h.files, rate = own, append(h.files, own.Files()...), s.Access.Writes
		if g.own, g.issued = own, own.Issued; g.access == nil {
			g.access = own
		}
	}
	if s.NoAccess {
		h.log.Warn("-insecure-no-access: everybody who reaches this server may push images, have them signed, and withdraw signatures", "listen", s.Listen)
	}
	g.writes = access.NewLimiter("writes", rate, time.Now)
	return g, nil
}
