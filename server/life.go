package server

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/store"
)

// maxReason bounds why somebody withdraws, in bytes.
const maxReason = 1024

// signatures lists what is kept: of one repository to those who may pull it, of others to
// admins.
func (s *Server) signatures(r *http.Request) (api.SignaturePage, error) {
	page := api.SignaturePage{Signatures: []api.SignatureEntry{}}
	kind, err := kindOf(r.URL.Query().Get("state"))
	if err != nil {
		return page, err
	}
	entries, next, err := s.list(r, kind)
	for _, e := range entries {
		page.Signatures = append(page.Signatures, signatureEntry(e))
	}
	page.Next = string(next)
	return page, err
}

func kindOf(state string) (string, error) {
	switch state {
	case "", api.StateServed:
		return store.Signatures, nil
	case api.StateWithdrawn:
		return store.Withdrawals, nil
	}
	return "", fmt.Errorf("%w: state %.20q is neither %s nor %s", errRequest, state, api.StateServed, api.StateWithdrawn)
}

func signatureEntry(e store.Entry) api.SignatureEntry {
	if e.Withdrawal != nil {
		wd := withdrawalEntry(e.Image, *e.Withdrawal)
		return api.SignatureEntry{Image: e.Image, State: api.StateWithdrawn, Name: wd.Name, Fingerprint: wd.Key, Withdrawal: &wd}
	}
	sig := e.Signature
	return api.SignatureEntry{
		Image: e.Image, State: api.StateServed, Index: e.Index, Name: sig.Name, Fingerprint: sig.Fingerprint, UserID: sig.UserID,
		Reference: sig.Reference, Own: sig.Own, Origin: sig.Origin, Uploader: sig.Uploader, Signed: sig.Signed, Added: sig.Added,
	}
}

// list reads filter and cursor from the query, asks whether the caller may, and lists.
func (s *Server) list(r *http.Request, kind string) ([]store.Entry, store.Cursor, error) {
	q := r.URL.Query()
	f := store.Filter{Kind: kind, Host: q.Get("host"), Repository: q.Get("repository"), Digest: q.Get("digest"), Key: strings.ToUpper(q.Get("key"))}
	if f.Repository != "" && f.Host == "" {
		f.Host = s.c.Hosts[0]
	}
	f.Host = s.c.Door.Host(f.Host)
	action, host := access.Admin, s.c.Hosts[0]
	if f.Repository != "" {
		action, host = access.Pull, f.Host
	}
	if err := s.may(r, action, host, f.Repository); err != nil {
		return nil, "", err
	}
	limit, err := limitOf(q.Get("limit"))
	if err != nil {
		return nil, "", err
	}
	return s.c.Store.List(r.Context(), f, store.Cursor(q.Get("after")), limit)
}

func limitOf(s string) (int, error) {
	if s == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1000 {
		return 0, fmt.Errorf("%w: limit %.20q is no number from 1 to 1000", errRequest, s)
	}
	return n, nil
}

// serveWithdrawals withdraws, and lists what was.
func (s *Server) serveWithdrawals(w http.ResponseWriter, r *http.Request) {
	if isRead(r) {
		answering(s.withdrawals)(w, r)
		return
	}
	s.withdraw(w, r)
}

func (s *Server) withdrawals(r *http.Request) (api.WithdrawalPage, error) {
	entries, next, err := s.list(r, store.Withdrawals)
	page := api.WithdrawalPage{Withdrawals: []api.WithdrawalEntry{}, Next: string(next)}
	for _, e := range entries {
		page.Withdrawals = append(page.Withdrawals, withdrawalEntry(e.Image, *e.Withdrawal))
	}
	return page, err
}

func withdrawalEntry(i api.Image, wd store.Withdrawal) api.WithdrawalEntry {
	return api.WithdrawalEntry{
		Image: i, ID: wd.ID, Scope: wd.Scope, Name: wd.Name, Key: wd.Key, Reason: wd.Reason, Subject: wd.Subject, Time: wd.Time,
	}
}

// withdraw stops something for good: gone from both protocols when it is answered, and not let in
// or made again until it is lifted.
func (s *Server) withdraw(w http.ResponseWriter, r *http.Request) {
	image, wd, err := s.readWithdrawal(w, r)
	if err == nil {
		eventOf(r).image = image.String()
		err = s.may(r, access.Withdraw, image.Host, image.Repository)
	}
	if err == nil {
		err = s.doWithdraw(r, image, &wd)
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	w.Header().Set("Location", api.WithdrawalsPath+"/"+wd.ID)
	writeJSON(w, http.StatusCreated, withdrawalEntry(image, wd))
}

func (s *Server) doWithdraw(r *http.Request, image api.Image, wd *store.Withdrawal) error {
	set, err := s.current(r.Context(), image)
	if err != nil {
		return err
	}
	if wd.Scope == store.ScopeSignature && !slices.ContainsFunc(set.Signatures, func(sig store.Signature) bool { return sig.Name == wd.Name }) {
		return fmt.Errorf("%w: %s has no signature %s. hint: countersign list %s", errNotFound, image, wd.Name, image.Repository)
	}
	from := caller(r)
	wd.ID, wd.Subject, wd.Time = api.WithdrawalID(image, rand.Text()[:12]), from.Subject, s.c.Clock()
	_, err = s.c.Store.Do(r.Context(), store.Change{Image: image, Withdraw: []store.Withdrawal{*wd}, Record: store.Record{
		Time: wd.Time, Action: store.Withdrawn, Subject: from.Subject, Address: from.Address, Image: image,
		Fingerprint: wd.Key, Reason: wd.Scope + ": " + wd.Reason,
	}})
	return err
}

// fingerprint is an OpenPGP key's of version 4 or later.
var fingerprint = regexp.MustCompile(`^([0-9A-F]{40}|[0-9A-F]{64})$`)

func (s *Server) readWithdrawal(w http.ResponseWriter, r *http.Request) (image api.Image, wd store.Withdrawal, err error) {
	var request api.WithdrawRequest
	if err := decode(w, r, api.MaxBody, &request); err != nil {
		return image, wd, err
	}
	if request.Host == "" {
		request.Host = s.c.Hosts[0]
	}
	image, err = api.NewImage(s.c.Door.Host(request.Host), request.Repository, request.Digest)
	if err != nil {
		return image, wd, err
	}
	wd = store.Withdrawal{Scope: request.Scope, Reason: strings.TrimSpace(request.Reason)}
	say := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errRequest, fmt.Sprintf(format, args...))
	}
	switch {
	case wd.Reason == "" || len(wd.Reason) > maxReason || strings.ContainsFunc(wd.Reason, func(c rune) bool { return c < ' ' }):
		return image, wd, say("a reason is wanted, one line of at most %d bytes", maxReason)
	case request.Scope == store.ScopeSignature && request.Name != "" && request.Key == "":
		wd.Name = request.Name
	case request.Scope == store.ScopeKey && request.Name == "":
		if wd.Key = strings.ToUpper(strings.ReplaceAll(request.Key, " ", "")); !fingerprint.MatchString(wd.Key) {
			return image, wd, say("key %.100q is no fingerprint of 40 hexadecimal digits", request.Key)
		}
	case request.Scope == store.ScopeImage && request.Name == "" && request.Key == "":
	default:
		return image, wd, say("scope is signature with a name, key with a fingerprint, or image with neither")
	}
	return image, wd, nil
}

// decode reads a JSON object strictly.
func decode(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	body, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %v", errRequest, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: something follows the JSON object", errRequest)
	}
	return nil
}

// serveWithdrawal lifts one. What it stopped comes back through the door, by itself it does not.
func (s *Server) serveWithdrawal(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, api.WithdrawalsPath+"/")
	image, err := api.ParseWithdrawalID(id)
	if err == nil {
		eventOf(r).image = image.String()
		err = s.may(r, access.Admin, image.Host, image.Repository)
	}
	if err == nil {
		err = s.lift(r, image, id)
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) lift(r *http.Request, image api.Image, id string) error {
	set, err := s.current(r.Context(), image)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(set.Withdrawn, func(wd store.Withdrawal) bool { return wd.ID == id })
	if i < 0 {
		return fmt.Errorf("%w: there is no such withdrawal, or it was lifted", errNotFound)
	}
	from, wd := caller(r), set.Withdrawn[i]
	_, err = s.c.Store.Do(r.Context(), store.Change{Image: image, Lift: []store.Withdrawal{wd}, Record: store.Record{
		Time: s.c.Clock(), Action: store.Lifted, Subject: from.Subject, Address: from.Address, Image: image,
		Names: []string{wd.ID}, Fingerprint: wd.Key, Reason: wd.Scope + ": " + wd.Reason,
	}})
	return err
}

// audit pages through the audit trail.
func (s *Server) audit(r *http.Request) (page api.AuditPage, err error) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return page, err
	}
	limit, err := limitOf(r.URL.Query().Get("limit"))
	if err != nil {
		return page, err
	}
	records, next, err := s.c.Store.Records(r.Context(), store.Cursor(r.URL.Query().Get("after")), limit)
	if errors.Is(err, store.ErrHeld) {
		err = nil // who follows asks again
	}
	page = api.AuditPage{Records: []api.AuditRecord{}, Next: string(next)}
	for _, record := range records {
		page.Records = append(page.Records, api.AuditRecord(record))
	}
	return page, err
}
