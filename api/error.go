package api

import "encoding/json"

// Codes of error answers: the registry's own, and three that its list lacks. Clients print
// "denied: <message>" for one they know and "unknown: <message>" for the rest, and nothing of
// detail (protocol.md 3.5).
const (
	CodeDenied           = "DENIED"
	CodeDigestInvalid    = "DIGEST_INVALID"
	CodeManifestInvalid  = "MANIFEST_INVALID"
	CodeManifestUnknown  = "MANIFEST_UNKNOWN"
	CodeNameInvalid      = "NAME_INVALID"
	CodeSignatureExists  = "SIGNATURE_EXISTS"
	CodeSignatureInvalid = "SIGNATURE_INVALID"
	CodeSignatureLimit   = "SIGNATURE_LIMIT"
	CodeTooManyRequests  = "TOOMANYREQUESTS"
	CodeUnauthorized     = "UNAUTHORIZED"
	CodeUnavailable      = "UNAVAILABLE"
	CodeUnknown          = "UNKNOWN"
	CodeUnsupported      = "UNSUPPORTED"
)

// An Error is one entry of an error answer. Clients show only the message: it says what is
// wrong and what to do, and never an internal cause.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Body is the answer of this one error, Errors with a newline. Most that is read of a lookaside ends
// with one, so what is plain is not sent through encoding/json.
func (e Error) Body() []byte {
	if plainText(e.Code) && plainText(e.Message) {
		return []byte(`{"errors":[{"code":"` + e.Code + `","message":"` + e.Message + "\"}]}\n")
	}
	body, err := json.Marshal(Errors{Errors: []Error{e}})
	if err != nil { // texts always have a form
		return nil
	}
	return append(body, '\n')
}

// plainText says whether a text is its own JSON between quotes, as encoding/json writes it.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// Errors is the body of every error answer, as registries write it.
type Errors struct {
	Errors []Error `json:"errors"`
}
