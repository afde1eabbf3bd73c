package api

// Sizes of what travels, in bytes.
const (
	MaxSignature = 64 << 10         // of one signature (protocol.md 9.11)
	MaxBody      = 2 * MaxSignature // of a PUT's JSON: base64 is a third larger, and a name
)
