package api

import "time"

// KeysPath answers the public keys that nodes need; below it, one by its fingerprint.
const KeysPath = "/api/v1/keys"

// NodeConfigPath answers the files that nodes need, as its query says: profile, format, prefix.
const NodeConfigPath = "/api/v1/node-config"

// Keys is what KeysPath answers to who accepts JSON.
type Keys struct {
	Keys []Key `json:"keys"`
}

// A Key is one public key that a node policy names, or with which the server signs.
type Key struct {
	Fingerprint string    `json:"fingerprint"` // of the primary key, upper-case hex
	UserID      string    `json:"userID"`
	Algorithm   string    `json:"algorithm"`
	Created     time.Time `json:"created"`
	Own         bool      `json:"own,omitempty"`      // the server signs with it
	Profiles    []string  `json:"profiles,omitempty"` // of nodes whose policy names it
}
