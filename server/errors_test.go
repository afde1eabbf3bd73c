package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

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

// One test a row of the table: what an error is on the wire, and whether its text goes out.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const shown, hidden = true, false // hidden: a message of ours in place of the error's
	tests := []struct {
		err    error
		status int
		code   string
		text   bool
	}{
		{api.ErrName, 400, "NAME_INVALID", shown},
		{api.ErrDigest, 400, "DIGEST_INVALID", shown},
		{api.ErrPath, 400, "NAME_INVALID", shown},
		{errPath, 400, "NAME_INVALID", shown},
		{api.ErrBody, 400, "SIGNATURE_INVALID", shown},
		{signature.ErrMalformed, 400, "SIGNATURE_INVALID", shown},
		{admission.ErrOtherDigest, 400, "SIGNATURE_INVALID", shown},
		{errRequest, 400, "UNSUPPORTED", shown},
		{signing.ErrNoKey, 400, "UNSUPPORTED", shown},
		{signing.ErrNoScope, 400, "UNSUPPORTED", shown},
		{store.ErrCursor, 400, "UNSUPPORTED", shown},
		{node.ErrNoKey, 409, "UNSUPPORTED", shown},
		{registry.ErrUnknown, 404, "MANIFEST_UNKNOWN", shown},
		{errTooLarge, 413, "SIGNATURE_INVALID", shown},
		{access.ErrUnauthorized, 401, "UNAUTHORIZED", shown},
		{access.ErrForbidden, 403, "DENIED", shown},
		{access.ErrTooMany, 429, "TOOMANYREQUESTS", shown},
		{signature.ErrUnknownKey, 403, "DENIED", shown},
		{signature.ErrUnverified, 403, "DENIED", shown},
		{admission.ErrClients, 403, "DENIED", shown},
		{policy.ErrRefused, 403, "DENIED", shown},
		{store.ErrWithdrawn, 403, "DENIED", shown},
		{signing.ErrNoRule, 403, "DENIED", shown},
		{signing.ErrShut, 403, "DENIED", shown},
		{signing.ErrNoTask, 404, "NAME_INVALID", shown},
		{store.ErrLease, 409, "UNSUPPORTED", hidden},
		{registry.ErrInvalid, 400, "MANIFEST_INVALID", shown},
		{errOrigin, 403, "DENIED", shown},
		{errNotFound, 404, "NAME_INVALID", shown},
		{errMethod, 405, "UNSUPPORTED", shown},
		{store.ErrIndex, 409, "SIGNATURE_EXISTS", shown},
		{store.ErrFull, 409, "SIGNATURE_LIMIT", shown},
		{errHost, 421, "DENIED", shown},
		{errBusy, 429, "TOOMANYREQUESTS", hidden},
		{errAway, 503, "UNAVAILABLE", hidden},
		{store.ErrUnavailable, 503, "UNAVAILABLE", hidden},
		{signature.ErrSigner, 503, "UNAVAILABLE", hidden},
		{access.ErrUnavailable, 503, "UNAVAILABLE", hidden},
		{registry.ErrUnavailable, 503, "UNAVAILABLE", hidden},
		{context.Canceled, 503, "UNAVAILABLE", hidden},
		{context.DeadlineExceeded, 503, "UNAVAILABLE", hidden},
	}
	if len(tests) != len(refusals) {
		t.Errorf("the table has %d rows, and %d are tested", len(refusals), len(tests))
	}
	for _, test := range tests {
		answer := answered(http.MethodPut, routeExtension, fmt.Errorf("%w: the cause", test.err))
		message := checkError(t, answer, test.status, test.code)
		if got := strings.Contains(message, "the cause"); got != test.text {
			t.Errorf("%v: message %q, its text shown: %v, want %v", test.err, message, got, test.text)
		}
		if code, text := Refusal(test.err); code != test.code || text == "" {
			t.Errorf("%v: a push is answered %s %q, want %s", test.err, code, text, test.code)
		}
		if retry := answer.Header().Get("Retry-After"); (retry != "") != (test.status == http.StatusTooManyRequests) {
			t.Errorf("%v: Retry-After %q at status %d", test.err, retry, test.status)
		}
	}
}

// What nobody thought of says nothing (design.md 7).
func TestUnknownErrorsSayNothing(t *testing.T) {
	t.Parallel()
	message := checkError(t, answered(http.MethodGet, routeLookaside, errors.New("open /secret: permission denied")), 500, "UNKNOWN")
	if strings.Contains(message, "secret") {
		t.Errorf("the cause is in the message: %q", message)
	}
}

// A lookaside has no bad paths, only files that are not there (protocol.md 1.3); a person who
// uploads is told what is wrong.
func TestLookasideReadsAreNotFound(t *testing.T) {
	t.Parallel()
	for _, err := range []error{api.ErrName, api.ErrDigest, api.ErrPath, errPath} {
		for method, status := range map[string]int{"GET": 404, "HEAD": 404, "PUT": 400, "POST": 400} {
			if got := answered(method, routeLookaside, err).Code; got != status {
				t.Errorf("%s with %v: got %d, want %d", method, err, got, status)
			}
		}
		if got := answered("GET", routeExtension, err).Code; got != 400 {
			t.Errorf("the extension with %v: got %d, want 400", err, got)
		}
	}
}

func answered(method, route string, err error) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/", nil)
	r = r.WithContext(&event{Context: r.Context(), route: route})
	writeError(w, r, err)
	return w
}

func checkError(t *testing.T, w *httptest.ResponseRecorder, status int, code string) (message string) {
	t.Helper()
	var body api.Errors
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Errors) != 1 {
		t.Fatalf("body is not one error: %v: %s", err, w.Body)
	}
	e := body.Errors[0]
	if w.Code != status || e.Code != code || e.Message == "" {
		t.Errorf("got %d %s %q, want %d %s", w.Code, e.Code, e.Message, status, code)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", got)
	}
	return e.Message
}

// An error may quote all of a body. What is said of it has an end, between two characters.
func TestLongErrors(t *testing.T) {
	t.Parallel()
	for shift := range 4 {
		message := refusalOf(fmt.Errorf("%w: %s%s", errRequest, strings.Repeat("x", shift), strings.Repeat("𐌰", 1<<18))).message
		if len(message) > maxSaid+len("…") || len(message) < maxSaid-3 || !utf8.ValidString(message) || !strings.HasSuffix(message, "𐌰…") {
			t.Errorf("of an error of a megabyte %d bytes are said, which end in %q", len(message), message[len(message)-10:])
		}
	}
}
