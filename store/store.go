// Package store says what a store of signatures is: the Store interface, the values that
// pass through it, and Apply, the one pure function that says what a Change makes of a Set.
// Everything that one decision does to one image is one Change, so a decision is never half done.
//
// store/disk and store/postgres implement it; store/storetest holds both to it.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// Errors of Do and Take. Each store returns them wrapped in nothing else than fmt's %w.
var (
	ErrWithdrawn   = errors.New("withdrawn")                    // Do: something in Add is withdrawn
	ErrFull        = errors.New("as many as are allowed")       // Do: Add would exceed a limit
	ErrIndex       = errors.New("another signature is there")   // Do: At is taken by another, or leaves a gap
	ErrChanged     = errors.New("changed meanwhile")            // Do: the version is not If
	ErrLease       = errors.New("task is not ours")             // Do: Ends is held by somebody else, or is gone
	ErrUnavailable = errors.New("store is away")                // any: it may or may not have happened: do it again
	ErrNone        = errors.New("no task is due")               // Take
	ErrCursor      = errors.New("not a cursor of this listing") // List, Records
)

// A Store keeps what images have. Content is immutable and may be cached freely; what an
// image has may not.
//
// Get is linearizable over all processes that share the store: one that starts after a Do
// has returned sees it. An image that nothing ever happened to has the zero Set.
//
// Do is serialized by image and with nothing wider, is durable when it returns, and
// idempotent: a Change that was done already changes nothing and is no error. Either all of
// it happens or nothing.
//
// Indexes are dense at every instant, also after a crash: what the Set has is 1 to n.
type Store interface {
	Get(ctx context.Context, image api.Image) (Set, error)
	// Do makes the change and returns what the image has then. Errors: ErrWithdrawn, ErrFull,
	// ErrIndex, ErrChanged, ErrLease, ErrUnavailable.
	Do(ctx context.Context, c Change) (Set, error)
	// List pages through what f asks for, ordered by image. The cursor it returns is empty
	// when there is no more; a page may be empty and still have one. limit is 1 to 1000.
	List(ctx context.Context, f Filter, after Cursor, limit int) ([]Entry, Cursor, error)
	// Records pages through the audit trail in commit order. The cursor it returns continues
	// behind the last record seen, also when there was none: nothing is ever inserted before it.
	Records(ctx context.Context, after Cursor, limit int) ([]Record, Cursor, error)
	// Take leases the task that is due the longest; a task whose lease has run out is due again.
	// ErrNone when there is none.
	Take(ctx context.Context, lease time.Duration) (Task, error)
}

// A Set is what an image has. Signatures[i] is served as signature-(i+1).
type Set struct {
	Signatures []Signature
	Withdrawn  []Withdrawal
	Version    uint64    // grows with every change of this image; 0: nothing ever happened
	AsOf       time.Time // zero: current; else the store is away and this was current then
}

// A Signature is one that was verified and admitted, or made by the server.
type Signature struct {
	Name        string    `json:"name"`               // <digest>@<first 32 hex of sha256(content)>, as the extension serves it
	Content     []byte    `json:"-"`                  // the OpenPGP message, byte for byte as it came
	Identity    string    `json:"identity"`           // same signer, signed bytes and signature value: same identity, whatever the other bytes
	Fingerprint string    `json:"fingerprint"`        // of the primary key, upper-case hex
	UserID      string    `json:"userID,omitempty"`   // of the key, for people
	Reference   string    `json:"reference"`          // the claimed docker reference
	Own         bool      `json:"own,omitempty"`      // made by this server
	Origin      string    `json:"origin"`             // what brought it: upload, push, countersign, request, import
	Uploader    string    `json:"uploader,omitempty"` // the subject that brought it
	Signed      time.Time `json:"signed"`             // by the OpenPGP signature
	Added       time.Time `json:"added"`              // to this store
}

// Scopes of a Withdrawal.
const (
	ScopeSignature = "signature"
	ScopeKey       = "key"
	ScopeImage     = "image"
)

// A Withdrawal is the tombstone of what a person stopped for good.
type Withdrawal struct {
	ID       string    `json:"id"`
	Scope    string    `json:"scope"`              // signature, key: nothing by it for this image, or image: nothing at all
	Name     string    `json:"name,omitempty"`     // of the signature, where that is the scope
	Identity string    `json:"identity,omitempty"` // filled in by Apply, so that other bytes of the same signature stay out too
	Key      string    `json:"key,omitempty"`      // the fingerprint, where that is the scope
	Reason   string    `json:"reason"`
	Subject  string    `json:"subject"`
	Time     time.Time `json:"time"`
}

// A Change becomes durable and visible as a whole, or not at all.
type Change struct {
	Image    api.Image
	If       uint64       // if not 0: ErrChanged unless the version is this
	Add      []Signature  // behind what is there; one that is there already (same identity) is left out
	At       int          // if not 0: ErrIndex unless the first of Add gets, or has, this index
	Drop     []string     // names no longer served; may come back through the door (limits, retention, supersede)
	Withdraw []Withdrawal // a signature, a key's signatures, or the whole image: for good, until lifted (a person decides)
	Lift     []Withdrawal // by ID
	Then     []Task       // to do later; one whose key is queued already is left out
	Ends     *Task        // the task that this change finishes, delays or buries; ErrLease if somebody else holds it
	Record   Record       // who, from where, what, why; a refusal is a change with only this: it leaves Version and creates no image
}

// Limits of one image. A zero field means no limit of that kind.
type Limits struct {
	Uploaded int // signatures that are not the server's own
	Key      int // uploaded signatures by one key
	Bytes    int // of the extension's encoded list, uploaded signatures only
	All      int // the server's own oldest are dropped until no more than this are left
}

// States of a Task.
const (
	Queued = "queued"
	Done   = "done" // only in Change.Ends: the task is removed
	Dead   = "dead" // given up; a person retries or drops it
)

// A Task is something to do later, queued by the change that caused it.
type Task struct {
	Key      string    `json:"key"`  // one task of a key is queued at a time
	Kind     string    `json:"kind"` // sign, withdraw, deliver
	Image    api.Image `json:"image"`
	Detail   []byte    `json:"detail,omitempty"`  // the kind's own, JSON
	State    string    `json:"state"`             // Queued or Dead; in Change.Ends also Done
	Due      time.Time `json:"due"`               // not before; zero: now
	Attempts int       `json:"attempts"`          // leases taken so far; counted by Take
	Problem  string    `json:"problem,omitempty"` // why the last attempt failed
	Queued   time.Time `json:"queued"`
	Lease    string    `json:"lease,omitempty"` // drawn by Take; Change.Ends gives it back
}

// Actions of a Record.
const (
	Admitted  = "admitted"
	Refused   = "refused"
	Signed    = "signed"
	Withdrawn = "withdrawn"
	Lifted    = "lifted"
	Imported  = "imported"
	Dropped   = "dropped"
)

// A Record is one line of the audit trail. One whose Action is empty is not kept; one that
// comes with a change that changed nothing is not kept either.
type Record struct {
	Time        time.Time `json:"time"`
	Action      string    `json:"action"`
	Subject     string    `json:"subject"`           // who, as access knows them
	Address     string    `json:"address,omitempty"` // from where
	Image       api.Image `json:"image"`
	Names       []string  `json:"names,omitempty"` // of the signatures concerned
	Fingerprint string    `json:"fingerprint,omitempty"`
	Reference   string    `json:"reference,omitempty"`
	Reason      string    `json:"reason,omitempty"`
}

// A Cursor is where a listing goes on; empty is the beginning. What is in it is the store's own.
type Cursor string

// Kinds of a Filter.
const (
	Signatures  = "signatures"
	Withdrawals = "withdrawals"
	Tasks       = "tasks"
)

// A Filter says what List pages through. Empty fields match everything.
type Filter struct {
	Kind       string // Signatures, Withdrawals or Tasks; required
	Host       string
	Repository string
	Digest     string
	Key        string // fingerprint of signatures, or of withdrawals of scope key
	State      string // of tasks
}

// An Entry is one line of a listing: its image and one of the rest, as the Filter's kind says.
type Entry struct {
	Image      api.Image
	Index      int // of the signature, from 1
	Signature  *Signature
	Withdrawal *Withdrawal
	Task       *Task
}
