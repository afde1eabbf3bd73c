package storetest_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/storetest"
)

// wrongVariable says what the memory store has wrong in a process that TestWrong starts.
const wrongVariable = "COUNTERSIGN_STORETEST_WRONG"

// TestMemory passes with a store that does what the contract says.
func TestMemory(t *testing.T) {
	t.Parallel()
	wrong := os.Getenv(wrongVariable)
	storetest.Test(t, func(_ *testing.T, limits store.Limits, clock func() time.Time) store.Store {
		return newMemory(wrong, limits, clock)
	})
}

// TestWrong holds each subtest to failing for what it is there to find. As it must fail, it runs in
// a process of its own.
func TestWrong(t *testing.T) {
	t.Parallel()
	if os.Getenv(wrongVariable) != "" {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for subtest, all := range wrongs() {
		for _, wrong := range all {
			t.Run(subtest+"/"+wrong, func(t *testing.T) {
				t.Parallel()
				run := exec.CommandContext(t.Context(), self, "-test.run=^TestMemory$/^"+subtest+"$", "-test.timeout=60s")
				run.Env = append(os.Environ(), wrongVariable+"="+wrong, "COUNTERSIGN_SOAK=0")
				output, err := run.CombinedOutput()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				failed := regexp.MustCompile(`--- FAIL: TestMemory/` + subtest + ` `).Match(output)
				if !failed || strings.Contains(string(output), "panic:") || strings.Contains(string(output), "DATA RACE") {
					t.Errorf("%s did not find that %q, or not as a test should: %v\n%s", subtest, wrong, err, output)
				}
			})
		}
	}
}

// wrongs are what each subtest must find.
func wrongs() map[string][]string {
	return map[string][]string{
		"nothing_yet":            {"get of nothing is version 1"},
		"images_apart":           {"get forgets the host"},
		"kept_byte_for_byte":     {"content ends at 60 KB", "content is a string of C", "content is trimmed", "content is text", "the uploader is lost"},
		"content_immutable":      {"get gives out what is kept", "do gives out what is kept", "do keeps what it was given", "a listing gives out the tasks that are kept", "records give out what is kept"},
		"dense":                  {"a drop leaves a hole", "a withdrawal leaves a hole", "indexes are from 0", "what comes again is listed where it was"},
		"idempotent":             {"what was done twice is there twice", "what was done twice is recorded twice", "a second task replaces the first"},
		"there_already":          {"nothing has an identity"},
		"if":                     {"if is ignored", "if is at least", "if is ignored by a refusal", "a change leaves the version"},
		"at":                     {"at is ignored", "at is ignored for the first"},
		"whole_or_not_at_all":    {"a refused change leaves its record", "a refused change leaves its tasks", "a refused change leaves a version", "a refused change leaves its first signature", "ends is forgotten in a change that is refused"},
		"refusal_only":           {"a refusal counts as a change", "a refusal is not recorded"},
		"context_ended":          {"do goes on without a context", "an ended context is its own error"},
		"as_apply_says":          {"the newest comes first", "lifts do not lift", "all is not limited", "do returns what was there before"},
		"withdraw_signature":     {"a withdrawal turns the order"},
		"withdraw_key":           {"a key is withdrawn but not for good"},
		"withdraw_image":         {"an image is withdrawn but not for good"},
		"limit_uploaded":         {"limits are ignored", "the server's own are uploaded"},
		"limit_key":              {"a key's limit is ignored"},
		"limit_bytes":            {"bytes are not limited"},
		"limit_all":              {"no word of what had to make room"},
		"records":                {"what has no action is recorded", "records have no time", "records are dated by the store", "records are in order of image"},
		"records_go_on":          {"the trail begins again at its end", "a record is put before the last", "a cursor of the trail is one behind", "records are in order of time"},
		"records_limit":          {"no page is too long", "limit 0 is none", "pages have 100 at most"},
		"records_cursor":         {"any cursor of the trail is the beginning", "a cursor may be ahead of the trail", "a damaged cursor is another error"},
		"task_kept":              {"then believes the state", "then believes attempts and lease"},
		"take_order":             {"tasks are taken by key", "the newest task is taken first", "a task is due before its time", "a task is due behind its time", "a task without a time is never due"},
		"lease":                  {"a lease keeps nobody out", "a lease never runs out", "a lease is an hour", "a lease is always the same", "attempts are not counted"},
		"lease_one_taker":        {"two take one task"},
		"then":                   {"what is dead is not replaced", "what is leased is queued again"},
		"ends_done":              {"what is done stays queued", "what is gone ends well"},
		"ends_delayed":           {"a delay is forgotten", "a delay forgets attempts"},
		"ends_dead":              {"the dead are taken", "what is dead is done", "a problem is forgotten", "a lease outlives its task's end"},
		"ends_lease":             {"any lease ends a task", "no lease ends a task", "a lease that ran out ends nothing", "a task ends somehow", "what is gone is held", "what is held is gone"},
		"ends_before_then":       {"then comes before ends"},
		"list":                   {"images are in order of their string", "withdrawals are in order of their id", "a page begins with the last of the one before", "a cursor is an image", "a listing has contents", "a listing has no end"},
		"list_filter":            {"no filter for host", "no filter for repository", "no filter for digest", "no filter for key of a signature", "no filter for key of a withdrawal", "part of a host is enough", "part of a repository is enough"},
		"list_tasks":             {"tasks are in a person's order", "no filter for state"},
		"list_limit":             {"no page is too long", "pages have 100 at most"},
		"list_meanwhile":         {"a cursor is a number"},
		"list_behind_gone":       {"behind what is gone there is nothing"},
		"list_key_behind_gone":   {"behind what is gone there is nothing", "no filter for key of a signature"},
		"list_cursor":            {"any cursor is the beginning", "a cursor is any listing's", "any kind is a listing", "a damaged cursor is another error"},
		"writers_one_image":      {"writers forget each other"},
		"limit_none":             {"there is a limit always"},
		"writers_several_images": {"writers forget each other"},
		"writers_same_signature": {"writers forget each other"},
		"writers_if":             {"writers forget each other", "if is ignored"},
		"writers_at":             {"writers forget each other", "at is ignored"},
		"withdraw_under_reader":  {"a withdrawal turns the order", "a withdrawal leaves a hole"},
		"commit_order":           {"a record is put before the last", "records are in order of image", "records are numbered before they are kept"},
		"context_ends_meanwhile": {"an ended context leaves a record"},
		"start":                  {"start says so before it has begun", "start answers twice", "start answers with what was there"},
		"start_refused":          {"what is refused is never answered", "what is refused was done", "a refused change leaves its record"},
		"start_context_ends":     {"start forgets its context", "an ended context is its own error", "start answers twice"},
		"get_after_do":           {"get is stale now and then"},
		"visible_as_a_whole":     {"a change is seen before its record", "a change is seen before its task", "a task is seen before its record"},
		"behind_no_cursor":       {"records are numbered before they are kept"},
	}
}
