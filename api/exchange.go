package api

// Paths of what goes in and out by the tree.
const (
	ImportPath = "/api/v1/import"
	ExportPath = "/api/v1/export"
)

// Bounds of an ImportRequest: what its body may have, and its signatures together, in bytes.
const (
	MaxImportBody = 6 << 20
	MaxImport     = 4 << 20
)

// An ImportRequest brings signatures of one image, in the order they shall have. An empty host is
// the server's own. A dry run says what would become of them and changes nothing.
type ImportRequest struct {
	Host       string   `json:"host,omitempty"`
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Signatures [][]byte `json:"signatures"`
	DryRun     bool     `json:"dryRun,omitempty"`
}

// What becomes of an imported signature.
const (
	Imported = "imported" // stored, or would be
	Known    = "known"    // there already
	Refused  = "refused"
)

// An ImportResult is what became of one signature.
type ImportResult struct {
	Outcome     string `json:"outcome"`
	Fingerprint string `json:"fingerprint,omitempty"` // of its key; where that is not known, as the signature says
	Reason      string `json:"reason,omitempty"`      // why it was refused
	UnknownKey  bool   `json:"unknownKey,omitempty"`  // trusting its key could admit it
}

// An ImportAnswer has a result for each signature of a request, in its order.
type ImportAnswer struct {
	Results []ImportResult `json:"results"`
}

// An ExportImage is all that is served of an image at one instant, in order; it may be nothing.
type ExportImage struct {
	Image
	Signatures [][]byte `json:"signatures"`
}

// An ExportPage is as a SignaturePage. An image may stand at the end of one and again at the
// beginning of the next.
type ExportPage struct {
	Host   string        `json:"host,omitempty"` // that was asked for, by the name its images are kept under
	Images []ExportImage `json:"images"`
	Next   string        `json:"next,omitempty"`
}
