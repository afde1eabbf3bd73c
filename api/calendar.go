package api

import "time"

// CalendarPath answers when keys stop verifying, and what that concerns.
const CalendarPath = "/api/v1/calendar"

// A Calendar is what CalendarPath answers: keys in the order in which they stop, then those that
// never do.
type Calendar struct {
	AsOf time.Time     `json:"asOf"`
	Keys []CalendarKey `json:"keys"`
}

// A CalendarKey is a key that the server signs with, or that may upload.
type CalendarKey struct {
	Fingerprint string     `json:"fingerprint"` // of the primary key, upper-case hex
	UserID      string     `json:"userID"`
	Algorithm   string     `json:"algorithm"`
	Own         bool       `json:"own,omitempty"`      // the server signs with it
	Admitted    bool       `json:"admitted,omitempty"` // it may upload
	Ends        *time.Time `json:"ends,omitempty"`     // when it expires; absent: never
	Spent       string     `json:"spent,omitempty"`    // why it verifies nothing any more: expired, revoked
	References  int        `json:"references"`         // tags, and digests signed as such, that it has signed
	Alone       int        `json:"alone"`              // of them, those that no other key has signed which lasts longer
}
