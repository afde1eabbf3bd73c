package api

import "time"

// Paths of what concerns signing.
const (
	SignPath     = "/api/v1/sign"
	TagsPath     = "/api/v1/tags"
	QueuePath    = "/api/v1/queue"
	RetrySegment = "/retry" // behind a task's id
)

// A SignRequest asks the server to sign what a reference of its registry leads to. Its rules say
// with which keys.
type SignRequest struct {
	Reference string `json:"reference"` // with a tag, a digest, or both; neither: the tag latest
}

// A SignResult says what the server's signatures of it are. Queued: not all of them yet, and the
// rest follows without being asked for.
type SignResult struct {
	Reference  string      `json:"reference"` // as it was signed
	Signatures []SignEntry `json:"signatures"`
	Queued     bool        `json:"queued"`
}

// A SignEntry is one signature: a list's instances have their own.
type SignEntry struct {
	Image
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
	Reference   string `json:"reference"`
	Made        bool   `json:"made"` // just now; else it was there
}

// A TagPage lists tags of a repository. Next goes on behind it; it is empty at the end.
type TagPage struct {
	Repository string   `json:"repository"` // with its host
	Tags       []string `json:"tags"`
	Next       string   `json:"next,omitempty"`
}

// States of a task.
const (
	TaskQueued = "queued" // to be done
	TaskDead   = "dead"   // given up: a person retries it or drops it
)

// A TaskEntry is one task of the queue.
type TaskEntry struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"` // sign, resign, supersede, restore, drop
	Image    Image     `json:"image"`
	Tag      string    `json:"tag,omitempty"` // or digest, under which it is to be signed
	Key      string    `json:"key,omitempty"` // the rule's
	Trigger  string    `json:"trigger,omitempty"`
	State    string    `json:"state"`
	Due      time.Time `json:"due"` // not before
	Attempts int       `json:"attempts"`
	Problem  string    `json:"problem,omitempty"` // of the last attempt
	Queued   time.Time `json:"queued"`
}

// A TaskPage is as a SignaturePage.
type TaskPage struct {
	Tasks []TaskEntry `json:"tasks"`
	Next  string      `json:"next,omitempty"`
}
