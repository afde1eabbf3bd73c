package api

// ResignPath signs again in bulk what another key of the server has signed.
const ResignPath = "/api/v1/resign"

// A ResignRequest asks for one page of it. Keys are fingerprints, or names in the server's settings.
type ResignRequest struct {
	From  string `json:"from"`            // the old key; the server need not have it any more
	To    string `json:"to"`              // the new one
	Scope string `json:"scope,omitempty"` // host, host/namespace, host/namespace/name, or that with :tag; empty: everything
	After string `json:"after,omitempty"` // Next of the page before
	Look  bool   `json:"look,omitempty"`  // only count
}

// A ResignResult says what a page had. What lacks the new key's signature is queued, but where only
// to look was asked for.
type ResignResult struct {
	From    string `json:"from"` // fingerprints
	To      string `json:"to"`
	Signed  int    `json:"signed"` // by both keys
	Lacking int    `json:"lacking"`
	Next    string `json:"next,omitempty"` // goes on behind it; empty at the end
}
