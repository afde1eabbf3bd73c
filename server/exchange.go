package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// serveImport takes what a lookaside has of one image through the door. It countersigns nothing:
// what is imported has been served before as it is.
func (s *Server) serveImport(w http.ResponseWriter, r *http.Request) {
	answer, err := s.importAll(w, r)
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Server) importAll(w http.ResponseWriter, r *http.Request) (answer api.ImportAnswer, err error) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return answer, err
	}
	var request api.ImportRequest
	if err := decode(w, r, api.MaxImportBody, &request); err != nil {
		return answer, err
	}
	if request.Host == "" {
		request.Host = s.c.Hosts[0]
	}
	image, err := api.NewImage(s.c.Door.Host(request.Host), request.Repository, request.Digest)
	if err != nil {
		return answer, err
	}
	eventOf(r).image = image.String()
	set, err := s.c.Store.Get(r.Context(), image)
	if err != nil {
		return answer, err
	}
	answer.Results = []api.ImportResult{}
	for _, content := range request.Signatures {
		var result api.ImportResult
		result, set, err = s.importOne(r, image, set, content, request.DryRun)
		if err != nil {
			return answer, err
		}
		answer.Results = append(answer.Results, result)
	}
	return answer, nil
}

// importOne returns what the image has afterwards, or in a dry run would have. What is there byte
// for byte is not verified again, so an import that is run again is quick. Its error is no refusal:
// what comes behind could not be imported either.
func (s *Server) importOne(r *http.Request, image api.Image, set store.Set, content []byte, dry bool) (api.ImportResult, store.Set, error) {
	name := api.Name(image.Digest, content)
	if i := slices.IndexFunc(set.Signatures, func(have store.Signature) bool { return have.Name == name }); i >= 0 {
		return s.imported(api.ImportResult{Outcome: api.Known, Fingerprint: set.Signatures[i].Fingerprint}, dry), set, nil
	}
	admitted, err := s.c.Door.Admit(admission.Upload{Image: image, Content: content, Caller: caller(r), Origin: "import"})
	result := api.ImportResult{Outcome: api.Imported, Fingerprint: admitted.Signature.Fingerprint}
	after := set
	if err == nil {
		admitted.Record.Action = store.Imported
		after, err = s.keep(r.Context(), admitted.Change(0), set, dry)
	}
	if err == nil && indexOf(set, admitted.Signature.Identity) > 0 {
		result.Outcome = api.Known
	}
	if row := refusalOf(err); err != nil && row.status >= http.StatusInternalServerError {
		return result, set, err
	} else if err != nil {
		result = s.refusedImport(r, image, content, err, dry)
		after = set
	}
	return s.imported(result, dry), after, nil
}

// keep makes the change, or says what would come of it.
func (s *Server) keep(ctx context.Context, change store.Change, before store.Set, dry bool) (store.Set, error) {
	if dry {
		after, _, err := before.Apply(change, s.c.Limits)
		return after, err
	}
	return s.c.Store.Do(ctx, change)
}

func (s *Server) refusedImport(r *http.Request, image api.Image, content []byte, err error, dry bool) api.ImportResult {
	result := api.ImportResult{
		Outcome: api.Refused, Fingerprint: claimedSigner(content),
		Reason: refusalOf(err).message, UnknownKey: errors.Is(err, signature.ErrUnknownKey),
	}
	if !dry {
		eventOf(r).signer = result.Fingerprint
		s.recordRefusal(r, image, "import: "+result.Reason)
	}
	return result
}

func (s *Server) imported(result api.ImportResult, dry bool) api.ImportResult {
	if !dry {
		s.metrics.imports.WithLabelValues(result.Outcome).Inc()
	}
	return result
}

// exported bounds the signatures that a page lists. The images they are of have few more: what of
// the first stands in front of the page, and of the last behind it.
const exported = 100

// export pages through what is served, all of an image at a time.
func (s *Server) export(r *http.Request) (page api.ExportPage, err error) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return page, err
	}
	page.Images = []api.ExportImage{}
	q := r.URL.Query()
	if q.Get("digest") != "" {
		image, err := api.NewImage(s.c.Door.Host(q.Get("host")), q.Get("repository"), q.Get("digest"))
		if err != nil {
			return page, err
		}
		err = s.exportImage(r, image, &page)
		return page, err
	}
	f := store.Filter{Kind: store.Signatures, Host: s.c.Door.Host(q.Get("host")), Repository: q.Get("repository")}
	if f.Repository != "" && f.Host == "" {
		return page, fmt.Errorf("%w: a repository wants its host", errRequest)
	}
	entries, next, err := s.c.Store.List(r.Context(), f, store.Cursor(q.Get("after")), exported)
	if err != nil {
		return page, err
	}
	for i, e := range entries {
		if i > 0 && entries[i-1].Image == e.Image {
			continue
		}
		if err := s.exportImage(r, e.Image, &page); err != nil {
			return page, err
		}
	}
	page.Host, page.Next = f.Host, string(next)
	return page, nil
}

func (s *Server) exportImage(r *http.Request, image api.Image, page *api.ExportPage) error {
	set, err := s.c.Store.Get(r.Context(), image)
	if err != nil {
		return err
	}
	if !set.AsOf.IsZero() {
		return fmt.Errorf("%w: what is known of %s is old", store.ErrUnavailable, image)
	}
	contents := [][]byte{}
	for _, sig := range set.Signatures {
		contents = append(contents, sig.Content)
	}
	page.Images = append(page.Images, api.ExportImage{Image: image, Signatures: contents})
	return nil
}
