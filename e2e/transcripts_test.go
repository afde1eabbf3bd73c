package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A transcript is a conversation of a real client with a registry that was made for the recording
// (doc/protocol.md, section 10): `>` request, `<` answer, `#` the command that was run.
type transcript struct {
	name      string
	host      string // what every request says
	exchanges []exchange
}

// requests is how many requests each transcript has, so that none is skipped in silence.
var requests = map[string]int{
	"01-copy-sign-by-ext-noauth":              13,
	"02-copy-sign-by-ext-second-key":          6,
	"03-pull-policy-signedBy-ext":             5,
	"04-inspect-ext":                          5,
	"05-pull-by-digest-ext":                   5,
	"06-pull-insecureAcceptAnything-ext":      5,
	"07-pull-remove-signatures":               4,
	"08-copy-with-existing-signatures":        18,
	"09-sign-and-pull-ext-basic":              18,
	"09-sign-and-pull-ext-bearer":             20,
	"10-lookaside-read":                       6,
	"11-lookaside-url-forms":                  15,
	"12-lookaside-status-200-armor":           3,
	"12-lookaside-status-200-html":            3,
	"12-lookaside-status-200":                 3,
	"12-lookaside-status-204":                 3,
	"12-lookaside-status-302":                 4,
	"12-lookaside-status-401":                 3,
	"12-lookaside-status-403":                 3,
	"12-lookaside-status-410":                 3,
	"12-lookaside-status-429":                 3,
	"12-lookaside-status-500":                 3,
	"12-lookaside-status-503":                 3,
	"13-lookaside-redirect-ok":                7,
	"14-lookaside-no-credentials":             6,
	"15-ext-beats-lookaside-read":             3,
	"16-ext-beats-staging-write":              6,
	"17-staging-write-no-ext":                 8,
	"20-ext-GET-200-1662":                     3,
	"20-ext-GET-200-9991":                     3,
	"20-ext-GET-200-cc5b":                     3,
	"20-ext-GET-200-d41d":                     3,
	"20-ext-GET-200-d751":                     3,
	"20-ext-GET-200-f4d6":                     3,
	"20-ext-GET-204-d41d":                     3,
	"20-ext-GET-401-66cb":                     3,
	"20-ext-GET-403-c9c8":                     3,
	"20-ext-GET-404-170c":                     3,
	"20-ext-GET-404-d41d":                     3,
	"20-ext-GET-500-b7bf":                     3,
	"20-ext-GET-503-d41d":                     3,
	"20b-ext-GET-429-retry":                   6,
	"21-ext-PUT-200":                          13,
	"21-ext-PUT-201":                          13,
	"21-ext-PUT-202":                          13,
	"21-ext-PUT-204":                          13,
	"21-ext-PUT-400":                          13,
	"21-ext-PUT-401":                          13,
	"21-ext-PUT-403":                          13,
	"21-ext-PUT-409":                          13,
	"21-ext-PUT-413":                          13,
	"21-ext-PUT-422":                          13,
	"21-ext-PUT-429":                          13,
	"21-ext-PUT-500":                          13,
	"22-ext-PUT-redirect-301":                 14,
	"22-ext-PUT-redirect-302":                 14,
	"22-ext-PUT-redirect-307":                 14,
	"22-ext-PUT-redirect-308":                 14,
	"23-ext-GET-insufficient-scope":           8,
	"24-header-only-on-401-ping":              13,
	"25-multiarch-all-sign-by":                45,
	"26-delete-ext":                           3,
	"26-delete-http-lookaside":                3,
	"50-new-lookaside-read":                   6,
	"51-new-lookaside-129-signatures":         130,
	"52-new-lookaside-status-200":             3,
	"52-new-lookaside-status-401":             3,
	"52-new-lookaside-status-403":             3,
	"52-new-lookaside-status-410":             3,
	"52-new-lookaside-status-429":             3,
	"52-new-lookaside-status-500":             3,
	"53-new-lookaside-valid-sig-as-text-html": 6,
	"54-new-ext-pull-then-push-existing":      16,
	"55-new-ext-PUT-400-7fc3":                 6,
	"55-new-ext-PUT-403-180e":                 6,
	"55-new-ext-PUT-404-7c33":                 6,
	"55-new-ext-PUT-404-d41d":                 6,
	"55-new-ext-PUT-409-6b86":                 6,
	"55-new-ext-PUT-422-7fc3":                 6,
	"60-sigstore-attachment-write":            33,
	"62-sigstore-attachment-read":             8,
}

// An exchange is one request and what was answered then.
type exchange struct {
	line    int    // of the request, in the file
	request string // request line and headers, without an empty line
	method  string
	target  string // path and query
	body    string
	status  int
	header  http.Header
	answer  string
}

// wire is the request as the client sent it.
func (e exchange) wire() string {
	return strings.ReplaceAll(e.request, "\n", "\r\n") + "\r\n\r\n" + e.body
}

// binary stands for a body that is no text; transcripts/blobs has those that clients sent.
var binary = regexp.MustCompile(`^<(\d+) binary bytes, first16=([0-9a-f]{32})>$`)

// readTranscripts reads every transcript there is.
func readTranscripts(t testing.TB) []transcript {
	t.Helper()
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	blobs := readBlobs(t)
	var all []transcript
	for _, file := range files {
		all = append(all, parseTranscript(t, strings.TrimSuffix(filepath.Base(file), ".txt"), read(t, file), blobs))
	}
	return all
}

// readBlobs returns what transcripts/blobs has, each under what stands for it in a transcript.
func readBlobs(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/transcripts/blobs/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no blobs: %v", err)
	}
	blobs := map[string]string{}
	for _, file := range files {
		content := read(t, file)
		if digestOf([]byte(content)) != "sha256:"+filepath.Base(file) {
			t.Fatalf("%s is not called as its digest", file)
		}
		blobs[fmt.Sprintf("<%d binary bytes, first16=%x>", len(content), content[:16])] = content
	}
	return blobs
}

func parseTranscript(t testing.TB, name, text string, blobs map[string]string) transcript {
	t.Helper()
	parsed := transcript{name: name}
	for _, block := range splitExchanges(text) {
		e := parseExchange(t, name, block)
		if content, ok := blobs[e.body]; ok {
			e.body = content
		}
		if content, ok := blobs[e.answer]; ok {
			e.answer = content
		}
		if want := headerOf(e.request, "Content-Length"); want != "" && want != strconv.Itoa(len(e.body)) {
			t.Fatalf("%s:%d: a body of %d bytes, and Content-Length is %s", name, e.line, len(e.body), want)
		}
		host := headerOf(e.request, "Host")
		if parsed.host == "" {
			parsed.host = host
		}
		if host == "" || host != parsed.host {
			t.Fatalf("%s:%d: Host %q, and before it was %q", name, e.line, host, parsed.host)
		}
		parsed.exchanges = append(parsed.exchanges, e)
	}
	return parsed
}

var requestLine = regexp.MustCompile(`^> ([A-Z]+) (\S+) HTTP/1\.1$`)

// A block is the lines of one exchange.
type block struct {
	line  int
	lines []string
}

func splitExchanges(text string) []block {
	var blocks []block
	for n, line := range strings.Split(text, "\n") {
		switch {
		case requestLine.MatchString(line):
			blocks = append(blocks, block{line: n + 1, lines: []string{line}})
		case len(blocks) > 0:
			b := &blocks[len(blocks)-1]
			b.lines = append(b.lines, line)
		}
	}
	return blocks
}

func parseExchange(t testing.TB, name string, b block) exchange {
	t.Helper()
	request, rest := side(b.lines, ">")
	answer, rest := side(rest, "<")
	e := exchange{line: b.line, header: http.Header{}}
	first := requestLine.FindStringSubmatch(b.lines[0])
	e.method, e.target = first[1], first[2]
	e.request, e.body, _ = strings.Cut(strings.Join(request, "\n"), "\n\n")
	head, body, _ := strings.Cut(strings.Join(answer, "\n"), "\n\n")
	e.answer = body
	if left := strings.TrimSpace(strings.Join(rest, "\n")); left != "" && body != "" {
		e.answer += "\n" + left // a body of several lines is marked at its first
	} else if left != "" {
		t.Fatalf("%s:%d: neither request nor answer: %q", name, b.line, left)
	}
	for n, line := range strings.Split(head, "\n") {
		if n == 0 {
			status, err := strconv.Atoi(line)
			if err != nil {
				t.Fatalf("%s:%d: no status: %q", name, b.line, line)
			}
			e.status = status
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		e.header.Add(key, value)
	}
	return e
}

// side takes the lines that begin with a mark off the front.
func side(lines []string, mark string) (taken, rest []string) {
	for n, line := range lines {
		if line != mark && !strings.HasPrefix(line, mark+" ") {
			return taken, lines[n:]
		}
		taken = append(taken, strings.TrimPrefix(strings.TrimPrefix(line, mark), " "))
	}
	return taken, nil
}

// headerOf is the value of a request's header, if it has it.
func headerOf(request, name string) string {
	for _, line := range strings.Split(request, "\n") {
		if key, value, ok := strings.Cut(line, ": "); ok && key == name {
			return value
		}
	}
	return ""
}

// recordedList is how many signatures the recorded answer lists; false if it is no such list, as
// from the servers that were made to answer nonsense.
func recordedList(e exchange) (int, bool) {
	var list struct{ Signatures []entry }
	if e.status != http.StatusOK || json.Unmarshal([]byte(e.answer), &list) != nil || list.Signatures == nil {
		return 0, false
	}
	for _, s := range list.Signatures {
		if len(s.Content) == 0 || s.Type != "atomic" || s.SchemaVersion != 2 {
			return 0, false
		}
	}
	return len(list.Signatures), true
}

// TestTranscriptParser holds what the replay relies on: nothing of a transcript is skipped.
func TestTranscriptParser(t *testing.T) {
	t.Parallel()
	const text = "# a command\n\n> PUT /x?y=z HTTP/1.1\n> Host: h:1\n> Content-Length: 2\n>\n> {}\n< 201\n< A: b\n<\n< done\n\n" +
		"# another\n> GET /v2/ HTTP/1.1\n> Host: h:1\n< 200\n"
	blocks := strings.ReplaceAll(text, "# another\n", "")
	got := parseTranscript(t, "text", blocks, nil)
	if len(got.exchanges) != 2 || got.host != "h:1" {
		t.Fatalf("got %+v, want two exchanges with h:1", got)
	}
	first, second := got.exchanges[0], got.exchanges[1]
	if want := "PUT /x?y=z HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\n\r\n{}"; first.wire() != want {
		t.Errorf("the first request is %q, want %q", first.wire(), want)
	}
	if first.status != 201 || first.answer != "done" || first.header.Get("A") != "b" {
		t.Errorf("the first answer is %d %v %q, want 201, A: b, done", first.status, first.header, first.answer)
	}
	if want := "GET /v2/ HTTP/1.1\r\nHost: h:1\r\n\r\n"; second.wire() != want || second.status != 200 {
		t.Errorf("the second request is %q with %d, want %q with 200", second.wire(), second.status, want)
	}
	entries, err := os.ReadDir("testdata/transcripts")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(readTranscripts(t)), len(entries)-1; got != want { // but for blobs
		t.Errorf("%d transcripts are read of %d", got, want)
	}
}
