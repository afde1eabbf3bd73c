// Package store says what a store of signatures is: the Store interface, the values that
// pass through it, and the pure functions Set.Apply and Task.End, which say what a Change makes
// of what is there. Everything that one decision does to one image is one Change, so a decision
// is never half done.
//
// A store reads a Set, calls Apply, keeps what comes out and its records, all in one transaction.
//
// store/disk and store/postgres implement it; store/storetest holds both to it.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// Errors of a Store, wrapped in nothing else than fmt's %w. The message around one says what is
// in the way and what to do. Any other error is a caller's mistake, and nothing was done.
var (
	ErrWithdrawn   = errors.New("withdrawn")                    // Do: something in Add is withdrawn
	ErrFull        = errors.New("as many as are allowed")       // Do: Add would exceed a limit
	ErrIndex       = errors.New("another signature is there")   // Do: At is taken by another, or leaves a gap
	ErrChanged     = errors.New("changed meanwhile")            // Do: the version is not If
	ErrLease       = errors.New("task is not ours")             // Do: Ends is held by somebody else, or is gone: ErrGone
	ErrUnavailable = errors.New("store is away")                // any: it may or may not have happened: do it again
	ErrNone        = errors.New("no task is due")               // Take
	ErrCursor      = errors.New("not a cursor of this listing") // List, Records

	// ErrHeld is ErrUnavailable of the trail's end alone.
	ErrHeld = fmt.Errorf("%w: the end of the audit trail waits for transactions that began before it", ErrUnavailable) // Records
)

// A Store keeps what images have. Content is immutable, shared with whoever else reads it, and may
// be cached freely; what an image has may not.
//
// Get is linearizable over all processes that share the store: one that starts after a Do
// has returned sees it. An image that nothing ever happened to has the zero Set.
//
// Do is serialized by image, is durable when it returns, and idempotent: a Change that was done
// already changes nothing and is no error, but for If and Ends, which say ErrChanged and ErrLease
// then. Either all of it happens or nothing: one that is refused leaves no task and no record.
//
// Indexes are dense at every instant, also after a crash: what the Set has is 1 to n.
//
// An entry that no longer reads is left out of Get and List and never fails them.
type Store interface {
	Get(ctx context.Context, image api.Image) (Set, error)
	// Do makes the change and returns what the image has then. Errors: ErrWithdrawn, ErrFull,
	// ErrIndex, ErrChanged, ErrLease, ErrUnavailable. What c points at belongs to the store from
	// then on, also when ctx ends first: that is ErrUnavailable, and the change may still happen.
	Do(ctx context.Context, c Change) (Set, error)
	// Start is Do for who goes on meanwhile: it waits neither for the change nor for others. done is
	// called once with what Do would return, maybe before Start returns, and must wait for nobody.
	// Where ctx ends it may be told of ErrUnavailable, as Do would return, or of what became of it.
	Start(ctx context.Context, c Change, done func(Set, error))
	// List pages through what f asks for: signatures, without their Content, and withdrawals
	// ordered by host, repository and digest bytewise and as they came, tasks by key; signatures by
	// one Key in an order of the store's own. limit is 1 to 1000; what is beyond counts as that. The
	// cursor it returns is empty when there is no more; a page may be empty and still have one. What
	// is there all along is listed once, whatever comes and goes meanwhile. Errors: ErrCursor,
	// ErrUnavailable.
	List(ctx context.Context, f Filter, after Cursor, limit int) ([]Entry, Cursor, error)
	// Records pages through the audit trail in commit order. The cursor it returns continues
	// behind the last record seen, also when there was none: nothing is ever inserted before it.
	// Where there is none, the trail had no more when it was asked. limit as with List. Errors:
	// ErrCursor, also for one that is ahead of the trail, as after a backup was restored; ErrHeld, with
	// the cursor, where there is more that cannot be shown yet; ErrUnavailable.
	Records(ctx context.Context, after Cursor, limit int) ([]Record, Cursor, error)
	// Take leases the task that is due the longest, so that nobody else gets it before the lease
	// has run out; then it is due again. The lease is durable when Take returns.
	// Errors: ErrNone, ErrUnavailable.
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
	ID       string    `json:"id"`                 // drawn by the caller
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
	Add      []Signature  // behind what is there; one that is there already (see Set.Apply) is left out
	At       int          // if not 0: ErrIndex unless the first of Add gets, or has, this index
	Drop     []string     // names no longer served; may come back through the door (limits, retention, supersede)
	Withdraw []Withdrawal // a signature, a key's signatures, or the whole image: for good, until lifted (a person decides)
	Lift     []Withdrawal // by ID
	Then     []Task       // to do later; one whose key is queued already is left out, a dead one is replaced
	Ends     *Task        // the task that this change finishes, delays or buries, before Then; see Task.End
	Record   Record       // who, from where, what, why; a refusal is a change with only this: it leaves Version and creates no image
}

// Limits of one image, looked at when something is added. A zero field means no limit of that kind.
type Limits struct {
	Uploaded int // signatures that are not the server's own
	Key      int // uploaded signatures by one key
	Bytes    int // of the extension's encoded list (protocol.md 3.2), uploaded signatures only
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
	State    string    `json:"state"`             // Queued or Dead; in Change.Ends also Done; Change.Then queues whatever it says
	Due      time.Time `json:"due"`               // not before; zero: now. While it is leased, when the lease runs out
	Attempts int       `json:"attempts"`          // leases taken so far; counted by Take
	Problem  string    `json:"problem,omitempty"` // why the last attempt failed
	Queued   time.Time `json:"queued"`            // zero: now
	Lease    string    `json:"lease,omitempty"`   // drawn by Take; Change.Ends gives it back
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

// A Record is one line of the audit trail. One whose Action is empty is not kept, nor one of a
// change that set out to change what the image has and found it so already.
type Record struct {
	Time        time.Time `json:"time"` // zero: when the store did it
	Action      string    `json:"action"`
	Subject     string    `json:"subject"`           // who, as access knows them
	Address     string    `json:"address,omitempty"` // from where
	Image       api.Image `json:"image"`             // the change's
	Names       []string  `json:"names,omitempty"`   // of the signatures concerned; empty: those that came or went. IDs of withdrawals that are lifted
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
