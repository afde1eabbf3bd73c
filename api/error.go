package api

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

// Errors is the body of every error answer, as registries write it.
type Errors struct {
	Errors []Error `json:"errors"`
}
