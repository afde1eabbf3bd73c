package server

import (
	"fmt"
	"net/http"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
)

// serveSign signs what a reference of our registry leads to. Of the request only the repository
// and the tag or digest count: what is signed is what the registry has, under the first of our
// hosts, with the keys that the rules have for it.
func (s *Server) serveSign(w http.ResponseWriter, r *http.Request) {
	var request api.SignRequest
	err := decode(w, r, api.MaxBody, &request)
	if err != nil {
		writeError(w, r, err)
		return
	}
	named, err := s.signable(request.Reference)
	if err == nil {
		eventOf(r).image = named.String()
		err = s.may(r, access.Sign, s.c.Hosts[0], reference.Path(named))
	}
	var done signing.Requested
	if err == nil {
		done, err = s.c.Signing.Request(asCaller(r), named, caller(r))
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	result := api.SignResult{Reference: done.Reference.String(), Signatures: []api.SignEntry{}, Queued: done.Queued}
	for _, m := range done.Made {
		result.Signatures = append(result.Signatures, api.SignEntry{
			Image: m.Image, Name: m.Signature.Name, Fingerprint: m.Signature.Fingerprint, Reference: m.Signature.Reference, Made: m.New,
		})
	}
	status := http.StatusCreated
	if done.Queued {
		status = http.StatusAccepted
	}
	writeJSON(w, status, result)
}

// signable reads a reference as clients do, and wants one of ours.
func (s *Server) signable(ref string) (reference.Named, error) {
	named, err := signature.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: reference %.200q: %v", errRequest, ref, err)
	}
	if host := reference.Domain(named); s.kept(host) != s.c.Hosts[0] {
		return nil, fmt.Errorf("%w: reference %.200q is of %s, and this server signs for %s only", errRequest, ref, host, s.c.Hosts[0])
	}
	return reference.TagNameOnly(named), nil
}
