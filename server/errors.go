package server

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// Errors of the server's own.
var (
	errHost     = errors.New("this server is not called by that name")
	errOrigin   = errors.New("requests from other sites are refused")
	errPath     = errors.New("the path means something else when it is decoded: send it without escapes")
	errTooLarge = errors.New("too large")
	errRequest  = errors.New("the request does not read")
	errMethod   = errors.New("method not allowed")
	errNotFound = errors.New("not found")
	errBusy     = errors.New("the store did not answer in time")
	errAway     = errors.New("the store has not answered for a minute")
)

// A refusal is a row of the table: what an error is on the wire. Where the message is empty,
// the error's own goes out; a cause that is nobody's business has one here.
type refusal struct {
	err     error
	status  int
	code    string
	message string
}

// refusals is the one table of errors; the first row that matches counts. What is in no row is
// a 500 without its cause.
var refusals = []refusal{
	{err: errNotFound, status: http.StatusNotFound, code: api.CodeNameInvalid}, // how most lookaside reads end
	{err: api.ErrName, status: http.StatusBadRequest, code: api.CodeNameInvalid},
	{err: api.ErrDigest, status: http.StatusBadRequest, code: api.CodeDigestInvalid},
	{err: api.ErrPath, status: http.StatusBadRequest, code: api.CodeNameInvalid},
	{err: errPath, status: http.StatusBadRequest, code: api.CodeNameInvalid},
	{err: api.ErrBody, status: http.StatusBadRequest, code: api.CodeSignatureInvalid},
	{err: signature.ErrMalformed, status: http.StatusBadRequest, code: api.CodeSignatureInvalid},
	{err: admission.ErrOtherDigest, status: http.StatusBadRequest, code: api.CodeSignatureInvalid},
	{err: errRequest, status: http.StatusBadRequest, code: api.CodeUnsupported},
	{err: signing.ErrNoKey, status: http.StatusBadRequest, code: api.CodeUnsupported},
	{err: signing.ErrNoScope, status: http.StatusBadRequest, code: api.CodeUnsupported},
	{err: store.ErrCursor, status: http.StatusBadRequest, code: api.CodeUnsupported},
	{err: node.ErrNoKey, status: http.StatusConflict, code: api.CodeUnsupported},
	{err: registry.ErrUnknown, status: http.StatusNotFound, code: api.CodeManifestUnknown},
	{err: errTooLarge, status: http.StatusRequestEntityTooLarge, code: api.CodeSignatureInvalid},
	{err: access.ErrUnauthorized, status: http.StatusUnauthorized, code: api.CodeUnauthorized},
	{err: access.ErrForbidden, status: http.StatusForbidden, code: api.CodeDenied},
	{err: access.ErrTooMany, status: http.StatusTooManyRequests, code: api.CodeTooManyRequests},
	{err: signature.ErrUnknownKey, status: http.StatusForbidden, code: api.CodeDenied},
	{err: signature.ErrUnverified, status: http.StatusForbidden, code: api.CodeDenied},
	{err: admission.ErrClients, status: http.StatusForbidden, code: api.CodeDenied},
	{err: policy.ErrRefused, status: http.StatusForbidden, code: api.CodeDenied},
	{err: store.ErrWithdrawn, status: http.StatusForbidden, code: api.CodeDenied},
	{err: signing.ErrNoRule, status: http.StatusForbidden, code: api.CodeDenied},
	{err: signing.ErrShut, status: http.StatusForbidden, code: api.CodeDenied},
	{err: signing.ErrNoTask, status: http.StatusNotFound, code: api.CodeNameInvalid},
	{err: store.ErrLease, status: http.StatusConflict, code: api.CodeUnsupported, message: "the task is being worked on: look again in a moment"},
	{err: registry.ErrInvalid, status: http.StatusBadRequest, code: api.CodeManifestInvalid},
	{err: errOrigin, status: http.StatusForbidden, code: api.CodeDenied},
	{err: errMethod, status: http.StatusMethodNotAllowed, code: api.CodeUnsupported},
	{err: store.ErrIndex, status: http.StatusConflict, code: api.CodeSignatureExists},
	{err: store.ErrFull, status: http.StatusConflict, code: api.CodeSignatureLimit},
	{err: errHost, status: http.StatusMisdirectedRequest, code: api.CodeDenied},
	{err: errBusy, status: http.StatusTooManyRequests, code: api.CodeTooManyRequests, message: "the store of signatures is away: try again in a moment"},
	{err: errAway, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the store of signatures is away: tell whoever runs this server"},
	{err: store.ErrUnavailable, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the store of signatures is away: try again"},
	{err: access.ErrUnavailable, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "who may do this cannot be asked now: try again"},
	{err: registry.ErrUnavailable, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the registry is away: try again"},
	{err: signature.ErrSigner, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the server's key cannot sign this now: tell whoever runs this server, the log says why"},
	{err: context.Canceled, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the request ended before its answer"},
	{err: context.DeadlineExceeded, status: http.StatusServiceUnavailable, code: api.CodeUnavailable, message: "the answer took too long: try again"},
}

// unknown is the row of what has none.
var unknown = refusal{status: http.StatusInternalServerError, code: api.CodeUnknown, message: "something went wrong here: tell whoever runs this server, the log says what"}

// maxSaid bounds what is said of an error, in bytes: in answers, the log and the audit trail. Errors
// quote requests, whose bodies may be long.
const maxSaid = 8 << 10

func said(err error) string {
	text := err.Error()
	if len(text) <= maxSaid {
		return text
	}
	return strings.ToValidUTF8(text[:maxSaid], "") + "…"
}

// refusalOf returns the row of an error, its message filled in.
func refusalOf(err error) refusal {
	for _, r := range refusals {
		if !errors.Is(err, r.err) {
			continue
		}
		if r.message == "" {
			r.message = said(err)
		}
		return r
	}
	return unknown
}

// Refusal is what the registry answers a push with that one of the server's hooks refused.
func Refusal(err error) (code, message string) {
	r := refusalOf(err)
	return r.code, r.message
}

// writeError is the only place that writes an error. A lookaside has no bad paths, only
// missing files: clients end their list at 404 and fail on every other status (protocol.md 1.3).
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	row := refusalOf(err)
	if eventOf(r).route == routeLookaside && isRead(r) && row.status == http.StatusBadRequest {
		row.status = http.StatusNotFound
	}
	if eventOf(r).route == routeLookaside && row.status == http.StatusTooManyRequests {
		row.status, row.code = http.StatusServiceUnavailable, api.CodeUnavailable
	}
	eventOf(r).err = err
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = jsonText, noStore
	if c, ok := errors.AsType[*access.Challenge](err); ok {
		h["Www-Authenticate"] = c.Header
	}
	if wait, ok := errors.AsType[*access.Wait](err); ok {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.For.Seconds()))))
	} else if row.status == http.StatusTooManyRequests {
		h.Set("Retry-After", "2")
	}
	w.WriteHeader(row.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(api.Error{Code: row.code, Message: row.message}.Body()) // if the client is gone, the log line is all there is left to write
	}
}
